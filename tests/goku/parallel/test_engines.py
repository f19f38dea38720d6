"""Each engine against one process with PyTorch's AdamW, and the fragments it gives."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from goku.parallel.engine import Engine
from tests.net import (
    MICRO_BATCHES,
    TRAINING,
    Net,
    Way,
    engine_of,
    inputs,
    loss_of,
    net,
    train_step,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

RATES = (1e-3, 3e-3, 2e-3)
ZERO = [Way(zero_stage=stage) for stage in (1, 2, 3)]
FSDP = [Way("fsdp2", 2), Way("fsdp2", 3)]


def reference(world: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step, in one process."""
    model = net()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, betas=(TRAINING.beta1, TRAINING.beta2))
    found = []
    for step, rate in enumerate(RATES):
        for group in adam.param_groups:
            group["lr"] = rate
        parts = [loss_of(model, step, m, r) for m in range(MICRO_BATCHES) for r in range(world)]
        loss = torch.stack(parts).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), TRAINING.clip_norm)
        adam.step()
        adam.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


def train(way: Way, precision: str, world: int) -> dict[str, Any]:
    engine, rank = engine_of(world, way, precision), dist.get_rank()
    before = {f.name: f.master.clone() for f in engine.fragments()}
    history = [train_step(engine, 0, RATES[0], rank)]
    moved = [(f.master - before[f.name]).abs().max().item() for f in engine.fragments()]
    history += [train_step(engine, step, RATES[step], rank) for step in (1, 2)]
    return {
        "history": history,
        "moved": max(moved),
        "steps": engine.optimizer_steps,
        "publishing": publishing(engine, torch.bfloat16 if precision == "bf16" else torch.float32),
        "nonfinite": nonfinite(engine, rank),
        "fragments": [(f.name, f.shape, f.start, len(f.master)) for f in engine.fragments()],
    }


def publishing(engine: Engine, precision: torch.dtype) -> dict[str, bool]:
    """Publish a constant, the masters' values and the masters, and see what the forward gives."""
    x, _ = inputs(9, 9, 9)
    masters = {f.name: f.master.clone() for f in engine.fragments()}
    constant = net().to(precision)
    for parameter in constant.parameters():
        nn.init.constant_(parameter, 0.25)
    with torch.no_grad():
        trained = engine.module(x)
        engine.publish({name: torch.full_like(value, 0.25) for name, value in masters.items()})
        replaced = engine.module(x)
        untouched = all(torch.equal(f.master, masters[f.name]) for f in engine.fragments())
        engine.publish(masters)
        same_values = engine.module(x)
        engine.publish(None)
        restored = engine.module(x)
    return {
        "replaced on all ranks": torch.equal(replaced, constant(x)),
        "masters untouched": untouched,
        "round trip": torch.equal(same_values, trained),
        "restored": torch.equal(restored, trained),
    }


def nonfinite(engine: Engine, rank: int) -> dict[str, bool]:
    """A step with a NaN changes nothing, and the step after it is as if it had not been."""
    steps = engine.optimizer_steps
    masters = [f.master.clone() for f in engine.fragments()]
    for micro in range(MICRO_BATCHES):
        poison = math.nan if (micro, rank) == (0, 0) else 1.0
        engine.backward(loss_of(engine.module, 3, micro, rank) * poison)
    norm = engine.step(1e-3)
    unmoved = all(
        torch.equal(f.master, m) for f, m in zip(engine.fragments(), masters, strict=True)
    )
    _, after = train_step(engine, 4, 1e-3, rank)
    return {
        "reported": not math.isfinite(norm),
        "nothing moved": unmoved,
        "the next step is sound": math.isfinite(after),
        "and the only one counted": engine.optimizer_steps == steps + 1,
    }


def assert_tiled(fragments: list[list[tuple[str, tuple[int, ...], int, int]]]) -> None:
    """All ranks' fragments cover every parameter exactly once."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for name, _, start, length in (fragment for rank in fragments for fragment in rank):
        spans.setdefault(name, []).append((start, length))
    shapes = {name: tuple(p.shape) for name, p in net().named_parameters()}
    assert {n: s for rank in fragments for n, s, _, _ in rank} == shapes
    for name, parts in spans.items():
        end = 0
        for start, length in sorted(parts):
            assert start == end, name
            assert length > 0
            end += length
        assert end == math.prod(shapes[name])


@pytest.mark.parametrize(
    ("way", "world"),
    [
        *((way, 2) for way in ZERO + FSDP),
        (ZERO[1], 1),
        (FSDP[0], 1),
        (FSDP[1], 4),
        (Way("fsdp2", 2, 2), 4),
    ],
    ids=str,
)
def test_fp32_equals_one_process_with_adamw(way: Way, world: int) -> None:
    ranks = run_ranks(train, world, way, "fp32", world)
    expected = reference(world)
    for step, (loss, norm) in enumerate(expected):
        mean = sum(rank["history"][step][0] for rank in ranks) / world
        assert mean == pytest.approx(loss, rel=1e-5)
        for rank in ranks:
            assert rank["history"][step][1] == pytest.approx(norm, rel=1e-5)
    assert_tiled([rank["fragments"] for rank in ranks])
    for rank in ranks:
        assert rank["steps"] == len(RATES)
        assert all(rank["publishing"].values()), rank["publishing"]
        assert all(rank["nonfinite"].values()), rank["nonfinite"]


@pytest.mark.parametrize("way", [*ZERO, *FSDP, Way("fsdp2", 3, replicas=3)], ids=str)
def test_bf16_makes_the_right_first_update(way: Way) -> None:
    ranks = run_ranks(train, 3, way, "bf16", 3)
    expected = reference(3)
    for step, (loss, _) in enumerate(expected):
        mean = sum(rank["history"][step][0] for rank in ranks) / 3
        assert mean == pytest.approx(loss, rel=0.02)
    assert_tiled([rank["fragments"] for rank in ranks])
    # Adam's first update is the learning rate, in the sign of the gradient; decay adds a little
    assert max(rank["moved"] for rank in ranks) == pytest.approx(RATES[0], rel=0.05)
    for rank in ranks:
        assert rank["steps"] == len(RATES)
        assert all(rank["publishing"].values()), rank["publishing"]
        assert all(rank["nonfinite"].values()), rank["nonfinite"]


def kept_gradients(way: Way, world: int) -> list[str]:
    """Parameters that still have a gradient after a step."""
    engine = engine_of(world, way, "bf16")
    train_step(engine, 0, RATES[0], dist.get_rank())
    grads = {name: p.grad for name, p in engine.module.named_parameters()}
    return [n for n, g in grads.items() if isinstance(g, DTensor) and g.to_local().numel()]


@pytest.mark.parametrize("way", [*FSDP, Way("fsdp2", 3, replicas=2)], ids=str)
def test_no_gradient_outlives_its_step(way: Way) -> None:
    """Not even of weights that another replica updates."""
    assert run_ranks(kept_gradients, 2, way, 2) == [[], []]


class ShortcutNet(Net):
    """Leaves its first layer out when told to."""

    shortcut = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.shortcut:
            return super().forward(x)
        begin = x.new_ones(len(x), 7).to(self.scale.dtype)
        out: Tensor = self.layers[1:](begin) * self.scale
        return out.float()


def momentum_left(way: Way, world: int) -> list[float]:
    """What a step that does not use the first layer leaves of its moments."""
    engine = engine_of(world, way, kind=ShortcutNet)
    train_step(engine, 0, RATES[0], dist.get_rank())
    mine = [f.exp_avg for f in engine.fragments() if f.name.startswith("layers.0.")]
    before = [moment.clone() for moment in mine]
    assert isinstance(engine.module, ShortcutNet)
    engine.module.shortcut = True
    train_step(engine, 1, RATES[1], dist.get_rank())
    return [float((m / b).mean()) for m, b in zip(mine, before, strict=True)]


@pytest.mark.parametrize("way", [*FSDP, Way("fsdp2", 3, replicas=2)], ids=str)
def test_a_weight_that_a_step_does_not_use_gets_no_gradient_of_the_step_before(way: Way) -> None:
    left = [ratio for rank in run_ranks(momentum_left, 2, way, 2) for ratio in rank]
    assert left == pytest.approx([TRAINING.beta1] * len(left))
    assert left


def masters(way: Way, world: int) -> dict[str, list[tuple[int, Tensor]]]:
    fragments = engine_of(world, way, "bf16").fragments()
    return {f.name: [(f.start, f.master.clone())] for f in fragments}


@pytest.mark.parametrize("way", [*ZERO, FSDP[0]], ids=str)
def test_masters_begin_with_every_bit_of_the_initial_weights(way: Way) -> None:
    for rank in run_ranks(masters, 2, way, 2):
        for name, parameter in net().named_parameters():
            for start, values in rank.get(name, []):
                expected = parameter.detach().flatten()[start : start + len(values)]
                assert torch.equal(values, expected), name
