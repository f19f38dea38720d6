"""JobSpec: one job as frozen data. Renderers and the local client read it and nothing else.

A node is one pod: one supervisor, which starts `processes_per_node` ranks.

A spec has no probes, on purpose. Liveness: the supervisor knows each section's budget and ends what
hangs, its stacks saved first; a probe knows less and only kills. Readiness: a PyTorchJob's services
give a name only to pods that are ready, and node 0 must be found before any pod can be; Kueue, told
to wait for ready pods, would evict a run that takes long to load.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from goku.config.run import Job
from goku_platform.jobs.network import Network
from goku_platform.settings import Kind, Toleration


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A folder that lives as long as the pod."""

    name: str
    path: str
    size_gib: int
    in_memory: bool = False  # counts towards the pod's memory limit


@dataclass(frozen=True, kw_only=True)
class NodeFolder:
    """A folder of the node itself, at the same path in the pod: it outlives the pod."""

    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node's pod asks for."""

    cpus: float
    memory_gib: int
    gpus: int
    gpu_resource: str


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How near to one another a queue places the pods."""

    level: str  # a node label, such as cloud.provider.com/rack: one value of it for all pods
    required: bool  # wait until they fit; else spread them if they do not


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a cluster puts the pods, and with which image and identity. Local runs ignore it."""

    kind: Kind | None  # None: not decided yet; the client asks the cluster
    namespace: str
    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    service_account: str | None
    secrets: tuple[str, ...]
    queue: str | None
    priority_class: str | None
    topology: Topology | None
    network: Network
    node_selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...]
    excluded_nodes: tuple[str, ...]
    runtime: str  # a TrainJob's
    ray_image: str
    ray_workers: int
    ttl_seconds_after_finished: int


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One run as a job of `nodes` pods."""

    name: str
    run_uri: str
    job: Job
    command: tuple[str, ...]
    nodes: int
    processes_per_node: int
    on_ray: bool  # curation that spreads its work over a Ray cluster if there is one
    code_version: str  # of whoever planned it; an image names its own
    env: Mapping[str, str]  # the same on every node; rank and addresses are the target's to add
    metrics_port: int
    gang_port: int  # of node 0: where the supervisors meet
    master_port: int  # of node 0: where the ranks meet
    grace_seconds: float  # from SIGTERM to SIGKILL
    stop_budget_seconds: float  # from SIGTERM until the supervisor gives up on the save
    resources: Resources
    volumes: tuple[Volume, ...]
    node_folders: tuple[NodeFolder, ...]
    placement: Placement
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
