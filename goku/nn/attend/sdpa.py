"""cuDNN's attention, which PyTorch offers for dense batches only: neighbouring segments of equal
lengths go together as one batch, so a pack costs one call for each run of equal segments. A query
with a single key, which padding may be, cuDNN refuses: its result is that key's value.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from goku.nn.attend.ops import Segments, operator

_aten = torch.ops.aten


class _Run(NamedTuple):
    """Neighbouring segments of equal lengths."""

    segments: int
    q: slice
    k: slice

    @property
    def empty(self) -> bool:
        return 0 in self._tokens

    @property
    def lone(self) -> bool:
        """Whether every segment is one query with one key."""
        return self._tokens == (self.segments, self.segments)

    @property
    def _tokens(self) -> tuple[int, int]:
        return self.q.stop - self.q.start, self.k.stop - self.k.start


def _runs(segments: Segments) -> Iterator[_Run]:
    pairs = list(zip(segments.q_lengths, segments.k_lengths, strict=True))
    begin = q_at = k_at = 0
    while begin < len(pairs):
        end = begin
        while end < len(pairs) and pairs[end] == pairs[begin]:
            end += 1
        count, (q_length, k_length) = end - begin, pairs[begin]
        q_stop, k_stop = q_at + count * q_length, k_at + count * k_length
        yield _Run(count, slice(q_at, q_stop), slice(k_at, k_stop))
        begin, q_at, k_at = end, q_stop, k_stop


def _batched(x_NAK: Tensor, segments: int) -> Tensor:
    return x_NAK.view(segments, -1, *x_NAK.shape[1:]).transpose(1, 2)


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """o [N, A, K] and lse [A, N]."""
    o = torch.zeros_like(q)  # a segment without keys stays so
    lse = q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32)
    for run in _runs(segments):
        if run.empty:
            continue
        if run.lone:
            o[run.q] = v[run.k]
            products = (q[run.q].float() * k[run.k].float()).sum(-1)
            lse[:, run.q] = products.T * q.shape[-1] ** -0.5
            continue
        parts = (_batched(x, run.segments) for x in (q[run.q], k[run.k], v[run.k]))
        out, sums, *_ = _aten._scaled_dot_product_cudnn_attention(*parts, None, True)
        o[run.q] = out.transpose(1, 2).flatten(0, 1)
        lse[:, run.q] = sums.flatten(2).transpose(0, 1).flatten(1)
    return o, lse


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    unused = torch.empty(0, dtype=torch.int64, device=q.device)  # of dropout, which there is not
    for run in _runs(segments):
        if run.empty:
            continue
        if run.lone:
            dv[run.k] = do[run.q]  # the weight of the only key is 1, whatever q and k are
            continue
        q_, do_, o_ = (_batched(x[run.q], run.segments) for x in (q, do, o))
        k_, v_ = (_batched(x[run.k], run.segments) for x in (k, v))
        sums = lse[:, run.q].reshape(len(lse), run.segments, -1).transpose(0, 1).contiguous()
        grads = _aten._scaled_dot_product_cudnn_attention_backward(
            do_, q_, k_, v_, o_, sums[..., None], unused, unused, None, None, None,
            q_.shape[2], k_.shape[2], 0.0, False,
        )  # fmt: skip
        for total, part, here in zip((dq, dk, dv), grads, (run.q, run.k, run.k), strict=True):
            total[here] = part.transpose(1, 2).flatten(0, 1)
    return dq, dk, dv


attend = operator("sdpa", forward, backward)
