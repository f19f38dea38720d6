"""The parity doctor: every way to spread a step gives the gradients of one plain process.

One step of a small model runs under each engine and each sharing of tokens, on the same packs,
weights and timesteps. Packs are such that all degrees of sharing occur. A parameter's gradient is
read from Adam's first moment, which after one step is (1 - beta1) times it: so what is compared
went through every exchange and scaling.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from goku.bench.step import model_of
from goku.config.memory import Typical
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.data.degrees import Division, Sharing
from goku.flow.loss import sample_losses
from goku.nn.layout import Grid, Layout, rows_of
from goku.nn.rowwise import PLAIN, use
from goku.parallel.apply import parallelize
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh, connect
from goku.parallel.sequence import shard

MODEL = ModelConfig(layers=2, width=512, heads=8, text_width=128)
BOUNDS = {"fp32": 1e-5, "bf16": 3e-2}  # of a parameter's gradient, as ||found - expected|| / ||.||
GRIDS: list[list[Grid]] = [
    [(3, 4, 6), (1, 4, 6), (1, 3, 3)],
    [(1, 4, 6), (1, 6, 4)] * 4,
    [(5, 4, 6)],
    [(3, 4, 6), (1, 1, 5), (3, 3, 8)],
]
_PACK_TOKENS = 192  # of the longest
_TEXT = 9  # tokens of the first sample of a pack; each later one has 4 more
_TRAINING = TrainingConfig(clip_norm=1e9, weight_decay=0.0)


class Case(NamedTuple):
    """One way to spread the step."""

    name: str
    settings: dict[str, Any]  # of ParallelConfig


class Verdict(NamedTuple):
    """How far a case is from one plain process, over all ranks."""

    case: str
    loss: float  # relative difference
    gradient: float  # of the parameter that is farthest off
    parameter: str
    bound: float

    @property
    def good(self) -> bool:
        return self.loss <= self.bound and self.gradient <= self.bound  # NaN is not

    def __str__(self) -> str:
        word = "ok " if self.good else "BAD"
        return (
            f"{word}  {self.case}: loss {self.loss:.1e}, gradient {self.gradient:.1e} "
            f"({self.parameter}), bound {self.bound:.0e}"
        )


class _Pack(NamedTuple):
    layout: Layout
    x_NP: Tensor
    target_NP: Tensor
    t_S: Tensor
    text_MY: Tensor

    def only(self, numbers: Sequence[int]) -> "_Pack":
        lengths = self.layout.lengths
        return _Pack(
            self.layout.only(numbers),
            rows_of(numbers, self.x_NP, lengths),
            rows_of(numbers, self.target_NP, lengths),
            self.t_S[list(numbers)],
            rows_of(numbers, self.text_MY, self.layout.text_lengths),
        )


def cases(world: int, precisions: Sequence[str] = tuple(BOUNDS)) -> list[Case]:
    """Every engine alone, and every sharing of tokens that this many ranks allow."""
    engines: list[dict[str, Any]] = [
        {"engine": "deepspeed", "zero_stage": 1},
        {"engine": "deepspeed", "zero_stage": 2},
        {"engine": "deepspeed", "zero_stage": 3},
        {"engine": "fsdp2", "zero_stage": 2},
        {"engine": "fsdp2", "zero_stage": 3},
    ]
    if world % 2 == 0:
        engines.append({"engine": "fsdp2", "zero_stage": 3, "replicas": 2})
    degrees = [d for d in range(2, world + 1) if world % d == 0 and MODEL.heads % d == 0]
    sharings = [
        {"engine": engine, "sequence": degree, "context": context}
        for degree in degrees
        for context in (1, 2)
        for engine in ("deepspeed", "fsdp2")
        if degree % context == 0
    ]
    sharings += [{**way, "overlap": "on"} for way in sharings if way["engine"] == "fsdp2"]
    sharings += [
        {"engine": "fsdp2", "sequence": degree, "sequence_degree": "full"} for degree in degrees
    ]
    return [
        Case(f"{precision}, " + ", ".join(f"{k} {v}" for k, v in way.items()), settings)
        for precision in precisions
        for way in (*engines, *sharings)
        for settings in [{"precision": precision, "compile": "off", **way}]
    ]


def examine(world: int, precisions: Sequence[str] = tuple(BOUNDS)) -> Iterator[Verdict]:
    """A verdict on each case, in turn. Collective: every rank gets the same ones."""
    mesh = connect(ParallelConfig(processes_per_node=world))
    packs = [_pack(index, mesh.device) for index in range(world)]
    expected = {precision: _alone(packs, precision, mesh) for precision in precisions}
    yield _packed_against_single(packs[0], mesh)
    for case in cases(world, precisions):
        config = ParallelConfig.build({"processes_per_node": world, **case.settings})
        yield _judge(case, config, packs, *expected[config.precision])


def _judge(
    case: Case,
    config: ParallelConfig,
    packs: list[_Pack],
    loss: Tensor,
    gradients: dict[str, Tensor],
) -> Verdict:
    mesh = connect(config)
    mine = packs[mesh.data_rank :: mesh.data]
    model = model_of(MODEL, mesh.device, torch.float32)
    typical = Typical(MODEL, packs[0].layout.lengths, packs[0].layout.text_lengths)
    engine = parallelize(model, config, _TRAINING, mesh, len(mine), typical=typical)
    total = torch.zeros((), dtype=torch.float64)
    for pack in mine:
        part = _loss(engine.module, pack, divided(pack.layout.lengths, config), mesh)
        engine.backward(part * mesh.sequence)
        total += part.detach().double().cpu() / len(packs)
    engine.step(0.0)
    squares = _differences(engine, gradients)
    by_rank = mesh.gather(squares)
    worst, name = mesh.broadcast(_worst(by_rank, gradients) if mesh.rank == 0 else None)
    found = mesh.sum(total)
    off = float(abs(found - loss.double().cpu()) / loss.double().cpu())
    return Verdict(case.name, off, worst, name, BOUNDS[config.precision])


def _differences(engine: Engine, gradients: dict[str, Tensor]) -> dict[str, float]:
    """Squared distance of this rank's part of each gradient from the expected one."""
    squares = {}
    for fragment in engine.fragments():
        here = slice(fragment.start, fragment.start + len(fragment.master))
        found = fragment.exp_avg / (1 - _TRAINING.beta1)
        away = found.double() - gradients[fragment.name].flatten()[here].double()
        squares[fragment.name] = float(away.square().sum())
    return squares


def _worst(by_rank: list[dict[str, float]], gradients: dict[str, Tensor]) -> tuple[float, str]:
    """The relative distance of the parameter that is farthest off."""
    total = {
        name: sum(squares.get(name, 0.0) for squares in by_rank) ** 0.5 / float(gradient.norm())
        for name, gradient in gradients.items()
    }
    name = max(total, key=lambda key: (total[key] != total[key], total[key]))  # NaN first
    return total[name], name


def _packed_against_single(pack: _Pack, mesh: Mesh) -> Verdict:
    """The mean loss over a pack's samples, against each sample in a pack of its own."""
    singles = [pack.only([number]) for number in range(pack.layout.segments)]
    loss, gradients = _alone(singles, "fp32", mesh)
    found, others = _alone([pack], "fp32", mesh)
    squares = {n: float((others[n] - g).double().square().sum()) for n, g in gradients.items()}
    worst, name = _worst([squares], gradients)
    off = float(abs(found - loss) / loss)
    return Verdict("fp32, packed against single", off, worst, name, BOUNDS["fp32"])


def _alone(packs: list[_Pack], precision: str, mesh: Mesh) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one plain process in fp32, of weights that a bf16 forward would see."""
    model = model_of(MODEL, mesh.device, torch.float32)
    if precision == "bf16":
        model = model.bfloat16().float()
    use(model, PLAIN)
    alone = Mesh(0, 1, 1, 1, None, mesh.device)
    parts = [_loss(model, pack, divided(pack.layout.lengths), alone) for pack in packs]
    loss = torch.stack(parts).mean()
    torch.autograd.backward(loss)
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def divided(lengths: Sequence[int], config: ParallelConfig | None = None) -> Division:
    """Who computes which samples; without a configuration one process takes them all."""
    sharing = Sharing.of(config, _PACK_TOKENS, float) if config else Sharing.alone(float)
    return sharing.divide(lengths)


def _loss(module: nn.Module, pack: _Pack, division: Division, mesh: Mesh) -> Tensor:
    """This rank's part of the mean over the pack's samples."""
    own = pack.only(division.part(mesh.sequence_rank))
    mine = shard(
        own.layout, [own.x_NP, own.target_NP], [own.t_S], place=mesh.place(division.degree)
    )
    v_NP = module(mine.tokens[0], mine.segments[0], own.text_MY, mine.layout)
    losses_S = sample_losses(v_NP, mine.tokens[1], mine.layout)[: len(own.t_S)]
    return losses_S.sum() / len(pack.t_S)


def _pack(index: int, device: torch.device) -> _Pack:
    """The same on every rank, drawn on the CPU: what a rank computes does not depend on it."""
    grids = GRIDS[index % len(GRIDS)]
    layout = Layout.build(grids, [_TEXT + 4 * n for n in range(len(grids))], device)
    generator = torch.Generator().manual_seed(index)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    width, text = MODEL.token_width, sum(layout.text_lengths)
    return _Pack(
        layout,
        draw(layout.tokens, width),
        draw(layout.tokens, width),
        draw(layout.segments).sigmoid(),
        draw(text, MODEL.text_width),
    )
