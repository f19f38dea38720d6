"""Ranks that read a set of samples while somebody adds to it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config import ConfigError, RunConfig
from goku.contract.rundir import LATENTS
from goku.contract.store import Store
from goku.data.cache import CacheWriter, LatentCache
from goku.data.encoding import Sample
from goku.data.records import Kind
from goku.parallel.mesh import Mesh
from goku.trainer import build
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

read = build._source


def add_a_clip(store: Path) -> None:
    writer = CacheWriter(LatentCache(Store(f"{store}/encode/{LATENTS}")))
    latent_CTHW = torch.zeros(4, 1, 8, 14)
    writer.add("late", Kind.IMAGE, Sample(latent_CTHW, torch.zeros(2, 64), latent_CTHW[:, 0]))
    writer.flush()


def built(store: Path, *, added: bool) -> str:
    """What building says in this rank, where rank 1 reads last and perhaps after another clip."""

    def in_turn(config: RunConfig, mesh: Mesh) -> Any:
        if mesh.rank == 1:
            mesh.barrier()
            if added:
                add_a_clip(store)
        source = read(config, mesh)
        if mesh.rank == 0:
            mesh.barrier()
        return source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_source", in_turn)
        config = world.configure(store, "run", "parallel.processes_per_node=2")
        try:
            world.trainer_of(config, store / "pod")
        except ConfigError as error:
            return str(error)
    return ""


def both(store: Path) -> list[str]:
    return [built(store, added=added) for added in (False, True)]


def test_ranks_that_have_read_different_samples_do_not_train(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for fine, refused in run_ranks(both, 2, tmp_path):
        assert fine == ""
        assert "data.latents=encode" in refused
        assert "rank 0 has read 36 samples, rank 1 37" in refused
