"""Saves that go wrong on one rank or in the end: all ranks learn of it, the last good one stays."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from goku.checkpoint import files
from goku.checkpoint.save import Saved, SaveFailed, Saver
from goku.checkpoint.state import NamedPiece
from goku.config.parallel import ParallelConfig
from goku.contract import promoted
from goku.contract.manifest import Head
from goku.contract.retention import Retention
from goku.contract.rundir import Fenced, RunDir
from goku.parallel.mesh import connect
from tests.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow

WORLD = 2


class DyingRun(RunDir):
    """A run whose rank 0 is killed when all payload is written and the manifest is not."""

    def commit_encoded(self, data: bytes) -> Head:
        os.kill(os.getpid(), signal.SIGKILL)


class FullRun(RunDir):
    """A run whose store has no room for the manifest."""

    def commit_encoded(self, data: bytes) -> Head:
        raise OSError(errno.ENOSPC, "No space left on device")


def saver(run: RunDir, *, attempt: int = 1) -> Saver:
    return Saver(
        run,
        connect(ParallelConfig(processes_per_node=WORLD)),
        attempt=attempt,
        config_digest="d",
        code_version="v",
        retention=Retention(last=2),
    )


def save(saver: Saver, step: int) -> Saved:
    half = torch.arange(8.0)
    pieces = [NamedPiece("model/weight", (16,), 8 * dist.get_rank(), half)]
    return saver.save(pieces, step=step, samples_seen=step, optimizer_steps=step)


def attempt(saver: Saver, step: int) -> tuple[str, str] | None:
    """What a save raised and said, or None for a commit."""
    try:
        save(saver, step)
    except (SaveFailed, Fenced) as error:
        return type(error).__name__, str(error)
    return None


def full_disk_on_one_rank(uri: str) -> list[Any]:
    working, good = files.write, saver(RunDir(uri))

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    outcomes = [attempt(good, 10)]
    if dist.get_rank() == 1:
        files.write = full
    outcomes.append(attempt(good, 20))
    files.write = working
    outcomes += [attempt(saver(FullRun(uri)), 30), attempt(good, 40)]
    return outcomes


def fenced_off(uri: str) -> list[Any]:
    run = RunDir(uri)
    run.raise_fence(1)
    outcomes = [attempt(saver(run), 10)]
    dist.barrier()
    run.raise_fence(2)
    dist.barrier()
    return [*outcomes, attempt(saver(run), 20), attempt(saver(run, attempt=2), 20)]


def killed_before_the_manifest(uri: str) -> None:
    save(saver(RunDir(uri)), 10)
    save(saver(DyingRun(uri)), 20)


def beside_a_damaged_record(uri: str) -> list[Any]:
    if dist.get_rank() == 0:
        (Path(uri) / promoted.NAME).write_text("no record")
    dist.barrier()
    return [attempt(saver(RunDir(uri)), 10)]


def many(uri: str) -> None:
    for step in (10, 20, 30):
        save(saver(RunDir(uri)), step)


def test_a_full_disk_on_one_rank_is_told_to_all_and_nothing_is_committed(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    for outcomes in run_ranks(full_disk_on_one_rank, WORLD, run.uri):
        assert outcomes[0] is None
        kind, message = outcomes[1]
        assert kind == "SaveFailed"
        assert message.startswith("step 20 was not saved: rank 1: OSError:")
        assert "No space left on device" in message
        assert "step 30 was not saved: the manifest on rank 0: OSError:" in outcomes[2][1]
        assert outcomes[3] is None  # the next save works
    assert [manifest.step for manifest in run.complete()] == [40, 10]
    assert run.steps() == [10, 40]  # what the others had written is gone


def test_a_zombie_is_fenced_off_and_its_successor_is_not(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    for outcomes in run_ranks(fenced_off, WORLD, run.uri):
        assert outcomes[0] is None
        assert outcomes[1] == ("Fenced", "attempt 1 of run: attempt 2 has taken over")
        assert outcomes[2] is None
    latest = run.latest()
    assert latest is not None
    assert (latest.step, latest.attempt) == (20, 2)
    assert all("attempt-0002" in name for name in latest.files)


def test_killed_before_the_manifest_the_previous_checkpoint_is_the_latest(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    with pytest.raises(RankFailed):
        run_ranks(killed_before_the_manifest, WORLD, run.uri)
    assert run.steps() == [10, 20]
    assert len(run.checkpoint(20).list()) == WORLD  # all payload is there
    latest = run.latest()
    assert latest is not None
    assert latest.step == 10


def test_old_checkpoints_are_deleted_after_a_commit(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    run_ranks(many, WORLD, run.uri)
    assert run.steps() == [20, 30]


def test_a_save_stands_where_old_checkpoints_cannot_be_deleted(tmp_path: Path) -> None:
    """Only rank 0 would meet that error, and no other rank would know."""
    uri = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    assert run_ranks(beside_a_damaged_record, WORLD, uri) == [[None], [None]]
    assert RunDir(uri).manifest(10).step == 10
