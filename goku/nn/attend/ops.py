"""A pair of attention kernels as one differentiable operator that torch.compile leaves whole.

Every operator has the same arguments: queries, keys and values, then the boundaries of the
queries' and of the keys' segments, on the device and once more on the host (`goku.nn.spans`). The
forward also gives the log of each query's sum of exponentials, which the backward needs. The
names of all operators are in `SAVED`: recomputation may keep their results.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from goku.nn import operators
from goku.nn.spans import Spans, lengths_of

SAVED: set[Any] = set()  # operators whose results selective recomputation keeps


class Segments(NamedTuple):
    """What a kernel may ask about the segments."""

    q_starts: Tensor
    k_starts: Tensor
    q_lengths: list[int]
    k_lengths: list[int]


Forward = Callable[[Tensor, Tensor, Tensor, Segments], tuple[Tensor, Tensor]]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Segments], tuple[Tensor, Tensor, Tensor]
]
Attend = Callable[[Tensor, Tensor, Tensor, Spans, Spans], Tensor]


class Send(Protocol):
    """What an `Attend` may ask to be given beforehand, one by one and as soon as it is made.

    It hands out what that `Attend` must be called with in place of x, and nobody else may read.
    """

    def __call__(self, x_NAK: Tensor, k_spans: Spans, *, keys: bool) -> Tensor:
        """Take queries, or else keys or values: [N, A, K]. Spans are the keys' of the `Attend`."""


def operator(name: str, forward: Forward, backward: Backward) -> Attend:
    """`attend` by two kernels.

    `forward(q, k, v, segments)` gives (o [N, A, K], lse [A, N], fp32). `backward(do, q, k, v, o,
    lse, segments)` gives the gradients of q, k and v. All tensors are contiguous.
    """

    def run_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_starts: Tensor,
        k_starts: Tensor,
        q_host: Tensor,
        k_host: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return forward(q, k, v, _segments(q_starts, k_starts, q_host, k_host))

    def run_backward(
        do: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        q_starts: Tensor,
        k_starts: Tensor,
        q_host: Tensor,
        k_host: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        segments = _segments(q_starts, k_starts, q_host, k_host)
        return backward(do, q, k, v, o, lse, segments)

    attended = operators.operator(f"attend_{name}", run_forward, _shapes_forward)
    backed = operators.operator(f"attend_{name}_backward", run_backward, _shapes_backward)

    _differentiate(name, backed)
    SAVED.add(attended)

    def attend(
        q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, q_spans: Spans, k_spans: Spans
    ) -> Tensor:
        o_NAK: Tensor
        o_NAK, _ = attended(
            q_NAK.contiguous(),
            k_NAK.contiguous(),
            v_NAK.contiguous(),
            q_spans.starts,
            k_spans.starts,
            q_spans.host,
            k_spans.host,
        )
        return o_NAK

    attend.kernel = name  # type: ignore[attr-defined]  # reports say which one ran
    return attend


def _differentiate(name: str, backed: Any) -> None:
    """Let the gradient of the operator of that name be what `backed` gives."""

    def keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    def differentiate(ctx: Any, do: Tensor, _dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *spans, o, lse = ctx.saved_tensors
        return *backed(do.contiguous(), q, k, v, o, lse, *spans), *(None,) * 4

    torch.library.register_autograd(f"goku::attend_{name}", differentiate, setup_context=keep)


def _segments(q_starts: Tensor, k_starts: Tensor, q_host: Tensor, k_host: Tensor) -> Segments:
    return Segments(q_starts, k_starts, lengths_of(q_host), lengths_of(k_host))


def _shapes_forward(q: Tensor, *_rest: Tensor) -> tuple[Tensor, Tensor]:
    tokens, heads, _ = q.shape
    return torch.empty_like(q), q.new_empty(heads, tokens, dtype=torch.float32)


def _shapes_backward(
    _do: Tensor, q: Tensor, k: Tensor, v: Tensor, *_rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
