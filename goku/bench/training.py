"""Whole training steps on all ranks: what an engine and sequence parallelism leave of the limit.

Inside a step: forward, loss, backward, the exchanges of gradients and weights, clipping, AdamW and
the average. Every data rank has a pack of its own; ranks of a sequence group share one. The limit
is that of one rank's own kernels, so what is lost to exchanges shows.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from goku.bench.limit import Limit
from goku.bench.shapes import Pack
from goku.bench.step import model_of
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.flow.loss import sample_losses
from goku.model.flops import step_flops
from goku.parallel.apply import parallelize
from goku.parallel.mesh import Mesh
from goku.parallel.sequence import shard
from goku.parallel.tune import Typical, fixed_bytes

_WARM = 2
_RATE = 1e-6


@dataclass(frozen=True)
class Trained:
    """What one setting gave: medians over rounds, of the slowest rank."""

    pack: str
    parallel: dict[str, Any]
    step_ms: float
    limit_ms: float
    ratio: float
    tflops: float  # for each GPU
    tokens_per_second: float  # of all GPUs
    peak_bytes: int  # of the rank with most
    fixed_bytes: int  # expected of weights, gradients and state
    loss: float
    steps_ms: list[float]

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.parallel.items())
        return (
            f"{self.pack}: {settings}: step {self.step_ms:.1f} ms, limit {self.limit_ms:.1f} ms, "
            f"ratio {self.ratio:.3f}, {self.tflops:.0f} TFLOP/s for each GPU, "
            f"{self.tokens_per_second:,.0f} tokens/s, {self.peak_bytes / 2**30:.1f} GiB"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class TrainingStep:
    """A tuned model under an engine, the average of its weights, and one pack."""

    def __init__(
        self, config: ModelConfig, pack: Pack, parallel: ParallelConfig, mesh: Mesh
    ) -> None:
        self._mesh, device = mesh, mesh.device
        typical = Typical(config, pack.lengths, pack.text_lengths)
        model = model_of(config, device, torch.float32)
        block: Any = model.get_submodule("blocks.0")
        self.attention, self.text_attention = block.attention, block.text_attention
        self.fixed_bytes = fixed_bytes(model, parallel)
        self.engine = parallelize(model, parallel, TrainingConfig(), mesh, 1, typical=typical)
        self._masters = [fragment.master for fragment in self.engine.fragments()]
        self._averages = [master.clone() for master in self._masters]

        torch.manual_seed(mesh.data_rank)
        layout = pack.layout().to(device)
        x_NP, target_NP = torch.randn(2, pack.tokens, config.token_width, device=device)
        t_S = torch.rand(len(pack.lengths), device=device)
        self._mine = shard(
            layout,
            [x_NP, target_NP],
            [t_S],
            rank=mesh.sequence_rank,
            degree=mesh.sequence,
            context=mesh.context,
        )
        text = sum(pack.text_lengths)
        self._text_MY = torch.randn(text, config.text_width, device=device)
        self._samples = len(pack.lengths)

    def run(self) -> Tensor:
        """One step; this rank's part of the loss."""
        (x_NP, target_NP), layout = self._mine.tokens, self._mine.layout
        v_NP = self.engine.module(x_NP, self._mine.segments[0], self._text_MY, layout)
        loss = sample_losses(v_NP, target_NP, layout)[: self._samples].sum() / self._samples
        self.engine.backward(loss * self._mesh.sequence)
        self.engine.step(_RATE)
        torch._foreach_lerp_(self._averages, self._masters, 1e-4)
        return loss.detach()

    def milliseconds(self) -> float:
        """Of one step that all ranks begin together."""
        self._mesh.barrier()
        torch.cuda.synchronize()
        started = time.perf_counter()
        self.run()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started)


def measure(
    model: ModelConfig, pack: Pack, parallel: ParallelConfig, mesh: Mesh, *, rounds: int
) -> Trained:
    """Warm up, then `rounds` times a step and a pass over this rank's kernels alone. Collective."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = TrainingStep(model, pack, parallel, mesh)
    attend, attend_text = step.attention.attend, step.text_attention.attend
    for _ in range(_WARM):
        loss = step.run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    kernel = getattr(attend, "attend", attend)  # within the exchanges of sequence parallelism
    limit = Limit(
        model, pack, kernel, attend_text, sequence=parallel.sequence, context=parallel.context
    )
    limit.run()
    steps, passes = [], []
    for _ in range(rounds):
        steps.append(step.milliseconds())
        passes.append(sum(limit.run().values()))
    step_ms, limit_ms, most, part = _slowest(
        mesh, statistics.median(steps), statistics.median(passes), float(peak), float(loss)
    )
    flops = step_flops(model, pack.lengths, pack.text_lengths) / parallel.sequence
    return Trained(
        pack=pack.name,
        parallel=parallel.model_dump(exclude_defaults=True),
        step_ms=step_ms,
        limit_ms=limit_ms,
        ratio=limit_ms / step_ms,
        tflops=flops / step_ms / 1e9,
        tokens_per_second=1e3 * pack.tokens * mesh.data / step_ms,
        peak_bytes=int(most),
        fixed_bytes=step.fixed_bytes,
        loss=part,
        steps_ms=steps,
    )


def _slowest(mesh: Mesh, *values: float) -> list[float]:
    """The largest of each value over all ranks."""
    by_rank = mesh.gather(values)
    largest: list[float] = mesh.broadcast([max(column) for column in zip(*by_rank, strict=True)])
    return largest
