"""flash-attention 2 as PyTorch ships it, varlen; and 3, which takes its place where installed."""

import torch
from torch import Tensor

from goku.nn.attend.ops import Segments, operator

_aten = torch.ops.aten


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """o [N, A, K] and lse [A, N]."""
    o, lse, *_ = _aten._flash_attention_forward(
        q, k, v, segments.q_starts, segments.k_starts,
        max(segments.q_lengths), max(segments.k_lengths), 0.0, False, False,
    )  # fmt: skip
    return o, lse


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # of dropout, which there is not
    dq, dk, dv = _aten._flash_attention_backward(
        do, q, k, v, o, lse, segments.q_starts, segments.k_starts,
        max(segments.q_lengths), max(segments.k_lengths), 0.0, False, unused, unused[:0],
    )  # fmt: skip
    return dq, dk, dv


attend = operator("fa2", forward, backward)
