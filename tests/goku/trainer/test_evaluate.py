"""Validation on several ranks, one of which fails in the middle."""

from itertools import count
from pathlib import Path

import pytest

from tests.goku.trainer import world
from tests.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow


def failing_on_one_rank(store: Path) -> None:
    """Rank 0 raises on averaged weights, before the third of four packs."""
    settings = ("parallel.processes_per_node=2", "training.validation_samples=4")
    config = world.configure(store, "fails", *settings, "parallel.zero_stage=1")
    trainer, turns = world.trainer_of(config, store / "pod"), count(1)

    def stop() -> bool:
        if next(turns) == 3 and trainer.mesh.rank == 0:
            raise MemoryError("no room for the third pack")
        return False

    trainer.validation.losses(trainer.engine, trainer.ema, stop)


def test_a_rank_that_fails_says_so_at_once(tmp_path: Path) -> None:
    """It waits for nobody: the others are elsewhere, and would wait for it as well."""
    world.encode(tmp_path)
    with pytest.raises(RankFailed, match="no room for the third pack"):
        run_ranks(failing_on_one_rank, 2, tmp_path, timeout_seconds=30)
