"""The two normalisations of a block, and the precision in which a block does its delicate sums.

LayerNorm has no weights of its own (adaLN supplies shift and scale); RMSNorm has a learnable one.
"""

import torch
from torch import nn

EPS = 1e-6


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for narrower types, so that bf16 weights keep fp32 arithmetic; float64 stays."""
    return torch.promote_types(dtype, torch.float32)


class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the width, no weights, eps 1e-6. Shape and dtype kept."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS, elementwise_affine=False)


class RMSNorm(nn.RMSNorm):
    """Unit root mean square over the width times a learnable weight, eps 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)
