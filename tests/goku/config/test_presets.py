"""Every preset builds at every size, and what a run computes has an identity of its own."""

from typing import Any

import pytest

from goku.config import ConfigError, RunConfig, presets
from goku.config.overrides import merge
from goku.config.run import Job

# What a preset cannot know: where the footage and the encoders' weights are.
_NEEDED: dict[str, Any] = {
    "data": {"source": "s3://bucket/footage"},
    "vae": {"weights": "s3://bucket/vae"},
    "text": {"weights": "s3://bucket/t5"},
}


def build(preset: str, size: str = "2b", **overrides: Any) -> RunConfig:
    return presets.build(preset, store="s3://bucket/runs", size=size, overrides=overrides)


@pytest.mark.parametrize("size", presets.SIZES)
@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_builds_at_every_size(preset: str, size: str) -> None:
    config = build(preset, size, **_NEEDED)
    assert (config.name, config.preset) == (preset, preset)
    assert RunConfig.build(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("preset", [name for name in presets.names() if "curate" not in name])
def test_a_tiny_run_needs_no_files(preset: str) -> None:
    assert build(preset, "tiny").vae.weights == "random"


def test_training_reads_what_encoding_writes() -> None:
    """The geometry of a stage is that of the encode run it names, at every size."""
    for preset in presets.names():
        for size in ("tiny", "2b"):
            config = build(preset, size, **_NEEDED)
            if config.job is not Job.TRAIN or config.data.frames == 1:
                continue
            encoded = build(config.data.latents or "", size, **_NEEDED)
            for key in ("height", "width", "frames", "fps"):
                assert getattr(encoded.data, key) == getattr(config.data, key), preset


def test_every_stage_starts_from_a_preset() -> None:
    for preset in presets.names():
        start = build(preset, **_NEEDED).training.init_from
        assert start is None or start in presets.names()


def test_overrides_lie_on_top() -> None:
    config = build("stage1", training={"steps": 7}, parallel={"nodes": 1})
    assert config.training.steps == 7
    assert config.training.learning_rate == build("stage1").training.learning_rate


def test_merge_changes_neither_side() -> None:
    base, over = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {"e": 4}}
    assert merge(base, over) == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    assert base == {"a": {"b": 1, "c": 2}}


def test_an_unknown_preset_or_size() -> None:
    with pytest.raises(ConfigError, match=r"stge2: there is no such preset. Did you mean stage2\?"):
        build("stge2")
    with pytest.raises(ConfigError, match=r"size='3b': the sizes are tiny, 1b, 2b, 8b"):
        build("stage1", "3b")


def test_the_digest_is_of_what_is_computed() -> None:
    base = build("stage1")
    same = build(
        "stage1", parallel={"sequence": 2, "zero_stage": 3}, health={"step_budget_seconds": 1}
    )
    renamed = presets.build("stage1", store="s3://other/runs", name="mine")
    assert base.digest() == same.digest() == renamed.digest()
    for other in (
        build("stage1", training={"seed": 1}),
        build("stage1", data={"packs_per_step": 16}),
        build("stage1", "1b"),
    ):
        assert other.digest() != base.digest()


def test_the_digest_survives_the_frozen_record() -> None:
    config = build("stage2", "8b", data={"fps": 23.976}, training={"learning_rate": 1e-5})
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again.digest() == config.digest()
