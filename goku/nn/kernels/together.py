"""Products that are more than PyTorch's: sums of them, and the one that closes a block.

Sums are added up where they lie: left to inductor, every product but the first would have the sum
so far copied into its result. The last product has a name of its own for recomputation to know it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goku.nn.operators import CLOSING, PRODUCTS, operator


def _sum(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
    """lefts[0] @ rights[0] + lefts[1] @ rights[1] + ..., rounded after each."""
    total = lefts[0] @ rights[0]
    for left, right in zip(lefts[1:], rights[1:], strict=True):
        total.addmm_(left, right)
    return total


def _fake_sum(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(lefts[0] @ rights[0])


def _close(hidden_NH: Tensor, down_DH: Tensor) -> Tensor:
    """[N, H] to [N, D]."""
    return hidden_NH @ down_DH.T


products = operator("products", _sum, _fake_sum)
close = operator("close", _close, _close)
PRODUCTS.add(close)
CLOSING.add(close)
