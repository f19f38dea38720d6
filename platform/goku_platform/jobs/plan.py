"""Run configuration and profile -> JobSpec. Pure: nothing is read, written or started."""

import math

from goku.config import RunConfig
from goku.config.run import Job
from goku.contract import env
from goku_platform.errors import TargetError
from goku_platform.jobs import names
from goku_platform.jobs.network import Network, network
from goku_platform.jobs.spec import (
    JobSpec,
    NodeFolder,
    Placement,
    Resources,
    Topology,
    Volume,
)
from goku_platform.settings import Settings

SCRATCH = "/goku"  # pod folder and caches; the image's own file system is read-only
GANG_PORT, MASTER_PORT = 29400, 29500  # torch's own; each pod has an address of its own
_COMMAND = ("python", "-m", "goku_platform.supervisor")


def run_uri(config: RunConfig) -> str:
    """The run directory of a configuration."""
    return f"{config.store.rstrip('/')}/{config.name}"


def plan(config: RunConfig, settings: Settings, *, code_version: str) -> JobSpec:
    """The job that runs this configuration in this place.

    Raises TargetError if a node has fewer GPUs than the run has processes on it.
    """
    nodes, processes = _world(config)
    gpus = _gpus(config, settings, processes)
    share = gpus / settings.gpus_per_node if gpus else 1.0
    uri = run_uri(config)
    return JobSpec(
        name=config.name,
        run_uri=uri,
        job=config.job,
        command=_COMMAND,
        nodes=nodes,
        processes_per_node=processes,
        on_ray=config.job is Job.CURATE and config.curation.executor == "ray",
        code_version=code_version,
        env={
            **settings.env,
            env.RUN: uri,
            env.NODES: str(nodes),
            env.PROCESSES_PER_NODE: str(processes),
        },
        metrics_port=settings.metrics_port,
        gang_port=GANG_PORT,
        master_port=MASTER_PORT,
        grace_seconds=config.checkpoint.grace_seconds,
        stop_budget_seconds=config.checkpoint.stop_budget_seconds,
        resources=_resources(settings, gpus=gpus, share=share),
        volumes=_volumes(settings),
        node_folders=_node_folders(config),
        placement=_placement(settings, network(settings, nodes=nodes, share=share)),
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
    """Nodes, and processes on each."""
    if not config.job.spread:
        return 1, 1
    return config.parallel.nodes, config.parallel.processes_per_node


def _gpus(config: RunConfig, settings: Settings, processes: int) -> int:
    """Of one pod: one a process; none where a profile has none, and none for curation."""
    gpus = 0 if config.job is Job.CURATE else min(processes, settings.gpus_per_node)
    if 0 < gpus < processes:
        raise TargetError(
            f"parallel.processes_per_node={processes}",
            f"a node has {settings.gpus_per_node} GPUs and every process needs one",
            f"Use {gpus}, or set gpus_per_node in the profile (0 trains on CPUs).",
        )
    return gpus


def _resources(settings: Settings, *, gpus: int, share: float) -> Resources:
    """A whole node, or the share of one that the run's GPUs are."""
    return Resources(
        cpus=math.ceil(1000 * settings.cpus_per_node * share) / 1000,  # to the millicore
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


def _node_folders(config: RunConfig) -> tuple[NodeFolder, ...]:
    """Where the pods of the next attempt look for what this one's have saved on their nodes."""
    path = config.checkpoint.local_dir if config.job is Job.TRAIN else None
    return (NodeFolder(name="node-disk", path=path),) if path else ()


def _placement(settings: Settings, network: Network) -> Placement:
    return Placement(
        kind=settings.kind,
        namespace=settings.namespace,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        image_pull_secrets=settings.image_pull_secrets,
        service_account=settings.service_account,
        secrets=settings.secrets,
        queue=settings.queue,
        priority_class=settings.priority_class,
        topology=_topology(settings),
        network=network,
        node_selector=settings.node_selector,
        tolerations=settings.tolerations,
        excluded_nodes=settings.excluded_nodes,
        runtime=settings.runtime,
        ray_image=settings.ray_image or settings.image,
        ray_workers=settings.ray_workers,
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
    )


def _topology(settings: Settings) -> Topology | None:
    level = settings.topology_required or settings.topology_preferred
    return Topology(level=level, required=bool(settings.topology_required)) if level else None
