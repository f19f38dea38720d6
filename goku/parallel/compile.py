"""torch.compile, block by block: all blocks share one graph, and their hooks stay outside of it.

Token, text and segment counts are dynamic, and segments enter as tensors, so packs of any make-up
run the same graph. Two things are compiled apart: packs of a single segment, as sizes of 1 are, and
each degree of sequence parallelism, whose exchanges are part of the graph.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as symbolic

# Beyond so many blocks would run eager. For each degree and way to recompute: one segment and
# several, with gradients and, in validation, without. PyTorch's own limit is 8.
_MOST_GRAPHS = 64

# inductor moves waits to right behind their starts where that takes less memory
_IN_ORDER: dict[str, Any] = {"reorder_for_peak_memory": False}


def compile_blocks(blocks: Iterable[nn.Module], *, in_order: bool = False) -> None:
    """Replace each block's forward by a compiled one. After this its parts must not be replaced.

    Sizes that happen to be equal in the first pack are not taken for one and the same. `in_order`:
    exchanges start and end where the program says, whatever memory that takes.
    """
    symbolic.use_duck_shape = False
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    options = _IN_ORDER if in_order else None
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True, options=options)


def graphs() -> int:
    """Graphs compiled so far in this process: a number that goes on growing means a lost speed."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not there before something was compiled
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0
