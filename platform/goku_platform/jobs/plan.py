"""Run configuration and profile -> JobSpec. Pure: nothing is read, written or started."""

import math

from goku.config import RunConfig
from goku.config.run import Job
from goku.contract import env
from goku_platform.errors import TargetError
from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec, Placement, Resources, Volume
from goku_platform.settings import Settings

SCRATCH = "/goku"  # pod folder and caches; the image's own file system is read-only
_COMMAND = ("python", "-m", "goku_platform.supervisor")


def run_uri(config: RunConfig) -> str:
    """The run directory of a configuration."""
    return f"{config.store.rstrip('/')}/{config.name}"


def plan(config: RunConfig, settings: Settings, *, code_version: str) -> JobSpec:
    """The job that runs this configuration in this place.

    Raises TargetError if a node has fewer GPUs than the run has processes on it.
    """
    nodes, processes = _world(config)
    uri = run_uri(config)
    return JobSpec(
        name=config.name,
        run_uri=uri,
        job=config.job,
        command=_COMMAND,
        nodes=nodes,
        processes_per_node=processes,
        code_version=code_version,
        env={
            **settings.env,
            env.RUN: uri,
            env.NODES: str(nodes),
            env.PROCESSES_PER_NODE: str(processes),
        },
        metrics_port=settings.metrics_port,
        grace_seconds=config.checkpoint.grace_seconds,
        stop_budget_seconds=config.checkpoint.stop_budget_seconds,
        resources=_resources(config, settings, processes),
        volumes=_volumes(settings),
        placement=_placement(settings),
        labels={
            names.APP: "goku",
            names.MANAGED_BY: "goku-platform",
            names.RUN: config.name,
            names.JOB: config.job.value,
            names.PRESET: config.preset,
        },
        annotations={
            names.RUN_URI: uri,
            names.CONFIG_DIGEST: config.digest(),
            names.CODE_VERSION: code_version,
        },
    )


def _world(config: RunConfig) -> tuple[int, int]:
    """Nodes, and processes on each. Only training is spread over ranks; the rest is one process."""
    if config.job is not Job.TRAIN:
        return 1, 1
    return config.parallel.nodes, config.parallel.processes_per_node


def _resources(config: RunConfig, settings: Settings, processes: int) -> Resources:
    """A whole node, or the share of one that the run's GPUs are."""
    gpus = 0 if config.job is Job.CURATE else min(processes, settings.gpus_per_node)
    if 0 < gpus < processes:
        raise TargetError(
            f"parallel.processes_per_node={processes}",
            f"a node has {settings.gpus_per_node} GPUs and every process needs one",
            f"Use {gpus}, or set gpus_per_node in the profile (0 trains on CPUs).",
        )
    share = gpus / settings.gpus_per_node if gpus else 1.0
    return Resources(
        cpus=math.ceil(settings.cpus_per_node * share),
        memory_gib=math.ceil(settings.memory_gib_per_node * share),
        gpus=gpus,
        gpu_resource=settings.gpu_resource,
    )


def _volumes(settings: Settings) -> tuple[Volume, ...]:
    return (
        Volume(name="scratch", path=SCRATCH, size_gib=settings.scratch_gib),
        Volume(name="tmp", path="/tmp", size_gib=settings.scratch_gib),
        Volume(name="shm", path="/dev/shm", size_gib=settings.shm_gib, in_memory=True),
    )


def _placement(settings: Settings) -> Placement:
    return Placement(
        namespace=settings.namespace,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        image_pull_secrets=settings.image_pull_secrets,
        service_account=settings.service_account,
        secrets=settings.secrets,
        queue=settings.queue,
        node_selector=settings.node_selector,
        tolerations=settings.tolerations,
    )
