"""The run directory: what is frozen, what "latest" means, who may commit, what is kept."""

import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.config import ConfigError, RunConfig
from goku.config.presets import build
from goku.contract.manifest import FileEntry, Manifest
from goku.contract.rundir import Fenced, RunDir, locate
from goku.contract.store import StoreUnavailable

PAYLOAD = b"weights"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "runs" / "stage1"))


def config(**overrides: object) -> RunConfig:
    return build("stage1", store="/runs", size="tiny", overrides=overrides)


def saved(step: int, attempt: int = 1, file: str = "data") -> Manifest:
    size = len(PAYLOAD)  # a file that is all header
    entry = FileEntry(nbytes=size, header_nbytes=size, header_crc32=zlib.crc32(PAYLOAD))
    return Manifest(
        step=step,
        attempt=attempt,
        samples_seen=10 * step,
        optimizer_steps=step,
        world_size=1,
        config_digest="d",
        code_version="v",
        created_at=0.0,
        tensors={},
        files={file: entry},
    )


def save(run: RunDir, step: int, attempt: int = 1, file: str = "data") -> Manifest:
    run.checkpoint(step).write(file, PAYLOAD)
    run.commit(saved(step, attempt, file))
    return saved(step, attempt, file)


def test_a_run_is_named_or_located() -> None:
    assert locate("s3://bucket/runs/", "stage1") == "s3://bucket/runs/stage1"
    assert locate("s3://bucket/runs", "gs://other/run") == "gs://other/run"
    assert locate("/runs", "/elsewhere/run") == "/elsewhere/run"
    assert RunDir("/runs/stage1/").name == "stage1"


def test_the_newest_complete_step_is_the_latest(run: RunDir) -> None:
    assert run.latest() is None
    save(run, 10)
    newest = save(run, 20)
    run.checkpoint(30).write("data", PAYLOAD)  # killed before the manifest
    assert run.steps() == [10, 20, 30]
    assert run.latest() == newest
    assert [manifest.step for manifest in run.complete()] == [20, 10]


def test_a_broken_checkpoint_is_passed_over(run: RunDir) -> None:
    first = save(run, 10)
    save(run, 20)
    run.checkpoint(20).write("data", PAYLOAD[:-1])
    assert run.latest() == first
    save(run, 30)
    flipped = bytearray(run.checkpoint(30).read("manifest.json"))
    flipped[20] ^= 1
    run.checkpoint(30).write("manifest.json", bytes(flipped))
    assert run.latest() == first


def test_a_step_that_was_broken_can_be_saved_again(run: RunDir) -> None:
    save(run, 10, attempt=1, file="attempt-1")
    run.checkpoint(10).delete("attempt-1")
    assert run.latest() is None
    again = save(run, 10, attempt=2, file="attempt-2")
    assert run.latest() == again


def test_latest_is_a_hint_that_names_attempt_step_and_manifest(run: RunDir) -> None:
    save(run, 10)
    hint = json.loads(run.store.read("LATEST"))
    manifest = run.checkpoint(10).read("manifest.json")
    digest = hashlib.sha256(manifest).hexdigest()
    assert hint == {"attempt": 1, "step": 10, "manifest_sha256": digest}
    run.store.write("LATEST", b"nonsense")
    assert run.latest() == saved(10)


def test_a_zombie_may_not_commit(run: RunDir) -> None:
    run.raise_fence(1)
    save(run, 10, attempt=1)
    run.raise_fence(2)
    with pytest.raises(Fenced, match="attempt 1 of stage1: attempt 2 has taken over"):
        save(run, 20, attempt=1)
    assert run.latest() == saved(10)
    run.raise_fence(1)  # arrives late: the fence stays where it is
    assert save(run, 20, attempt=2) == run.latest()


def test_latest_never_goes_back_to_an_older_attempt(run: RunDir) -> None:
    """A zombie that passed the fence before its successor raised it, and then slept."""
    save(run, 30, attempt=1)
    save(run, 20, attempt=2)  # went on from an earlier step: attempt 1's last was broken
    assert json.loads(run.store.read("LATEST"))["step"] == 20
    save(run, 40, attempt=1)
    assert json.loads(run.store.read("LATEST"))["step"] == 20
    save(run, 50, attempt=2)
    assert json.loads(run.store.read("LATEST"))["step"] == 50


def test_a_late_manifest_does_not_take_a_newer_attempts_place(run: RunDir) -> None:
    newer = save(run, 20, attempt=2, file="attempt-2")
    with pytest.raises(Fenced, match="attempt 2 has taken over"):
        save(run, 20, attempt=1, file="attempt-1")
    assert run.latest() == newer


def test_a_checkpoint_counts_though_the_hint_cannot_be_written(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.store, "change", refuse)
    assert save(run, 10) == run.latest()
    assert not run.store.exists("LATEST")


def refuse(*_: object) -> None:
    raise StoreUnavailable("away")


@settings(max_examples=20, deadline=None)
@given(attempts=st.lists(st.integers(1, 99), min_size=1, max_size=6))
def test_a_fence_ends_at_the_highest_whoever_comes_when(attempts: list[int]) -> None:
    with TemporaryDirectory() as folder, ThreadPoolExecutor(len(attempts)) as pool:
        list(pool.map(RunDir(folder).raise_fence, attempts))
        RunDir(folder).check_fence(max(attempts))
        for attempt in set(attempts) - {max(attempts)}:
            with pytest.raises(Fenced):
                RunDir(folder).check_fence(attempt)


def test_two_that_reshape_at_once_leave_a_whole_record(run: RunDir) -> None:
    run.freeze(config(), "v1")
    shapes = [config(parallel={"nodes": n, "processes_per_node": 1}) for n in (1, 2)]
    with ThreadPoolExecutor(len(shapes)) as pool:
        list(pool.map(run.reshape, shapes))
    assert run.config() in shapes
    assert json.loads(run.store.read("run.json"))["code_version"] == "v1"
    with pytest.raises(FileNotFoundError):
        RunDir(f"{run.uri}-2").reshape(config())


def test_a_run_is_frozen_once(run: RunDir) -> None:
    assert not run.exists()
    assert run.freeze(config(), "v1")
    assert not run.freeze(config(), "v2")
    assert run.config() == config()
    with pytest.raises(ConfigError, match="another configuration"):
        run.freeze(config(training={"learning_rate": 0.5}), "v1")


def test_a_run_may_change_its_world_but_not_what_it_computes(run: RunDir) -> None:
    run.freeze(config(), "v1")
    elsewhere = config(parallel={"nodes": 1, "processes_per_node": 2})
    run.reshape(elsewhere)
    assert run.config() == elsewhere
    with pytest.raises(ConfigError, match="keeps what it computes"):
        run.reshape(config(data={"seed": 9}))
