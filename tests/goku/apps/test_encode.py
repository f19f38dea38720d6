"""The encode app with real, tiny encoders: whole, stopped, resumed, refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.apps.encode import encode
from goku.apps.entry import Context
from goku.config import ConfigError, RunConfig
from goku.config.presets import build
from goku.contract import env
from goku.contract.exits import Cause
from goku.contract.pod import PodDir
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku.data.cache import CacheWriter, LatentCache
from goku.data.encoding import ClipEncoder
from goku.data.records import Clip, read_clips
from goku.data.source import CachedSource, OnlineSource
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder
from tests.goku.apps.killed import partial_shard
from tests.goku.data.curated import write_curated

pytestmark = pytest.mark.slow  # the import of diffusers


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The app installs signal handlers; put pytest's back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with one curated run, `curate`."""
    write_curated(Store(str(tmp_path / "runs/curate/clips")))
    return str(tmp_path / "runs")


def config(store: str, **data: Any) -> RunConfig:
    return build("encode", store=store, size="tiny", overrides={"data": data})


def context(store: str, tmp_path: Path, **data: Any) -> Context:
    """One attempt at the run `encode` of a store."""
    run = RunDir(f"{store}/encode")
    run.freeze(config(store, **data), "test")
    return Context(run, run.config(), PodDir(tmp_path / "pod"), 0, 1, 0.0)


def cached(store: str) -> CachedSource:
    return CachedSource(f"{store}/encode/latents", latent_channels=4, text_width=64)


def test_everything_is_encoded_as_online(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = context(store, tmp_path)
    assert encode(attempt) is Cause.DONE
    assert "encode: 5 clips encoded, 0 rejected" in capsys.readouterr().out
    (progress,) = attempt.pod.progress()
    assert (progress.section, progress.step, progress.durable_step) == ("step", 5, 5)
    source, plan = cached(store), attempt.config
    online = OnlineSource(
        f"{store}/curate/clips",
        vae=Autoencoder.load(plan.vae, latent_channels=4),
        text=TextEncoder.load(plan.text, width=64),
        config=plan.data,
    )
    assert [entry[:3] for entry in source.entries] == [entry[:3] for entry in online.entries]
    for index in range(5):
        for ours, theirs in zip(
            source.load(index, caption=True), online.load(index, caption=True), strict=True
        ):
            torch.testing.assert_close(ours.float(), theirs, atol=0.02, rtol=0.01)
    meta = LatentCache(attempt.run.store.child("latents")).meta()
    assert (meta.causal, meta.frames, meta.height, meta.width) == (True, 17, 64, 112)


def test_a_stopped_attempt_keeps_its_clips_and_the_next_goes_on(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = context(store, tmp_path)
    encoded: list[str] = []
    whole = CacheWriter.add

    def stop_after_two(self: CacheWriter, id: str, *rest: Any) -> None:
        whole(self, id, *rest)
        encoded.append(id)
        if len(encoded) == 2:
            attempt.pod.request_stop()

    monkeypatch.setattr(CacheWriter, "add", stop_after_two)
    assert encode(attempt) is Cause.YIELDED
    assert encoded == ["i0", "i1"]
    with pytest.raises(ConfigError, match="encoding has not ended, 2 clips are done"):
        cached(store)
    attempt.pod.clear()
    old, young = (partial_shard(attempt.run, "latents", age=age) for age in (3700.0, 0.0))
    assert encode(attempt) is Cause.DONE
    assert (old.exists(), young.exists()) == (False, True)
    assert encoded == ["i0", "i1", "v0", "v1", "v2"]
    assert len(cached(store)) == 5
    assert encode(attempt) is Cause.DONE  # nothing is left to do
    assert len(encoded) == 5


def test_a_crash_loses_only_what_no_commit_names(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = context(store, tmp_path)
    monkeypatch.setattr(CacheWriter, "due", lambda self: True)
    encode_one, calls = ClipEncoder.encode, []

    def fail_on_third(self: ClipEncoder, *rest: Any) -> Any:
        calls.append(rest)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return encode_one(self, *rest)

    monkeypatch.setattr(ClipEncoder, "encode", fail_on_third)
    with pytest.raises(RuntimeError, match="power cut"):
        encode(attempt)
    assert encode(attempt) is Cause.DONE
    assert len(calls) == 6  # five clips, one of them twice
    assert len(cached(store)) == 5


def at(attempt: Context, rank: int, ranks: int) -> Context:
    """The same attempt as a rank of several sees it, in a pod of its own."""
    folder = attempt.pod.folder.with_name(f"pod-{rank}-of-{ranks}")
    return attempt._replace(rank=rank, ranks=ranks, pod=PodDir(folder))


def test_ranks_share_the_clips_and_the_last_one_completes_them(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, encoded = context(store, tmp_path), list[str]()
    whole = CacheWriter.add

    def count(self: CacheWriter, id: str, *rest: Any) -> None:
        whole(self, id, *rest)
        encoded.append(id)

    monkeypatch.setattr(CacheWriter, "add", count)
    shares = []
    for rank in range(3):
        with pytest.raises(ConfigError, match="encod"):
            cached(store)
        assert encode(at(attempt, rank, 3)) is Cause.DONE
        shares.append(len(encoded))
        (progress,) = at(attempt, rank, 3).pod.progress()
        assert (progress.step, progress.durable_step) == (len(encoded), len(encoded))
    assert max(shares[0], shares[1] - shares[0], shares[2] - shares[1]) < 5
    assert sorted(encoded) == ["i0", "i1", "v0", "v1", "v2"]
    assert [entry.id for entry in cached(store).entries] == sorted(encoded)


def test_another_number_of_ranks_goes_on(store: str, tmp_path: Path) -> None:
    attempt = context(store, tmp_path)
    for rank in (0, 2):
        encode(at(attempt, rank, 3))
    with pytest.raises(ConfigError, match="encoding has not ended"):
        cached(store)
    for rank in (1, 0):
        encode(at(attempt, rank, 2))
    assert [entry.id for entry in cached(store).entries] == ["i0", "i1", "v0", "v1", "v2"]


def test_an_image_run_encodes_images_alone(store: str, tmp_path: Path) -> None:
    run = context(store, tmp_path, frames=1, image_share=1.0)
    assert encode(run) is Cause.DONE
    assert [entry.id for entry in cached(store).entries] == ["i0", "i1"]


def test_a_broken_clip_is_rejected_and_named_once(
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from goku.data import encoding

    whole = encoding.read_media

    def damaged(clips: Store, clip: Clip) -> bytes:
        data = whole(clips, clip)
        return data[: len(data) // 2] if clip.id == "v1" else data

    monkeypatch.setattr(encoding, "read_media", damaged)
    attempt = context(store, tmp_path)
    assert encode(attempt) is Cause.DONE
    assert "rejected: clip v1 of memory://films/a.mp4" in capsys.readouterr().out
    assert [entry.id for entry in cached(store).entries] == ["i0", "i1", "v0", "v2"]
    assert encode(attempt) is Cause.DONE
    assert "0 of 5 clips to encode" in capsys.readouterr().out


def test_a_clip_whose_bytes_have_changed_is_rejected(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder shows most flipped bits of a video as a picture."""
    clips = Store(f"{store}/curate/clips")
    changed = next(clip for clip in read_clips(clips) if clip.id == "v1")
    shard = bytearray(clips.read(changed.shard))
    shard[changed.offset + changed.nbytes // 2] ^= 1
    clips.write(changed.shard, bytes(shard))
    assert encode(context(store, tmp_path)) is Cause.DONE
    said = "rejected: clip v1 of memory://films/a.mp4 in shards/one-000.tar: its bytes have changed"
    assert said in capsys.readouterr().out
    assert [entry.id for entry in cached(store).entries] == ["i0", "i1", "v0", "v2"]


def test_shards_damaged_throughout_are_the_users_error(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goku.data.encoding.read_media", lambda clips, clip: b"noise")
    with pytest.raises(ConfigError, match="not one of them could be decoded"):
        encode(context(store, tmp_path))


def refused(attempt: Context) -> str:
    """What the whole process says that ends with the user's error."""
    variables = {env.RUN: attempt.run.uri, env.POD_DIR: str(attempt.pod.folder)}
    done = subprocess.run(
        [sys.executable, "-m", "goku.apps.encode"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (verdict,) = attempt.pod.verdicts().values()
    assert verdict.cause is Cause.USER_ERROR
    assert verdict.message in done.stderr
    return verdict.message


def test_the_program_says_why_it_cannot_start(tmp_path: Path) -> None:
    """On a curated run that is not there."""
    message = refused(context(str(tmp_path / "runs"), tmp_path))
    assert "no curated image or video lies there. Launch curate" in message


def test_clips_of_a_damaged_commit_are_encoded_once_it_is_deleted(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = context(store, tmp_path)
    assert encode(attempt) is Cause.DONE
    latents = attempt.run.store.child("latents")
    (name,) = (f"commits/{leaf}" for leaf in latents.list("commits"))
    latents.write(name, latents.read(name)[:99])
    assert refused(attempt).startswith(f"{latents.uri}/{name}: its bytes have changed")
    latents.delete(name)
    latents.delete("complete.json")
    attempt.pod.clear()
    capsys.readouterr()
    assert encode(attempt) is Cause.DONE
    assert "5 of 5 clips to encode" in capsys.readouterr().out
    assert len(cached(store)) == 5
