"""Sums of products, added up where they lie.

Left to inductor, every product but the first would have the sum so far copied into its result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goku.nn.operators import operator


def _run(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
    """lefts[0] @ rights[0] + lefts[1] @ rights[1] + ..., rounded after each."""
    total = lefts[0] @ rights[0]
    for left, right in zip(lefts[1:], rights[1:], strict=True):
        total.addmm_(left, right)
    return total


def _fake(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(lefts[0] @ rights[0])


products = operator("products", _run, _fake)
