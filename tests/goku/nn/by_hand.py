"""An attention operator whose two kernels are written out in PyTorch: what the GPU's kernels are to
the machinery of `goku.nn.attend.ops`, for tests without a GPU.
"""

import torch
from torch import Tensor

from goku.nn.attend.ops import Segments, operator


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    outs, sums = [], []
    for q_, k_, v_ in _parts(segments, q, k, v):
        scores_ANM = _scores(q_, k_)
        outs.append((scores_ANM.softmax(-1) @ v_.transpose(0, 1)).transpose(0, 1))
        sums.append(scores_ANM.logsumexp(-1))
    return torch.cat(outs), torch.cat(sums, dim=1).float()


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q.shape[-1] ** -0.5
    dos, outs = do.split(segments.q_lengths), o.split(segments.q_lengths)
    grads = []
    for (q_, k_, v_), do_, o_ in zip(_parts(segments, q, k, v), dos, outs, strict=True):
        p_ANM = _scores(q_, k_).softmax(-1)
        do_ANK, delta_NA = do_.transpose(0, 1), (do_ * o_).sum(-1)
        ds_ANM = p_ANM * (do_ANK @ v_.permute(1, 2, 0) - delta_NA.T[..., None]) * scale
        grads.append(
            (
                (ds_ANM @ k_.transpose(0, 1)).transpose(0, 1),
                (ds_ANM.mT @ q_.transpose(0, 1)).transpose(0, 1),
                (p_ANM.mT @ do_ANK).transpose(0, 1),
            )
        )
    dq, dk, dv = (torch.cat(parts).contiguous() for parts in zip(*grads, strict=True))
    return dq, dk, dv


def _parts(segments: Segments, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, ...]]:
    lengths = (segments.q_lengths, segments.k_lengths, segments.k_lengths)
    cut = (x.split(n) for x, n in zip((q, k, v), lengths, strict=True))
    return list(zip(*cut, strict=True))


def _scores(q_NAK: Tensor, k_MAK: Tensor) -> Tensor:
    return q_NAK.transpose(0, 1) @ k_MAK.permute(1, 2, 0) * q_NAK.shape[-1] ** -0.5


kernels = {"forward": forward}  # tests that count calls put their own here


def _replaceable(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    return kernels["forward"](q, k, v, segments)


attend = operator("by_hand", _replaceable, backward)
