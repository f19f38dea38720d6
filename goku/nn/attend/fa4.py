"""flash-attn-4: Hopper and Blackwell kernels written in the CuTe DSL, compiled at first use.

Importing this module raises ImportError where flash-attn-4 is not installed. Its own autograd
breaks a compiled graph, so only its two kernels are used.
"""

from typing import Any

import torch
from flash_attn.cute import interface
from torch import Tensor

from goku.nn.attend.ops import Segments, operator
from goku.nn.attend.runs import cut

_LONG = 4096  # keys from which a tile that does not divide them costs nothing
_WIDE = (128, 176)  # queries and keys
_HIGH, _LOW = 192, (128, 128)  # the package's queries for heads of 64, and a tile with fewer
_WASTE = 1.2  # times a low tile's rows: where high ones have more, much of them empty, low ones pay


def _tile(q: Tensor, segments: Segments) -> tuple[int, int] | None:
    """The forward's tile where another than the package's own is quicker on Hopper: 6 and 10%."""
    if torch.cuda.get_device_capability(q.device)[0] != 9:
        return None
    if q.shape[-1] == 128 and min(segments.k_lengths) >= _LONG:
        return _WIDE
    rows, low = (sum(-(-n // high) * high for n in segments.q_lengths) for high in (_HIGH, _LOW[0]))
    return _LOW if q.shape[-1] == 64 and rows > _WASTE * low else None


def _varlen(segments: Segments) -> dict[str, object]:
    return {
        "cu_seqlens_q": segments.q_starts,
        "cu_seqlens_k": segments.k_starts,
        "max_seqlen_q": max(segments.q_lengths),
        "max_seqlen_k": max(segments.k_lengths),
    }


def _single(segments: Segments) -> bool:
    """One segment on both sides: the dense kernels, whose schedule needs no boundaries."""
    return len(segments.q_lengths) == 1 == len(segments.k_lengths)


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """o [N, A, K] and lse [A, N]."""
    given: dict[str, Any] = {
        "softmax_scale": q.shape[-1] ** -0.5,
        "return_lse": True,
        "tile_mn": _tile(q, segments),
    }
    if _single(segments):
        o, lse, *_ = interface._flash_attn_fwd(q[None], k[None], v[None], **given)
        return o[0], lse[0]
    o, lse, *_ = interface._flash_attn_fwd(q, k, v, **given, **_varlen(segments))
    return o, lse


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count
    runs = cut(segments, q.shape[1], processors)
    if runs is None:
        return _backward(do, q, k, v, o, lse, segments)
    dq, dk, dv = _backward(do, q, runs.copied(k), runs.copied(v), o, lse, runs.segments)
    return dq, runs.summed(dk), runs.summed(dv)


def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    given = {
        "softmax_scale": q.shape[-1] ** -0.5,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if _single(segments):
        dense = (x[None] for x in (q, k, v, o, do, lse))
        dq, dk, dv, *_ = interface._flash_attn_bwd(*dense, **given)
        return dq[0], dk[0], dv[0]
    dq, dk, dv, *_ = interface._flash_attn_bwd(q, k, v, o, do, lse, **given, **_varlen(segments))
    return dq, dk, dv


attend = operator("fa4", forward, backward)
