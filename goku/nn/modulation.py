"""adaLN-Zero for packed samples: each segment's timestep shifts, scales and gates its tokens.

The vectors stay per segment. Written plainly, autograd would keep them once per token: 16 GB a
layer for 8B at 220K tokens. The Functions below keep the tokens, the [S, D] vectors and each
token's segment; the backward gathers again. Arithmetic is in at least fp32, cast back at the end.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from goku.nn.layout import sum_segments
from goku.nn.norm import at_least_fp32


class AdaLN(nn.Module):
    """SiLU, then one linear to `parts` vectors per segment.

    `goku.model.init` starts it at zero, so that no gated branch adds anything yet.
    """

    def __init__(self, width: int, *, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition_SD: Tensor) -> tuple[Tensor, ...]:
        """The `parts` vectors, each [S, D]."""
        vectors: Tensor = self.linear(nn.functional.silu(condition_SD))
        return vectors.chunk(self.parts, dim=-1)


def modulate(x_ND: Tensor, shift_SD: Tensor, scale_SD: Tensor, segment_N: Tensor) -> Tensor:
    """x * (1 + scale) + shift with each token's own segment's vectors; [N, D], dtype of x."""
    # torch leaves Function.apply untyped
    out_ND: Tensor = _Modulate.apply(  # type: ignore[no-untyped-call]
        x_ND, shift_SD, scale_SD, segment_N
    )
    return out_ND


def gate(x_ND: Tensor, gate_SD: Tensor, segment_N: Tensor) -> Tensor:
    """x * gate with each token's own segment's vector; [N, D], dtype of x."""
    out_ND: Tensor = _Gate.apply(x_ND, gate_SD, segment_N)  # type: ignore[no-untyped-call]
    return out_ND


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, shift_SD: Tensor, scale_SD: Tensor, segment_N: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x_ND, scale_SD, segment_N)
        ctx.shift_dtype = shift_SD.dtype
        wide_ND = x_ND.to(at_least_fp32(x_ND.dtype))
        factor_SD = 1 + scale_SD.to(wide_ND.dtype)
        shift_SD = shift_SD.to(wide_ND.dtype)
        return torch.addcmul(shift_SD[segment_N], wide_ND, factor_SD[segment_N]).to(x_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_ND, scale_SD, segment_N = ctx.saved_tensors
        wide = at_least_fp32(x_ND.dtype)
        wide_grad_ND, factor_SD, segments = grad_ND.to(wide), 1 + scale_SD.to(wide), len(scale_SD)
        return (
            (wide_grad_ND * factor_SD[segment_N]).to(x_ND.dtype),
            sum_segments(wide_grad_ND, segment_N, segments).to(ctx.shift_dtype),
            sum_segments(wide_grad_ND * x_ND, segment_N, segments).to(scale_SD.dtype),
            None,
        )


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_SD: Tensor, segment_N: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, gate_SD, segment_N)
        wide = at_least_fp32(x_ND.dtype)
        return (x_ND.to(wide) * gate_SD.to(wide)[segment_N]).to(x_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, gate_SD, segment_N = ctx.saved_tensors
        wide = at_least_fp32(x_ND.dtype)
        wide_grad_ND = grad_ND.to(wide)
        return (
            (wide_grad_ND * gate_SD.to(wide)[segment_N]).to(x_ND.dtype),
            sum_segments(wide_grad_ND * x_ND, segment_N, len(gate_SD)).to(gate_SD.dtype),
            None,
        )
