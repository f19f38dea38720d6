"""Recomputation changes no gradient, keeps attention's results, and is planned by memory."""

import pytest
import torch

from goku.config.memory import (
    LADDER,
    Keep,
    Policy,
    Typical,
    activation_bytes,
    ladder,
    plan,
    plan_for,
    state_bytes,
    waiting_bytes,
)
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.presets import SIZES
from goku.parallel.recompute import recompute
from tests.goku.model.packs import SMALL, packed, random_model, samples
from tests.goku.nn import by_hand

TWO_B = ModelConfig()
BOTH = {"sequence": 2, "sequence_degree": "full"}  # one clip, which no rank has to itself
GIB = 2**30


def gradients(policy: Policy, calls: list[int]) -> dict[str, torch.Tensor]:
    """Of a loss on a pack; `calls` counts how often attention was computed."""

    def forward(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        return by_hand.forward(*arguments)

    by_hand.kernels["forward"] = forward
    model = random_model(SMALL)
    for block in model.blocks:
        block.attention.attend = block.text_attention.attend = by_hand.attend
    recompute(list(model.blocks), policy)
    packed(model, samples(SMALL)).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("policy", "computed"),
    [
        (Policy("none"), 4),
        (Policy("products"), 4),
        (Policy("mlp"), 4),
        (Policy("attention"), 4),
        (Policy("full"), 8),
        (Policy("full", 2), 6),
        (Policy("products", 2, "full"), 6),
    ],
)
def test_gradients_are_the_same_and_attention_is_computed_as_often_as_said(
    policy: Policy, computed: int
) -> None:
    calls: list[int] = []
    expected = gradients(Policy("none"), [])
    found = gradients(policy, calls)
    assert len(calls) == computed
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0, msg=name)


def test_each_step_down_the_ladder_needs_less() -> None:
    needed = [activation_bytes(TWO_B, 40_960, 256, policy) for policy in LADDER]
    assert needed == sorted(needed, reverse=True)


@pytest.mark.parametrize(
    ("tokens", "text", "policy", "measured_gib"),
    [  # on one H200, 2B, weights of 3.7 GiB taken off: docs/results
        (8_192, 256, Policy("none"), 19.6),
        (16_384, 16_384, Policy("none"), 43.5),
        (40_960, 256, Policy("none"), 96.9),
        (40_960, 10_496, Policy("none"), 99.9),
        (90_112, 256, Policy("attention"), 31.9),
    ],
)
def test_prediction_is_within_five_percent_of_what_was_measured(
    tokens: int, text: int, policy: Policy, measured_gib: float
) -> None:
    predicted = activation_bytes(TWO_B, tokens, text, policy) / GIB
    assert predicted == pytest.approx(measured_gib, rel=0.05)


def test_rows_after_gelu_are_not_kept_in_8_bits() -> None:
    none = activation_bytes(TWO_B, 16_384, 16_384, Policy("none"), eight=True) / GIB
    assert none == pytest.approx(37.6, rel=0.02)  # on one H200, as above
    for policy in (Policy("products"), Policy("mlp"), Policy("full")):
        needed = activation_bytes(TWO_B, 16_384, 16_384, policy, eight=True)
        assert needed <= activation_bytes(TWO_B, 16_384, 16_384, policy)


@pytest.mark.parametrize(
    ("size", "parallel", "tokens", "keep", "measured_gib"),
    [  # on two H200s, the whole peak: docs/results
        ("2b", {"engine": "fsdp2", "zero_stage": 2}, 20_480, "none", 72.9),
        ("2b", {"zero_stage": 1}, 20_480, "none", 74.9),
        ("2b", {"zero_stage": 2}, 20_480, "none", 67.8),
        ("8b", {"engine": "fsdp2", "zero_stage": 3}, 37_440, "attention", 114.2),
        ("8b", {"engine": "fsdp2", "zero_stage": 3}, 37_440, "mlp", 122.5),
        ("2b", {"engine": "fsdp2", "zero_stage": 2, **BOTH}, 90_112, "attention", 44.6),
        (
            "2b",
            {"engine": "fsdp2", "zero_stage": 2, **BOTH, "context": 2},
            90_112,
            "attention",
            40.3,
        ),
    ],
)
def test_a_rank_of_two_needs_what_is_predicted(
    size: str, parallel: dict[str, object], tokens: int, keep: Keep, measured_gib: float
) -> None:
    config = ParallelConfig.build({"processes_per_node": 2, "recompute": keep, **parallel})
    model = ModelConfig.build(SIZES[size])
    fixed = state_bytes(model.parameters, config)
    pack = Typical(model, (tokens,), (256,))
    planned = plan_for(config, pack, fixed_bytes=fixed, memory_bytes=140 * GIB)
    assert planned.predicted_bytes / GIB == pytest.approx(measured_gib, rel=0.06)


def test_a_plan_has_room_for_ranks_that_hold_more_than_their_share() -> None:
    pack = Typical(TWO_B, (1024,) * 8, (256,) * 8)
    needed = {
        degree: plan_for(
            ParallelConfig(sequence=8, sequence_degree=degree, recompute="none"),
            pack,
            fixed_bytes=0,
            memory_bytes=140 * GIB,
        ).predicted_bytes
        for degree in ("full", "least")
    }
    text = plan(TWO_B, tokens=0, text_tokens=8 * 256, fixed_bytes=0, memory_bytes=140 * GIB)
    full, least = (needed[d] - text.predicted_bytes for d in ("full", "least"))
    assert least == 9 * full / 8


def test_the_cheapest_policy_that_fits_is_planned() -> None:
    roomy = plan(TWO_B, tokens=8_192, text_tokens=256, fixed_bytes=40 * GIB, memory_bytes=140 * GIB)
    tight = plan(TWO_B, tokens=90_112, text_tokens=256, fixed_bytes=40 * GIB, memory_bytes=90 * GIB)
    assert roomy.policy == Policy("none")
    assert tight.policy == Policy("mlp")
    assert roomy.fits
    assert tight.fits
    assert tight.predicted_bytes <= tight.limit_bytes


def test_what_is_left_of_the_memory_keeps_products_of_some_blocks() -> None:
    eight_b = ModelConfig.build(SIZES["8b"])
    roomy = {"fixed_bytes": 75 * GIB, "memory_bytes": 141 * GIB}
    tight = {"fixed_bytes": 83 * GIB, "memory_bytes": 141 * GIB}
    pack = {"tokens": 37_440, "text_tokens": 256}
    assert plan(eight_b, **pack, **roomy).policy == Policy("products", 8, "mlp")
    assert plan(eight_b, **pack, **tight).policy == Policy("mlp")


def test_where_nothing_fits_the_least_is_planned_and_marked() -> None:
    planned = plan(
        TWO_B, tokens=400_000, text_tokens=0, fixed_bytes=40 * GIB, memory_bytes=80 * GIB
    )
    assert planned.policy == LADDER[-1]
    assert not planned.fits


def test_of_what_waits_on_the_host_two_blocks_are_on_the_gpu() -> None:
    row = 90_112 * TWO_B.width * 2
    kept = 4 * row + 8 * TWO_B.heads * 90_112
    two = ModelConfig(layers=2)
    needed = activation_bytes(TWO_B, 90_112, 256, Policy("offload"))
    assert needed == activation_bytes(two, 90_112, 256, Policy("mlp"))
    assert waiting_bytes(TWO_B, 90_112, Policy("offload")) == 27 * kept
    assert waiting_bytes(TWO_B, 90_112, Policy("offload", 2)) == 13 * kept
    assert waiting_bytes(TWO_B, 90_112, Policy("offload"), traded=True) == 27 * (kept + row)
    assert waiting_bytes(TWO_B, 90_112, Policy("mlp")) == 0


@pytest.mark.parametrize(
    ("tokens", "pairs", "host_gib", "expected"),
    [
        # 26 ms of copying behind 110 of computing
        (90_112, 90_112**2, 100, (*LADDER[:-1], Policy("offload"), LADDER[-1])),
        # 19 behind 11: computing all again is cheaper
        (65_536, 256 * 65_536, 100, (*LADDER, Policy("offload"))),
        # 33 GiB are more than half
        (90_112, 90_112**2, 60, LADDER),
    ],
)
def test_where_waiting_on_the_host_stands(
    tokens: int, pairs: int, host_gib: int, expected: tuple[Policy, ...]
) -> None:
    assert ladder(TWO_B, tokens=tokens, pairs=pairs, host_bytes=host_gib * GIB) == expected


def test_a_pack_too_long_for_all_but_full_waits_on_the_host_where_that_has_room() -> None:
    one = ParallelConfig(processes_per_node=1)
    pack = Typical(TWO_B, (240_000,), (256,))
    memory = {"fixed_bytes": 60 * GIB, "memory_bytes": 141 * GIB}
    planned = plan_for(one, pack, **memory, host_bytes=400 * GIB)
    assert planned.policy == Policy("offload")
    assert planned.fits
    assert planned.host_bytes == waiting_bytes(TWO_B, 240_000, Policy("offload"))
    assert plan_for(one, pack, **memory).policy == Policy("full")


def test_an_unknown_fraction_of_blocks_is_said_in_words() -> None:
    assert str(Policy("attention")) == "attention"
    assert str(Policy("products", 2)) == "products in every 2. block, none in the others"
