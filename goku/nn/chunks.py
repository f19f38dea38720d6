"""Rows of a pack handed out to programs of a kernel: chunks of about equal size, each inside one
segment, so that a program meets the vectors of one segment only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from goku.nn.spans import send

_PROGRAMS = 528  # four for each multiprocessor of an H100 or H200
_FEWEST_ROWS = 8  # below, loading the vectors would cost more than the rows


@dataclass(frozen=True, eq=False)
class Chunks:
    """C chunks of the rows of S segments."""

    rows_C3: Tensor  # int32: first row, row after the last, segment
    starts: Tensor  # int32 [S + 1]: the chunks of segment s are starts[s] to starts[s + 1]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """On the CPU; segments without rows get no chunk."""
        size = max(_FEWEST_ROWS, -(-sum(lengths) // _PROGRAMS))
        rows, starts, begin = [], [0], 0
        for segment, length in enumerate(lengths):
            parts = -(-length // size)
            cuts = [begin + length * part // parts for part in range(parts + 1)] if parts else []
            rows += [(cut, stop, segment) for cut, stop in pairwise(cuts)]
            starts.append(len(rows))
            begin += length
        rows_C3 = torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)
        return cls(rows_C3, torch.tensor(starts, dtype=torch.int32))

    def to(self, device: torch.device | str | None) -> Self:
        """The same chunks with their tensors on `device`."""
        return type(self)(send(self.rows_C3, device), send(self.starts, device))
