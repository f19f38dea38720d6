"""What a stretch of training leaves: steps without a save, and where its seconds went."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.contract.rundir import RunDir
from goku.data.loader import Loader, StepBatch
from goku.trainer.loop import Trainer, advance, train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

ALONE = "parallel.processes_per_node=1"
DELAY = 0.3  # seconds


class Late(Loader):
    """A loader whose steps come late."""

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        for batch in super().steps(samples_seen):
            time.sleep(DELAY)
            yield batch


def rows_of(trainer: Trainer) -> list[Any]:
    assert trainer.report is not None
    rows: list[Any] = []
    original = trainer.report.stepped

    def stepped(row: Any, **values: int) -> None:
        rows.append(dict(row))
        original(row, **values)

    trainer.report.stepped = stepped  # type: ignore[method-assign]
    return rows


def trained(store: Path, name: str, *parts: int) -> tuple[list[float], list[int | None]]:
    """Each step's loss of a run made in parts; the durable step after each part, and in the end."""
    trainer = world.trainer_of(world.configure(store, name, ALONE), store / f"pod-{name}")
    rows, run = rows_of(trainer), RunDir(f"{store}/{name}")
    durable = []
    for part in parts:
        assert advance(trainer, part)
        durable.append(run.latest())
    assert train(trainer) is Cause.DONE
    durable.append(run.latest())
    return [row["loss"] for row in rows], [one and one.step for one in durable]


def waits(store: Path) -> tuple[list[Any], dict[str, float]]:
    """The rows of three steps that come late, and the seconds of the clock."""
    trainer = world.trainer_of(world.configure(store, "late", ALONE), store / "pod")
    loader: Any = trainer.feed
    late = Late(loader._source, loader._config, patch=loader._patch)
    rows = rows_of(trainer)
    before = trainer.clock.seconds()
    assert advance(replace(trainer, feed=late), 3)
    after = trainer.clock.seconds()
    return rows, {name: after[name] - before[name] for name in after}


def collected(store: Path) -> list[int]:
    """How much the garbage collector looks at after 9 steps of a stretch, and after 10."""
    config = world.configure(store, "settles", ALONE, "training.steps=20")
    trainer, found = world.trainer_of(config, store / "pod"), []
    for steps in (9, 10):
        assert advance(trainer, trainer.position.step + steps)
        found.append(len(gc.get_objects()))
    return found


def noted(method: Callable[..., Any], seen: list[str]) -> Callable[..., Any]:
    """The method, which adds its name to `seen`."""

    def called(*values: Any, **named: Any) -> Any:
        seen.append(method.__name__)
        return method(*values, **named)

    return called


def order(store: Path) -> list[str]:
    """What three steps of a pack each do, one after the other; the second ends with validation."""
    settings = ("data.packs_per_step=1", "training.validation_samples=2")
    config = world.configure(
        store, "order", ALONE, *settings, "training.validation_interval_steps=2"
    )
    trainer, seen = world.trainer_of(config, store / "pod"), list[str]()
    assert trainer.report is not None
    parts: tuple[tuple[Any, str], ...] = (
        (trainer.engine, "backward"),
        (trainer.engine, "step"),
        (trainer.report, "stepped"),
        (trainer.validation, "losses"),
    )
    for part, name in parts:
        setattr(part, name, noted(getattr(part, name), seen))
    assert advance(trainer, 3)
    return seen


class Watched(Loader):
    """A loader that knows which of its packs are still held."""

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        for batch in super().steps(samples_seen):
            self.given = [weakref.ref(pack) for pack in batch.packs]
            yield batch


def held(store: Path) -> list[int]:
    """How many packs of each of two steps are still held when its update begins."""
    trainer = world.trainer_of(world.configure(store, "held", ALONE), store / "pod")
    loader: Any = trainer.feed
    watched = Watched(loader._source, loader._config, patch=loader._patch)
    found: list[int] = []
    step = trainer.engine.step

    def update(rate: float) -> float:
        found.append(sum(pack() is not None for pack in watched.given))
        return step(rate)

    trainer.engine.step = update  # type: ignore[method-assign]
    assert advance(replace(trainer, feed=watched), 2)
    assert len(watched.given) == 4
    return found


def test_a_part_of_the_steps_saves_nothing_and_the_rest_goes_on(tmp_path: Path) -> None:
    world.encode(tmp_path)
    ((losses, durable),) = run_ranks(trained, 1, tmp_path, "parts", 3, 5)
    assert durable == [None, None, 8]
    assert run_ranks(trained, 1, tmp_path, "whole") == [(losses, [8])]


def test_waiting_for_data_is_told_apart_from_the_step(tmp_path: Path) -> None:
    world.encode(tmp_path)
    ((rows, seconds),) = run_ranks(waits, 1, tmp_path)
    waited = [row["data_wait_seconds"] for row in rows]
    assert len(rows) == 3
    assert all(DELAY <= one < 20 * DELAY for one in waited)
    assert seconds[TimeClass.DATA_WAIT] == pytest.approx(sum(waited), abs=0.05)
    assert seconds[TimeClass.PRODUCTIVE] >= sum(row["step_seconds"] for row in rows)


def test_packs_are_let_go_of_before_the_update(tmp_path: Path) -> None:
    world.encode(tmp_path)
    assert run_ranks(held, 1, tmp_path) == [[0, 0]]


def test_garbage_is_not_looked_for_among_what_stays(tmp_path: Path) -> None:
    world.encode(tmp_path)
    ((before, settled),) = run_ranks(collected, 1, tmp_path)
    assert before > 100_000
    assert settled < 10_000


def test_a_step_is_told_of_while_the_next_one_computes(tmp_path: Path) -> None:
    """Unless nothing follows at once: validation, or the end."""
    world.encode(tmp_path)
    (seen,) = run_ranks(order, 1, tmp_path)
    assert " ".join(seen) == (
        "backward step backward stepped step stepped losses backward step stepped"
    )
