"""Short keys: texts, and images of a few hundred tokens. Ours, in Triton.

Kernels made for long sequences give each program a block of keys and let programs add up the
queries' gradients in memory. A few blocks of keys leave most of the GPU without work, and make more
traffic than arithmetic. Here a program has all keys of a segment and a head, and a run of the
segment's queries: block after block of keys it goes over them. Where a segment has several runs,
the gradients of keys and values are added up in memory, by fp32 atomics, and equal inputs do not
give equal bits; with deterministic algorithms asked for, every segment is one run.
"""

import torch
import triton
from torch import Tensor

from goku.nn.attend.ops import Segments, operator
from goku.nn.kernels import short

# rows of queries and keys that a program holds, what is on its way from memory, and its warps
FORWARD = {"QUERIES": 128, "KEYS": 128, "num_warps": 8}
BACKWARD = {"QUERIES": 64, "KEYS": 128, "STAGES": 2, "num_warps": 8}
_PROGRAMS = 1056  # 8 for each multiprocessor of an H200: what is left at the end is short
_SHORTEST_RUN = 1024  # queries, against which adding up the keys' gradients is little


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """o [N, A, K] and lse [A, N]."""
    tokens, heads, width = q.shape
    o, lse = torch.empty_like(q), q.new_empty(heads, tokens, dtype=torch.float32)
    blocks = triton.cdiv(max(segments.q_lengths), FORWARD["QUERIES"])
    if tokens:
        short.forward[(heads * len(segments.q_lengths) * blocks,)](
            q, k, v, o, lse, segments.q_starts, segments.k_starts, tokens, blocks, width**-0.5,
            HEADS=heads, WIDTH=width, **FORWARD,
        )  # fmt: skip
    return o, lse


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    tokens, heads, width = q.shape
    run, runs = _runs(segments.q_lengths, heads)
    dq = torch.empty_like(q) if all(segments.k_lengths) else torch.zeros_like(q)
    dk, dv = _gradients(k, v, alone=runs == 1)
    several = max(segments.k_lengths) > BACKWARD["KEYS"]
    sums = q.new_empty(q.shape if several else 1, dtype=torch.float32)
    deltas = torch.empty_like(lse if several else sums)
    short.backward[(heads * len(segments.q_lengths) * runs,)](
        do, q, k, v, o, lse, dq, dk, dv, sums, deltas,
        segments.q_starts, segments.k_starts, tokens, runs, run, width**-0.5,
        HEADS=heads, WIDTH=width, ALONE=runs == 1, **BACKWARD,
    )  # fmt: skip
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _runs(lengths: list[int], heads: int) -> tuple[int, int]:
    """Queries of a run, and runs of the longest segment: one where equal bits are asked for."""
    longest = max(lengths)
    run = max(triton.cdiv(sum(lengths) * heads, _PROGRAMS), _SHORTEST_RUN)
    if run >= longest or torch.are_deterministic_algorithms_enabled():
        return longest, 1
    return run, triton.cdiv(longest, run)


def _gradients(k: Tensor, v: Tensor, *, alone: bool) -> tuple[Tensor, Tensor]:
    if alone:
        return torch.empty_like(k), torch.empty_like(v)
    return torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)


attend = operator("short", forward, backward)
