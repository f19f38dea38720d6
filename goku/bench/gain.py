"""What the platform brings: a training step of ours beside a plain one, in one process.

Two models under training do not fit on one GPU (2B: 45 GiB each before any activation), and each
side shall have the whole of it: so they take turns. Ours, plain without recomputation, plain with
whole blocks recomputed; then ours and the faster plain one again. Every turn builds its side anew
from the same weights, samples and timesteps; the first step's losses and gradients must agree.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from goku.bench.parity import BOUNDS
from goku.bench.plain import Keep, chosen, make_plain, micro_batches, sample_bytes
from goku.bench.shapes import Pack
from goku.bench.training import TrainingStep, clear, largest
from goku.config import ConfigError
from goku.config.memory import SHARE, state_bytes
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.parallel.mesh import Mesh

_LOSS_BOUNDS = {"fp32": 1e-5, "bf16": 2**-8}  # of a sample's loss: bf16 rounds by half of that
_NAMES: dict[Keep, str] = {
    "none": "plain without recomputation",
    "full": "plain with whole blocks recomputed",
}
_WARM = 2
_GIB = 2**30


class Way(NamedTuple):
    """One way to train the pack's samples: in micro-batches, by their numbers."""

    name: str
    batches: list[list[int]]
    keep: Keep | None = None  # of a plain way; None: ours


class Turn(NamedTuple):
    """What one turn of a way gave on this rank."""

    losses: list[float]  # of each sample in the first step, before any update
    norm: float  # of its gradients
    peak_bytes: int
    steps_ms: list[float]


@dataclass(frozen=True)
class Side:
    """All turns of a way: the median step, of the slowest rank."""

    name: str
    micro_batches: int
    step_ms: float
    tokens_per_second: float  # of all GPUs
    peak_bytes: int  # of the rank with most
    loss: float  # mean of the first step, of the rank with most
    norm: float
    steps_ms: list[float]  # this rank's, turn after turn

    def __str__(self) -> str:
        micro = f" in {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
        return (
            f"{self.name}{micro} {self.step_ms:.0f} ms, {self.tokens_per_second:,.0f} tokens/s, "
            f"{self.peak_bytes / _GIB:.1f} GiB"
        )


@dataclass(frozen=True)
class Gain:
    """Ours against the faster plain side. Differences are relative, of the worst rank and turn."""

    pack: str
    layers: int
    parallel: dict[str, Any]
    attention: str  # that PyTorch took for the plain sides
    times_faster: float
    ours: Side
    plain: list[Side]  # fastest first
    loss_off: float  # of the sample that is farthest off
    loss_bound: float
    norm_off: float
    norm_bound: float

    @property
    def good(self) -> bool:
        """Whether both sides computed the same step."""
        return self.loss_off <= self.loss_bound and self.norm_off <= self.norm_bound  # NaN is not

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.parallel.items())
        sides = "; ".join(str(side) for side in (self.ours, *self.plain))
        missing = set(_NAMES.values()) - {side.name for side in self.plain}
        sides += "".join(f"; {name} does not fit" for name in missing)
        ours, plain = self.ours, self.plain[0]
        return (
            f"{self.pack}, {self.layers} blocks, {settings}: {self.times_faster:.2f} x, in turns: "
            f"{sides}; SDPA takes {self.attention}; losses {ours.loss:.4f} and {plain.loss:.4f}, "
            f"a sample's differs by {self.loss_off:.1e} (bound {self.loss_bound:.1e}); gradient "
            f"norms {ours.norm:.3g} and {plain.norm:.3g}, by {self.norm_off:.1e} "
            f"(bound {self.norm_bound:.1e})" + ("" if self.good else ", THEY DISAGREE")
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "good": self.good}


def compare(
    model: ModelConfig,
    pack: Pack,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    rounds: int,
    memory_bytes: int,
) -> Gain:
    """Turns of `rounds` steps each; `memory_bytes` is a GPU's memory. Collective.

    Raises ConfigError where ranks share packs, or a sample does not fit without the platform.
    """
    ours = Way("ours", [list(range(len(pack.lengths)))])
    plain = plain_ways(model, pack, parallel, memory_bytes)
    take = partial(_turn, model=model, pack=pack, parallel=parallel, mesh=mesh, rounds=rounds)
    turns = {way.name: [take(way)] for way in (ours, *plain)}
    firsts = [_side(way, turns[way.name], pack, mesh) for way in plain]
    fastest = plain[min(range(len(plain)), key=lambda n: firsts[n].step_ms)]
    for way in (ours, fastest):
        turns[way.name].append(take(way))
    sides = [_side(way, turns[way.name], pack, mesh) for way in (ours, *plain)]
    mine, *theirs = sides
    theirs.sort(key=lambda side: side.step_ms)
    loss_off, norm_off = largest(mesh, *_differences(chain.from_iterable(turns.values())))
    return Gain(
        pack=pack.name,
        layers=model.layers,
        parallel={
            "engine": parallel.engine,
            "zero_stage": parallel.zero_stage,
            **parallel.model_dump(exclude_defaults=True),
        },
        attention=chosen(model, max(pack.lengths), mesh.device, _dtype(parallel)),
        times_faster=theirs[0].step_ms / mine.step_ms,
        ours=mine,
        plain=theirs,
        loss_off=loss_off,
        loss_bound=_LOSS_BOUNDS[parallel.precision],
        norm_off=norm_off,
        norm_bound=BOUNDS[parallel.precision],
    )


def plain_ways(
    model: ModelConfig, pack: Pack, parallel: ParallelConfig, memory_bytes: int
) -> list[Way]:
    """With nothing recomputed, if that fits, and with whole blocks; as few micro-batches as fit.

    Raises ConfigError as `compare` does.
    """
    if parallel.sequence > 1:
        raise ConfigError(
            f"parallel.sequence={parallel.sequence}",
            "a plain way has no packs that ranks could share",
            "Leave it at 1 with --plain.",
        )
    fixed = state_bytes(model.parameters, parallel)
    room, itemsize = int(SHARE * memory_bytes) - fixed, _dtype(parallel).itemsize
    ways = []
    for keep, name in _NAMES.items():
        needed = {n: sample_bytes(model, n, pack.text, keep, itemsize) for n in pack.lengths}
        batches = micro_batches(pack.lengths, {n: room // size for n, size in needed.items()})
        if batches:
            ways.append(Way(name, batches, keep))
    if not ways:
        raise ConfigError(
            f"--plain {pack.name}",
            f"a sample of {max(pack.lengths)} tokens does not fit without the platform",
            "Measure a pack of shorter samples, or fewer blocks by --layers.",
        )
    return ways


def _turn(
    way: Way,
    *,
    model: ModelConfig,
    pack: Pack,
    parallel: ParallelConfig,
    mesh: Mesh,
    rounds: int,
) -> Turn:
    """Build, warm up, measure and free one way. Says what it took on rank 0."""
    clear()
    before = torch.cuda.memory_allocated()
    prepare = partial(make_plain, keep=way.keep) if way.keep else None
    step = TrainingStep(model, pack, parallel, mesh, batches=way.batches, prepare=prepare)
    losses_S, norm = step.run()
    for _ in range(_WARM - 1):
        step.run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    steps = [step.milliseconds() for _ in range(rounds)]
    step.close()
    if mesh.rank == 0:
        print(f"{pack.name}, {way.name}: {statistics.median(steps):.0f} ms", flush=True)
    return Turn(losses_S.tolist(), norm, peak, steps)


def _side(way: Way, turns: Sequence[Turn], pack: Pack, mesh: Mesh) -> Side:
    steps = [ms for turn in turns for ms in turn.steps_ms]
    step_ms, peak, loss, norm = largest(
        mesh,
        statistics.median(steps),
        float(max(turn.peak_bytes for turn in turns)),
        statistics.fmean(turns[0].losses),
        turns[0].norm,
    )
    return Side(
        name=way.name,
        micro_batches=len(way.batches),
        step_ms=step_ms,
        tokens_per_second=1e3 * pack.tokens * mesh.data / step_ms,
        peak_bytes=int(peak),
        loss=loss,
        norm=norm,
        steps_ms=steps,
    )


def _differences(turns: Iterable[Turn]) -> tuple[float, float]:
    """Of a sample's loss and of the norm, relative to the first turn's: the largest."""
    first, *others = turns
    losses, norms = torch.tensor(first.losses), torch.tensor(first.norm)
    off = [((torch.tensor(turn.losses) - losses) / losses).abs().max() for turn in others]
    norm_off = [((torch.tensor(turn.norm) - norms) / norms).abs() for turn in others]
    return _most(off), _most(norm_off)


def _most(values: Sequence[Tensor]) -> float:
    """The largest; infinite where one is no number."""
    return float(torch.stack(list(values)).nan_to_num(math.inf).max())


def _dtype(parallel: ParallelConfig) -> torch.dtype:
    return torch.bfloat16 if parallel.precision == "bf16" else torch.float32
