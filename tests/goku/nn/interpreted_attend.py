"""Attention over short keys against PyTorch's, run by Triton's interpreter: no GPU is needed.

A program of its own, as `interpreted`: `test_attend` starts it with TRITON_INTERPRET=1.
"""

from collections.abc import Sequence

import torch

from goku.nn.attend import choose, native, short
from goku.nn.attend.ops import Attend
from tests.goku.nn.interpreted import allow_loops_over_loaded_bounds

CPU = torch.device("cpu")
SHORTEST_RUNS = (1024, 64, 100)  # queries: one run for each segment, whole tiles, parts of one
CASES: tuple[tuple[Sequence[int], Sequence[int]], ...] = (
    ((70, 1, 130), (70, 1, 130)),
    ((200, 0, 3), (5, 7, 0)),  # a segment without queries, one without keys
    ((300,), (260,)),
    ((300, 10, 0), (20, 260, 150)),
)


def computed(attend: Attend, shape: choose.Shape) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    inputs, spans = choose.random_inputs(shape, CPU)
    o_NAK = attend(*inputs, *spans)
    return o_NAK, *torch.autograd.grad(o_NAK, inputs, torch.randn_like(o_NAK))


if __name__ == "__main__":
    allow_loops_over_loaded_bounds()
    short._PROGRAMS = 1 << 30  # runs are as short as they may be
    for short._SHORTEST_RUN in SHORTEST_RUNS:
        for q_lengths, k_lengths in CASES:
            shape = choose.Shape(2, 16, torch.float32, tuple(q_lengths), tuple(k_lengths))
            found = computed(short.attend, shape)
            for made, expected in zip(found, computed(native.attend, shape), strict=True):
                torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    print("equal")
