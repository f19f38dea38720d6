"""A sampler's transformer: the same from a run's checkpoint and from its export."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from goku.config import ConfigError, RunConfig, presets
from goku.contract.rundir import RunDir
from goku.model import init
from goku.sampling.origin import origin
from goku.sampling.restore import restore
from goku_platform.runs.checkpoints.export import choose, export
from tests.goku_platform import made


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose checkpoint holds other weights than any seed gives."""
    made_run = made.run(str(tmp_path), "stage2", training={"init_from": None})
    net = init.build(made_run.config().model, seed=5)
    state = {name: value.numpy() + np.float32(0.5) for name, value in net.state_dict().items()}
    made.saved(made_run, 20, {f"ema/{name}": values for name, values in state.items()})
    return made_run


def sampling(run: RunDir, weights_from: str) -> RunConfig:
    store = run.uri.rpartition("/")[0]
    overrides = {"sampling": {"weights_from": weights_from}}
    return presets.build("sample", store=store, size="tiny", overrides=overrides)


def weights_of(config: RunConfig) -> dict[str, torch.Tensor]:
    return restore(config, origin(config)).model.state_dict()


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_an_export_gives_the_run_s_own_model(run: RunDir, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "out"
    export(choose(run, step=None, kind="ema", dtype=dtype, shard_bytes=1 << 16), str(out))
    assert len(list(out.glob("*.safetensors"))) > 1
    theirs, ours = (weights_of(sampling(run, where)) for where in (run.name, str(out)))
    for name, tensor in theirs.items():
        stored = tensor.to(torch.bfloat16).float() if dtype == "BF16" else tensor
        assert torch.equal(ours[name], stored)


def test_a_config_of_something_else_is_refused(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(choose(run, step=None, kind="ema", dtype="F32", shard_bytes=1 << 30), str(out))
    (out / "config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(ConfigError, match="not one that an export writes"):
        origin(sampling(run, str(out)))


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    empty = made.run(str(tmp_path), "stage2", training={"init_from": None})
    with pytest.raises(ConfigError, match="has no complete checkpoint"):
        origin(sampling(empty, empty.name))
