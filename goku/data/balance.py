"""Which samples of a step share a pack, so that ranks that wait for one another finish together.

Attention makes one long clip dearer than images of as many tokens, so packs of equal length are
not equal work. Costs come from counting or from a measured table. A step keeps its samples, and no
choice depends on the number of ranks.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import pairwise
from statistics import fmean
from typing import Self

from goku.contract.store import Store
from goku.data.packing import Pack

Cost = Callable[[int], float]  # of one sample with so many tokens


@dataclass(frozen=True)
class Table:
    """Milliseconds of one sample by its tokens, measured; a Cost."""

    tokens: tuple[int, ...]  # rising
    milliseconds: tuple[float, ...]

    @classmethod
    def of(cls, measured: Mapping[int, float]) -> Self:
        """Raises ValueError for fewer than two lengths."""
        if len(measured) < 2:
            raise ValueError(f"{len(measured)} measured lengths: a table needs two or more")
        tokens = tuple(sorted(measured))
        return cls(tokens, tuple(measured[n] for n in tokens))

    @classmethod
    def read(cls, uri: str) -> Self:
        """From what `goku.apps.bench --costs` wrote."""
        folder, _, name = uri.rpartition("/")
        measured = json.loads(Store(folder or ".").read(name))["milliseconds"]
        return cls.of({int(tokens): ms for tokens, ms in measured.items()})

    def __call__(self, tokens: int) -> float:
        """Milliseconds a token run linearly between two lengths, beyond them along the nearest two.

        That is exact for work of a n + b n^2, a token's own and attention's.
        """
        last = len(self.tokens) - 1
        right = min(max(bisect_left(self.tokens, tokens), 1), last)
        x0, x1 = self.tokens[right - 1 : right + 1]
        y0, y1 = self.milliseconds[right - 1 : right + 1]
        return tokens * (y0 / x0 + (y1 / x1 - y0 / x0) * (tokens - x0) / (x1 - x0))


def even(
    packs: Sequence[Pack], tokens_of: Callable[[int], int], cost: Cost, *, budget: int
) -> tuple[Pack, ...]:
    """The same samples in as many packs of nearly equal cost, the dearest pack first.

    Dear samples are placed first, each into the cheapest pack that has room for its tokens. Where
    one finds none, or the dearest pack is no cheaper than before, the packs keep their samples.
    Neighbours cost about the same: they are computed by different ranks at the same time.
    """
    costs = {ordinal: cost(tokens_of(ordinal)) for pack in packs for ordinal in pack}

    def total(pack: Sequence[int]) -> float:
        return sum(costs[ordinal] for ordinal in pack)

    dealt = deal(costs, tokens_of, packs=len(packs), budget=budget)
    if dealt is None or max(map(total, dealt)) >= max(map(total, packs)):
        dealt = list(packs)
    return tuple(sorted(dealt, key=lambda pack: (-total(pack), pack)))


def deal(
    costs: Mapping[int, float], tokens_of: Callable[[int], int], *, packs: int, budget: int
) -> list[Pack] | None:
    """Each sample, the dearest first, to the cheapest pack with room; None where one finds none.

    Also where a pack would stay empty. `costs` are those of the samples by ordinal.
    """
    members: list[list[int]] = [[] for _ in range(packs)]
    room = [budget] * packs
    spent = [(0.0, place) for place in range(packs)]  # a heap: the cheapest pack first
    for ordinal in sorted(costs, key=lambda ordinal: (-costs[ordinal], ordinal)):
        place = _cheapest(spent, room, tokens_of(ordinal), costs[ordinal])
        if place is None:
            return None
        members[place].append(ordinal)
    return [tuple(sorted(pack)) for pack in members] if all(members) else None


def _cheapest(
    spent: list[tuple[float, int]], room: list[int], tokens: int, cost: float
) -> int | None:
    """The cheapest pack with room for so many tokens, charged with them and with their cost."""
    full = []
    while spent and room[spent[0][1]] < tokens:
        full.append(heappop(spent))
    place = None
    if spent:
        before, place = spent[0]
        room[place] -= tokens
        heapreplace(spent, (before + cost, place))
    for pack in full:
        heappush(spent, pack)
    return place


def imbalance(times: Sequence[float], *, ranks: int, even: Sequence[float] | None = None) -> float:
    """Time of a step over what it would be if no rank waited, max / mean: 1 is perfect.

    `times` are those of the packs, of which pack j is rank j % ranks'; ranks wait for one another
    after each of their packs. `even` are the times where nobody waits within a pack either.
    """
    starts = [*range(0, len(times), ranks), len(times)]

    def turns(values: Sequence[float]) -> list[Sequence[float]]:
        return [values[start:stop] for start, stop in pairwise(starts)]

    return sum(map(max, turns(times))) / sum(map(fmean, turns(even or times)))
