"""A checkpoint of one engine, loaded into another: the same state, and the same next steps."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from goku.checkpoint import state
from goku.checkpoint.load import Checkpoint, restore
from goku.checkpoint.save import Saver
from goku.config.parallel import ParallelConfig
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku.parallel.engine import Engine
from goku.parallel.mesh import connect
from tests.net import Way, engine_of, train_step
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

STEP = 2
DEEPSPEED, FSDP, HSDP = Way("deepspeed", 2), Way("fsdp2", 3), Way("fsdp2", 2, replicas=2)


class Found(NamedTuple):
    """What one rank has after a save or a load."""

    state: dict[str, tuple[int, Tensor]]  # by tensor: start and values of its interval
    history: list[tuple[float, float]]  # losses and norms of the two steps after it


def of(engine: Engine, ema: dict[str, Tensor]) -> Found:
    pieces = state.sharded(engine.fragments(), ema)
    held = {piece.name: (piece.start, piece.tensor.clone()) for piece in pieces}
    steps = [train_step(engine, STEP + n, 1e-2, dist.get_rank()) for n in range(2)]
    return Found(held, steps)


def saving(uri: str, world: int, way: Way) -> Found:
    engine = engine_of(world, way, "fp32")
    for step in range(STEP):
        train_step(engine, step, 1e-2, dist.get_rank())
    ema = {f.name: f.master * 0.5 + 1 for f in engine.fragments()}
    mesh = connect(ParallelConfig(processes_per_node=world))
    saver = Saver(
        RunDir(uri),
        mesh,
        attempt=1,
        config_digest="d",
        code_version="v",
        retention=Retention(last=2),
    )
    pieces = state.pieces(engine.fragments(), ema, rank=mesh.rank)
    saver.save(pieces, step=STEP, samples_seen=8, optimizer_steps=engine.optimizer_steps)
    return of(engine, ema)


def loading(uri: str, world: int, way: Way) -> Found:
    run = RunDir(uri)
    manifest = run.latest()
    assert manifest is not None
    engine = engine_of(world, way, "fp32", seed=7)
    ema = {f.name: torch.zeros_like(f.master) for f in engine.fragments()}
    mesh = connect(ParallelConfig(processes_per_node=world))
    restore(Checkpoint(run.checkpoint(manifest.step), manifest), engine, ema, mesh=mesh)
    return of(engine, ema)


def whole(ranks: list[Found]) -> dict[str, Tensor]:
    """Every tensor from the intervals of all ranks, which must tile it."""
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for rank in ranks:
        for name, part in rank.state.items():
            parts.setdefault(name, []).append(part)
    tensors = {}
    for name, found in parts.items():
        found.sort(key=lambda part: part[0])
        ends = [start + len(values) for start, values in found]
        assert [start for start, _ in found] == [0, *ends[:-1]], name
        tensors[name] = torch.cat([values for _, values in found])
    return tensors


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, DEEPSPEED), (2, FSDP)),
        ((2, FSDP), (2, DEEPSPEED)),
        ((2, DEEPSPEED), (4, HSDP)),
        ((4, HSDP), (1, FSDP)),
    ],
    ids=str,
)
def test_state_and_next_steps_are_the_same(
    tmp_path: Path, before: tuple[int, Way], after: tuple[int, Way]
) -> None:
    uri = str(tmp_path / "run")
    saved = run_ranks(saving, before[0], uri, *before)
    loaded = run_ranks(loading, after[0], uri, *after)
    expected, got = whole(saved), whole(loaded)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    if before[0] == after[0]:  # the same ranks see the same batches
        for one, other in zip(saved, loaded, strict=True):
            for a, b in zip(one.history, other.history, strict=True):
                assert a == pytest.approx(b, rel=1e-5)
