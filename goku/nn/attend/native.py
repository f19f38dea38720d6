"""Attention segment by segment in PyTorch's own operations: any device, any dtype, any order of
gradient. It is what a model begins with, and what runs on a CPU.
"""

from torch import Tensor, cat, split
from torch.nn.functional import scaled_dot_product_attention

from goku.nn.spans import Spans


def attend(q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, q_spans: Spans, k_spans: Spans) -> Tensor:
    """Softmax attention within each segment: o_NAK for N queries over the segment's own keys.

    A segment without keys gives zeros. The tokens must be the segments' tokens, in order.
    """
    segments = zip(
        split(q_NAK, q_spans.lengths),
        split(k_NAK, k_spans.lengths),
        split(v_NAK, k_spans.lengths),
        strict=True,
    )
    return cat([_attend_segment(q, k, v) for q, k, v in segments if len(q)])


def reference(
    q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, q_spans: Spans, k_spans: Spans
) -> Tensor:
    """The same, each product and the softmax written out, in float64 and cast back at the end."""
    wide = (x_NAK.double() for x_NAK in (q_NAK, k_NAK, v_NAK))
    q_parts, k_parts, v_parts = (
        split(x_NAK, spans.lengths)
        for x_NAK, spans in zip(wide, (q_spans, k_spans, k_spans), strict=True)
    )
    scale = q_NAK.shape[-1] ** -0.5
    parts = []
    for q, k, v in zip(q_parts, k_parts, v_parts, strict=True):
        scores_ANM = scale * q.transpose(0, 1) @ k.permute(1, 2, 0)
        parts.append((scores_ANM.softmax(-1) @ v.transpose(0, 1)).transpose(0, 1))
    return cat(parts).to(q_NAK.dtype)


def _attend_segment(q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor) -> Tensor:
    q_1ANK, k_1ANK, v_1ANK = (x_NAK.transpose(0, 1)[None] for x_NAK in (q_NAK, k_NAK, v_NAK))
    if len(k_NAK):
        o_1ANK = scaled_dot_product_attention(q_1ANK, k_1ANK, v_1ANK)
    else:  # a sum over nothing: zeros, yet every weight still gets a gradient on every rank
        o_1ANK = q_1ANK @ k_1ANK.mT @ v_1ANK
    return o_1ANK[0].transpose(0, 1)
