"""Steps and limits in turn, in one process: a ratio that does not depend on the machine's mood."""

import gc
import importlib.metadata
import statistics
import threading
from dataclasses import asdict, dataclass
from typing import Any

import torch

from goku.bench.limit import Limit
from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds
from goku.config.memory import Policy, activation_bytes, waiting_bytes
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.model.flops import step_flops
from goku.parallel.compile import graphs

FORMULA = "forward and backward: goku/model/flops.py, 2 for each multiply-add of products alone"
_GIB = 2**30
_SAMPLE_SECONDS = 0.05
_WARM = 2
_SECONDS_IN_A_ROW = 1.0  # of steps before the GPU is waited for
_OTHERS = ((1000, 520, 7), (1304,))  # lengths of packs of several samples, and of one


@dataclass(frozen=True)
class Result:
    """What one pack gave. Times are medians, in milliseconds."""

    pack: str
    layers: int
    tokens: int
    samples: int
    recompute: str
    products: str
    compiled: bool
    attention: str
    text_attention: str
    step_ms: float
    limit_ms: float
    ratio: float
    target: float
    tflops: float
    limit_tflops: float
    tokens_per_second: float
    peak_bytes: int
    predicted_bytes: int
    host_bytes: int  # pinned, as PyTorch counts them
    predicted_host_bytes: int
    graphs: int  # compiled: the pack's own, and none more for packs of other lengths
    syncs: str  # "" or the first operation that waited for the GPU
    megahertz: float
    watts: float
    steps_ms: list[float]
    kernels_ms: dict[str, float]

    def __str__(self) -> str:
        return (
            f"{self.pack}, {self.layers} blocks, {self.products}, recompute {self.recompute}: "
            f"step {self.step_ms:.1f} ms, limit {self.limit_ms:.1f} ms, "
            f"ratio {self.ratio:.3f} (target {self.target}), {self.tflops:.0f} of "
            f"{self.limit_tflops:.0f} TFLOP/s, {self.tokens_per_second:,.0f} tokens/s, "
            f"{self.peak_bytes / _GIB:.1f} GiB (expected {self.predicted_bytes / _GIB:.1f}), "
            f"host {self.host_bytes / _GIB:.1f} ({self.predicted_host_bytes / _GIB:.1f}), "
            f"{self.megahertz:.0f} MHz, {self.watts:.0f} W, {self.graphs} graphs"
            + (f", WAITS: {self.syncs}" if self.syncs else "")
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(model: ModelConfig, pack: Pack, parallel: ParallelConfig, *, rounds: int) -> Result:
    """Warm up, then `rounds` times a step and a pass over its kernels alone."""
    torch._dynamo.reset()
    _free()
    before = graphs()
    step = Step(model, pack, parallel)
    for _ in range(_WARM):
        step.run()
    torch.cuda.synchronize()
    peak, syncs = torch.cuda.max_memory_allocated(), _first_sync(step)
    block: Any = step.attention
    limit = Limit(model, pack, block.attention.attend, block.text_attention.attend)
    limit.run()
    in_a_row = max(1, round(_SECONDS_IN_A_ROW * 1e3 / milliseconds(step.run, 1)))
    steps, passes = [], []
    with _Watch() as watch:
        for _ in range(rounds):
            steps.append(milliseconds(step.run, in_a_row))
            passes.append(limit.run())
    _compute_others(step, pack)
    step_ms = statistics.median(steps)
    kernels = {name: statistics.median(p[name] for p in passes) for name in passes[0]}
    limit_ms = statistics.median(sum(p.values()) for p in passes)
    flops = step_flops(model, pack.lengths, pack.text_lengths)
    weights = sum(p.numel() for p in step.model.parameters())
    policy = step.policy
    return Result(
        pack=pack.name,
        layers=model.layers,
        tokens=pack.tokens,
        samples=len(pack.lengths),
        recompute=str(policy),
        products=parallel.products,
        compiled=parallel.compile != "off",
        attention=_name(block.attention.attend),
        text_attention=_name(block.text_attention.attend),
        step_ms=step_ms,
        limit_ms=limit_ms,
        ratio=limit_ms / step_ms,
        target=pack.target,
        tflops=flops / step_ms / 1e9,
        limit_tflops=flops / limit_ms / 1e9,
        tokens_per_second=1e3 * pack.tokens / step_ms,
        peak_bytes=peak,
        predicted_bytes=expected_bytes(
            model, pack, policy, weights, eight=parallel.products != "bf16"
        ),
        host_bytes=torch.cuda.host_memory_stats().get("active_bytes.current", 0),
        predicted_host_bytes=waiting_bytes(model, pack.tokens, policy),
        graphs=graphs() - before,
        syncs=syncs,
        megahertz=watch.megahertz,
        watts=watch.watts,
        steps_ms=steps,
        kernels_ms=kernels,
    )


def expected_bytes(
    model: ModelConfig, pack: Pack, policy: Policy, weights: int, *, eight: bool = False
) -> int:
    """The peak of a step: weights in bf16 and the activations as the backward begins.

    Gradients take the place of activations that are used up. With `offload` in every block these
    do not become fewer, and the peak is at the end, with all gradients.
    """
    text = sum(pack.text_lengths)
    activations = activation_bytes(model, pack.tokens, text, policy, eight=eight)
    gradients = 2 * weights if policy.of(1) == "offload" else 0
    return 2 * weights + gradients + activations


def versions() -> dict[str, str]:
    """What the numbers depend on besides the code."""
    found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for package in ("triton", "flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _name(attend: Any) -> str:
    return str(getattr(attend, "kernel", attend.__module__.rsplit(".", 1)[-1]))


def _first_sync(step: Step) -> str:
    """Run a step in which waiting for the GPU is an error; what waited, if anything did."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def _compute_others(step: Step, pack: Pack) -> None:
    """Packs of other lengths, for which nothing should be compiled."""
    for lengths in _OTHERS:
        if (len(lengths) == 1) == (len(pack.lengths) == 1):
            step.take(pack._replace(lengths=lengths).layout())
            step.run()


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


class _Watch:
    """Mean clock and power while inside, where NVML can be read; else zeros."""

    def __init__(self) -> None:
        self._clocks: list[float] = []
        self._powers: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            try:
                self._clocks.append(torch.cuda.clock_rate())
                self._powers.append(torch.cuda.power_draw() / 1e3)
            except (ModuleNotFoundError, RuntimeError):
                return

    @property
    def megahertz(self) -> float:
        return statistics.fmean(self._clocks or [0.0])

    @property
    def watts(self) -> float:
        return statistics.fmean(self._powers or [0.0])
