"""A run that was stopped and resumed ends with the same bits as one that was not.

The stop comes at every kind of place: before the first step, between two micro-batches of a step,
between steps, in a validation, in a save; always on one rank only.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config import RunConfig
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.trainer.loop import Trainer, train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

VALIDATED = ("training.validation_samples=4", "training.validation_interval_steps=4")

Outcome = tuple[Cause, list[float], dict[str, Any], int]


def attempt(config: RunConfig, folder: Path, stop: tuple[str, int, int] | None) -> Outcome:
    """One attempt in this rank: cause, loss of each step, state at the end, last step."""
    if int(os.environ["RANK"]) == 0:
        Ledger(RunDir(f"{config.store}/{config.name}")).open(
            host="test", nodes=1, processes_per_node=2
        )
    torch.distributed.barrier()
    trainer = world.trainer_of(config, folder)
    trainer.health.install()
    if stop is not None:
        _arrange(trainer, *stop)
    losses: list[float] = []
    _listen(trainer, losses)
    cause = train(trainer)
    return cause, losses, world.weights(trainer), trainer.position.step


def _arrange(trainer: Trainer, place: str, step: int, rank: int) -> None:
    """Send SIGTERM to `rank` while it works on `step` (numbered from 0)."""
    if trainer.mesh.rank != rank:
        return
    if place == "start":
        os.kill(os.getpid(), signal.SIGTERM)
        return
    owner, name = {
        "backward": (trainer.engine, "backward"),
        "update": (trainer.engine, "step"),
        "publish": (trainer.engine, "publish"),  # in the middle of a validation
        "fragments": (trainer.engine, "fragments"),  # in a save
    }[place]
    original: Callable[..., Any] = getattr(owner, name)

    def watched(*arguments: Any) -> Any:
        if trainer.position.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    setattr(owner, name, watched)


def _listen(trainer: Trainer, losses: list[float]) -> None:
    report = trainer.report
    if report is None:
        return
    original = report.stepped

    def stepped(row: Any, **values: int) -> None:
        losses.append(row["loss"])
        original(row, **values)

    report.stepped = stepped  # type: ignore[method-assign]


def both(store: Path, stop: tuple[str, int, int], settings: tuple[str, ...]) -> Any:
    """A straight run and a stopped and resumed one, in this rank."""
    straight = world.configure(store, "straight", *settings)
    broken = world.configure(store, "broken", *settings)
    whole = attempt(straight, store / "pod-a", None)
    first = attempt(broken, store / "pod-b", stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    second = attempt(broken, store / "pod-c", None)
    same = {name: torch.equal(value, second[2][name]) for name, value in whole[2].items()}
    return {
        "causes": (whole[0], first[0], second[0]),
        "stopped_at": first[3],
        "whole": whole[1],
        "parts": first[1] + second[1],
        "differ": [name for name, equal in same.items() if not equal],
        "kinds": {name.split("/")[0] for name in same},
    }


@pytest.mark.parametrize(
    ("stop", "stopped_at", "settings"),
    [
        (("start", 0, 1), 0, ()),
        (("backward", 3, 1), 4, ()),
        (("update", 2, 0), 3, ("data.packs_per_step=4",)),
        (("update", 3, 0), 4, ("parallel.zero_stage=1", "parallel.precision=bf16")),
        (("update", 4, 1), 5, ("parallel.zero_stage=3",)),
        (("update", 2, 1), 3, ("parallel.sequence=2", "data.packs_per_step=2")),
        (("publish", 4, 0), 4, VALIDATED),
        (("fragments", 4, 1), 4, ("checkpoint.interval_steps=4",)),
    ],
    ids=[
        "start-up",
        "in a micro-batch",
        "between micro-batches",
        "zero 1 bf16",
        "zero 3",
        "sequence 2",
        "validation",
        "save",
    ],
)
def test_resume_is_bit_for_bit(
    tmp_path: Path, stop: tuple[str, int, int], stopped_at: int, settings: tuple[str, ...]
) -> None:
    world.encode(tmp_path)
    ranks = run_ranks(both, 2, tmp_path, stop, settings)
    for rank in ranks:
        assert rank["causes"] == (Cause.DONE, Cause.YIELDED, Cause.DONE)
        assert rank["stopped_at"] == stopped_at
        assert rank["differ"] == []
        assert rank["kinds"] == {"model", "ema", "exp_avg", "exp_avg_sq"}
    assert len(ranks[0]["whole"]) == 8
    assert ranks[0]["parts"] == ranks[0]["whole"]
