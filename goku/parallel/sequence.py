"""Ulysses sequence parallelism: ranks share the tokens of a pack, and trade them for heads.

All of a block but self-attention works token by token, so each rank keeps a slice of the tokens.
Around `attend` an all-to-all gives every rank all tokens of some heads, and a second one undoes
it. Text is short: every rank holds all of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goku.nn.attend import Attend
from goku.nn.layout import Layout
from goku.nn.spans import Spans
from goku.parallel.comm import gather_heads, scatter_heads


class Ulysses:
    """`attend` over token slices: [N/p, A, K] in and out, the spans those of the whole pack."""

    def __init__(self, attend: Attend, group: dist.ProcessGroup) -> None:
        self.attend, self.group = attend, group

    def __call__(
        self,
        q_NAK: Tensor,
        k_NAK: Tensor,
        v_NAK: Tensor,
        q_spans: Spans,
        k_spans: Spans,
    ) -> Tensor:
        # side by side in the last axis, so that one exchange carries all three
        qkv_NAK = scatter_heads(torch.cat([q_NAK, k_NAK, v_NAK], dim=-1), self.group)
        q_NAK, k_NAK, v_NAK = qkv_NAK.chunk(3, dim=-1)
        o_NAK = self.attend(q_NAK, k_NAK, v_NAK, q_spans, k_spans)
        return gather_heads(o_NAK, self.group)


def share_tokens(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Replace `attention.attend` in every one of `model.blocks` by its Ulysses form."""
    for block in model.get_submodule("blocks").children():
        attention: Any = block.get_submodule("attention")
        attention.attend = Ulysses(attention.attend, group)


class Shard(NamedTuple):
    """What one sequence rank holds of a pack."""

    layout: Layout
    tokens: tuple[Tensor, ...]  # each [N/p, ...]
    segments: tuple[Tensor, ...]  # each [S, ...], whole


def shard(
    layout: Layout,
    tokens: Sequence[Tensor],
    segments: Sequence[Tensor] = (),
    *,
    rank: int,
    degree: int,
) -> Shard:
    """Cut a pack for `rank` of `degree` sequence ranks.

    `tokens` are tensors [N, ...], `segments` are tensors [S, ...]. When N does not divide, a
    segment of zero tokens is appended: S grows by one, `segments` get a zero row, and the last
    segment's loss is not the caller's.
    """
    whole = layout.padded(degree)
    size = whole.tokens // degree
    here = slice(rank * size, (rank + 1) * size)
    return Shard(
        layout=whole.shard(rank, degree),
        tokens=tuple(_lengthened(x, whole.tokens)[here] for x in tokens),
        segments=tuple(_lengthened(x, whole.segments) for x in segments),
    )


def _lengthened(x: Tensor, length: int) -> Tensor:
    missing = length - len(x)
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
