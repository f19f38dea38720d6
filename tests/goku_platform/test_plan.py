"""The planned job."""

import pytest

from goku.contract import env
from goku_platform.errors import TargetError
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


@pytest.mark.parametrize(
    ("preset", "processes"), [("stage1", 2), ("encode", 2), ("curate", 1), ("sample", 1)]
)
def test_training_and_encoding_are_spread_over_ranks(preset: str, processes: int) -> None:
    config = made.config("memory://", preset, data={"source": "memory://footage"})
    spec = plan(config, Settings(), code_version="")
    assert spec.env[env.PROCESSES_PER_NODE] == str(processes)
