"""The two exchanges of Ulysses sequence parallelism (arXiv 2309.14509), with gradients.

Each is one all-to-all, and the gradient of one is the other.
"""

from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor


def scatter_heads(x_NAK: Tensor, group: dist.ProcessGroup) -> Tensor:
    """From a slice of the tokens with all heads to all tokens with a slice of the heads.

    [N/p, A, K] to [N, A/p, K] for p ranks in the group. Differentiable.
    """
    heads_by_rank = rearrange(x_NAK, "n (p a) k -> p n a k", p=group.size())
    return rearrange(_exchange(heads_by_rank, group), "p n a k -> (p n) a k")


def gather_heads(x_NAK: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back: [N, A/p, K] to [N/p, A, K]. Differentiable."""
    tokens_by_rank = rearrange(x_NAK, "(p n) a k -> p n a k", p=group.size())
    return rearrange(_exchange(tokens_by_rank, group), "p n a k -> n (p a) k")


def _exchange(by_rank: Tensor, group: dist.ProcessGroup) -> Tensor:
    received: Tensor = _AllToAll.apply(by_rank, group)  # type: ignore[no-untyped-call]
    return received


class _AllToAll(torch.autograd.Function):
    """Row i of the first axis goes to rank i of the group; its own gradient, row by row."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(sent, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, sent.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.forward(ctx, gradients[0], ctx.group), None
