"""Milliseconds of one sample by its length, on this GPU: the table that packs are balanced by.

A sample costs what its share of a full pack does, with the kernels and the recomputation of a run
of such packs: alone it would fill no GPU. Short ones are measured many in a pack.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds

_SHORTEST = 256  # tokens: an image of 256x256
_IMAGE = 1_024


@dataclass
class Costs:
    """Measured so far, by tokens."""

    pack_tokens: int
    milliseconds: dict[int, float]

    def __str__(self) -> str:
        return ", ".join(f"{tokens} tokens {ms:.2f} ms" for tokens, ms in self.milliseconds.items())

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as `goku.data.balance` reads it."""
        return {"pack_tokens": self.pack_tokens, "milliseconds": self.milliseconds}


def lengths_to(longest: int, *, shortest: int = _SHORTEST) -> tuple[int, ...]:
    """Tokens that double from the shortest sample on, and the longest sample's.

    Twice as long is near enough: `goku.data.balance.Table` knows how attention grows in between.
    """
    doubled = (shortest << times for times in count())
    return (*takewhile(lambda tokens: tokens < longest, doubled), longest)


def joint(pack_tokens: int) -> Pack:
    """A pack like those of joint training: a clip of half of the tokens, and images."""
    images = pack_tokens // 2 // _IMAGE
    lengths = (pack_tokens - images * _IMAGE, *(_IMAGE,) * images)
    return Pack(f"joint-{pack_tokens}", lengths, recompute="auto")


def measure(
    step: Step, lengths: Sequence[int], *, pack_tokens: int, rounds: int
) -> Iterator[Costs]:
    """The table after each length: medians of a forward and backward of full packs."""
    costs = Costs(pack_tokens, {})
    for tokens in lengths:
        samples = max(1, pack_tokens // tokens)
        step.take(Pack(f"{samples} x {tokens}", (tokens,) * samples).layout())
        step.run()  # what these lengths need compiled is, after it
        median = statistics.median(milliseconds(step.run, 1) for _ in range(rounds))
        costs.milliseconds[tokens] = median / samples
        yield costs
