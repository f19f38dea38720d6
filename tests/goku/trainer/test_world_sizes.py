"""The same samples, noise and losses on any number of ranks, however they are divided."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.trainer.loop import train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow


READ_APART = "parallel.readers=process"

# of one run, one after another: ranks, and how they divide the work
PLACES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (4, ("parallel.sequence=2", "parallel.zero_stage=1")),
    (2, ("parallel.sequence=2", "parallel.engine=fsdp2", "parallel.zero_stage=3", READ_APART)),
    (1, (READ_APART,)),
    (4, ("parallel.engine=fsdp2", "parallel.replicas=2")),
    (2, ("parallel.zero_stage=3",)),
)


def losses(store: Path, name: str, *settings: str) -> list[dict[str, Any]]:
    """The rows of a whole run in this rank; empty but on rank 0."""
    cause, rows = attempt(store, name, settings)
    assert cause is Cause.DONE
    return rows


def attempt(
    store: Path, name: str, settings: tuple[str, ...], steps: int | None = None
) -> tuple[Cause, list[dict[str, Any]]]:
    """How an attempt ends in this rank, asked to stop after `steps`, and its rows on rank 0."""
    config = world.configure(store, name, *settings)
    if int(os.environ["RANK"]) == 0:
        Ledger(RunDir(f"{store}/{name}")).open(host="test", nodes=1, processes_per_node=1)
    trainer = world.trainer_of(config, store / f"pod-{name}")
    trainer.health.install()
    rows: list[dict[str, Any]] = []
    if trainer.report is not None:
        original = trainer.report.stepped
        trainer.report.note = lambda **values: rows[-1].update(values)  # type: ignore[method-assign]
        trainer.report.drew = lambda counts: rows[-1].update(times=counts)  # type: ignore[method-assign]

        def stepped(row: Any, **values: Any) -> None:
            rows.append(dict(row) | values)
            original(row, **values)

        trainer.report.stepped = stepped  # type: ignore[method-assign]
    finished, first = trainer.health.finished, trainer.position.step

    def stop(step: int) -> None:
        finished(step)
        if steps and step == first + steps:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.health.finished = stop  # type: ignore[method-assign]
    return train(trainer), rows


def test_losses_do_not_depend_on_the_world(tmp_path: Path) -> None:
    world.encode(tmp_path)
    lone = run_ranks(losses, 1, tmp_path, "lone", "parallel.processes_per_node=1")[0]
    data = run_ranks(losses, 2, tmp_path, "data", "parallel.processes_per_node=2")[0]
    settings = ("parallel.processes_per_node=2", "parallel.sequence=2")
    sequence = run_ranks(losses, 2, tmp_path, "sequence", *settings)[0]
    both = ("parallel.processes_per_node=4", "parallel.sequence=2", "parallel.zero_stage=3")
    four = run_ranks(losses, 4, tmp_path, "both", *both)[0]
    fsdp = ("parallel.processes_per_node=2", "parallel.engine=fsdp2")
    other_engine = run_ranks(losses, 2, tmp_path, "fsdp", *fsdp)[0]
    assert len(lone) == 8
    for other in (data, sequence, four, other_engine):
        assert [row["samples_seen"] for row in other] == [row["samples_seen"] for row in lone]
        assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in lone], 1e-5)
        norms = [row["grad_norm"] for row in other]
        assert norms == pytest.approx([row["grad_norm"] for row in lone], 1e-4)
        assert [row["flops"] for row in other] == [row["flops"] for row in lone]
        assert [row["times"] for row in other] == [row["times"] for row in lone]
    assert sum(sum(row["times"]) for row in lone) == lone[-1]["samples_seen"]


@pytest.mark.parametrize("conditioned", [False, True], ids=["t2v", "i2v"])
def test_losses_do_not_depend_on_the_degree_of_packs(tmp_path: Path, conditioned: bool) -> None:
    """Validation, of single samples, included."""
    world.encode(tmp_path)
    shared = (
        "training.steps=4",
        "training.validation_samples=3",
        "training.validation_interval_steps=4",
        f"model.image_conditioned={str(conditioned).lower()}",
        f"data.image_share={0 if conditioned else 0.5}",
        "data.latents=encode",
        "data.pack_tokens=800",
    )
    lone = run_ranks(losses, 1, tmp_path, "lone", "parallel.processes_per_node=1", *shared)[0]
    four = ("parallel.processes_per_node=4", "parallel.sequence=4", *shared)
    context = ("parallel.engine=fsdp2", "parallel.zero_stage=3", "parallel.context=2")
    least = run_ranks(losses, 4, tmp_path, "least", *four, *context)[0]
    full = run_ranks(losses, 4, tmp_path, "full", *four, "parallel.sequence_degree=full")[0]
    assert any(1 < row["sequence_degree"] < 4 for row in least)
    assert all(row["sequence_degree"] == 4 for row in full)
    assert all(row["sequence_degree"] == 1 for row in lone)
    for other in (least, full):
        assert [row["samples_seen"] for row in other] == [row["samples_seen"] for row in lone]
        for key in ("loss", "grad_norm", "validation_loss_raw", "validation_loss_ema"):
            found, expected = ([row[key] for row in rows if key in row] for rows in (other, lone))
            assert expected
            assert found == pytest.approx(expected, 1e-4)


def test_a_run_goes_on_wherever_it_is_resumed(tmp_path: Path) -> None:
    """On other ranks, engines, stages and degrees: no sample dropped, none seen twice."""
    world.encode(tmp_path)
    lone = run_ranks(losses, 1, tmp_path, "lone", "parallel.processes_per_node=1")[0]
    rows: list[dict[str, Any]] = []
    for ranks, settings in PLACES:
        steps = None if (ranks, settings) == PLACES[-1] else 1
        settings = (f"parallel.processes_per_node={ranks}", *settings)
        cause, more = run_ranks(attempt, ranks, tmp_path, "moved", settings, steps)[0]
        assert cause is (Cause.DONE if steps is None else Cause.YIELDED)
        rows += more
    assert [row["samples_seen"] for row in rows] == [row["samples_seen"] for row in lone]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in lone], 1e-5)


def test_image_to_video_starts_from_text_to_video(tmp_path: Path) -> None:
    """The first loss of I2V is T2V's: its new path is zero at the start."""
    world.encode(tmp_path)
    shared = (
        "data.latents=encode",
        "data.image_share=0",
        "data.pack_tokens=400",
        "parallel.processes_per_node=1",
    )
    run_ranks(losses, 1, tmp_path, "t2v", *shared)
    start = ("training.init_from=t2v", *shared)
    again = run_ranks(losses, 1, tmp_path, "again", *start)[0]
    rows = run_ranks(losses, 1, tmp_path, "i2v", "model.image_conditioned=true", *start)[0]
    assert rows[0]["loss"] == again[0]["loss"]
    assert rows[-1]["loss"] != again[-1]["loss"]
