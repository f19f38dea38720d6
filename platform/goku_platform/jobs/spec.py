"""JobSpec: one job as frozen data. Renderers and the local client read it and nothing else.

A node is one pod: one supervisor, which starts `processes_per_node` ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from goku.config.run import Job
from goku_platform.settings import Toleration


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A folder that lives as long as the pod."""

    name: str
    path: str
    size_gib: int
    in_memory: bool = False  # counts towards the pod's memory limit


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node's pod asks for."""

    cpus: int
    memory_gib: int
    gpus: int
    gpu_resource: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a cluster puts the pods, and with which image and identity. Local runs ignore it."""

    namespace: str
    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    service_account: str | None
    secrets: tuple[str, ...]
    queue: str | None
    node_selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One run as a job of `nodes` pods."""

    name: str
    run_uri: str
    job: Job
    command: tuple[str, ...]
    nodes: int
    processes_per_node: int
    code_version: str  # of whoever planned it; an image names its own
    env: Mapping[str, str]  # the same on every node; rank and addresses are the target's to add
    metrics_port: int
    grace_seconds: float  # from SIGTERM to SIGKILL
    stop_budget_seconds: float  # from SIGTERM until the supervisor gives up on the save
    resources: Resources
    volumes: tuple[Volume, ...]
    placement: Placement
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
