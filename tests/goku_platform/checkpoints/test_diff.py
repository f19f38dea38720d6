"""Diff: equal whoever wrote it; otherwise what differs, in how many places and how far."""

import numpy as np
import pytest

from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import RunDir
from goku_platform.runs.checkpoints.diff import Difference, diff, side
from goku_platform.runs.checkpoints.values import Floats
from tests.goku_platform import made
from tests.goku_platform.command import Call


def tensors() -> dict[str, Floats]:
    values = np.arange(77, dtype=np.float32).reshape(7, 11)
    return {"model/a": values, "model/b": np.array([np.nan, np.inf, 1.0], dtype=np.float32)}


@pytest.fixture
def run(store: str) -> RunDir:
    return made.run(store)


def compared(run: RunDir) -> Difference:
    return diff(side(run, 20), side(run, 40))


def test_the_same_state_on_another_world_is_equal(run: RunDir) -> None:
    made.saved(run, 20, tensors(), world=2)
    made.saved(run, 40, tensors(), world=5)
    found = compared(run)
    assert (found.same, found.changes) == (2, ())
    assert {number.name: number.values for number in found.numbers} == {
        "samples_seen": (200, 400), "optimizer_steps": (20, 40), "world_size": (2, 5)
    }  # fmt: skip


def test_values_shapes_and_names(run: RunDir) -> None:
    other = tensors()
    other["model/a"] = other["model/a"].copy()
    other["model/a"][3, 4] += 0.5
    other["model/a"][6, 10] -= 2.0
    made.saved(run, 20, tensors() | {"model/c": np.zeros(3, np.float32), "ema/a": np.zeros(2)})
    made.saved(run, 40, other | {"model/c": np.zeros((3, 1), np.float32)}, world=3)
    changes = {change.name: change for change in compared(run).changes}
    assert (changes["model/a"].elements, changes["model/a"].largest) == (2, 2.0)
    assert changes["model/c"].what == "shape 3 and 3x1"
    assert changes["ema/a"].what == "only in the first"
    assert "model/b" not in changes


def test_what_is_not_finite(run: RunDir) -> None:
    made.saved(run, 20, tensors())
    made.saved(run, 40, tensors() | {"model/b": np.array([0.0, np.inf, 1.0], np.float32)})
    [change] = compared(run).changes
    assert (change.name, change.elements, change.largest) == ("model/b", 1, None)


def test_another_dtype_of_the_same_values(run: RunDir) -> None:
    made.saved(run, 20, {"model/a": np.array([1.0, -2.0], np.float32)})
    made.saved(run, 40, {"model/a": np.array([0x3F80, 0xC000], np.uint16)})
    [change] = compared(run).changes
    assert (change.what, change.elements) == ("dtype F32 and BF16", 0)


def test_a_changed_byte_is_refused(run: RunDir) -> None:
    made.saved(run, 20, tensors())
    name = next(iter(made.saved(run, 40, tensors()).files))
    data = bytearray(run.checkpoint(40).read(name))
    data[-1] ^= 1
    run.checkpoint(40).write(name, bytes(data))
    with pytest.raises(CorruptCheckpoint, match=name):
        compared(run)


def test_the_command(run: RunDir, goku: Call, store: str) -> None:
    made.saved(run, 20, tensors())
    made.saved(made.run(store, "stage2"), 40, tensors() | {"model/b": np.ones(3, np.float32)})
    done = goku("ckpt", "diff", "stage1", "20", "40", "--against", "stage2")
    for text in ("stage1 step 20, stage2 step 40: 1 tensors are equal", "model/b", "not finite"):
        assert text in done.out
    assert goku("ckpt", "diff", "stage1", "20", "20", "--json").json["changes"] == []
    assert "no checkpoint of step 30" in goku("ckpt", "diff", "stage1", "20", "30").err
