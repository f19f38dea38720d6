"""Products of 8-bit floats (e4m3, largest 448), each row with a scale of its own.

A row x is kept as round(x / s) with s = max|x| / 448, of tokens and of weights alike, so one large
token or feature takes no precision from another. The tensor cores multiply 8 bits twice as fast as
16; scales meet the fp32 sums before they are stored.

The kernels that quantize are no operators: there are 15 calls of them in a block, and a compiled
block starts what it sees for a tenth of an operator's time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from goku.nn.operators import CLOSING, PRODUCTS, operator


@triton.jit
def _store_row(values, row, at, inside, y, scales):
    largest = tl.maximum(tl.max(tl.abs(values), 0), 1e-12)  # a row of zeros has a scale too
    tl.store(scales + row, largest / 448.0)
    tl.store(y + at, (values * (448.0 / largest)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _quantize(x, y, scales, width, BLOCK: tl.constexpr):
    row, cols = tl.program_id(0), tl.arange(0, BLOCK)
    inside = cols < width
    at = tl.cast(row, tl.int64) * width + cols
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    _store_row(values, row, at, inside, y, scales)


@triton.jit
def _activate(x, bias, y, scales, width, BIASED: tl.constexpr, BLOCK: tl.constexpr):
    row, cols = tl.program_id(0), tl.arange(0, BLOCK)
    inside = cols < width
    at = tl.cast(row, tl.int64) * width + cols
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if not BIASED:
        h += tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    u2 = 1.5957691216057308 * (h + 0.044715 * h * h * h)
    _store_row(h * tl.sigmoid(u2), row, at, inside, y, scales)


def quantize(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in 8 bits [N, D] and their scales [N, 1], fp32."""
    x_ND = x_ND.contiguous()
    y_ND, scale_N1 = _room(x_ND)
    rows, width = x_ND.shape
    if rows:
        _quantize[(rows,)](x_ND, y_ND, scale_N1, width, **_shape(width))
    return y_ND, scale_N1


def activate(x_NH: Tensor, bias_H: Tensor, *, biased: bool) -> tuple[Tensor, Tensor]:
    """GELU (tanh form) of rows, which have their bias already if `biased`; as of `quantize`."""
    y_NH, scale_N1 = _room(x_NH)
    rows, width = x_NH.shape
    if rows:
        _activate[(rows,)](x_NH, bias_H, y_NH, scale_N1, width, BIASED=biased, **_shape(width))
    return y_NH, scale_N1


def _room(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    y_ND = torch.empty_like(x_ND, dtype=torch.float8_e4m3fn)
    return y_ND, x_ND.new_empty(x_ND.shape[0], 1, dtype=torch.float32)


def _shape(width: int) -> dict[str, int]:
    """A program for a row."""
    block = 1 << (width - 1).bit_length()
    return {"BLOCK": block, "num_warps": min(max(block // 1024, 4), 16)}


def multiply(x_ND: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """x times each of several weights [O, D], each to [N, O], in x's dtype."""
    rows, dtype = quantize(x_ND), x_ND.dtype
    return tuple(product(*rows, *quantize(weight_OD), None, dtype) for weight_OD in weights)


def mlp(
    y_ND: Tensor, up_HD: Tensor, bias_H: Tensor, down_DH: Tensor, *, biased: bool
) -> tuple[Tensor, Tensor]:
    """The MLP's rows before GELU [N, H], with their bias if `biased`, and its result [N, D]."""
    dtype = y_ND.dtype
    row_NH = product(*quantize(y_ND), *quantize(up_HD), bias_H if biased else None, dtype)
    hidden = activate(row_NH, bias_H, biased=biased)
    return row_NH, close(*hidden, *quantize(down_DH), None, dtype)


def _product(
    x_ND: Tensor,
    scale_N1: Tensor,
    weight_OD: Tensor,
    scale_O1: Tensor,
    bias_O: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """x @ weight.T + bias of 8-bit rows, [N, O]; by fp32 where no tensor core does it."""
    if x_ND.is_cuda and len(x_ND):
        return torch._scaled_mm(
            x_ND, weight_OD.T, bias=bias_O, out_dtype=dtype, use_fast_accum=True,
            scale_a=scale_N1, scale_b=scale_O1.T,
        )  # fmt: skip
    made_NO = (x_ND.float() * scale_N1) @ (weight_OD.float() * scale_O1).T
    return (made_NO if bias_O is None else made_NO + bias_O).to(dtype)


def _fake_product(
    x_ND: Tensor,
    _scale_N1: Tensor,
    weight_OD: Tensor,
    _scale_O1: Tensor,
    _bias_O: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return x_ND.new_empty(x_ND.shape[0], weight_OD.shape[0], dtype=dtype)


product = operator("product8", _product, _fake_product)
close = operator("close8", _product, _fake_product)
PRODUCTS.update((product, close))
CLOSING.add(close)
