"""The numbers shown before a launch: against the model itself where they are exact, and against
what one H200 did where they were measured."""

import pytest

from goku.config import RunConfig, presets
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku_platform.jobs.estimate import (
    activation_bytes,
    estimate,
    pack_flops,
    parameters,
    state_bytes,
)
from goku_platform.settings import Settings
from tests.goku_platform import made


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize("conditioned", [False, True])
def test_parameters_are_those_of_the_model(conditioned: bool) -> None:
    model = pytest.importorskip("goku.model")
    config = ModelConfig(
        layers=3,
        width=48,
        heads=4,
        mlp_ratio=3,
        text_width=20,
        latent_channels=5,
        timestep_width=32,
        image_conditioned=conditioned,
    )
    built = model.build(config, seed=0, device="meta")
    assert parameters(config) == sum(weight.numel() for weight in built.parameters())


@pytest.mark.parametrize(("size", "billions"), [("1b", 0.88), ("2b", 2.01), ("8b", 8.08)])
def test_published_sizes(size: str, billions: float) -> None:
    config = presets.build("stage1", store="memory://", size=size)
    assert parameters(config.model) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [
        (1, "bf16", 2 + 2 + 16 / 8),
        (2, "bf16", 2 + (2 + 16) / 8),
        (3, "bf16", (2 + 2 + 16) / 8),
        (2, "fp32", 4 + (4 + 16) / 8),
    ],
)
def test_zero_splits_the_state(stage: int, precision: str, expected: float) -> None:
    parallel = ParallelConfig.build({"zero_stage": stage, "precision": precision})
    assert state_bytes(1000, parallel) == round(1000 * expected)


def test_the_estimate_of_stage_one_at_2b() -> None:
    config = presets.build("stage1", store="memory://")
    numbers = estimate(config, Settings(store_gib_per_second=2))
    assert numbers.checkpoint_bytes == 16 * numbers.parameters
    assert numbers.tokens_per_step == 8 * 16_384
    assert numbers.save_seconds == pytest.approx(2 * 16 * numbers.parameters / 2**31)
    assert numbers.pause_seconds is not None
    assert 0.1 < numbers.pause_seconds < 2


def test_jobs_that_do_not_train_have_no_step_and_cpus_no_pace() -> None:
    sample = made.config("memory://", "sample")
    assert estimate(sample, Settings()).checkpoint_bytes is None
    assert estimate(made.config("memory://"), Settings(gpus_per_node=0)).pause_seconds is None


# --- against what was measured


def pack(size: str, pack_tokens: int, frames: int = 1, **parallel: int | str) -> RunConfig:
    """A run whose packs are full of one shape: images of 256 tokens, or clips at 288x512."""
    shape = {"height": 256, "width": 256} if frames == 1 else {"height": 288, "width": 512}
    data = {**shape, "frames": frames, "pack_tokens": pack_tokens, "latents": "encode"}
    share = {"image_share": 1.0 if frames == 1 else 0.0}
    overrides = {"data": {**data, **share}, "parallel": {"processes_per_node": 8, **parallel}}
    return presets.build("stage2", store="memory://", size=size, overrides=overrides)


@pytest.mark.parametrize(
    ("size", "tokens", "gib"),  # allocated by torch 2.11 on an H200 after the forward, bf16
    [("1b", 16_384, 29.5), ("2b", 8192, 22.94), ("2b", 16_384, 45.89), ("8b", 4096, 28.05)],
)
def test_activations_of_packs_of_images(size: str, tokens: int, gib: float) -> None:
    assert activation_bytes(pack(size, tokens)) / 2**30 == pytest.approx(gib, rel=0.05)


def test_activations_of_one_clip_and_what_sequence_parallelism_saves() -> None:
    whole = activation_bytes(pack("2b", 14_400, frames=97))
    assert whole / 2**30 == pytest.approx(39.35, rel=0.05)
    full = {"sequence": 4, "sequence_degree": "full"}
    assert activation_bytes(pack("2b", 14_400, frames=97, **full)) == whole / 4
    assert activation_bytes(pack("2b", 14_400, frames=97, sequence=4)) == 9 / 8 * whole / 4


@pytest.mark.parametrize(
    ("config", "seconds"),  # forward and backward, median of five
    [(pack("2b", 16_384), 1.093), (pack("2b", 14_400, frames=97), 0.691)],
    ids=["images", "clip"],
)
def test_a_micro_step_is_within_a_factor_of_two(config: RunConfig, seconds: float) -> None:
    predicted = estimate(config, Settings()).pause_seconds
    assert predicted is not None
    assert 1 / 2 < predicted / seconds < 2


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize("size", ["1b", "8b"])
def test_the_work_of_a_pack_is_what_the_model_counts(size: str) -> None:
    flops = pytest.importorskip("goku.model.flops")
    config = pack(size, 28_800, frames=97)
    counted = flops.step_flops(config.model, [14_400] * 2, [256] * 2)
    assert pack_flops(config) == pytest.approx(counted, rel=0.02)


# --- hours and price


def test_no_model_is_too_small_to_take_time() -> None:
    assert estimate(made.config("memory://"), Settings()).pause_seconds == 0.05


def test_hours_and_price_follow_from_the_step() -> None:
    config = presets.build("stage1", store="memory://")
    numbers = estimate(config, Settings(price_per_gpu_hour=2.5))
    assert numbers.step_seconds == pytest.approx(
        (numbers.pause_seconds or 0) * 1
    )  # 8 packs, 8 GPUs
    assert numbers.hours == pytest.approx((numbers.step_seconds or 0) * 100_000 / 3600)
    assert numbers.gpu_hours == pytest.approx(8 * (numbers.hours or 0))
    assert numbers.price == pytest.approx(2.5 * (numbers.gpu_hours or 0))
    assert estimate(config, Settings()).price is None


def test_the_share_of_saving_falls_with_the_interval() -> None:
    every = {
        steps: presets.build(
            "stage1", store="m://", overrides={"checkpoint": {"interval_steps": steps}}
        )
        for steps in (100, 1000)
    }
    often, seldom = (estimate(every[steps], Settings()).saving_share for steps in (100, 1000))
    assert often is not None
    assert seldom is not None
    assert often > seldom > 0


def test_steps_of_minutes_are_saved_by_the_clock() -> None:
    shares = []
    for steps, seconds in ((500, 1800), (1000, 1800), (500, None)):
        saved = {"interval_steps": steps, "interval_seconds": seconds}
        config = presets.build(
            "stage2-720x1280", store="m://", size="8b", overrides={"checkpoint": saved}
        )
        shares.append(estimate(config, Settings()).saving_share)
    by_clock, seldom, never = shares
    assert by_clock == seldom
    assert by_clock is not None
    assert never is not None
    assert by_clock > never


def test_nothing_is_pretended_about_cpus() -> None:
    numbers = estimate(made.config("memory://"), Settings(gpus_per_node=0, price_per_gpu_hour=1))
    assert numbers.state_bytes_per_process is not None
    assert numbers.memory_bytes_per_process is None
    assert (numbers.step_seconds, numbers.hours, numbers.price) == (None, None, None)
    assert numbers.saving_share is None
