"""The loss of a pack whose captions are as the cache has them, in runs of both precisions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from goku.contract.rundir import LATENTS
from goku.data.loader import Batch, Loader
from goku.data.source import CachedSource
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.parallel.mesh import Mesh
from goku.trainer.objective import Objective
from tests.goku.trainer import world

ALONE = Mesh(0, 1, 1, 1, None, torch.device("cpu"))


@pytest.fixture
def packs(tmp_path: Path) -> list[Batch]:
    """Of a cache, some of their captions dropped."""
    world.encode(tmp_path)
    config = world.configure(tmp_path, "run", "data.caption_dropout=0.5").data
    source = CachedSource(f"{tmp_path}/encode/{LATENTS}", latent_channels=4, text_width=64)
    steps: Iterator = Loader(source, config, patch=2).steps()
    return [pack for step in islice(steps, 2) for pack in step.packs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captions_in_two_bytes_change_no_bit_of_the_loss(
    packs: list[Batch], tmp_path: Path, dtype: torch.dtype
) -> None:
    config = world.configure(tmp_path, "run")
    model = init.build(config.model, seed=0)
    with torch.no_grad():  # the last linear and adaLN start at zero: give the text a say
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.to(dtype)
    objective = Objective(Timesteps(config.flow), 0, ALONE)
    for pack in packs:
        assert pack.text_MY.dtype == torch.bfloat16
        t_S = objective.times(pack)
        loss = objective.loss(model, pack, t_S)
        assert loss.dtype == torch.float32
        wide, other = pack.text_MY.float(), torch.zeros_like(pack.text_MY)
        assert torch.equal(objective.loss(model, replace(pack, text_MY=wide), t_S), loss)
        assert not torch.equal(objective.loss(model, replace(pack, text_MY=other), t_S), loss)
