"""Sequence parallelism: ranks share the tokens of a pack.

All of a block but self-attention works token by token, so each rank keeps a slice of the tokens.
Around `attend` neighbours trade tokens for heads (Ulysses). Where the heads do not divide among all
ranks, runs of neighbours that hold the same heads gather each other's keys and values instead.
Text is short: every rank holds all of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goku.nn.attend import Attend
from goku.nn.layout import Layout
from goku.nn.spans import Spans
from goku.parallel.comm import Group, gather_heads, gather_tokens, scatter_heads
from goku.parallel.mesh import Mesh


class Groups(NamedTuple):
    """This rank's partners within its sequence group, on two axes; None where it is alone."""

    heads: Group | None  # neighbours: they trade tokens for heads
    context: Group | None  # they hold the same heads of different tokens


class Shared:
    """`attend` over token slices: [N/p, A, K] in and out.

    The spans of queries are those of the tokens that one head's queries are here for
    (`Layout.query_spans`), the spans of keys those of the whole pack.
    """

    def __init__(self, attend: Attend, groups: Groups) -> None:
        self.attend, self._groups = attend, groups

    def __call__(
        self,
        q_NAK: Tensor,
        k_NAK: Tensor,
        v_NAK: Tensor,
        q_spans: Spans,
        k_spans: Spans,
    ) -> Tensor:
        heads, context = self._groups
        if heads is not None:
            q_NAK, k_NAK, v_NAK = (scatter_heads(x_NAK, heads) for x_NAK in (q_NAK, k_NAK, v_NAK))
        if context is not None:
            k_NAK, v_NAK = gather_tokens(k_NAK, context), gather_tokens(v_NAK, context)
        o_NAK = self.attend(q_NAK, k_NAK, v_NAK, q_spans, k_spans)
        return o_NAK if heads is None else gather_heads(o_NAK, heads)


def partners(mesh: Mesh) -> Groups:
    """Cut every sequence group into `mesh.context` runs of neighbours. Collective."""
    if mesh.context == 1:
        assert mesh.sequence_group is not None, "one rank shares with nobody"
        return Groups(Group.of(mesh.sequence_group), None)
    ranks = range(mesh.world_size)
    heads = mesh.sequence // mesh.context
    runs = [ranks[start : start + heads] for start in ranks[::heads]]
    across = [
        ranks[start + place : start + mesh.sequence : heads]
        for start in ranks[:: mesh.sequence]
        for place in range(heads)
    ]
    return Groups(_mine(runs, mesh.rank) if heads > 1 else None, _mine(across, mesh.rank))


def _mine(groups: Sequence[Sequence[int]], rank: int) -> Group:
    """The group that holds this rank. Every rank must help to make every group."""
    made = {tuple(group): dist.new_group(list(group)) for group in groups}
    return Group.of(next(made[group] for group in made if rank in group))


def share_tokens(model: nn.Module, groups: Groups) -> None:
    """Replace `attention.attend` in every one of `model.blocks` by its shared form."""
    for block in model.get_submodule("blocks").children():
        attention: Any = block.get_submodule("attention")
        attention.attend = Shared(attention.attend, groups)


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
    context: int = 1,
) -> Shard:
    """Cut a pack for `rank` of `degree` sequence ranks, in `context` runs of neighbours.

    `tokens` are tensors [N, ...], `segments` are tensors [S, ...]. When N does not divide, a
    segment of zero tokens is appended: S grows by one, `segments` get a zero row, and the last
    segment's loss is not the caller's.
    """
    whole = layout.padded(degree)
    size = whole.tokens // degree
    here = slice(rank * size, (rank + 1) * size)
    return Shard(
        layout=whole.shard(rank, degree, context),
        tokens=tuple(_lengthened(x, whole.tokens)[here] for x in tokens),
        segments=tuple(_lengthened(x, whole.segments) for x in segments),
    )


def _lengthened(x: Tensor, length: int) -> Tensor:
    missing = length - len(x)
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
