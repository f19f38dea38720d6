"""The planned job, and the numbers printed before a launch."""

import pytest

from goku.config import presets
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.contract import env
from goku_platform.errors import TargetError
from goku_platform.jobs.estimate import estimate, parameters, state_bytes
from goku_platform.jobs.plan import plan
from goku_platform.settings import Settings
from tests.goku_platform import made


def test_the_job_of_a_run() -> None:
    config = made.config("s3://bucket/runs/", "stage1")
    spec = plan(config, Settings(env={"A": "b"}), code_version="abc")
    assert spec.run_uri == "s3://bucket/runs/stage1"
    assert spec.env == {
        "A": "b",
        env.RUN: "s3://bucket/runs/stage1",
        env.NODES: "1",
        env.PROCESSES_PER_NODE: "2",
    }
    assert spec.grace_seconds > spec.stop_budget_seconds


def test_a_job_on_a_quarter_of_a_node_asks_for_a_quarter() -> None:
    settings = Settings(gpus_per_node=8, cpus_per_node=96, memory_gib_per_node=1000)
    wanted = plan(made.config("memory://"), settings, code_version="").resources
    assert (wanted.gpus, wanted.cpus, wanted.memory_gib) == (2, 24, 250)


def test_a_cpu_cluster_gives_whole_nodes_and_no_gpu() -> None:
    wanted = plan(made.config("memory://"), Settings(gpus_per_node=0), code_version="").resources
    assert (wanted.gpus, wanted.cpus) == (0, 96)


def test_more_processes_than_gpus() -> None:
    with pytest.raises(TargetError, match=r"processes_per_node=2: a node has 1 GPUs"):
        plan(made.config("memory://"), Settings(gpus_per_node=1), code_version="")


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
