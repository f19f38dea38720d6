"""How many ranks cut up a pack's samples: the least degree that fits and keeps nobody waiting.

S ranks share a pack. Each cuts all samples into S slices and trades in every attention, or, at a
lower degree d, runs of d neighbours compute samples of their own: whole samples where d is 1. That
exchanges less, but runs are never quite even. A function of lengths alone: all ranks find the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from goku.config.parallel import ParallelConfig
from goku.data.balance import Cost, deal

# What waiting for the dearest run may add to a pack's time, for ranks that all share take longer as
# well: 3% on two H200s (docs/results/2026-11-22-two-gpus.md), more on eight.
WAITING = 0.05

Part = tuple[int, ...]  # numbers of samples in their pack, rising


class Division(NamedTuple):
    """Who computes which samples of a pack."""

    degree: int  # neighbours that cut up the same samples
    parts: tuple[Part, ...]  # one for each run of neighbours
    time: float  # expected of the slowest run: its cost over its ranks
    even: float  # the same where nobody waits: the pack's cost over all ranks

    def part(self, rank: int) -> Part:
        """The samples of this rank of the sequence group."""
        return self.parts[rank // self.degree]


@dataclass(frozen=True)
class Sharing:
    """What a sequence group can do with a pack."""

    ranks: int
    degrees: tuple[int, ...]  # rising, divisors of `ranks`, which is the last
    rank_tokens: int  # that a rank has room for
    cost: Cost

    @classmethod
    def of(cls, config: ParallelConfig, pack_tokens: int, cost: Cost) -> Self:
        """Of packs with so many tokens at most."""
        return cls(config.sequence, config.degrees, config.rank_tokens(pack_tokens), cost)

    @classmethod
    def alone(cls, cost: Cost) -> Self:
        """Of one rank, which takes packs of any size."""
        return cls(1, (1,), 0, cost)

    def divide(self, lengths: Sequence[int]) -> Division:
        """Share samples of so many tokens by the least degree whose time is about the best.

        At degree d their samples are dealt to S / d runs that have room for d times a rank's
        tokens. It wins where max(cost of a run) / d <= (1 + WAITING) sum(cost) / S.
        """
        costs = dict(enumerate(map(self.cost, lengths)))
        whole = self.whole(len(lengths), sum(costs.values()))
        for degree in self.degrees[:-1]:
            parts = deal(
                costs,
                lengths.__getitem__,
                packs=self.ranks // degree,
                budget=degree * self.rank_tokens,
            )
            if parts is None:
                continue
            time = max(sum(costs[n] for n in part) for part in parts) / degree
            if time <= (1 + WAITING) * whole.time:
                return Division(degree, tuple(parts), time, whole.even)
        return whole

    def whole(self, samples: int, cost: float = 0.0) -> Division:
        """All ranks cut up all samples."""
        time = cost / self.ranks
        return Division(self.ranks, (tuple(range(samples)),), time, time)
