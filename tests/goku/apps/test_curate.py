"""The app: progress, stop, funnel, the user's error; and killed in the middle, then run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from goku.apps import curate as app
from goku.apps.entry import Context
from goku.config import ConfigError, RunConfig
from goku.contract import env
from goku.contract.exits import Cause
from goku.contract.pod import PodDir, Progress
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku.data.records import Clip, read_clips, read_media
from tests.footage import settings, write_image, write_video
from tests.goku.apps.killed import partial_shard


def launched(tmp_path: Path, source: Path | str, name: str = "curate", **over: object) -> Context:
    """A run of curation, frozen, and what an app is told of it."""
    config = RunConfig.build(
        {
            "name": name,
            "store": str(tmp_path / "store"),
            "preset": "curate",
            "job": "curate",
            "data": {"source": str(source)},
            "curation": settings(**over).model_dump(),
        }
    )
    run = RunDir(f"{config.store}/{config.name}")
    run.freeze(config, "test")
    return Context(run, config, PodDir(tmp_path / f"pod-{name}"), 0, 1, time.time())


class Inline:
    """An executor without processes."""

    def run(
        self, work: Callable[[str], Any], names: Sequence[str]
    ) -> Generator[Any | None, None, None]:
        yield None
        yield from map(work, names)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "executor", lambda kind, workers: Inline())


@pytest.mark.usefixtures("inline")
def test_a_line_per_source_and_the_funnel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "footage" / "a.png")
    (tmp_path / "footage" / "b.mp4").write_text("not a film")
    context = launched(tmp_path, tmp_path / "footage")
    assert app.curate(context) is Cause.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1/2  a.png: 1 kept (")
    assert lines[1].startswith("2/2  b.mp4: 0 kept, 1 broken media (")
    assert lines[3].split() == ["probe", "2", "0", "1", "0", "1", "broken", "media", "1"]
    assert lines[-1] == "1 clips of 2 sources"
    (progress,) = context.pod.progress()
    assert (progress.section, progress.step, progress.durable_step) == ("step", 2, 2)
    app.curate(context)
    assert "1/2  a.png: 1 kept (done before)" in capsys.readouterr().out


@pytest.mark.usefixtures("inline")
def test_heartbeats_go_on_while_a_million_commits_are_read_for_the_funnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "footage" / name, seed=ord(name[0]))
    context = launched(tmp_path, tmp_path / "footage")
    done: list[int | None] = []
    whole = PodDir.beat

    def beat(self: PodDir, progress: Progress) -> None:
        done.append(progress.step)
        whole(self, progress)

    monkeypatch.setattr(PodDir, "beat", beat)
    monkeypatch.setattr(app, "_COMMITS_A_BEAT", 1)
    assert app.curate(context) is Cause.DONE
    assert done[-4:] == [3] * 4  # the last source's, and one for each commit


@pytest.mark.usefixtures("inline")
def test_a_stop_between_sources_yields_and_keeps_what_is_done(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "footage" / name, seed=ord(name[0]))
    context = launched(tmp_path, tmp_path / "footage")
    context.pod.request_stop()
    assert app.curate(context) is Cause.YIELDED
    (context.pod.folder / "stop").unlink()
    old, young = (partial_shard(context.run, "clips", age=age) for age in (3700.0, 0.0))
    assert app.curate(context) is Cause.DONE
    assert len(read_clips(context.run.store.child("clips"))) == 2
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.usefixtures("inline")
def test_a_folder_without_media_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no footage"):
        app.curate(launched(tmp_path, tmp_path / "empty"))


def _start(context: Context) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        env.RUN: context.run.uri,
        env.POD_DIR: str(context.pod.folder),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "goku.apps.curate"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _outcome(context: Context) -> list[tuple[Clip, bytes]]:
    """Records without the names of the attempts' files, and all bytes."""
    store = context.run.store.child("clips")
    return [
        (clip.model_copy(update={"shard": ""}), read_media(store, clip))
        for clip in read_clips(store)
    ]


def _wait_for_commits(store: Store, count: int, process: subprocess.Popen[bytes]) -> None:
    while len(store.list("commits")) < count:
        assert process.poll() is None, "curation ended before it could be killed"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small films, two clips each, and one that is none."""
    folder = tmp_path_factory.mktemp("footage")
    for number in range(7):
        write_video(folder / f"{number}.mp4", (26, 26), seed=10 * number)
    (folder / "broken.mp4").write_text("not a film")
    return folder


@pytest.fixture
def whole(tmp_path: Path, footage: Path, inline: None) -> list[tuple[Clip, bytes]]:
    """What an undisturbed run makes of it."""
    context = launched(tmp_path, footage, "whole")
    app.curate(context)
    assert len(_outcome(context)) == 14
    return _outcome(context)


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_nothing_is_lost_or_doubled(
    tmp_path: Path, footage: Path, whole: list[tuple[Clip, bytes]]
) -> None:
    context = launched(tmp_path, footage, "killed")
    process = _start(context)
    _wait_for_commits(context.run.store.child("clips"), 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(context.run.store.list("clips/commits")) < 8
    assert _start(context).wait() == 0
    assert _outcome(context) == whole


@pytest.mark.slow
def test_ray_makes_the_same_clips(
    tmp_path: Path, footage: Path, whole: list[tuple[Clip, bytes]]
) -> None:
    context = launched(tmp_path, footage, "ray", executor="ray")
    assert _start(context).wait() == 0
    assert _outcome(context) == whole
