"""Training while the store is away: it goes on, says so, and never claims what it did not save."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config import RunConfig
from goku.contract import metrics
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import Fenced, RunDir, Unsaved
from goku.contract.store import StoreUnavailable
from goku.contract.store.local import Folder
from goku.trainer import saving
from goku.trainer.loop import Trainer, train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow


PATCH = pytest.MonkeyPatch()  # a rank is a process of its own, and nothing comes after the test


def break_store(trainer: Trainer, steps: range, error: Exception, *, times: int = 99) -> None:
    """Make this rank's next `times` writes of checkpoints at these steps fail."""
    writer, left = Folder.writer, [error] * times

    def write(folder: Folder, name: str) -> Any:
        if left and trainer.position.step in steps and "checkpoints" in str(folder.local_path("")):
            raise left.pop()
        return writer(folder, name)

    PATCH.setattr(Folder, "writer", write)


def after_step(trainer: Trainer, step: int, act: Callable[[], None]) -> None:
    """Call `act` in the middle of the step that ends as number `step`."""
    update = trainer.engine.step

    def watched(rate: float) -> float:
        if trainer.position.step == step - 1:
            act()
        return update(rate)

    PATCH.setattr(trainer.engine, "step", watched)


def begin(store: Path, *settings: str) -> Trainer:
    """A trainer of two ranks in an attempt of its own."""
    config: RunConfig = world.configure(store, "run", "checkpoint.interval_steps=2", *settings)
    if int(os.environ["RANK"]) == 0:
        Ledger(RunDir(f"{store}/run")).open(host="test", nodes=1, processes_per_node=2)
    torch.distributed.barrier()
    trainer = world.trainer_of(config, store / "pod")
    trainer.health.install()
    PATCH.setattr(saving, "_LAST_PAUSE_SECONDS", 0.01)
    return trainer


def told(trainer: Trainer) -> dict[str, float]:
    """Rank 0's metrics of checkpoints."""
    if trainer.report is None:
        return {}
    samples = {s.name: s.value for f in trainer.report._registry.collect() for s in f.samples}
    wanted = (metrics.CHECKPOINT_FAILURES, metrics.CHECKPOINT_PENDING, metrics.DURABLE_STEP)
    return {metric.name: samples[metric.name] for metric in wanted}


def through_an_outage(store: Path, rank: int) -> Any:
    """Saves at 2 and 8 work, those at 4 and 6 fail on one rank."""
    trainer = begin(store)
    if trainer.mesh.rank == rank:
        break_store(trainer, range(4, 7), StoreUnavailable("s3://bucket: away"))
    return train(trainer), trainer.position, told(trainer)


def stopped_in_an_outage(store: Path) -> Any:
    """Rank 1 is asked to stop in step 5 and the store is away for rank 0; saved was step 2."""
    trainer = begin(store)
    if trainer.mesh.rank == 0:
        break_store(trainer, range(3, 9), OSError(errno.EIO, "Input/output error"))
    else:
        after_step(trainer, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        train(trainer)
    except Unsaved as error:
        return str(error), told(trainer)
    return None


def back_in_time_for_the_last_save(store: Path) -> Any:
    """The save after the last step fails once."""
    trainer = begin(store, "training.steps=3")
    break_store(trainer, range(3, 4), StoreUnavailable("away"), times=1)
    return train(trainer), trainer.position.durable_step, told(trainer)


def superseded(store: Path) -> Any:
    """A newer attempt begins elsewhere while this one trains."""
    trainer = begin(store)
    after_step(trainer, 3, lambda: RunDir(f"{store}/run").raise_fence(9))
    try:
        train(trainer)
    except Fenced as error:
        return str(error), trainer.position.step
    return None


@pytest.mark.parametrize("rank", [0, 1])
def test_saves_that_fail_on_any_rank_cost_the_checkpoint_and_not_the_run(
    tmp_path: Path, rank: int
) -> None:
    world.encode(tmp_path)
    for cause, position, report in run_ranks(through_an_outage, 2, tmp_path, rank):
        assert cause is Cause.DONE
        assert (position.step, position.durable_step) == (8, 8)
        if report:
            assert report[metrics.CHECKPOINT_FAILURES.name] == 2
            assert report[metrics.CHECKPOINT_PENDING.name] == 0
            assert report[metrics.DURABLE_STEP.name] == 8
    run = RunDir(f"{tmp_path}/run")
    assert [manifest.step for manifest in run.complete()] == [8, 2]
    assert run.steps() == [2, 8]  # what the failed saves left is gone


def test_a_stop_while_the_store_is_away_is_not_called_saved(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for message, report in run_ranks(stopped_in_an_outage, 2, tmp_path):
        assert message.startswith("asked to stop, but step 5 was not saved: rank 0: OSError")
        if report:
            assert report[metrics.CHECKPOINT_PENDING.name] >= 2
            assert report[metrics.DURABLE_STEP.name] == 2
    latest = RunDir(f"{tmp_path}/run").latest()
    assert latest is not None
    assert latest.step == 2


def test_the_last_save_waits_for_a_store_that_is_away_for_a_moment(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for cause, durable, report in run_ranks(back_in_time_for_the_last_save, 2, tmp_path):
        assert (cause, durable) == (Cause.DONE, 3)
        assert not report or report[metrics.CHECKPOINT_FAILURES.name] == 1


def test_a_newer_attempt_ends_this_one(tmp_path: Path) -> None:
    world.encode(tmp_path)
    ended = run_ranks(superseded, 2, tmp_path)
    assert {message for message, _ in ended} == {"attempt 1 of run: attempt 9 has taken over"}
    [step] = {step for _, step in ended}  # all ranks leave at the same place
    assert 4 <= step <= 6
