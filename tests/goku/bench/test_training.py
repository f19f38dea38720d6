"""The training step that is measured: the same losses with every engine and sequence degree."""

from typing import Any

import pytest
import torch

from goku.bench.shapes import Pack
from goku.bench.training import TrainingStep
from goku.config.model import ModelConfig
from goku.parallel.mesh import connect
from tests.ranks import run_ranks

MODEL = ModelConfig(layers=2, width=64, heads=4, text_width=16, latent_channels=4)
PACK = Pack("small", (40, 9, 16))
CASES: list[dict[str, Any]] = [
    {"sequence": 2},
    {"sequence": 2, "engine": "fsdp2"},
    {"sequence": 2, "engine": "fsdp2", "zero_stage": 3},
    {"sequence": 2, "engine": "fsdp2", "replicas": 2},
]


def losses(world: int, cases: list[dict[str, Any]]) -> list[list[float]]:
    """This rank's part of each step's loss, case by case."""
    found = []
    for case in cases:
        parallel = PACK.parallel(processes_per_node=world, precision="fp32", **case)
        step = TrainingStep(MODEL, PACK, parallel, connect(parallel))
        found.append([float(step.run()) for _ in range(3)])
    return found


@pytest.mark.slow
def test_every_setting_gives_the_losses_of_one_process() -> None:
    (expected,) = run_ranks(losses, 1, 1, [{}])[0]
    ranks = run_ranks(losses, 2, 2, CASES)
    for index, _ in enumerate(CASES):
        sums = torch.tensor([rank[index] for rank in ranks]).sum(0)
        assert sums.tolist() == pytest.approx(expected, rel=1e-5)
