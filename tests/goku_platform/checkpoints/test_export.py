"""Export: what the safetensors library reads, rounded as torch rounds, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import RunDir
from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.export import INDEX, Exported, choose, export
from goku_platform.runs.checkpoints.values import Floats, to_bf16
from tests.goku_platform import made
from tests.goku_platform.command import Call

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1.00390625, 1.01171875], dtype=np.float32
)


def tensors() -> dict[str, Floats]:
    generator = np.random.default_rng(0)
    return {
        "ema/layers.0.weight": generator.standard_normal((7, 11)).astype(np.float32),
        "ema/layers.0.bias": SPECIAL,
        "ema/scale": np.array(2.5, dtype=np.float32),
        "model/layers.0.weight": np.zeros((7, 11), dtype=np.float32),
    }


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    made.saved(made_run, 20, tensors(), world=3)
    return made_run


def exported(
    run: RunDir, out: Path, *, kind: str = "ema", dtype: str = "F32", shard_bytes: int = 1 << 30
) -> Exported:
    return export(choose(run, step=None, kind=kind, dtype=dtype, shard_bytes=shard_bytes), str(out))


def test_the_safetensors_library_reads_the_average(run: RunDir, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "out")
    assert (done.files, done.tensors, done.step) == (("model.safetensors",), 3, 20)
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(loaded) == ["layers.0.bias", "layers.0.weight", "scale"]
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(tensor.numpy(), tensors()[f"ema/{name}"])
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["model"] == run.config().model.model_dump(mode="json")
    assert (config["weights"], config["step"]) == ("ema", 20)


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint32)
    values = np.concatenate([bits.view(np.float32), SPECIAL])
    ours = torch.from_numpy(to_bf16(values).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_bfloat16_and_shards(run: RunDir, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "out", dtype="BF16", shard_bytes=100)
    assert done.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = json.loads((tmp_path / "out" / INDEX).read_bytes())
    assert index["metadata"]["total_size"] == done.nbytes == 2 * (77 + 9 + 1)
    for name, file in index["weight_map"].items():
        tensor = load_file(tmp_path / "out" / file)[name]
        expected = torch.from_numpy(tensors()[f"ema/{name}"]).to(torch.bfloat16)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_weights_that_were_saved_as_bfloat16(store: str, tmp_path: Path) -> None:
    run = made.run(store)
    made.saved(run, 20, {"model/w": to_bf16(SPECIAL)})
    for dtype in ("F32", "BF16"):
        exported(run, tmp_path / dtype, kind="model", dtype=dtype)
        loaded = load_file(tmp_path / dtype / "model.safetensors")["w"]
        expected = torch.from_numpy(SPECIAL).to(torch.bfloat16).to(loaded.dtype)
        torch.testing.assert_close(loaded, expected, rtol=0, atol=0, equal_nan=True)


def test_a_changed_byte_is_refused_and_nothing_is_left(run: RunDir, tmp_path: Path) -> None:
    name = "attempt-0001-rank-00001.safetensors"
    data = bytearray(run.checkpoint(20).read(name))
    data[0] ^= 1
    run.checkpoint(20).write(name, bytes(data))
    with pytest.raises(CorruptCheckpoint, match=name):
        exported(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_broke_off_is_replaced_and_anything_else_is_not(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model-00001-of-00002.safetensors").write_bytes(b"half")
    exported(run, out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(RunError, match=r"--out .*there is something already"):
        exported(run, out)


def test_weights_that_are_not_there(run: RunDir) -> None:
    with pytest.raises(RunError, match=r"holds no such weights. It holds: ema, model"):
        choose(run, step=20, kind="average", dtype="F32", shard_bytes=1)


def test_the_command(run: RunDir, goku: Call, tmp_path: Path) -> None:
    done = goku("ckpt", "export", "stage1", "--out", str(tmp_path / "out"), "--dtype", "bf16")
    assert done.out.endswith("out: 3 tensors of step 20, ema as bf16, 174 B in 1 files\n")
    again = goku("ckpt", "export", "stage1", "--out", str(tmp_path / "out"))
    assert (again.code, "something already" in again.err) == (1, True)
    more = goku("ckpt", "export", "stage1", "--out", "memory://exported", "--json")
    assert more.json["files"] == ["model.safetensors"]
