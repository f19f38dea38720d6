"""The MLP's hidden rows made inside of its products, by quack's epilogues on Hopper.

The product's accumulator meets bias and GELU in fp32 before it is stored, and in the backward the
product that gives the hidden rows' gradient takes GELU's slope and the bias's sum along. GELU alone
would be two passes over rows four times as wide as the others'. Importing this module raises
ImportError where quack, which flash-attn-4 depends on, is not installed.
"""

from typing import Any

import torch
from quack.activation import dgelu_tanh_approx, gelu_tanh_approx
from quack.epilogue.frontend import gemm_epilogue
from quack.epilogue.ops import RowVecLoad, RowVecReduce
from quack.gemm_config import GemmConfig
from torch import Tensor

from goku.nn.operators import PRODUCTS, operator


def _config(columns: int) -> GemmConfig:
    return GemmConfig(
        tile_m=128, tile_n=columns, cluster_m=2, cluster_n=1, pingpong=True,
        is_dynamic_persistent=False, device_capacity=9,
    )  # fmt: skip


# fastest of eight on an H200 at 8,192 to 65,536 rows from and to 1,792
_FORWARD, _BACKWARD = _config(192), _config(160)


@gemm_epilogue(outputs=("hidden",), ops={"bias": RowVecLoad("bias")})
def _activate(acc: Any, bias: Any) -> dict[str, Any]:  # of quack's values, when it traces
    row = acc + bias
    return {"D": row, "hidden": gelu_tanh_approx(row)}


@gemm_epilogue(reduces={"of_bias": RowVecReduce("of_bias")})
def _slope(acc: Any, c: Any) -> dict[str, Any]:
    grad, _ = dgelu_tanh_approx(c, acc)
    return {"D": grad, "of_bias": grad}


@gemm_epilogue(outputs=("hidden",), reduces={"of_bias": RowVecReduce("of_bias")})
def _slope_and_hidden(acc: Any, c: Any) -> dict[str, Any]:
    grad, hidden = dgelu_tanh_approx(c, acc)
    return {"D": grad, "hidden": hidden, "of_bias": grad}


def serves(x_ND: Tensor) -> bool:
    """Whether these kernels take such rows: bf16, and each begins at a multiple of 16 bytes."""
    return x_ND.dtype == torch.bfloat16 and x_ND.shape[1] % 8 == 0


def _run_forward(y_ND: Tensor, weight_HD: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """The product with its bias, [N, H], and GELU of it, [N, H]."""
    if not len(y_ND):
        return _fake_forward(y_ND, weight_HD, bias_H)
    made = _activate(y_ND, weight_HD.T, bias=bias_H[None], config=_FORWARD, tuned=False)
    return made["D"], made["hidden"]


def _fake_forward(y_ND: Tensor, weight_HD: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    size = (y_ND.shape[0], weight_HD.shape[0])
    return y_ND.new_empty(size), y_ND.new_empty(size)


def _run_backward(
    do_ND: Tensor, weight_DH: Tensor, row_NH: Tensor, again: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the rows before GELU [N, H] and of the bias [H], fp32; between them the rows
    after GELU, empty unless `again` asks for them.
    """
    if not len(do_ND):
        return *_fake_backward(do_ND, weight_DH, row_NH, again)[:2], do_ND.new_zeros(
            row_NH.shape[1], dtype=torch.float32
        )
    made = (_slope_and_hidden if again else _slope)(
        do_ND, weight_DH, row_NH, config=_BACKWARD, tuned=False
    )
    hidden_NH = made["hidden"] if again else do_ND.new_empty(0)
    return made["D"], hidden_NH, made["of_bias"].view(-1)


def _fake_backward(
    do_ND: Tensor, weight_DH: Tensor, row_NH: Tensor, again: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(row_NH),
        torch.empty_like(row_NH) if again else row_NH.new_empty(0),
        row_NH.new_empty(row_NH.shape[1], dtype=torch.float32),
    )


forward = operator("hidden", _run_forward, _fake_forward)
backward = operator("hidden_backward", _run_backward, _fake_backward)
PRODUCTS.add(forward)
