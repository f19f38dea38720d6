"""torch.compile, block by block: all blocks share one graph, and their hooks stay outside of it.

Token, text and segment counts are dynamic, and segments enter as tensors, so packs of any make-up
run the same graph. The one exception is a pack of a single segment: sizes of 1 are compiled apart.
"""

import sys
from collections.abc import Iterable

import torch
from torch import nn


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Replace each block's forward by a compiled one. After this its parts must not be replaced."""
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def graphs() -> int:
    """Graphs compiled so far in this process: a number that goes on growing means a lost speed."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not there before something was compiled
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0
