"""The training step that is measured: the same losses with every engine and sequence degree."""

import gc
from typing import Any

import pytest
import torch

from goku.bench.shapes import Pack
from goku.bench.training import TrainingStep, mean_loss
from goku.config.model import ModelConfig
from goku.parallel.mesh import connect
from tests.ranks import run_ranks

MODEL = ModelConfig(layers=2, width=64, heads=4, text_width=16, latent_channels=4)
PACK = Pack("small", (40, 9, 16))  # which two ranks cut up
EVEN = Pack("even", (16, 12, 12, 16))  # of which each takes two samples
CASES: list[dict[str, Any]] = [
    {"sequence": 2},
    {"sequence": 2, "sequence_degree": "full"},
    {"sequence": 2, "engine": "fsdp2"},
    {"sequence": 2, "engine": "fsdp2", "zero_stage": 3},
    {"sequence": 2, "engine": "fsdp2", "zero_stage": 3, "overlap": "on"},
    {"sequence": 2, "zero_stage": 3, "overlap": "on"},
    {"sequence": 2, "engine": "fsdp2", "replicas": 2},
]
ENGINES = [{"engine": "fsdp2"}, {"engine": "deepspeed"}]


def losses(world: int, pack: Pack, cases: list[dict[str, Any]]) -> list[list[float]]:
    """Each step's loss as it is reported, case by case."""
    found = []
    for case in cases:
        parallel = pack.parallel(processes_per_node=world, precision="fp32", **case)
        mesh = connect(parallel)
        step = TrainingStep(MODEL, pack, parallel, mesh)
        found.append([mean_loss(step.run()[0], mesh) for _ in range(3)])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("pack", "degree"), [(PACK, 2), (EVEN, 1)])
def test_every_setting_gives_the_losses_of_one_process(pack: Pack, degree: int) -> None:
    shared = pack.parallel(processes_per_node=2, sequence=2)
    assert pack.divided(MODEL, shared).degree == degree
    (expected,) = run_ranks(losses, 1, 1, pack, [{}])[0]
    ranks = run_ranks(losses, 2, 2, pack, CASES)
    for rank in ranks:
        assert rank == [pytest.approx(expected, rel=1e-5)] * len(CASES)


def built(engine: dict[str, Any]) -> TrainingStep:
    parallel = PACK.parallel(processes_per_node=1, precision="fp32", **engine)
    return TrainingStep(MODEL, PACK, parallel, connect(parallel))


def left_bytes(engine: dict[str, Any]) -> tuple[int, int]:
    """Of all tensors: while a step is there, and after it was closed and dropped."""
    built(engine)  # whatever engines keep once for the process
    gc.collect()
    nothing, step = _live(), built(engine)
    step.run()
    there = _live() - nothing
    step.close()
    del step
    gc.collect()
    return there, _live() - nothing


def _live() -> int:
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.layout is torch.strided:
            try:
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            except (NotImplementedError, RuntimeError):  # a wrapper has none of its own
                continue
    return sum(storages.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_closed_step_gives_its_memory_back(engine: dict[str, Any]) -> None:
    ((there, left),) = run_ranks(left_bytes, 1, engine)
    weights = 4 * 200_000  # fp32
    assert there > 3 * weights
    assert left < weights / 100
