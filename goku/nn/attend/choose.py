"""Which attention kernel a run uses: the one asked for, or the fastest by a short measurement.

Kernels differ by a factor of two and trade places with head width, lengths and GPU, so `auto`
measures forward and backward on the device, at the run's own lengths, instead of believing a
table. Whatever is not there or fails is named with its reason.
"""

import importlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from goku.nn.attend import Attend, native
from goku.nn.spans import Spans

KERNELS = ("fa4", "fa3", "fa2", "sdpa")  # what `auto` measures on a GPU; fa3 changes fa2
_SECONDS = 0.5  # of measurement for each kernel, after its first call
_MOST_RUNS = 7
_BUSY_CYCLES = 60_000_000  # about 35 ms: enough to queue that many calls


class Shape(NamedTuple):
    """What is asked of attention: heads and the lengths of a typical pack's segments."""

    heads: int
    head_width: int
    dtype: torch.dtype
    q_lengths: tuple[int, ...]
    k_lengths: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """A kernel, and why."""

    name: str
    attend: Attend
    milliseconds: dict[str, float]  # of every kernel that was measured
    missing: dict[str, str]  # kernels that could not run, with the reason

    def __str__(self) -> str:
        measured = sorted(self.milliseconds.items(), key=lambda item: item[1])
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in measured)
        absent = ", ".join(f"{name} is out ({why})" for name, why in self.missing.items())
        return "; ".join(part for part in (self.name, times, absent) if part)


class KernelMissing(ValueError):
    """The attention kernel that was asked for cannot run here."""


def choose(wanted: str, shape: Shape, device: torch.device) -> Choice:
    """The kernel called `wanted`, or for "auto" the fastest that runs here at this shape.

    On a CPU, and for types wider than 16 bits, "auto" is PyTorch's own SDPA, as is "sdpa".
    Raises KernelMissing for a kernel that is not installed or does not take this shape.
    """
    kernels_run = device.type == "cuda" and shape.dtype.itemsize == 2
    if wanted == "reference":
        return Choice(wanted, native.reference, {}, {})
    if wanted in ("auto", "sdpa") and not kernels_run:
        return Choice("native", native.attend, {}, {})
    found: dict[str, Attend] = {}
    milliseconds: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in KERNELS if wanted == "auto" else (wanted,):
        try:
            found[name] = load(name)
            milliseconds[name] = measure(found[name], shape, device)
        except Exception as error:  # a kernel may fail in any way of its own
            missing[name] = _reason(error)
    if not milliseconds:
        raise KernelMissing(f"{wanted}: {'; '.join(missing.values())}")
    best = min(milliseconds, key=milliseconds.__getitem__)
    return Choice(best, found[best], milliseconds, missing)


def load(name: str) -> Attend:
    """The kernel of a Choice's name. Raises ImportError where its package is not installed."""
    if name == "reference":
        return native.reference
    attend: Attend = importlib.import_module(f"goku.nn.attend.{name}").attend
    return attend


def measure(attend: Attend, shape: Shape, device: torch.device) -> float:
    """Median milliseconds on the GPU of a forward and backward on random data.

    The GPU first gets something to do while the calls are queued: some kernels take longer to
    launch than to run, which a step hides behind the work queued before them.
    """
    inputs, spans = random_inputs(shape, device)
    gradient = torch.randn_like(inputs[0])

    event: Any = partial(torch.cuda.Event, enable_timing=True)

    def run() -> tuple[Any, Any]:
        begin, end = event(), event()
        begin.record()
        torch.autograd.grad(attend(*inputs, *spans), inputs, gradient)
        end.record()
        return begin, end

    run()  # compiles
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    count = max(1, min(_MOST_RUNS, int(_SECONDS / (time.perf_counter() - started))))
    torch.cuda._sleep(_BUSY_CYCLES)  # type: ignore[no-untyped-call]
    runs = [run() for _ in range(count)]
    torch.cuda.synchronize(device)
    return float(statistics.median(begin.elapsed_time(end) for begin, end in runs))


def random_inputs(
    shape: Shape, device: torch.device
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Spans, Spans]]:
    """Queries, keys and values that ask for gradients, and their spans."""

    def draw(lengths: Sequence[int]) -> Tensor:
        size = (sum(lengths), shape.heads, shape.head_width)
        return torch.randn(size, device=device, dtype=shape.dtype, requires_grad=True)

    q, k, v = draw(shape.q_lengths), draw(shape.k_lengths), draw(shape.k_lengths)
    return (q, k, v), (Spans.of(shape.q_lengths, device), Spans.of(shape.k_lengths, device))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
