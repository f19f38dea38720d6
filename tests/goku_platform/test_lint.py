"""The rules that a job must obey: a fatal one refuses it, an estimate only warns."""

from dataclasses import replace

import pytest

from goku_platform.errors import LintError
from goku_platform.jobs.estimate import Estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import lint
from goku_platform.render.runtime import GRACE_SECONDS
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made, rendering

QUICK = Estimate(parameters=1, save_seconds=1.0, pause_seconds=1.0)


def spec(**settings: object) -> JobSpec:
    config = made.config("s3://bucket/runs")
    return plan(config, Settings.build({"image": "goku:1", **settings}), code_version="")


def test_a_preset_breaks_no_rule() -> None:
    assert lint.check(spec(), QUICK) == ()
    assert not list(lint.lint_cluster(spec()))


def test_grace_must_exceed_the_stop_budget() -> None:
    with pytest.raises(LintError, match=r"grace_seconds=60: it must exceed the stop budget of 60"):
        lint.check(replace(spec(), grace_seconds=60.0), QUICK)


def test_the_stop_budget_should_cover_a_micro_step_and_a_slow_save() -> None:
    slow = Estimate(parameters=1, save_seconds=50.0, pause_seconds=10.0)
    [warning] = lint.check(spec(), slow)
    assert "stop_budget_seconds=60: one micro-step and a slow save may take 60 s" in warning


def test_shared_memory_must_leave_room() -> None:
    with pytest.raises(LintError, match=r"shm_gib=64: /dev/shm counts"):
        lint.check(spec(memory_gib_per_node=100), QUICK)


@pytest.mark.parametrize(
    ("least", "step"),
    [(2, "Set parallel.sequence=2, which is enough"), (None, "Cut weights as well")],
)
def test_a_full_pack_should_fit_the_gpus(least: int | None, step: str) -> None:
    sizes = {"memory_bytes_per_process": 90 * 2**30, "gpu_bytes": 79 * 2**30}
    tight = Estimate(parameters=1, recompute="full", fits=False, least_sequence=least, **sizes)
    [warning] = lint.check(spec(), tight)
    assert "90.0 GiB of a GPU's 79 at the peak: a plan may use 90% of it, and rec" in warning
    assert f"{step}; or lower data.pack_tokens, or correct gpu_memory_gib" in warning
    assert lint.check(spec(), replace(tight, fits=True)) == ()


def test_a_cluster_sees_neither_folders_nor_moving_tags() -> None:
    local = replace(spec(image="goku"), run_uri="/home/me/runs/stage1")
    folder, image = lint.lint_cluster(local)
    assert "no pod sees" in str(folder)
    assert "no fixed tag" in str(image)
    assert len(list(lint.lint_cluster(spec(image="registry:5000/goku:latest")))) == 1
    assert not list(lint.lint_cluster(spec(image="registry:5000/goku@sha256:ab")))


def test_a_folder_of_the_node_needs_the_namespaces_leave() -> None:
    tiers = {"local_dir": "/mnt/nvme", "local_interval_steps": 5}
    config = made.config("s3://bucket/runs", checkpoint=tiers)
    [leave] = lint.lint_cluster(plan(config, Settings(image="goku:1"), code_version=""))
    assert "local_dir=/mnt/nvme" in str(leave)
    assert "Let user 1000 write to it" in leave.fix
    assert not leave.fatal


@pytest.mark.parametrize("kind", Kind)
def test_golden_jobs_break_no_fatal_rule(kind: Kind) -> None:
    assert not [found for found in lint.lint_cluster(rendering.one_cpu_node(kind)) if found.fatal]
    assert not [found for found in lint.lint_cluster(rendering.two_gpu_nodes(kind)) if found.fatal]


@pytest.mark.parametrize(
    ("kind", "nodes", "most"),
    [
        (Kind.PYTORCHJOB, 1024, 51),  # -worker-1023
        (Kind.JOBSET, 1024, 45),  # -node-0-1023, and -x1y2z
        (Kind.TRAINJOB, 8, 48),
        (Kind.JOB, 1024, 58),
        (Kind.RAYJOB, 1, 47),
        (None, 2, 54),
    ],
)
def test_a_name_may_be_as_long_as_the_kind_lets_it(
    kind: Kind | None, nodes: int, most: int
) -> None:
    planned = rendering.one_cpu_node(Kind.JOBSET)
    planned = replace(planned, nodes=nodes, placement=replace(planned.placement, kind=kind))
    planned = replace(planned, grace_seconds=GRACE_SECONDS)  # of the runtime, for a TrainJob
    assert not list(lint.lint_cluster(replace(planned, name="n" * most)))
    with pytest.raises(LintError, match=r"Shorten it by 1: --name"):
        lint.check_cluster(replace(planned, name="n" * (most + 1)))


def test_the_metrics_port_must_be_free() -> None:
    with pytest.raises(LintError, match="metrics_port=29500: the nodes of a run meet on that port"):
        lint.check(spec(metrics_port=29500), QUICK)


def test_what_only_a_queue_reads_needs_one() -> None:
    alone = spec(priority_class="high", topology_preferred="rack")
    assert [found.value for found in lint.lint_cluster(alone)] == [
        "priority_class without queue",
        "topology without queue",
    ]
    assert not list(lint.lint_cluster(spec(priority_class="high", queue="research")))


def test_a_fabric_without_devices_and_memory_that_cannot_be_pinned() -> None:
    efa = rendering.two_gpu_nodes(Kind.PYTORCHJOB)
    [pinned] = lint.lint_cluster(efa)
    assert "no IPC_LOCK" in str(pinned)
    bare = replace(efa.placement, network=replace(efa.placement.network, devices=()))
    unseen, _ = lint.lint_cluster(replace(efa, placement=bare))
    assert "so the pods see none" in str(unseen)


def test_a_trainjob_leaves_to_its_runtime_what_it_cannot_say() -> None:
    planned = rendering.two_gpu_nodes(Kind.TRAINJOB)
    found = [found for found in lint.lint_cluster(planned) if "its runtime must" in found.rule]
    assert [finding.value for finding in found] == ["secrets"]
    found = list(lint.lint_cluster(replace(planned, grace_seconds=600.0)))
    assert "checkpoint.grace_seconds" in [finding.value for finding in found]


def test_ray_curation_on_another_kind_stays_in_its_pod() -> None:
    ray = rendering.one_cpu_node(Kind.RAYJOB)
    assert not list(lint.lint_cluster(ray))
    alone = replace(ray, placement=replace(ray.placement, kind=Kind.JOB))
    [warning] = lint.lint_cluster(alone)
    assert "finds no cluster there" in str(warning)
