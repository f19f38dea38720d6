"""`Rowwise` by the kernels of `goku.nn.kernels`: each of its verbs is one pass over memory, or none
where a product takes it along.

Surprising: `norm` hands x back, and callers use what it hands back. So the stream's gradient
arrives in the same backward as the norm's, which adds the two on the way instead of leaving them
to a pass of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from goku.config.parallel import Products
from goku.nn.kernels import advance, eight, gelu, rotate, together
from goku.nn.layout import Layout
from goku.nn.norm import LayerNorm, RMSNorm
from goku.nn.rope import Rotation
from goku.nn.rowwise import Norm

try:
    from goku.nn.kernels import hidden
except ImportError:
    hidden = None  # type: ignore[assignment]  # GELU is a pass of its own then


class Fused:
    """Rowwise on a GPU, fp32 inside whatever the tokens' dtype.

    With `products` "fp8" those of the forward are of 8-bit floats, with "fp8_mlp" the MLP's alone.
    Gradients are those of the products that they stand for, with the weights and rows as they were
    before they lost bits.
    """

    def __init__(self, products: Products = "bf16") -> None:
        self._project_in_eight, self._mlp_in_eight = products == "fp8", products != "bf16"
        hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
        self._gelu_in_products = hidden is not None and hopper

    def norm(
        self,
        x_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.norm."""
        return _advance(x_ND, None, None, norm, layout, None, shift_SD, scale_SD)

    def add_norm(
        self,
        x_ND: Tensor,
        branch_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        gate_SD: Tensor | None = None,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.add_norm."""
        return _advance(x_ND, branch_ND, None, norm, layout, gate_SD, shift_SD, scale_SD)

    def add(
        self, x_ND: Tensor, branch_ND: Tensor, bias_D: Tensor, layout: Layout, *, gate_SD: Tensor
    ) -> Tensor:
        """Rowwise.add."""
        return _advance(x_ND, branch_ND, bias_D, None, layout, gate_SD, None, None)[0]

    def rotate(self, x_ND: Tensor, norm: RMSNorm, rotation: Rotation | None, heads: int) -> Tensor:
        """Rowwise.rotate."""
        turn = (None, None) if rotation is None else (rotation.cos_NF, rotation.sin_NF)
        # torch leaves Function.apply untyped
        y_ND: Tensor = _Rotate.apply(x_ND, norm.weight, *turn, norm.eps)  # type: ignore[no-untyped-call]
        return y_ND.view(y_ND.shape[0], heads, y_ND.shape[1] // heads)

    def project(self, x_ND: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
        """Rowwise.project."""
        weights = (each.weight for each in linears)
        projected: tuple[Tensor, ...] = _Project.apply(x_ND, self._project_in_eight, *weights)  # type: ignore[no-untyped-call]
        return projected

    def projector(self, x_ND: Tensor) -> Callable[[nn.Linear], Tensor]:
        """Rowwise.projector."""
        if not self._project_in_eight:
            return lambda linear: self.project(x_ND, linear)[0]
        rows = eight.quantize(x_ND.detach())

        def project(linear: nn.Linear) -> Tensor:
            y_NO: Tensor = _ProjectEight.apply(x_ND, *rows, linear.weight)  # type: ignore[no-untyped-call]
            return y_NO

        return project

    def mlp(self, y_ND: Tensor, up: nn.Linear, down: nn.Linear, *, keep: bool) -> Tensor:
        """Rowwise.mlp."""
        inside = self._gelu_in_products and hidden.serves(y_ND)
        o_ND: Tensor = _Mlp.apply(  # type: ignore[no-untyped-call]
            y_ND, up.weight, up.bias, down.weight, keep, inside, self._mlp_in_eight
        )
        return o_ND


def _advance(
    x_ND: Tensor,
    branch_ND: Tensor | None,
    bias_D: Tensor | None,
    norm: Norm | None,
    layout: Layout,
    gate_SD: Tensor | None,
    shift_SD: Tensor | None,
    scale_SD: Tensor | None,
) -> tuple[Tensor, Tensor]:
    kinds = {LayerNorm: advance.LAYER, RMSNorm: advance.RMS, type(None): advance.NONE}
    chunks = layout.chunks
    out_ND, y_ND = _Advance.apply(  # type: ignore[no-untyped-call]
        x_ND,
        branch_ND,
        bias_D,
        gate_SD,
        norm.weight if isinstance(norm, RMSNorm) else None,
        shift_SD,
        scale_SD,
        chunks.rows_C3,
        chunks.starts,
        kinds[type(norm)],
        0.0 if norm is None else norm.eps,
    )
    return out_ND, y_ND


class _Advance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        branch_ND: Tensor | None,
        bias_D: Tensor | None,
        gate_SD: Tensor | None,
        weight_D: Tensor | None,
        shift_SD: Tensor | None,
        scale_SD: Tensor | None,
        chunks_C3: Tensor,
        chunk_starts: Tensor,
        norm: int,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        out_ND, y_ND, stats = advance.forward(
            x_ND, branch_ND, bias_D, gate_SD, weight_D, shift_SD, scale_SD, chunks_C3, norm, eps
        )
        if branch_ND is None:
            out_ND = x_ND
        # without a gate the backward needs no branch, without a norm it needs no stream
        kept_ND = branch_ND if gate_SD is not None else None
        ctx.save_for_backward(
            out_ND if norm else None, kept_ND, bias_D, gate_SD, weight_D, scale_SD,
            chunks_C3, chunk_starts, stats if norm else None,
        )  # fmt: skip
        ctx.norm, ctx.branched = norm, branch_ND is not None
        return out_ND, y_ND

    @staticmethod
    def backward(ctx: Any, dout_ND: Tensor, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        out_ND, branch_ND, bias_D, gate_SD, weight_D, scale_SD, chunks_C3, starts, stats = (
            ctx.saved_tensors
        )
        grads = advance.Gradients(
            *advance.backward(
                dout_ND.contiguous(), dy_ND.contiguous() if ctx.norm else None, out_ND, branch_ND,
                bias_D, gate_SD, weight_D, scale_SD, chunks_C3, starts, stats, ctx.norm,
            )
        )  # fmt: skip
        x_ND = grads.x_ND if ctx.norm else dout_ND
        sums = list(grads.sums_SJD.unbind(1))
        shift_SD = sums.pop(0).to(scale_SD.dtype) if scale_SD is not None else None
        factor_SD = sums.pop(0) if ctx.norm else None
        gate_grad_SD = sums.pop(0).to(gate_SD.dtype) if gate_SD is not None else None
        dbranch_ND = grads.branch_ND if gate_SD is not None else x_ND
        return (
            x_ND,
            dbranch_ND if ctx.branched else None,
            None if bias_D is None else (gate_SD * sums.pop(0)).sum(0).to(bias_D.dtype),
            gate_grad_SD,
            _of_weight(factor_SD, weight_D, scale_SD),
            shift_SD,
            _of_scale(factor_SD, weight_D, scale_SD),
            *(None,) * 4,
        )


def _of_weight(
    factor_SD: Tensor | None, weight_D: Tensor | None, scale_SD: Tensor | None
) -> Tensor | None:
    """The norm's weight is multiplied by 1 + scale: its gradient from that of the product."""
    if factor_SD is None or weight_D is None:
        return None
    if scale_SD is not None:
        factor_SD = factor_SD * (1 + scale_SD.float())
    return factor_SD.sum(0).to(weight_D.dtype)


def _of_scale(
    factor_SD: Tensor | None, weight_D: Tensor | None, scale_SD: Tensor | None
) -> Tensor | None:
    if factor_SD is None or scale_SD is None:
        return None
    if weight_D is not None:
        factor_SD = factor_SD * weight_D.float()
    return factor_SD.to(scale_SD.dtype)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_D: Tensor,
        cos_NF: Tensor | None,
        sin_NF: Tensor | None,
        eps: float,
    ) -> Tensor:
        y_ND: Tensor
        y_ND, stats_N = rotate.forward(x_ND, weight_D, cos_NF, sin_NF, eps)
        ctx.save_for_backward(x_ND, weight_D, cos_NF, sin_NF, stats_N)
        return y_ND

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_ND, weight_D, *others = ctx.saved_tensors  # once: recomputation unpacks only once
        dx_ND, dweight_D = rotate.backward(dy_ND.contiguous(), x_ND, weight_D, *others)
        return dx_ND, dweight_D.to(weight_D.dtype), None, None, None


class _Project(torch.autograd.Function):
    """Surprising: without gradients dynamo leaves `ctx` out where the number of arguments is that
    of the signature's names (torch 2.11), so a count of weights must not make them equal.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        x_ND, in_eight, *weights = given
        ctx.save_for_backward(x_ND, *weights)
        if in_eight:
            return eight.multiply(x_ND, *weights)
        return tuple(x_ND @ weight.T for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, *weights = ctx.saved_tensors
        dx_ND = together.products(grads, weights) if ctx.needs_input_grad[0] else None
        return dx_ND, None, *(grad.T @ x_ND for grad in grads)


class _ProjectEight(torch.autograd.Function):
    """`_Project` by one weight, of rows that are in 8 bits already."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x_ND, rows_ND, scale_N1, weight_OD = given
        ctx.save_for_backward(x_ND, weight_OD)
        y_NO: Tensor = eight.product(
            rows_ND, scale_N1, *eight.quantize(weight_OD), None, x_ND.dtype
        )
        return y_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_OD = ctx.saved_tensors
        dx_ND = dy_NO @ weight_OD if ctx.needs_input_grad[0] else None
        return dx_ND, None, None, dy_NO.T @ x_ND


class _Mlp(torch.autograd.Function):
    """`inside`: GELU is part of the products. Else it is a pass of its own, after a product.

    In 8 bits the rows after GELU are not kept: no product of the forward has read them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y_ND: Tensor,
        up_HD: Tensor,
        bias_H: Tensor,
        down_DH: Tensor,
        keep: bool,
        inside: bool,
        in_eight: bool,
    ) -> Tensor:
        if in_eight:
            row_NH, o_ND = eight.mlp(y_ND, up_HD, bias_H, down_DH, biased=inside)
            hidden_NH = None
        else:
            row_NH, hidden_NH = _hidden(y_ND, up_HD, bias_H, inside)
            o_ND = together.close(hidden_NH, down_DH)
        kept_NH = hidden_NH if keep else None
        ctx.save_for_backward(y_ND, up_HD, bias_H, down_DH, row_NH, kept_NH)
        ctx.inside = inside
        return o_ND

    @staticmethod
    def backward(ctx: Any, do_ND: Tensor) -> tuple[Tensor | None, ...]:
        y_ND, up_HD, bias_H, down_DH, row_NH, hidden_NH = ctx.saved_tensors
        do_ND, again = do_ND.contiguous(), hidden_NH is None
        if ctx.inside:
            drow_NH, made_NH, dbias_H = hidden.backward(do_ND, down_DH, row_NH, again)
        else:
            drow_NH, dbias_H = gelu.backward(do_ND @ down_DH, row_NH, bias_H)
            made_NH = gelu.forward(row_NH, bias_H) if again else None
        return (
            drow_NH @ up_HD,
            drow_NH.T @ y_ND,
            dbias_H.to(bias_H.dtype),
            do_ND.T @ (made_NH if again else hidden_NH),
            *(None,) * 3,
        )


def _hidden(y_ND: Tensor, up_HD: Tensor, bias_H: Tensor, inside: bool) -> tuple[Tensor, Tensor]:
    """Rows before GELU, with their bias if `inside`, and after it: [N, H] both."""
    if inside:
        rows: tuple[Tensor, Tensor] = hidden.forward(y_ND, up_HD, bias_H)
        return rows
    row_NH = y_ND @ up_HD.T
    return row_NH, gelu.forward(row_NH, bias_H)
