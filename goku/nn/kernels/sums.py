"""Sums that programs kept apart, added up in a fixed order: equal inputs give equal bits."""

import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # elements at once: few tall columns for one segment, more for short ones
_FEWEST_ROWS, _MOST_ROWS = 32, 256


@triton.jit
def _add_up(
    parts, starts, sums, count, width,
    SEGMENTS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    first, last = 0, count
    if SEGMENTS:
        first = tl.load(starts + segment)
        last = tl.load(starts + segment + 1)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = cols < width
    total = tl.zeros([COLUMNS], tl.float32)
    for begin in range(first, last, ROWS):
        part = begin + tl.arange(0, ROWS)
        mask = (part < last)[:, None] & inside[None, :]
        at = part.to(tl.int64)[:, None] * width + cols[None, :]
        total += tl.sum(tl.load(parts + at, mask=mask, other=0.0), 0)
    tl.store(sums + segment.to(tl.int64) * width + cols, total, mask=inside)


def add_up(parts_CW: Tensor, starts: Tensor | None = None) -> Tensor:
    """Sums [S, W] of the parts from starts[s] to starts[s + 1]; [1, W] of all without `starts`."""
    count, width = parts_CW.shape
    segments = 1 if starts is None else len(starts) - 1
    sums_SW = parts_CW.new_empty(segments, width)
    rows = triton.next_power_of_2(count // max(segments, 1))
    rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    columns = max(_TILE // rows, 16)
    if segments and width:
        grid = (segments, triton.cdiv(width, columns))
        _add_up[grid](
            parts_CW, starts, sums_SW, count, width,
            SEGMENTS=starts is not None, COLUMNS=columns, ROWS=rows,
        )  # fmt: skip
    return sums_SW
