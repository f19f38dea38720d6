"""Sequence parallelism: ranks share the tokens of samples.

All of a block but self-attention works token by token, so each rank keeps a slice of the tokens.
How many neighbours cut up the same samples, a pack's degree, is `goku.data.degrees`' to say.
Around `attend` neighbours trade tokens for heads (Ulysses). Where the heads do not divide among all
ranks, runs of neighbours that hold the same heads gather each other's keys and values instead.
Text is short: every rank holds all of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goku.nn.attend import Attend
from goku.nn.layout import Layout
from goku.nn.spans import Spans
from goku.parallel.comm import Group, gather_heads, gather_tokens, scatter_heads
from goku.parallel.mesh import Mesh, Place


class Groups(NamedTuple):
    """This rank's partners at one degree, on two axes; None where it is alone."""

    heads: Group | None  # neighbours: they trade tokens for heads
    context: Group | None  # they hold the same heads of different tokens


class Shared:
    """`attend` over token slices: [N/p, A, K] in and out.

    The spans of queries are those of the tokens that one head's queries are here for
    (`Layout.query_spans`), the spans of keys those of the whole samples. These also say in how many
    slices, and so by which groups: compiled blocks have a graph for each degree, and what is
    recomputed in the backward meets the groups of its forward.
    """

    def __init__(self, attend: Attend, partners: Mapping[int, Groups]) -> None:
        self.attend, self._partners = attend, dict(partners)

    def __call__(
        self,
        q_NAK: Tensor,
        k_NAK: Tensor,
        v_NAK: Tensor,
        q_spans: Spans,
        k_spans: Spans,
    ) -> Tensor:
        groups = self._partners[k_spans.slices]
        o_NAK = self.attend(*self._traded(q_NAK, k_NAK, v_NAK, groups), q_spans, k_spans)
        return o_NAK if groups.heads is None else gather_heads(o_NAK, groups.heads)

    def _traded(
        self, q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of this rank's heads, and the keys and values that they meet."""
        heads, context = groups
        if heads is not None:
            q_NAK, k_NAK, v_NAK = (scatter_heads(x_NAK, heads) for x_NAK in (q_NAK, k_NAK, v_NAK))
        if context is not None:
            k_NAK, v_NAK = gather_tokens(k_NAK, context), gather_tokens(v_NAK, context)
        return q_NAK, k_NAK, v_NAK


def partners(mesh: Mesh) -> dict[int, Groups]:
    """This rank's groups at each degree that a pack may have. Collective."""
    places = {degree: mesh.place(degree) for degree in mesh.degrees}
    widths = sorted({degree // place.context for degree, place in places.items()})
    heads = {width: _run(mesh, width) for width in widths}
    return {
        degree: Groups(heads[degree // place.context], _across(mesh, place))
        for degree, place in places.items()
    }


def _run(mesh: Mesh, width: int) -> Group | None:
    """This rank's run of so many neighbours."""
    if width == 1:
        return None
    if width == mesh.sequence and mesh.sequence_group is not None:
        return Group.of(mesh.sequence_group)
    ranks = range(mesh.world_size)
    return _mine([ranks[start : start + width] for start in ranks[::width]], mesh.rank)


def _across(mesh: Mesh, place: Place) -> Group | None:
    """One of each of the runs that share this rank's samples: those with the same heads."""
    if place.context == 1:
        return None
    ranks, heads = range(mesh.world_size), place.degree // place.context
    across = [
        ranks[start + seat : start + place.degree : heads]
        for start in ranks[:: place.degree]
        for seat in range(heads)
    ]
    return _mine(across, mesh.rank)


def _mine(groups: Sequence[Sequence[int]], rank: int) -> Group:
    """The group that holds this rank. Every rank must help to make every group."""
    made = {tuple(group): dist.new_group(list(group)) for group in groups}
    return Group.of(next(made[group] for group in made if rank in group))


def share_tokens(model: nn.Module, partners: Mapping[int, Groups]) -> None:
    """Replace `attention.attend` in every one of `model.blocks` by its shared form."""
    for block in model.get_submodule("blocks").children():
        attention: Any = block.get_submodule("attention")
        attention.attend = Shared(attention.attend, partners)


class Shard(NamedTuple):
    """What one rank holds of the samples that it shares."""

    layout: Layout
    tokens: tuple[Tensor, ...]  # each [N/p, ...]
    segments: tuple[Tensor, ...]  # each [S, ...], whole


def shard(
    layout: Layout, tokens: Sequence[Tensor], segments: Sequence[Tensor] = (), *, place: Place
) -> Shard:
    """Cut samples for the rank at `place`.

    `tokens` are tensors [N, ...], `segments` are tensors [S, ...]. When N does not divide, a
    segment of zero tokens is appended: S grows by one, `segments` get a zero row, and the last
    segment's loss is not the caller's.
    """
    whole = layout.padded(place.degree)
    size = whole.tokens // place.degree
    here = slice(place.rank * size, (place.rank + 1) * size)
    return Shard(
        layout=whole.shard(*place),
        tokens=tuple(_lengthened(x, whole.tokens)[here] for x in tokens),
        segments=tuple(_lengthened(x, whole.segments) for x in segments),
    )


def _lengthened(x: Tensor, length: int) -> Tensor:
    missing = length - len(x)
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
