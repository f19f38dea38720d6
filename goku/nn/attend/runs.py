"""Queries in several runs, where keys are too few to keep a GPU busy in the backward.

Flash-attention's backward gives a program one head and a block of keys, and lets it go over all
queries of the segment. A text of 256 tokens is two blocks: 56 programs for 28 heads, on an H200's
132 multiprocessors. Here a segment with long queries and few keys becomes several, each with a run
of its queries and a copy of its keys; the gradients of the copies are added up.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from goku.nn.attend.ops import Segments
from goku.nn.spans import Spans

_BLOCK = 128  # keys of a program
_LEAST = 2048  # queries of a run: copies and sums of the keys are little against them


class Runs(NamedTuple):
    """Segments that were cut, and what of the keys they were made of."""

    segments: Segments
    pieces: list[tuple[int, int]]  # keys, one after another, and how often they stand there

    def copied(self, x_MAK: Tensor) -> Tensor:
        """Keys or values as the cut segments need them."""
        parts = torch.split(x_MAK, [keys for keys, _ in self.pieces])
        copies = (count for _, count in self.pieces)
        return torch.cat([part.repeat(n, 1, 1) for part, n in zip(parts, copies, strict=True)])

    def summed(self, gradient: Tensor) -> Tensor:
        """The gradients of what was copied, from those of the copies: added up in fp32."""
        parts = torch.split(gradient, [keys * count for keys, count in self.pieces])
        return torch.cat(list(self._sums(parts)))

    def _sums(self, parts: tuple[Tensor, ...]) -> Iterator[Tensor]:
        for part, (keys, count) in zip(parts, self.pieces, strict=True):
            copies = part.view(count, keys, *part.shape[1:])
            yield part if count == 1 else copies.sum(0, dtype=torch.float32).to(part.dtype)


def cut(segments: Segments, heads: int, processors: int) -> Runs | None:
    """The segments in runs, for so many multiprocessors; None where one run of each will do."""
    counts = _counts(segments.q_lengths, segments.k_lengths, heads, processors)
    if max(counts) == 1:
        return None
    lengths = tuple(segments.q_lengths), tuple(segments.k_lengths)
    return _cut(*lengths, tuple(counts), segments.q_starts.device)


def _counts(q: list[int], k: list[int], heads: int, processors: int) -> list[int]:
    """Runs of each segment: its share of the work is its share of the programs."""
    blocks = [-(-keys // _BLOCK) for keys in k]
    work = max(1, sum(a * b for a, b in zip(q, blocks, strict=True)))
    runs = (min(processors * n // (work * heads), n // _LEAST) for n in q)
    return [max(1, n if keys else 1) for n, keys in zip(runs, k, strict=True)]


@lru_cache(maxsize=8)
def _cut(
    q: tuple[int, ...], k: tuple[int, ...], counts: tuple[int, ...], device: torch.device
) -> Runs:
    """Every layer of a step asks for the same ones: their boundaries are sent to the GPU once."""
    queries: list[int] = []
    keys: list[int] = []
    pieces: list[tuple[int, int]] = []
    for q_length, k_length, count in zip(q, k, counts, strict=True):
        bounds = pairwise(q_length * n // count for n in range(count + 1))
        queries += [stop - start for start, stop in bounds]
        keys += [k_length] * count
        if count == 1 and pieces and pieces[-1][1] == 1:
            k_length += pieces.pop()[0]
        pieces.append((k_length, count))
    q_spans, k_spans = Spans.of(queries, device), Spans.of(keys, device)
    return Runs(Segments(q_spans.starts, k_spans.starts, queries, keys), pieces)
