"""Command lines and environments of the ranks."""

import sys
from pathlib import Path

import pytest

from goku.config.run import Job
from goku.contract.attempts import Attempt
from goku_platform.supervisor import command
from goku_platform.supervisor.placement import Placement

ALONE = Placement(run_uri="/runs/a", pod_folder=Path("/pod"))
SECOND = ALONE._replace(nodes=2, node_rank=1, master_addr="a-0.a", master_port=29500)


def torchrun(place: Placement) -> list[str]:
    return command.under_torchrun(
        command.app(Job.TRAIN), place, processes=8, outcome=Path("/o"), scratch=Path("/s")
    )


def test_a_job_is_one_program() -> None:
    assert command.alone(command.app(Job.CURATE)) == [
        sys.executable, "-u", "-m", "goku.apps.curate"
    ]  # fmt: skip


def test_several_nodes_meet_at_the_master() -> None:
    line = " ".join(torchrun(SECOND))
    assert "-m goku.apps.torchrun --outcome /o --nnodes 2 --node-rank 1 --nproc-per-node 8" in line
    assert "--master-addr a-0.a --master-port 29500" in line
    assert line.endswith("-m goku.apps.train")


def test_one_node_meets_itself_on_a_port_of_its_own() -> None:
    line = torchrun(ALONE._replace(master_addr="a-0.a", master_port=29500))
    assert line[line.index("--master-addr") + 1] == "127.0.0.1"
    assert line[line.index("--master-port") + 1] != "29500"


def test_the_environment_names_the_attempt_and_drops_the_operators() -> None:
    attempt = Attempt(number=3, started_at=12.5)
    base = {"PET_RDZV_BACKEND": "c10d", "PATH": "/bin", "GOKU_METRICS_PORT": "9400", "RANK": "1"}
    environ = command.environment(base, SECOND, attempt=attempt, processes=10**6)
    assert "PET_RDZV_BACKEND" not in environ
    assert environ["PATH"] == "/bin"
    assert environ["GOKU_METRICS_PORT"] == "9400"
    assert environ["GOKU_ATTEMPT"] == "3"
    assert environ["GOKU_ATTEMPT_STARTED"] == "12.5"
    assert environ["OMP_NUM_THREADS"] == "1"
    kept = command.environment({"OMP_NUM_THREADS": "5"}, ALONE, attempt=attempt, processes=2)
    assert kept["OMP_NUM_THREADS"] == "5"
    assert kept["GOKU_METRICS_PORT"] == "0"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_memory_of_gpus_grows_in_place_unless_the_user_says_how(name: str) -> None:
    attempt = Attempt(number=3, started_at=12.5)
    ours = command.environment({}, ALONE, attempt=attempt, processes=1)
    assert ours["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    theirs = command.environment({name: "backend:native"}, ALONE, attempt=attempt, processes=1)
    assert {key: value for key, value in theirs.items() if "ALLOC" in key} == {
        name: "backend:native"
    }
