"""A stage that begins with another run's weights, on another world and with a new layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from goku.checkpoint import state
from goku.checkpoint.load import Checkpoint, start_from
from goku.checkpoint.save import Saver
from goku.config import ConfigError
from goku.config.parallel import ParallelConfig
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku.parallel.mesh import connect
from tests.net import AlignedNet, Net, engine_of, inputs, train_step
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

WORLD = 2
NEW = ("align.",)


class WideNet(Net):
    """Net with a last layer of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[5] = nn.Linear(13, 4)


def previous_stage(uri: str, kind: type[Net]) -> Tensor:
    """Train, save with an average that differs, and return the average's output."""
    engine = engine_of(WORLD, 2, kind=kind)
    train_step(engine, 0, 1e-2, dist.get_rank())
    ema = {f.name: f.master * 0.9 for f in engine.fragments()}
    mesh = connect(ParallelConfig(processes_per_node=WORLD))
    saver = Saver(
        RunDir(uri), mesh, attempt=1, config_digest="d", code_version="v", retention=Retention()
    )
    pieces = state.pieces(engine.fragments(), ema, rank=mesh.rank)
    saver.save(pieces, step=1, samples_seen=8, optimizer_steps=1)
    engine.publish(ema)
    with torch.no_grad():
        out: Tensor = engine.module(inputs(9, 9, 9)[0])
    return out


def next_stage(uri: str, kind: type[Net], new: tuple[str, ...]) -> dict[str, Any] | str:
    run = RunDir(uri)
    manifest = run.latest()
    assert manifest is not None
    engine = engine_of(WORLD, 3, seed=7, kind=kind)
    ema = {f.name: torch.zeros_like(f.master) for f in engine.fragments()}
    mesh = connect(ParallelConfig(processes_per_node=WORLD))
    checkpoint = Checkpoint(run.checkpoint(1), manifest)
    try:
        start_from(checkpoint, engine, ema, mesh=mesh, new=new)
    except (ConfigError, CorruptCheckpoint) as error:
        return f"{type(error).__name__}: {error}"
    with torch.no_grad():
        output = engine.module(inputs(9, 9, 9)[0])
    fragments = engine.fragments()
    return {
        "output": output,
        "optimizer is fresh": engine.optimizer_steps == 0
        and not any(f.exp_avg.any() or f.exp_avg_sq.any() for f in fragments),
        "average is the weights": all(torch.equal(ema[f.name], f.master) for f in fragments),
    }


def test_a_stage_with_a_new_layer_begins_as_the_one_before(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    output = run_ranks(previous_stage, WORLD, uri, Net)[0]
    for kind in (Net, AlignedNet):
        for rank in run_ranks(next_stage, WORLD, uri, kind, NEW):
            assert rank["average is the weights"]
            assert rank["optimizer is fresh"]
            torch.testing.assert_close(rank["output"], output)
    errors = run_ranks(next_stage, WORLD, uri, AlignedNet, ())
    assert errors[0].startswith("CorruptCheckpoint: step 1: it holds no ema/align")


def test_a_model_of_another_size_is_the_users_error(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    run_ranks(previous_stage, WORLD, uri, AlignedNet)
    for error in run_ranks(next_stage, WORLD, uri, Net, ()):
        assert "it has weights that the model has not: align.weight, align.bias" in error
    error = run_ranks(next_stage, WORLD, uri, WideNet, NEW)[0]
    assert error.startswith("ConfigError: ema/layers.5.weight of shape (4, 13)")
    assert "holds shape (3, 13)" in error
