"""Whole training steps on all ranks: what an engine and sequence parallelism leave of the limit.

Inside a step: forward, loss, backward, the exchanges of gradients and weights, clipping, AdamW and
the average. Every data rank has a pack of its own; ranks of a sequence group share one, and as many
of them cut up its samples as in a run. The limit is that of one rank's own kernels, so what is lost
to exchanges shows.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from goku.bench.limit import Limit
from goku.bench.shapes import Pack
from goku.bench.step import model_of
from goku.config.memory import Typical, state_bytes
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.data.degrees import Division
from goku.flow.loss import sample_losses
from goku.model.flops import step_flops
from goku.nn.layout import Layout
from goku.parallel.apply import parallelize
from goku.parallel.mesh import Mesh
from goku.parallel.sequence import Shard, shard

_WARM = 2
_RATE = 1e-6


@dataclass(frozen=True)
class Trained:
    """What one setting gave: medians over rounds, of the slowest rank."""

    pack: str
    layers: int
    parallel: dict[str, Any]
    step_ms: float
    limit_ms: float
    ratio: float
    degree: int  # ranks that cut up each sample
    tflops: float  # for each GPU
    tokens_per_second: float  # of all GPUs
    peak_bytes: int  # of the rank with most
    fixed_bytes: int  # expected of weights, gradients and state
    loss: float  # mean over the samples of all data ranks
    steps_ms: list[float]

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.parallel.items())
        if "sequence" in self.parallel:
            settings += f", degree {self.degree}"
        return (
            f"{self.pack}, {self.layers} blocks, {settings}: step {self.step_ms:.1f} ms, "
            f"limit {self.limit_ms:.1f} ms, ratio {self.ratio:.3f}, "
            f"{self.tflops:.0f} TFLOP/s for each GPU, {self.tokens_per_second:,.0f} tokens/s, "
            f"{self.peak_bytes / 2**30:.1f} GiB"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Sample(NamedTuple):
    x_NP: Tensor
    target_NP: Tensor
    t_1: Tensor
    text_MY: Tensor


class _Batch(NamedTuple):
    """What this rank holds of a micro-batch of so many samples; the text of its own is whole."""

    held: Shard
    text_MY: Tensor
    own: Tensor  # int64, on the device: the numbers of its samples among them
    samples: int


class TrainingStep:
    """A model under an engine, the average of its weights, and the samples of one pack."""

    def __init__(
        self,
        config: ModelConfig,
        pack: Pack,
        parallel: ParallelConfig,
        mesh: Mesh,
        *,
        batches: Sequence[Sequence[int]] | None = None,
        prepare: Callable[[nn.Module], None] | None = None,
    ) -> None:
        """`batches`: the numbers of the samples of each micro-batch; without, one has them all.

        The model is tuned for the pack, unless `prepare` makes it ready.
        """
        self._mesh = mesh
        batches = batches or [range(len(pack.lengths))]
        model = model_of(config, mesh.device, torch.float32)
        block: Any = model.get_submodule("blocks.0")
        self.attention, self.text_attention = block.attention, block.text_attention
        self.fixed_bytes = state_bytes(config.parameters, parallel)
        typical = None if prepare else Typical(config, pack.lengths, pack.text_lengths)
        if prepare:
            prepare(model)
        self.engine = parallelize(
            model, parallel, TrainingConfig(), mesh, len(batches), typical=typical
        )
        self._masters = [fragment.master for fragment in self.engine.fragments()]
        self._averages = [master.clone() for master in self._masters]

        samples = _draw(config, pack, mesh)
        self._batches = [
            _together(
                [samples[n] for n in numbers], pack.only(numbers).divided(config, parallel), mesh
            )
            for numbers in batches
        ]
        order = torch.tensor([n for numbers in batches for n in numbers]).argsort()
        self._order = order.to(mesh.device)

    def run(self) -> tuple[Tensor, float]:
        """One step: this rank's part of each sample's loss [S], in the pack's order, and the norm.

        That of the gradients, before clipping.
        """
        losses_S = torch.cat([self._backward(batch) for batch in self._batches])[self._order]
        norm = self.engine.step(_RATE)
        torch._foreach_lerp_(self._averages, self._masters, 1e-4)
        return losses_S, norm

    def _backward(self, batch: _Batch) -> Tensor:
        """Add the gradients of a micro-batch's part of the mean over all samples; its losses."""
        (x_NP, target_NP), layout = batch.held.tokens, batch.held.layout
        v_NP = self.engine.module(x_NP, batch.held.segments[0], batch.text_MY, layout)
        own_S = sample_losses(v_NP, target_NP, layout)[: len(batch.own)]
        weight = len(self._batches) / len(self._order)  # the engine takes a mean over micro-batches
        self.engine.backward(own_S.sum() * weight * self._mesh.sequence)
        losses_S = own_S.new_zeros(batch.samples)
        losses_S[batch.own] = own_S.detach()
        return losses_S

    def milliseconds(self) -> float:
        """Of one step that all ranks begin together."""
        self._mesh.barrier()
        torch.cuda.synchronize()
        started = time.perf_counter()
        self.run()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started)

    def close(self) -> None:
        """Give the memory back: tables and hooks of DeepSpeed outlive its engine otherwise."""
        destroy = getattr(self.engine.module, "destroy", None)
        if destroy:
            destroy()
        state = [tensor for fragment in self.engine.fragments() for tensor in fragment[3:]]
        for tensor in (*state, *self._averages):
            tensor.untyped_storage().resize_(0)


def clear() -> None:
    """Forget graphs, garbage and peaks of the measurement before."""
    torch._dynamo.reset()
    for _ in range(2):  # weights of compiled blocks that recompute were found by the second only
        gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def measure(
    model: ModelConfig, pack: Pack, parallel: ParallelConfig, mesh: Mesh, *, rounds: int
) -> Trained:
    """Warm up, then `rounds` times a step and a pass over this rank's kernels alone. Collective."""
    clear()
    step = TrainingStep(model, pack, parallel, mesh)
    attend, attend_text = step.attention.attend, step.text_attention.attend
    for _ in range(_WARM):
        losses_S, _ = step.run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    kernel = getattr(attend, "attend", attend)  # within the exchanges of sequence parallelism
    division = pack.divided(model, parallel)
    own, place = pack.only(division.part(mesh.sequence_rank)), mesh.place(division.degree)
    limit = Limit(model, own, kernel, attend_text, sequence=place.degree, context=place.context)
    limit.run()
    steps, passes = [], []
    for _ in range(rounds):
        steps.append(step.milliseconds())
        passes.append(sum(limit.run().values()))
    step.close()
    step_ms, limit_ms, most = largest(
        mesh, statistics.median(steps), statistics.median(passes), float(peak)
    )
    flops = step_flops(model, pack.lengths, pack.text_lengths) / parallel.sequence
    return Trained(
        pack=pack.name,
        layers=model.layers,
        parallel=parallel.model_dump(exclude_defaults=True),
        step_ms=step_ms,
        limit_ms=limit_ms,
        ratio=limit_ms / step_ms,
        degree=division.degree,
        tflops=flops / step_ms / 1e9,
        tokens_per_second=1e3 * pack.tokens * mesh.data / step_ms,
        peak_bytes=int(most),
        fixed_bytes=step.fixed_bytes,
        loss=mean_loss(losses_S, mesh),
        steps_ms=steps,
    )


def mean_loss(losses_S: Tensor, mesh: Mesh) -> float:
    """Of all data ranks' samples, from what `run` gave on each rank. Collective."""
    return float(mesh.sum(losses_S.mean())) / mesh.data


def largest(mesh: Mesh, *values: float) -> list[float]:
    """The largest of each value over all ranks. Collective."""
    by_rank = mesh.gather(values)
    most: list[float] = mesh.broadcast([max(column) for column in zip(*by_rank, strict=True)])
    return most


def _draw(config: ModelConfig, pack: Pack, mesh: Mesh) -> list[_Sample]:
    """Random samples: the same for ranks that share a pack, however they are put together."""
    torch.manual_seed(mesh.data_rank)
    device, lengths = mesh.device, list(pack.lengths)
    x_NP, target_NP = torch.randn(2, pack.tokens, config.token_width, device=device)
    t_S = torch.rand(len(lengths), device=device)
    text_MY = torch.randn(sum(pack.text_lengths), config.text_width, device=device)
    parts = zip(
        torch.split(x_NP, lengths),
        torch.split(target_NP, lengths),
        torch.split(t_S, 1),
        torch.split(text_MY, list(pack.text_lengths)),
        strict=True,
    )
    return [_Sample(*part) for part in parts]


def _together(together: Sequence[_Sample], division: Division, mesh: Mesh) -> _Batch:
    """This rank's part of samples that are computed together."""
    own = division.part(mesh.sequence_rank)
    samples = [together[n] for n in own]
    grids = [(1, 1, len(sample.x_NP)) for sample in samples]
    layout = Layout.build(grids, [len(sample.text_MY) for sample in samples])
    held = shard(
        layout.to(mesh.device),
        [torch.cat([s.x_NP for s in samples]), torch.cat([s.target_NP for s in samples])],
        [torch.cat([s.t_1 for s in samples])],
        place=mesh.place(division.degree),
    )
    text_MY = torch.cat([s.text_MY for s in samples])
    return _Batch(held, text_MY, torch.tensor(own, device=mesh.device), len(together))
