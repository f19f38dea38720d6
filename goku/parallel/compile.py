"""torch.compile, block by block: all blocks share one graph, and their hooks stay outside of it.

Token, text and segment counts are dynamic, and segments enter as tensors, so packs of any make-up
run the same graph. The one exception is a pack of a single segment: sizes of 1 are compiled apart.
An operator's fake must read sizes from `shape`: `len` would bind the graph to the size it meets.
"""

import sys
from collections.abc import Iterable

import torch
from torch import nn
from torch.fx.experimental import _config as symbolic

# Training, validation, packs of one segment, and each way to recompute: far below this. Beyond it
# blocks would go on uncompiled.
_MOST_GRAPHS = 64


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Replace each block's forward by a compiled one. After this its parts must not be replaced.

    Sizes that happen to be equal in the first pack are not taken for one and the same.
    """
    symbolic.use_duck_shape = False
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def graphs() -> int:
    """Graphs compiled so far in this process: a number that goes on growing means a lost speed."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not there before something was compiled
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0
