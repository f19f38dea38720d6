"""The exchanges of sequence parallelism, with gradients.

Ulysses (arXiv 2309.14509) trades tokens for heads by an all-to-all, whose gradient is the one back.
Where heads run out, ranks gather each other's keys and values, whose gradients are summed where
they came from. All are operators, so that a compiled block stays whole.
"""

from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed.distributed_c10d import GroupName

from goku.nn.attend.ops import SAVED
from goku.nn.operators import operator


class Group(NamedTuple):
    """Ranks that exchange, by what an operator and a compiled block can take."""

    name: str
    ranks: int

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> Self:
        return cls(group.group_name, group.size())


def scatter_heads(x_NAK: Tensor, group: Group) -> Tensor:
    """From a slice of the tokens with all heads to all tokens with a slice of the heads.

    [N/p, A, K] to [N, A/p, K] for p ranks in the group. Differentiable.
    """
    out_NAK: Tensor = _scatter(x_NAK, *group)
    return out_NAK


def gather_heads(x_NAK: Tensor, group: Group) -> Tensor:
    """The way back: [N, A/p, K] to [N/p, A, K]. Differentiable."""
    out_NAK: Tensor = _gather(x_NAK, *group)
    return out_NAK


def gather_tokens(x_NAK: Tensor, group: Group) -> Tensor:
    """All ranks' tokens in their order, [N/p, A, K] to [N, A, K]. Differentiable.

    Gradients of the copies are summed in at least fp32.
    """
    out_NAK: Tensor = _gather_rows(x_NAK, *group)
    return out_NAK


def sum_tokens(x_NAK: Tensor, group: Group) -> Tensor:
    """What all ranks have for each token, summed where it is: [N, A, K] to [N/p, A, K].

    The gradient of `gather_tokens`, summed in at least fp32.
    """
    mine_NAK: Tensor = _sum_rows(x_NAK.contiguous(), *group)
    return mine_NAK


def _group(name: str) -> dist.ProcessGroup:
    """An operator takes no process groups, only their names."""
    return _resolve_process_group(GroupName(name))


def _run_scatter(x: Tensor, group: str, ranks: int) -> Tensor:
    """What arrives is in its final order: only what is sent is copied."""
    return _exchange(rearrange(x, "n (p a) k -> p n a k", p=ranks), group).flatten(0, 1)


def _run_gather(x: Tensor, group: str, ranks: int) -> Tensor:
    received = _exchange(rearrange(x, "(p n) a k -> p n a k", p=ranks), group)
    return rearrange(received, "p n a k -> n (p a) k").contiguous()


def _exchange(by_rank: Tensor, group: str) -> Tensor:
    """Row i of the first axis goes to rank i of the group."""
    sent = by_rank.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=_group(group))
    return received


def _run_gather_rows(x: Tensor, group: str, ranks: int) -> Tensor:
    gathered = x.new_empty(ranks * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(gathered, x.contiguous(), group=_group(group))
    return gathered


def _run_sum_rows(x: Tensor, group: str, ranks: int) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    mine = wide.new_empty(len(x) // ranks, *x.shape[1:])
    dist.reduce_scatter_tensor(mine, wide, group=_group(group))
    return mine.to(x.dtype)


def _more_tokens(x: Tensor, group: str, ranks: int) -> Tensor:
    tokens, heads, width = x.shape
    return x.new_empty(tokens * ranks, heads // ranks, width)


def _more_heads(x: Tensor, group: str, ranks: int) -> Tensor:
    tokens, heads, width = x.shape
    return x.new_empty(tokens // ranks, heads * ranks, width)


def _more_rows(x: Tensor, group: str, ranks: int) -> Tensor:
    return x.new_empty(x.shape[0] * ranks, *x.shape[1:])


def _fewer_rows(x: Tensor, group: str, ranks: int) -> Tensor:
    return x.new_empty(x.shape[0] // ranks, *x.shape[1:])


def _opposite(name: str, back: Any) -> None:
    """Let the gradient of an operator travel through another one."""

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.way = inputs[1:]

    def differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return back(gradient.contiguous(), *ctx.way), None, None

    torch.library.register_autograd(f"goku::{name}", differentiate, setup_context=remember)


_scatter = operator("scatter_heads", _run_scatter, _more_tokens)
_gather = operator("gather_heads", _run_gather, _more_heads)
_gather_rows = operator("gather_tokens", _run_gather_rows, _more_rows)
_sum_rows = operator("sum_tokens", _run_sum_rows, _fewer_rows)
_opposite("scatter_heads", _gather)
_opposite("gather_heads", _scatter)
_opposite("gather_tokens", _sum_rows)
SAVED.add(_gather)  # a row of D a token, against an exchange in every backward
