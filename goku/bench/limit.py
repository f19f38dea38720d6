"""The kernel limit: the time of a step's own products and attentions, and of nothing else.

One pass runs every kernel of every block, in a block's order and as often as the step does, so
that the GPU is as warm and its clock as low as in the step. What lies between the products (norms,
modulation, GELU, residuals), recomputation and the ends of the model are left out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from goku.bench.shapes import Pack
from goku.config.model import ModelConfig
from goku.nn.attend import Attend
from goku.nn.attend.choose import Shape, random_inputs


class Kernel(NamedTuple):
    """Something a block does so many times in a step."""

    name: str
    times: int
    run: Callable[[], object]


class Limit:
    """The kernels of a step on one pack, on random data."""

    def __init__(
        self,
        model: ModelConfig,
        pack: Pack,
        attend: Attend,
        attend_text: Attend,
        *,
        sequence: int = 1,
        context: int = 1,
    ) -> None:
        """What one of `sequence` ranks that cut up these samples, in `context` runs, computes."""
        self._layers = model.layers
        device = torch.device("cuda", torch.cuda.current_device())
        width, hidden = model.width, model.mlp_width
        tokens, text = pack.tokens // sequence, sum(pack.text_lengths)
        held = tuple(length // sequence for length in pack.lengths)
        met = tuple(length // context for length in pack.lengths)
        self._kernels = [
            *_products("q k v o, cross q o", 6, tokens, width, width),
            *_products("mlp up", 1, tokens, width, hidden),
            *_products("mlp down", 1, tokens, hidden, width),
            *_products("cross k v", 2, text, model.text_width, width, inputs=False),
            _attention(
                "attention",
                attend,
                _shape(model, model.heads * context // sequence, met, pack.lengths),
                device,
            ),
            _attention(
                "cross-attention",
                attend_text,
                _shape(model, model.heads, held, pack.text_lengths),
                device,
            ),
        ]

    def run(self) -> dict[str, float]:
        """Milliseconds of one pass, by kernel."""
        events: dict[str, list[tuple[Any, Any]]] = {k.name: [] for k in self._kernels}
        for _ in range(self._layers):
            for kernel in self._kernels:
                begin, end = _event(), _event()
                begin.record()
                for _ in range(kernel.times):
                    kernel.run()
                end.record()
                events[kernel.name].append((begin, end))
        torch.cuda.synchronize()
        return {
            name: sum(begin.elapsed_time(end) for begin, end in pairs)
            for name, pairs in events.items()
        }


def _shape(model: ModelConfig, heads: int, q: tuple[int, ...], k: tuple[int, ...]) -> Shape:
    return Shape(heads, model.head_width, torch.bfloat16, q, k)


def _products(
    name: str, count: int, rows: int, width: int, out: int, *, inputs: bool = True
) -> list[Kernel]:
    """Forward, input gradient (unless nothing asks for it) and weight gradient of a linear."""
    x, w, g = _random(rows, width), _random(out, width), _random(rows, out)
    kernels = [
        Kernel(f"{name}: forward", count, lambda: x @ w.T),
        Kernel(f"{name}: weight gradient", count, lambda: g.T @ x),
    ]
    if inputs:
        kernels.insert(1, Kernel(f"{name}: input gradient", count, lambda: g @ w))
    return kernels


def _random(*size: int) -> Tensor:
    return torch.randn(size, device="cuda", dtype=torch.bfloat16)


def _attention(name: str, attend: Attend, shape: Shape, device: torch.device) -> Kernel:
    inputs, spans = random_inputs(shape, device)
    gradient = torch.randn_like(inputs[0])

    def both() -> object:
        return torch.autograd.grad(attend(*inputs, *spans), inputs, gradient)

    return Kernel(name, 1, both)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
