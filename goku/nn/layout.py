"""Which tokens of a packed sequence belong to which sample, and where each stands in its grid.

Segments are contiguous and in order, also on a rank that holds only a slice of the sequence:
every part that works per sample relies on that. Lengths are Python integers, so that splitting
a pack never waits for the accelerator; what a compiled block reads of them is in tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from goku.nn.chunks import Chunks
from goku.nn.spans import Spans, send

Grid = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """A pack of S segments, as far as this rank holds it: N tokens here, M text tokens."""

    lengths: tuple[int, ...]  # tokens of each segment held here, 0 allowed; they sum to N
    full_lengths: tuple[int, ...]  # tokens of each segment in the whole pack
    text_lengths: tuple[int, ...]  # text tokens of each segment, 0 allowed; they sum to M
    segment_N: Tensor  # int64 in [0, S), not decreasing
    position_N3: Tensor  # int64 (t, h, w) in patches
    spans: Spans  # of `lengths`
    full_spans: Spans  # of `full_lengths`
    query_spans: Spans  # of the tokens whose queries meet here in self-attention, for some heads
    text_spans: Spans  # of `text_lengths`
    chunks: Chunks  # of `lengths`

    @classmethod
    def build(
        cls,
        grids: Sequence[Grid],
        text_lengths: Sequence[int],
        device: torch.device | str | None = None,
    ) -> Self:
        """The layout of whole samples with grids (T, H', W') in patches.

        Raises ValueError when the number of grids and of text lengths differ.
        """
        if len(grids) != len(text_lengths):
            raise ValueError(f"{len(grids)} grids but {len(text_lengths)} text lengths: pair them")
        positions = [_positions(grid, device) for grid in grids]
        return cls._whole(positions, text_lengths)

    @classmethod
    def _whole(cls, positions: Sequence[Tensor], text_lengths: Sequence[int]) -> Self:
        """Of segments whose tokens stand at `positions`, each [n, 3]."""
        lengths, device = tuple(map(len, positions)), positions[0].device
        spans = Spans.of(lengths, device)
        return cls(
            lengths=lengths,
            full_lengths=lengths,
            text_lengths=tuple(text_lengths),
            segment_N=_segments(lengths, device),
            position_N3=torch.cat(list(positions)),
            spans=spans,
            full_spans=spans,
            query_spans=spans,
            text_spans=Spans.of(text_lengths, device),
            chunks=Chunks.of(lengths).to(device),
        )

    @property
    def tokens(self) -> int:
        """N: tokens held here."""
        return sum(self.lengths)

    @property
    def segments(self) -> int:
        """S: segments of the pack, those without a token here included."""
        return len(self.lengths)

    def to(self, device: torch.device | str) -> Self:
        """The same layout with its tensors on `device`."""
        return replace(
            self,
            segment_N=send(self.segment_N, device),
            position_N3=send(self.position_N3, device),
            spans=self.spans.to(device),
            full_spans=self.full_spans.to(device),
            query_spans=self.query_spans.to(device),
            text_spans=self.text_spans.to(device),
            chunks=self.chunks.to(device),
        )

    def only(self, numbers: Sequence[int]) -> Self:
        """The whole segments with these numbers, in this order, as if there were no others.

        Raises ValueError for a sharded layout.
        """
        self._require_whole("take its samples")
        positions = torch.split(self.position_N3, list(self.lengths))
        return self._whole([positions[n] for n in numbers], [self.text_lengths[n] for n in numbers])

    def shard(self, rank: int, degree: int, context: int = 1) -> Self:
        """The slice of tokens that `rank` of `degree` sequence ranks holds; text stays whole.

        In self-attention a rank has the queries of all tokens of its run of neighbours, of which
        there are `context`.
        Raises ValueError when the tokens do not divide: `padded(degree)` first.
        """
        if degree == 1:
            return self
        size, rest = divmod(self.tokens, degree)
        if rest:
            raise ValueError(f"{self.tokens} tokens do not divide by {degree}: pad the layout")
        here = slice(rank * size, (rank + 1) * size)
        lengths, device = _overlaps(self.lengths, here), self.segment_N.device
        run = self.tokens // context
        begin = rank * context // degree * run
        met = _overlaps(self.lengths, slice(begin, begin + run))
        full_spans = replace(self.full_spans, slices=degree)
        return replace(
            self,
            lengths=lengths,
            segment_N=self.segment_N[here],
            position_N3=self.position_N3[here],
            spans=Spans.of(lengths, device),
            full_spans=full_spans,
            query_spans=full_spans if context == 1 else Spans.of(met, device),
            chunks=Chunks.of(lengths).to(device),
        )

    def padded(self, multiple: int) -> Self:
        """With one more segment of pad tokens when N is no multiple; else the layout itself.

        The pad tokens see only one another, have no text and stand at the origin.
        Raises ValueError for a sharded layout.
        """
        self._require_whole("pad it")
        pad = -self.tokens % multiple
        if not pad:
            return self
        lengths, text_lengths = (*self.lengths, pad), (*self.text_lengths, 0)
        device = self.segment_N.device
        spans = Spans.of(lengths, device)
        return replace(
            self,
            lengths=lengths,
            full_lengths=lengths,
            text_lengths=text_lengths,
            spans=spans,
            full_spans=spans,
            query_spans=spans,
            text_spans=Spans.of(text_lengths, device),
            chunks=Chunks.of(lengths).to(device),
            segment_N=torch.cat([self.segment_N, self.segment_N.new_full((pad,), self.segments)]),
            position_N3=torch.cat([self.position_N3, self.position_N3.new_zeros(pad, 3)]),
        )

    def _require_whole(self, purpose: str) -> None:
        if self.lengths != self.full_lengths:
            raise ValueError(f"this layout is a shard: {purpose} before sharding the whole pack")


def rows_of(numbers: Sequence[int], x: Tensor, lengths: Sequence[int]) -> Tensor:
    """The rows of x, which has segments of these lengths, that lie in segments of these numbers."""
    parts = torch.split(x, list(lengths))
    return torch.cat([parts[n] for n in numbers])


def sum_segments(x_ND: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """Sum of each segment's rows, [S, D], in the dtype of x.

    A product with the one-hot matrix, because index_add on an accelerator adds in any order:
    here equal inputs give equal bits, which an exact resume needs.
    """
    order_S1 = torch.arange(segments, device=segment_N.device)[:, None]
    return (segment_N == order_S1).to(x_ND.dtype) @ x_ND


def _positions(grid: Grid, device: torch.device | str | None) -> Tensor:
    axes = [torch.arange(size, device=device) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def _segments(lengths: tuple[int, ...], device: torch.device | str | None) -> Tensor:
    counts_S = torch.tensor(lengths, device=device)
    order_S = torch.arange(len(lengths), device=device)
    return order_S.repeat_interleave(counts_S, output_size=sum(lengths))


def _overlaps(lengths: tuple[int, ...], here: slice) -> tuple[int, ...]:
    overlaps, start = [], 0
    for length in lengths:
        stop = start + length
        overlaps.append(max(0, min(stop, here.stop) - max(start, here.start)))
        start = stop
    return tuple(overlaps)
