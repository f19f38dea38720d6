"""Every broken rule names the value, the rule and the next step."""

import pytest

from goku.config import ConfigError, RunConfig, presets
from goku.config.overrides import parse
from goku.config.parallel import ParallelConfig

_FOOTAGE = ("data.source=footage",)


def build(preset: str, *assignments: str, size: str = "2b") -> RunConfig:
    return presets.build(preset, store="runs", size=size, overrides=parse(assignments))


@pytest.mark.parametrize(
    ("preset", "assignments", "complaint"),
    [
        (
            "stage1",
            ("training.steps=0",),
            r"training.steps=0: .* greater than 0. Set another value",
        ),
        ("stage1", ("training.steps=many",), r"training.steps='many': .* valid integer"),
        ("stage1", ("parallel.zero_stage=0",), r"parallel.zero_stage=0: Input should be 1, 2 or 3"),
        (
            "stage1",
            ("checkpoint.local_dir=/disk",),
            r"checkpoint.local_dir=/disk, .*None: .* need both a folder and an interval",
        ),
        *(
            (
                "stage1",
                (f"checkpoint.local_dir={path}", "checkpoint.local_interval_steps=5"),
                rf"checkpoint.local_dir={path}: .* not absolute. Name it from the root",
            )
            for path in ("disk", "./disk", "~/disk", "file:///disk")
        ),
        (
            "stage1",
            (
                "checkpoint.local_dir=/disk",
                "checkpoint.local_interval_steps=50",
                "checkpoint.interval_steps=50",
            ),
            r"checkpoint.local_interval_steps=50: it must be below checkpoint.interval_steps=50",
        ),
        (
            "stage1",
            ("checkpoint.keep_best=2", "training.validation_samples=0"),
            r"checkpoint.keep_best=2: without validation no checkpoint is better",
        ),
        ("stage1", ("name=Stage_1",), r"name='Stage_1': .* choose another with --name"),
        ("stage1", ("name=" + "a" * 51,), r"1 to 50 lower-case letters"),
        (
            "stage1",
            ("data.height=250",),
            r"data.height=250: it must be a multiple of 16.*height=256",
        ),
        (
            "sample",
            ("sampling.width=854", "vae.weights=random", "text.kind=bytes"),
            r"sampling.width=854: it must be a multiple of 16.* Use sampling.width=848",
        ),
        ("sample", ("sampling.prompts=[]",), r"sampling.prompts=\[\]: .* at least 1 item"),
        ("sample", ("sampling.frames=[]",), r"sampling.frames=\[\]: .* at least 1 item"),
        (
            "curate",
            (*_FOOTAGE, "curation.min_clip_seconds=6"),
            r"min_clip_seconds=6: halves of a shot just over curation.max_clip_seconds=10 .*most 5",
        ),
        ("curate", (*_FOOTAGE, "curation.motion_side_pixels=7"), r"=7: .* equal to 8"),
        ("stage2", ("data.frames=96",), r"data.frames=96: .* use 93 or 97"),
        ("stage1", ("data.image_share=0.5",), r"with data.frames=1 every sample is an image"),
        (
            "stage1",
            ("data.latents=none", "parallel.readers=process"),
            r"encoded by the models of the rank itself. Set parallel.readers=threads",
        ),
        (
            "stage2",
            ("data.pack_tokens=100",),
            r"the largest sample has 14400 tokens. Set data.pack_tokens=14400 or more",
        ),
        (
            "stage1",
            ("data.balance=measured",),
            r"data.costs=None: .* go together",
        ),
        ("stage1", ("parallel.nodes=3",), r"data.packs_per_step=8: 24 data ranks .*step=24"),
        (
            "stage1",
            ("parallel.sequence=3",),
            r"parallel.sequence=3: it must divide the world size 8",
        ),
        (
            "stage1",
            ("parallel.sequence=8",),
            r"28 heads do not divide among 8 ranks. Set parallel.context=2, or",
        ),
        (
            "stage1",
            ("parallel.context=3",),
            r"it must divide parallel.sequence=1",
        ),
        (
            "stage1",
            ("parallel.zero_stage=1",),
            r"fsdp2 always cuts gradients up",
        ),
        (
            "stage1",
            ("parallel.replicas=3",),
            r"it must divide the world size 8",
        ),
        (
            "stage1",
            ("parallel.engine=deepspeed", "parallel.replicas=2"),
            r"parallel.replicas=2: deepspeed cuts weights over all processes",
        ),
        (
            "stage1",
            ("parallel.products=fp8_mlp", "parallel.precision=fp32"),
            r"parallel.products=fp8_mlp: it needs parallel.precision=bf16, and that is fp32",
        ),
        ("stage1", ("model.heads=5",), r"model.heads=5: heads must split the width 1792"),
        ("stage1", ("checkpoint.grace_seconds=240",), r"it must exceed checkpoint.stop_budget_sec"),
        ("stage1", ("data.latents=none",), r"vae.weights=None: encoding needs the autoencoder"),
        ("encode", ("vae.weights=w",), r"text.weights=None: encoding needs the FLAN-T5 weights"),
        ("sample", ("sampling.frames=[1, 16]",), r"sampling.frames=16: each length must be 1 more"),
        ("curate", (), r"data.source=None: curation needs footage. .*--set data.source="),
    ],
)
def test_what_is_wrong_and_what_to_do(
    preset: str, assignments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        build(preset, *assignments)
    assert caught.value.value
    assert caught.value.rule
    assert caught.value.fix.endswith((".", "?", "..."))


def test_a_key_that_does_not_exist_in_a_frozen_record() -> None:
    record = build("stage1").model_dump()
    record["data"]["heigth"] = 1
    with pytest.raises(ConfigError, match=r"data.heigth: there is no such key. Did you mean"):
        RunConfig.build(record)


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build("stage1").training.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("sequence", "context", "degrees"),
    [
        (1, 1, (1,)),
        (8, 1, (1, 2, 4, 8)),
        (8, 2, (1, 2, 4, 8)),
        (8, 8, (1, 2, 4, 8)),
        (12, 3, (1, 2, 4, 12)),
        (6, 2, (1, 3, 6)),
    ],
)
def test_degrees_leave_every_rank_whole_heads(
    sequence: int, context: int, degrees: tuple[int, ...]
) -> None:
    values = {"processes_per_node": sequence, "sequence": sequence, "context": context}
    assert ParallelConfig.build(values).degrees == degrees
    assert ParallelConfig.build({**values, "sequence_degree": "full"}).degrees == (sequence,)


def test_derived_numbers() -> None:
    config = build("stage2-720x1280", "parallel.sequence=4", "parallel.nodes=2")
    assert config.data.latent_shape == (25, 90, 160)
    assert config.sample_tokens == 25 * 45 * 80 == 90_000
    assert (config.parallel.world_size, config.parallel.data, config.micro_batches) == (16, 4, 2)
    assert (config.model.head_width, config.model.token_width) == (64, 64)
