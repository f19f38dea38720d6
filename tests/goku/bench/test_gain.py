"""Ours beside plain: micro-batches by length train what a pack trains, under both engines."""

import os
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from goku.bench.gain import Gain, Side, compare
from goku.bench.plain import make_plain, micro_batches
from goku.bench.shapes import Pack
from goku.bench.training import TrainingStep
from goku.config.model import ModelConfig
from goku.parallel.mesh import connect
from tests.ranks import run_ranks

MODEL = ModelConfig(layers=2, width=64, heads=4, text_width=16, latent_channels=4)
PACK = Pack("small", (40, 9, 16, 9, 9, 16), text=5)
BATCHES = micro_batches(PACK.lengths, {40: 1, 9: 2, 16: 2})
ENGINES: list[dict[str, Any]] = [
    {"engine": "fsdp2", "zero_stage": 2},
    {"engine": "deepspeed", "zero_stage": 2},
]


def built(engine: dict[str, Any], **ways: Any) -> TrainingStep:
    world = int(os.environ["WORLD_SIZE"])
    parallel = PACK.parallel(processes_per_node=world, precision="fp32", **engine)
    return TrainingStep(MODEL, PACK, parallel, connect(parallel), **ways)


def histories(engine: dict[str, Any]) -> list[list[tuple[list[float], float]]]:
    """Losses and norms of three steps: of the pack, then of micro-batches by each plain way."""
    ways: list[dict[str, Any]] = [{}]
    for keep in ("none", "full"):
        ways.append({"batches": BATCHES, "prepare": partial(make_plain, keep=keep)})
    found = []
    for way in ways:
        step = built(engine, **way)
        runs = [step.run() for _ in range(3)]
        found.append([(losses_S.tolist(), norm) for losses_S, norm in runs])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("world", [1, 2])
def test_every_sample_has_the_loss_it_has_in_the_pack(engine: dict[str, Any], world: int) -> None:
    for packed, *plain in run_ranks(histories, world, engine):
        assert len(packed[0][0]) == len(PACK.lengths)
        assert packed[0] != packed[2]  # it trains
        for history in plain:
            for (losses, norm), (expected, expected_norm) in zip(history, packed, strict=True):
                assert losses == pytest.approx(expected, rel=1e-5)
                assert norm == pytest.approx(expected_norm, rel=1e-5)


def compared(engine: dict[str, Any]) -> Gain:
    # there is no GPU to wait for, and none whose memory is counted
    torch.cuda.synchronize = torch.cuda.reset_peak_memory_stats = lambda *_: None  # type: ignore[assignment]
    world = int(os.environ["WORLD_SIZE"])
    parallel = PACK.parallel(processes_per_node=world, precision="fp32", recompute="auto", **engine)
    return compare(MODEL, PACK, parallel, connect(parallel), rounds=2, memory_bytes=2**30)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_sides_take_turns_and_agree(engine: dict[str, Any]) -> None:
    gain, other = run_ranks(compared, 2, engine)
    assert gain.good
    assert (gain.ours.micro_batches, gain.plain[0].micro_batches) == (1, 3)
    assert {side.name for side in gain.plain} == {
        "plain without recomputation",
        "plain with whole blocks recomputed",
    }
    assert len(gain.ours.steps_ms) == 4  # two turns of two
    assert sorted(len(side.steps_ms) for side in gain.plain) == [2, 4]
    assert gain.plain[0].step_ms <= gain.plain[1].step_ms
    assert gain.times_faster == gain.plain[0].step_ms / gain.ours.step_ms
    assert (gain.times_faster, gain.plain[0].name) == (other.times_faster, other.plain[0].name)
    assert gain.parallel["engine"] == engine["engine"]


def test_sides_that_disagree_are_said_to() -> None:
    side = Side("ours", 1, 10.0, 1e3, 2**30, 0.5, 0.1, [10.0])
    plain = replace(side, name="plain with whole blocks recomputed", step_ms=20.0)
    gain = Gain(
        pack="p", layers=4, parallel={"engine": "fsdp2"}, attention="FLASH_ATTENTION",
        times_faster=2.0, ours=side, plain=[plain],
        loss_off=1e-4, loss_bound=4e-3, norm_off=1e-3, norm_bound=3e-2,
    )  # fmt: skip
    assert gain.good
    assert "p, 4 blocks, engine fsdp2: 2.00 x" in str(gain)
    assert "plain without recomputation does not fit" in str(gain)
    assert "DISAGREE" not in str(gain)
    for off in ({"loss_off": 5e-3}, {"norm_off": float("nan")}):
        assert not replace(gain, **off).good
        assert "DISAGREE" in str(replace(gain, **off))
        assert not replace(gain, **off).as_dict()["good"]
