"""The numbers shown before a launch: against the model itself where they are exact, and against
what one H200 did where they were measured."""

import pytest

from goku.config import RunConfig, presets
from goku.config.memory import plan_for, state_bytes, typical_of
from goku.config.model import ModelConfig
from goku_platform.jobs.estimate import estimate, pack_flops
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
    assert config.parameters == sum(weight.numel() for weight in built.parameters())


@pytest.mark.parametrize(("size", "billions"), [("1b", 0.88), ("2b", 2.01), ("8b", 8.08)])
def test_published_sizes(size: str, billions: float) -> None:
    config = presets.build("stage1", store="memory://", size=size)
    assert config.model.parameters / 1e9 == pytest.approx(billions, abs=0.01)


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
    ("config", "seconds"),  # of one pack on an H200 (8B: on each of two): docs/results
    [
        (pack("2b", 16_384), 0.305),
        (presets.build("stage2-720x1280", store="memory://"), 12.1),
        (pack("8b", 43_200, frames=97), 7.31),  # measured with 37,440 tokens
    ],
    ids=["images", "a clip of 720p", "8b"],
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


# --- memory


def test_memory_is_planned_for_the_gpus_of_the_profile() -> None:
    config = pack("8b", 43_200, frames=97, engine="fsdp2", zero_stage=3)
    small, large = (estimate(config, Settings(gpu_memory_gib=gib)) for gib in (79, 139))
    assert small.recompute == "mlp"
    assert large.recompute == "products in every 2. block, mlp in the others"
    for numbers in (small, large):
        assert numbers.fits
        assert (numbers.memory_bytes_per_process or 0) <= 0.9 * (numbers.gpu_bytes or 0)


def test_the_plan_is_the_one_that_training_makes() -> None:
    config = pack("2b", 43_200, frames=97)
    planned = plan_for(
        config.parallel,
        typical_of(config),
        fixed_bytes=state_bytes(config.model.parameters, config.parallel),
        memory_bytes=79 * 2**30,
        host_bytes=128 * 2**30,  # 1 TiB for eight
    )
    numbers = estimate(config, Settings())
    assert numbers.recompute == str(planned.policy)
    assert numbers.memory_bytes_per_process == planned.predicted_bytes


def test_of_a_pack_that_no_gpu_holds_the_ranks_that_could_are_known() -> None:
    config = pack("8b", 432_000, frames=97)
    numbers = estimate(config, Settings(memory_gib_per_node=8))
    assert numbers.fits is False
    enough = pack("8b", 432_000, frames=97, sequence=numbers.least_sequence or 0)
    assert estimate(enough, Settings(memory_gib_per_node=8)).fits


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
