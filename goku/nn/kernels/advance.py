"""One pass over the residual stream: add a gated branch, normalise, shift and scale by segment.

    out = x + gate[segment] * (branch + bias)         y = norm(out) * weight * (1 + scale) + shift

Every part but x may be missing. Rows are handed out in chunks that lie within one segment
(`goku.nn.chunks`), so a program loads its vectors once and sums its share of their gradients in
registers: no atomics, equal inputs give equal bits. Arithmetic is fp32, stored in x's dtype.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from goku.nn.kernels.lanes import lanes
from goku.nn.kernels.sums import add_up
from goku.nn.operators import operator

NONE, LAYER, RMS = 0, 1, 2  # kinds of norm
_TILE, _STAGES = 2, 3  # rows at once, and tiles on their way from memory


@triton.jit
def _chunk(chunks):
    """This program's first row, the row after its last, and their segment."""
    at = chunks + 3 * tl.program_id(0)
    start = tl.load(at)
    stop = tl.load(at + 1)
    return start, stop, tl.load(at + 2).to(tl.int64)


@triton.jit
def _factor(
    weight, scale, cols, vector, inside,
    BLOCK: tl.constexpr, WEIGHT: tl.constexpr, MODULATE: tl.constexpr,
):  # fmt: skip
    """What a normed row is multiplied by: weight * (1 + scale), ones for what is missing."""
    factor = tl.full([BLOCK], 1.0, tl.float32)
    if WEIGHT:
        factor *= tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    if MODULATE:
        factor *= 1.0 + tl.load(scale + vector, mask=inside, other=0.0).to(tl.float32)
    return factor


@triton.jit
def _forward(
    x, branch, bias, gate, weight, shift, scale, chunks, out, y, stats,
    rows, stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, BRANCH: tl.constexpr, BIAS: tl.constexpr,
    GATE: tl.constexpr, NORM: tl.constexpr, WEIGHT: tl.constexpr, MODULATE: tl.constexpr,
    TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    start, stop, segment = _chunk(chunks)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    vector = segment * stride + cols
    factor = _factor(weight, scale, cols, vector, inside, BLOCK, WEIGHT, MODULATE)
    if MODULATE:
        shifted = tl.load(shift + vector, mask=inside, other=0.0).to(tl.float32)
    if GATE:
        gated = tl.load(gate + vector, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        biased = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    for first in tl.range(start, stop, TILE, num_stages=STAGES):
        row = first + tl.arange(0, TILE)
        held = (row < stop)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * D + cols[None, :]
        value = tl.load(x + at, mask=held, other=0.0).to(tl.float32)
        if BRANCH:
            added = tl.load(branch + at, mask=held, other=0.0).to(tl.float32)
            if BIAS:
                added += biased[None, :]
            if GATE:
                added *= gated[None, :]
            stored = (value + added).to(out.dtype.element_ty)
            tl.store(out + at, stored, mask=held)
            value = stored.to(tl.float32)  # the norm sees what the next reader of out sees
        if NORM == 1:
            mean = tl.sum(value, 1) / D
            value = tl.where(inside[None, :], value - mean[:, None], 0.0)
            tl.store(stats + rows + row, mean, mask=row < stop)
        if NORM != 0:
            rstd = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
            tl.store(stats + row, rstd, mask=row < stop)
            value *= rstd[:, None] * factor[None, :]
            if MODULATE:
                value += shifted[None, :]
            tl.store(y + at, value.to(y.dtype.element_ty), mask=held)


@triton.jit
def _backward(
    dout, dy, out, branch, bias, gate, weight, scale, chunks, stats, dx, dbranch, sums,
    rows, stride,
    D: tl.constexpr, BLOCK: tl.constexpr, BRANCH: tl.constexpr, BIAS: tl.constexpr,
    GATE: tl.constexpr, NORM: tl.constexpr, WEIGHT: tl.constexpr, MODULATE: tl.constexpr,
    SUMS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    start, stop, segment = _chunk(chunks)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    vector = segment * stride + cols
    factor = _factor(weight, scale, cols, vector, inside, BLOCK, WEIGHT, MODULATE)
    if GATE:
        gated = tl.load(gate + vector, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        biased = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    of_shift = tl.zeros([BLOCK], tl.float32)
    of_factor = tl.zeros([BLOCK], tl.float32)
    of_gate = tl.zeros([BLOCK], tl.float32)
    of_stream = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(start, stop, TILE, num_stages=STAGES):
        row = first + tl.arange(0, TILE)
        held = (row < stop)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * D + cols[None, :]
        grad = tl.load(dout + at, mask=held, other=0.0).to(tl.float32)
        if NORM != 0:
            grad_y = tl.load(dy + at, mask=held, other=0.0).to(tl.float32)
            value = tl.load(out + at, mask=held, other=0.0).to(tl.float32)
            rstd = tl.load(stats + row, mask=row < stop, other=0.0)[:, None]
            if NORM == 1:
                mean = tl.load(stats + rows + row, mask=row < stop, other=0.0)
                value = tl.where(inside[None, :], value - mean[:, None], 0.0)
            value *= rstd
            of_factor += tl.sum(grad_y * value, 0)
            if MODULATE:
                of_shift += tl.sum(grad_y, 0)
            grad_y *= factor[None, :]
            inner = grad_y - value * (tl.sum(grad_y * value, 1) / D)[:, None]
            if NORM == 1:
                inner -= (tl.sum(grad_y, 1) / D)[:, None]
            grad += inner * rstd
            tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=held)
        if GATE:
            added = tl.load(branch + at, mask=held, other=0.0).to(tl.float32)
            if BIAS:
                added += biased[None, :]
                of_stream += tl.sum(grad, 0)
            of_gate += tl.sum(grad * added, 0)
            tl.store(dbranch + at, (grad * gated[None, :]).to(dbranch.dtype.element_ty), mask=held)
    at_sums = tl.program_id(0).to(tl.int64) * SUMS * D + cols
    if MODULATE:
        tl.store(sums + at_sums, of_shift, mask=inside)
        at_sums += D
    if NORM != 0:
        tl.store(sums + at_sums, of_factor, mask=inside)
        at_sums += D
    if GATE:
        tl.store(sums + at_sums, of_gate, mask=inside)
        if BIAS:
            tl.store(sums + at_sums + D, of_stream, mask=inside)


class Gradients(NamedTuple):
    """What the backward gives: the stream's and the branch's, and sums over each segment."""

    x_ND: Tensor  # empty without a norm: then it is dout
    branch_ND: Tensor  # empty without a gate: then it is the stream's
    sums_SJD: Tensor  # fp32; of those there are, in order: shift, factor, gate, stream


def _run_forward(
    x_ND: Tensor,
    branch_ND: Tensor | None,
    bias_D: Tensor | None,
    gate_SD: Tensor | None,
    weight_D: Tensor | None,
    shift_SD: Tensor | None,
    scale_SD: Tensor | None,
    chunks_C3: Tensor,
    norm: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [N, D], empty without a branch; y [N, D], empty without a norm; the rows' statistics."""
    out_ND, y_ND, stats = _outputs(x_ND, branch_ND, norm)
    rows, width = x_ND.shape
    block, warps = lanes(width)
    if rows:
        _forward[(len(chunks_C3),)](
            x_ND, branch_ND, bias_D, gate_SD, weight_D, shift_SD, scale_SD, chunks_C3,
            out_ND, y_ND, stats,
            rows, _stride(gate_SD, shift_SD, scale_SD), eps,
            D=width, BLOCK=block, BRANCH=branch_ND is not None,
            BIAS=bias_D is not None, GATE=gate_SD is not None, NORM=norm,
            WEIGHT=weight_D is not None, MODULATE=scale_SD is not None,
            TILE=_TILE, STAGES=_STAGES, num_warps=warps,
        )  # fmt: skip
    return out_ND, y_ND, stats


def _fake_forward(
    x_ND: Tensor,
    branch_ND: Tensor | None,
    bias_D: Tensor | None,
    gate_SD: Tensor | None,
    weight_D: Tensor | None,
    shift_SD: Tensor | None,
    scale_SD: Tensor | None,
    chunks_C3: Tensor,
    norm: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x_ND, branch_ND, norm)


def _run_backward(
    dout_ND: Tensor,
    dy_ND: Tensor | None,
    out_ND: Tensor | None,
    branch_ND: Tensor | None,
    bias_D: Tensor | None,
    gate_SD: Tensor | None,
    weight_D: Tensor | None,
    scale_SD: Tensor | None,
    chunks_C3: Tensor,
    chunk_starts: Tensor,
    stats: Tensor | None,
    norm: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `Gradients`."""
    rows, width = dout_ND.shape
    block, warps = lanes(width)
    count = _count(norm, scale_SD, gate_SD, bias_D)
    dx_ND, dbranch_ND = _gradients(dout_ND, gate_SD, norm)
    parts = dout_ND.new_empty(len(chunks_C3), count, width, dtype=torch.float32)
    if rows:
        _backward[(len(chunks_C3),)](
            dout_ND, dy_ND, out_ND, branch_ND, bias_D, gate_SD, weight_D, scale_SD, chunks_C3,
            stats, dx_ND, dbranch_ND, parts,
            rows, _stride(gate_SD, scale_SD, scale_SD),
            D=width, BLOCK=block, BRANCH=branch_ND is not None,
            BIAS=bias_D is not None, GATE=gate_SD is not None, NORM=norm,
            WEIGHT=weight_D is not None, MODULATE=scale_SD is not None, SUMS=count,
            TILE=_TILE, STAGES=_STAGES, num_warps=warps,
        )  # fmt: skip
    sums_SJD = add_up(parts.flatten(1), chunk_starts).view(-1, count, width)
    return dx_ND, dbranch_ND, sums_SJD


def _fake_backward(
    dout_ND: Tensor,
    dy_ND: Tensor | None,
    out_ND: Tensor | None,
    branch_ND: Tensor | None,
    bias_D: Tensor | None,
    gate_SD: Tensor | None,
    weight_D: Tensor | None,
    scale_SD: Tensor | None,
    chunks_C3: Tensor,
    chunk_starts: Tensor,
    stats: Tensor | None,
    norm: int,
) -> tuple[Tensor, Tensor, Tensor]:
    count = _count(norm, scale_SD, gate_SD, bias_D)
    segments, width = chunk_starts.shape[0] - 1, dout_ND.shape[1]
    sums_SJD = dout_ND.new_empty(segments, count, width, dtype=torch.float32)
    return *_gradients(dout_ND, gate_SD, norm), sums_SJD


def _outputs(x_ND: Tensor, branch_ND: Tensor | None, norm: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = x_ND.shape[0]
    return (
        x_ND.new_empty(0) if branch_ND is None else torch.empty_like(x_ND),
        torch.empty_like(x_ND) if norm else x_ND.new_empty(0),
        x_ND.new_empty({NONE: 0, LAYER: 2, RMS: 1}[norm], rows, dtype=torch.float32),
    )


def _gradients(dout_ND: Tensor, gate_SD: Tensor | None, norm: int) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(dout_ND) if norm else dout_ND.new_empty(0),
        dout_ND.new_empty(0) if gate_SD is None else torch.empty_like(dout_ND),
    )


def _count(
    norm: int, scale_SD: Tensor | None, gate_SD: Tensor | None, bias_D: Tensor | None
) -> int:
    gated = gate_SD is not None
    return (scale_SD is not None) + (norm != NONE) + gated + (gated and bias_D is not None)


def _stride(*vectors_SD: Tensor | None) -> int:
    """Elements from one segment's vector to the next: they are columns of one product."""
    given = {v.stride(0) for v in vectors_SD if v is not None}
    assert len(given) <= 1, "gate, shift and scale must be cut from one matrix"
    return given.pop() if given else 0


forward = operator("advance", _run_forward, _fake_forward)
backward = operator("advance_backward", _run_backward, _fake_backward)
