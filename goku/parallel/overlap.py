"""Sequence parallelism whose exchanges travel while the projections are computed.

An exchange has two halves: one starts it, the other lets the stream wait for it. An all-to-all's
gradient is the all-to-all back, so each half's gradient is the other half: what is waited for last
in the forward starts first in the backward. The collectives are PyTorch's functional ones: what is
sent is kept until it has arrived, and inductor neither reads nor reuses what is under way. Nothing
but its `finish` may read what a `start` hands out.
"""

from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from goku.nn.spans import Spans
from goku.parallel.comm import Group, sum_tokens
from goku.parallel.sequence import Groups, Shared

_native = torch.ops._c10d_functional


class Overlapped(Shared):
    """`Shared` that is sent values, keys and queries one by one, and waits for them when called.

    Where ranks trade heads and gather keys as well, the gathering begins when it is called.
    """

    @classmethod
    def of(cls, shared: Shared) -> Self:
        """The same kernel and partners."""
        return cls(shared.attend, shared._partners)

    def send(self, x_NAK: Tensor, k_spans: Spans, *, keys: bool) -> Tensor:
        """goku.nn.attend.Send."""
        heads, context = self._partners[k_spans.slices]
        if heads is not None:
            return start_scatter(x_NAK, heads)
        return start_gather(x_NAK, context) if keys and context is not None else x_NAK

    def _traded(
        self, q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, context = groups
        if heads is not None:
            v_NAK, k_NAK, q_NAK = (finish_scatter(x, heads) for x in (v_NAK, k_NAK, q_NAK))
            if context is not None:
                v_NAK, k_NAK = (start_gather(x_NAK, context) for x_NAK in (v_NAK, k_NAK))
        if context is not None:
            v_NAK, k_NAK = finish_gather(v_NAK), finish_gather(k_NAK)
        return q_NAK, k_NAK, v_NAK


def overlap(model: nn.Module) -> None:
    """Let every one of `model.blocks` send what its attention, shared already, will wait for."""
    for block in model.get_submodule("blocks").children():
        attention: Any = block.get_submodule("attention")
        attention.attend = Overlapped.of(attention.attend)
        attention.send = attention.attend.send


def start_scatter(x_NAK: Tensor, group: Group) -> Tensor:
    """`comm.scatter_heads`, begun: [N/p, A, K] to what is under way, [p, N/p, A/p, K]."""
    by_rank = rearrange(x_NAK, "n (p a) k -> p n a k", p=group.ranks)
    flying: Tensor = _Start.apply(by_rank, *group)  # type: ignore[no-untyped-call]
    return flying


def finish_scatter(flying: Tensor, group: Group) -> Tensor:
    """What has arrived, in its final order: [N, A/p, K]."""
    arrived: Tensor = _Finish.apply(flying, *group)  # type: ignore[no-untyped-call]
    return arrived.flatten(0, 1)


def start_gather(x_NAK: Tensor, group: Group) -> Tensor:
    """`comm.gather_tokens`, begun: [N/p, A, K] to what is under way, [N, A, K].

    Its gradient waits where it starts: on the way it has another size, and is fp32.
    """
    flying: Tensor = _StartGather.apply(x_NAK, *group)  # type: ignore[no-untyped-call]
    return flying


def finish_gather(flying: Tensor) -> Tensor:
    """What has arrived."""
    arrived: Tensor = _native.wait_tensor(flying)
    return arrived


def _exchange(by_rank: Tensor, group: str, ranks: int) -> Tensor:
    """Row i of the first axis begins to go to rank i of the group."""
    one_each = [1] * ranks
    flying: Tensor = _native.all_to_all_single(by_rank.contiguous(), one_each, one_each, group)
    return flying


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, by_rank: Tensor, group: str, ranks: int) -> Tensor:
        return _exchange(by_rank, group, ranks)

    @staticmethod
    def backward(_ctx: Any, flying: Tensor) -> tuple[Tensor, None, None]:
        return _native.wait_tensor(flying), None, None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flying: Tensor, group: str, ranks: int) -> Tensor:
        ctx.way = group, ranks
        arrived: Tensor = _native.wait_tensor(flying)
        return arrived

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(gradient, *ctx.way), None, None


class _StartGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NAK: Tensor, group: str, ranks: int) -> Tensor:
        ctx.group = Group(group, ranks)
        flying: Tensor = _native.all_gather_into_tensor(x_NAK.contiguous(), ranks, group)
        return flying

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return sum_tokens(gradient, ctx.group), None, None
