"""Milliseconds of one sample by its length, on this GPU: the table that packs are balanced by."""

import gc
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds
from goku.config.model import ModelConfig

LENGTHS = (256, 1_024, 4_096, 8_192, 16_384, 32_768, 65_536)
_PACK_TOKENS = 16_384  # short samples are measured several in a pack, as they are trained
_WARM = 2


@dataclass
class Costs:
    """Measured so far, by tokens."""

    milliseconds: dict[int, float]

    def __str__(self) -> str:
        return ", ".join(f"{tokens} tokens {ms:.2f} ms" for tokens, ms in self.milliseconds.items())

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as `goku.data.balance` reads it."""
        return {"milliseconds": self.milliseconds}


def measure(model: ModelConfig, *, rounds: int, attention: str, compile: str) -> Iterator[Costs]:
    """The table after each length: medians of a forward and backward."""
    costs = Costs({})
    for tokens in LENGTHS:
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        count = max(1, _PACK_TOKENS // tokens)
        pack = Pack(f"{count} x {tokens}", (tokens,) * count, recompute="auto")
        step = Step(model, pack, pack.parallel(attention=attention, compile=compile))
        for _ in range(_WARM):
            step.run()
        median = statistics.median(milliseconds(step.run, 1) for _ in range(rounds))
        costs.milliseconds[tokens] = median / count
        yield costs
