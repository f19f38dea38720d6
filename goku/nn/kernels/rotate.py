"""RMSNorm over the full width and RoPE in one pass: a projected query or key, ready to attend.

Each program takes an equal share of the rows and sums its part of the weight's gradient in
registers. Arithmetic is fp32 from the product's output to the stored result.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from goku.nn.kernels.lanes import lanes
from goku.nn.kernels.sums import add_up
from goku.nn.operators import operator

# Of 132 multiprocessors; what was fastest on an H200 at 8,192 and 16,384 rows of 1,792.
_FORWARD_PROGRAMS, _BACKWARD_PROGRAMS = 1056, 264
_TILE, _STAGES = 2, 3  # rows at once, and tiles on their way from memory


@triton.jit
def _forward(
    x, weight, cos, sin, y, stats, rows, share, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, PAIRS: tl.constexpr, ROTATE: tl.constexpr,
    TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * share
    stop = tl.minimum(start + share, rows)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    pair = tl.arange(0, BLOCK // 2) % PAIRS
    factor = tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    for first in tl.range(start, stop, TILE, num_stages=STAGES):
        row = first + tl.arange(0, TILE)
        held = (row < stop)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * D + cols[None, :]
        value = tl.load(x + at, mask=held, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
        tl.store(stats + row, rstd, mask=row < stop)
        value *= rstd[:, None] * factor[None, :]
        if ROTATE:
            turn = row.to(tl.int64)[:, None] * PAIRS + pair[None, :]
            known = (row < stop)[:, None]
            c = tl.load(cos + turn, mask=known, other=0.0)
            s = tl.load(sin + turn, mask=known, other=0.0)
            even, odd = tl.split(tl.reshape(value, (TILE, BLOCK // 2, 2)))
            value = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (TILE, BLOCK))
        tl.store(y + at, value.to(y.dtype.element_ty), mask=held)


@triton.jit
def _backward(
    dy, x, weight, cos, sin, stats, dx, parts, rows, share,
    D: tl.constexpr, BLOCK: tl.constexpr, PAIRS: tl.constexpr, ROTATE: tl.constexpr,
    TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * share
    stop = tl.minimum(start + share, rows)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    pair = tl.arange(0, BLOCK // 2) % PAIRS
    factor = tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    of_weight = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(start, stop, TILE, num_stages=STAGES):
        row = first + tl.arange(0, TILE)
        held = (row < stop)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * D + cols[None, :]
        grad = tl.load(dy + at, mask=held, other=0.0).to(tl.float32)
        rstd = tl.load(stats + row, mask=row < stop, other=0.0)[:, None]
        value = tl.load(x + at, mask=held, other=0.0).to(tl.float32) * rstd
        if ROTATE:  # back, by the opposite angle
            turn = row.to(tl.int64)[:, None] * PAIRS + pair[None, :]
            known = (row < stop)[:, None]
            c = tl.load(cos + turn, mask=known, other=0.0)
            s = tl.load(sin + turn, mask=known, other=0.0)
            even, odd = tl.split(tl.reshape(grad, (TILE, BLOCK // 2, 2)))
            grad = tl.reshape(tl.join(even * c + odd * s, odd * c - even * s), (TILE, BLOCK))
        of_weight += tl.sum(grad * value, 0)
        grad *= factor[None, :]
        grad = (grad - value * (tl.sum(grad * value, 1) / D)[:, None]) * rstd
        tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=held)
    tl.store(parts + tl.program_id(0).to(tl.int64) * D + cols, of_weight, mask=inside)


def _run_forward(
    x_ND: Tensor, weight_D: Tensor, cos_NF: Tensor | None, sin_NF: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Normalised and turned y [N, D], and each row's statistic."""
    y_ND, stats_N = _outputs(x_ND)
    rows, width = x_ND.shape
    if rows:
        programs, share = _shares(rows, _FORWARD_PROGRAMS)
        block, warps = lanes(width)
        _forward[(programs,)](
            x_ND, weight_D, cos_NF, sin_NF, y_ND, stats_N, rows, share, eps,
            D=width, BLOCK=block,
            PAIRS=1 if cos_NF is None else cos_NF.shape[1], ROTATE=cos_NF is not None,
            TILE=_TILE, STAGES=_STAGES, num_warps=warps,
        )  # fmt: skip
    return y_ND, stats_N


def _fake_forward(
    x_ND: Tensor, weight_D: Tensor, cos_NF: Tensor | None, sin_NF: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    return _outputs(x_ND)


def _run_backward(
    dy_ND: Tensor,
    x_ND: Tensor,
    weight_D: Tensor,
    cos_NF: Tensor | None,
    sin_NF: Tensor | None,
    stats_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of x [N, D] and of the weight [D], fp32."""
    rows, width = x_ND.shape
    if not rows:
        return torch.empty_like(x_ND), x_ND.new_zeros(width, dtype=torch.float32)
    programs, share = _shares(rows, _BACKWARD_PROGRAMS)
    block, warps = lanes(width)
    dx_ND = torch.empty_like(x_ND)
    parts = x_ND.new_empty(programs, width, dtype=torch.float32)
    _backward[(programs,)](
        dy_ND, x_ND, weight_D, cos_NF, sin_NF, stats_N, dx_ND, parts, rows, share,
        D=width, BLOCK=block,
        PAIRS=1 if cos_NF is None else cos_NF.shape[1], ROTATE=cos_NF is not None,
        TILE=_TILE, STAGES=_STAGES, num_warps=warps,
    )  # fmt: skip
    return dx_ND, add_up(parts)[0]


def _fake_backward(
    dy_ND: Tensor,
    x_ND: Tensor,
    weight_D: Tensor,
    cos_NF: Tensor | None,
    sin_NF: Tensor | None,
    stats_N: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_ND), torch.empty_like(weight_D, dtype=torch.float32)


def _outputs(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_ND), x_ND.new_empty(x_ND.shape[0], dtype=torch.float32)


def _shares(rows: int, most: int) -> tuple[int, int]:
    """How many programs, and how many rows each of them takes."""
    share = triton.cdiv(rows, most)
    return triton.cdiv(rows, share), share


forward = operator("rotate", _run_forward, _fake_forward)
backward = operator("rotate_backward", _run_backward, _fake_backward)
