"""Which samples share a packed sequence: consecutive ones, until the next would not fit.

The same on every rank, from lengths alone: no sample is decoded to plan a step.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pack = tuple[int, ...]  # ordinals of the stream, consecutive

_FIRST = 64  # lengths that are looked up at first; then as many as there are, again and again


class Lengths:
    """Tokens by ordinal from `start` on, looked up many at a time: a step may have 100,000."""

    def __init__(self, of: Callable[[NDArray[np.int64]], list[int]], start: int) -> None:
        self._of, self._start = of, start
        self._known: list[int] = []

    def __call__(self, ordinal: int) -> int:
        place = ordinal - self._start
        while place >= len(self._known):
            first, count = self._start + len(self._known), len(self._known) or _FIRST
            self._known += self._of(np.arange(first, first + count))
        return self._known[place]


def plan(
    lengths_of: Callable[[int], int], cursor: int, *, packs: int, budget: int
) -> tuple[tuple[Pack, ...], int]:
    """The next `packs` packs from the ordinal `cursor` on, and the ordinal after them.

    `lengths_of` gives the tokens of an ordinal's sample. Raises ValueError for a sample longer
    than the budget.
    """
    planned = []
    for _ in range(packs):
        pack = _fill(lengths_of, cursor, budget)
        planned.append(pack)
        cursor += len(pack)
    return tuple(planned), cursor


def _fill(lengths_of: Callable[[int], int], cursor: int, budget: int) -> Pack:
    end, used = cursor, lengths_of(cursor)
    if used > budget:
        raise ValueError(f"sample {cursor} has {used} tokens, a pack holds {budget}")
    while used <= budget:
        end += 1
        used += lengths_of(end)
    return tuple(range(cursor, end))
