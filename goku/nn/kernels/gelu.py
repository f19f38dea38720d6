"""GELU (tanh form) of a product and its bias; the backward also sums the bias's gradient.

gelu(h) = h * sigmoid(2u) with u = sqrt(2/pi) (h + 0.044715 h^3): the same function as with tanh.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from goku.nn.kernels.sums import add_up
from goku.nn.operators import operator

_BLOCK = 512  # columns of a program
_SHARE = 64  # rows of a program


@triton.jit
def _forward(x, bias, y, rows, H, SHARE: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < H
    biased = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    start = tl.program_id(0) * SHARE
    for row in range(start, tl.minimum(start + SHARE, rows)):
        at = tl.cast(row, tl.int64) * H + cols
        h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + biased
        u2 = 1.5957691216057308 * (h + 0.044715 * h * h * h)
        tl.store(y + at, (h * tl.sigmoid(u2)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dy, x, bias, dx, parts, rows, H, SHARE: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < H
    biased = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    of_bias = tl.zeros([BLOCK], tl.float32)
    start = tl.program_id(0) * SHARE
    for row in range(start, tl.minimum(start + SHARE, rows)):
        at = tl.cast(row, tl.int64) * H + cols
        h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + biased
        u2 = 1.5957691216057308 * (h + 0.044715 * h * h * h)
        share = tl.sigmoid(u2)
        slope = share + h * share * (1 - share) * (1.5957691216057308 + 0.21406646 * h * h)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * slope
        of_bias += grad
        tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=inside)
    tl.store(parts + tl.program_id(0).to(tl.int64) * H + cols, of_bias, mask=inside)


def _run_forward(x_NH: Tensor, bias_H: Tensor) -> Tensor:
    """gelu(x + bias), [N, H]."""
    y_NH = torch.empty_like(x_NH)
    rows, width = x_NH.shape
    if rows:
        grid = (triton.cdiv(rows, _SHARE), triton.cdiv(width, _BLOCK))
        _forward[grid](x_NH, bias_H, y_NH, rows, width, SHARE=_SHARE, BLOCK=_BLOCK)
    return y_NH


def _fake_forward(x_NH: Tensor, bias_H: Tensor) -> Tensor:
    return torch.empty_like(x_NH)


def _run_backward(dy_NH: Tensor, x_NH: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x [N, H] and of the bias [H], fp32."""
    rows, width = x_NH.shape
    dx_NH = torch.empty_like(x_NH)
    if not rows:
        return dx_NH, x_NH.new_zeros(width, dtype=torch.float32)
    shares = triton.cdiv(rows, _SHARE)
    parts = x_NH.new_empty(shares, width, dtype=torch.float32)
    grid = (shares, triton.cdiv(width, _BLOCK))
    _backward[grid](dy_NH, x_NH, bias_H, dx_NH, parts, rows, width, SHARE=_SHARE, BLOCK=_BLOCK)
    return dx_NH, add_up(parts)[0]


def _fake_backward(dy_NH: Tensor, x_NH: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_NH), torch.empty_like(bias_H, dtype=torch.float32)


forward = operator("gelu", _run_forward, _fake_forward)
backward = operator("gelu_backward", _run_backward, _fake_backward)
