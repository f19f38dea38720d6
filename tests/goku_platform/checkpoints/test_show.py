"""Show: what a manifest says, counted; a checkpoint that is not whole shows why."""

import numpy as np
import pytest

from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.show import shown
from tests.goku_platform import made
from tests.goku_platform.command import Call

TENSORS = {
    "model/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/b": np.arange(4, dtype=np.float32),
    "ema/a": np.arange(6, dtype=np.uint16),
}


def test_tensors_are_counted_by_kind(store: str) -> None:
    run = made.run(store)
    made.saved(run, 20, TENSORS)
    found = shown(run, None)
    kinds = [(kind.name, kind.tensors, kind.elements, kind.nbytes) for kind in found.kinds]
    assert kinds == [("model", 2, 10, 40), ("ema", 1, 6, 12)]
    assert [kind.dtypes for kind in found.kinds] == [("F32",), ("BF16",)]
    assert [(file.nbytes, file.pieces) for file in found.files] == [(26, 3), (26, 3)]
    assert (found.step, found.world_size, found.nbytes, found.problems) == (20, 2, 52, ())


def test_a_checkpoint_that_is_not_whole_says_so(store: str, goku: Call) -> None:
    run = made.run(store)
    manifest = made.saved(run, 20, TENSORS)
    run.checkpoint(20).delete(next(iter(manifest.files)))
    assert "is missing" in shown(run, 20).problems[0]
    with pytest.raises(RunError, match=r"it has no complete checkpoint. Steps there are: 20"):
        shown(run, None)
    assert "is missing" in goku("ckpt", "show", "stage1", "--step", "20").out


def test_the_command(store: str, goku: Call) -> None:
    made.saved(made.run(store), 20, TENSORS)
    screen = goku("ckpt", "show", "stage1").out
    for text in ("stage1 step 20", "complete", "200 samples", "2 ranks", "model", "BF16", "rank-"):
        assert text in screen
    assert goku("ckpt", "show", "stage1", "--json").json["kinds"][1]["name"] == "ema"
    assert goku("ckpt", "show", "stage1", "--step", "7").code == 1
