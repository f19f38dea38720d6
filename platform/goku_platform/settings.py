"""The cluster profile: where runs live and what a node is. It never changes what a run computes.

Values come from, in rising order: the defaults below, the profile (`--profile`, else
`./goku-platform.yaml` if it is there), GOKU_STORE, `--store`. `Profile.origin` says which it was.
"""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, field_validator, model_validator

from goku.config import ConfigError
from goku.config.section import Section
from goku_platform.errors import SettingsError
from goku_platform.version import package_version

DEFAULT_PROFILE = Path("goku-platform.yaml")
STORE_VARIABLE = "GOKU_STORE"
Target = Literal["local", "kubernetes"]
Origin = Literal["default", "profile", "environment", "option"]
Fabric = Literal["tcp", "infiniband", "roce", "efa"]

# Set by this platform or by the job controller: a profile that sets one would break rendezvous.
_RESERVED = re.compile(r"(GOKU|PET|TORCHELASTIC)_.*|MASTER_(ADDR|PORT)|(LOCAL_)?RANK|WORLD_SIZE")


class Kind(StrEnum):
    """The kinds of Kubernetes object that a job can be, in the order of preference."""

    PYTORCHJOB = "pytorchjob"
    TRAINJOB = "trainjob"
    JOBSET = "jobset"
    JOB = "job"
    RAYJOB = "rayjob"  # curation only


def absolute(place: str) -> str:
    """A URI as it is, and a path from the root, so that it means the same from any folder."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


class Toleration(Section):
    """A taint that the pods accept, in Kubernetes' own words."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None  # None: every one


class Settings(Section):
    """One place to run in. Secrets are named here, never held."""

    store: str = "runs"  # a folder here: a first run needs no bucket
    target: Target = "local"  # and no cluster
    context: str | None = None  # of the kubeconfig; None: its current one
    namespace: str = "goku"
    kind: Kind | None = None  # None: the first kind that the cluster serves and queues
    runtime: str = "goku-training"  # the ClusterTrainingRuntime that the chart installs
    image: str = Field(default_factory=lambda: f"goku-platform:{package_version()}")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"  # fixed tags
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None  # carries the cloud identity; None: the namespace's default
    secrets: tuple[str, ...] = ()  # Secrets whose keys become variables: the store's credentials
    queue: str | None = None  # Kueue's LocalQueue; None starts at once
    priority_class: str | None = None  # Kueue's WorkloadPriorityClass; None: its default
    gpus_per_node: int = Field(8, ge=0)  # HGX and DGX; 0 trains on CPUs
    gpu_resource: str = "nvidia.com/gpu"
    cpus_per_node: float = Field(96, gt=0)  # 8-GPU nodes have 192 or more; the rest is headroom
    memory_gib_per_node: int = Field(1024, gt=0)  # of about 2 TiB on such nodes
    gpu_memory_gib: float = Field(79, gt=0)  # of one GPU, an H100; an H200 has 139
    shm_gib: int = Field(64, gt=0)  # /dev/shm: NCCL's buffers; the runtime's 64 MiB end it
    scratch_gib: int = Field(200, gt=0)  # pod folder, logs in flight, compiled kernels
    network: Fabric = "tcp"  # runs everywhere; the others need devices and drivers
    network_interface: str | None = None  # such as eth0; None: each library finds its own
    network_devices: int = Field(0, ge=0)  # of the fabric, per whole node; 0 requests none
    network_resource: str | None = None  # the device plugin's name; None: the fabric's usual one
    metrics_port: int = Field(9464, gt=0, lt=65536)  # customary for Prometheus exporters
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    excluded_nodes: tuple[str, ...] = ()  # host names that a bad node gave us reason to avoid
    topology_required: str | None = None  # a node label: all pods under one value of it, or wait
    topology_preferred: str | None = None  # likewise, but spread if they do not fit
    ray_image: str | None = None  # of a RayJob's pods: Ray and goku[curate]; None: `image`
    ray_workers: int = Field(2, gt=0)  # pods of a RayJob, each a whole node
    ttl_seconds_after_finished: int = Field(604_800, ge=0)  # a week to look at a finished job
    env: dict[str, str] = Field(default_factory=dict)  # such as NCCL_SOCKET_IFNAME
    store_gib_per_second: float = Field(1.0, gt=0)  # one node's writes: a modest bucket's rate
    price_per_gpu_hour: float | None = Field(None, ge=0)  # in any currency; None: no cost is shown

    @field_validator("store")
    @classmethod
    def _store_is_absolute(cls, store: str) -> str:
        if not store.strip():
            raise ConfigError("store=''", "it is empty", "Give a folder or a URI.")
        return absolute(store)

    @field_validator("env")
    @classmethod
    def _env_is_free(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if _RESERVED.fullmatch(name):
                raise ConfigError(
                    f"env.{name}", "the platform sets this variable itself", "Remove it."
                )
        return env

    @model_validator(mode="after")
    def _one_topology(self) -> Self:
        if self.topology_required and self.topology_preferred:
            raise ConfigError(
                f"topology_preferred={self.topology_preferred}",
                f"topology_required={self.topology_required} is set too, and Kueue takes one",
                "Remove one of them.",
            )
        return self


class Profile(NamedTuple):
    """Settings, and where each of them came from."""

    settings: Settings
    origin: dict[str, Origin]

    def explain(self) -> dict[str, dict[str, Any]]:
        """Every setting with its value and origin, as plain data."""
        values = self.settings.model_dump(mode="json")
        return {key: {"value": values[key], "origin": self.origin[key]} for key in values}


def load(
    path: Path | None = None,
    *,
    store: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Profile:
    """Read the profile and lay the environment and `--store` on top. Raises SettingsError."""
    file = path or (DEFAULT_PROFILE if DEFAULT_PROFILE.exists() else None)
    layers: list[tuple[Origin, Mapping[str, Any]]] = [
        ("profile", _read(file) if file else {}),
        ("environment", _given(environ.get(STORE_VARIABLE) or None)),  # an empty one is not set
        ("option", _given(store)),
    ]
    origin: dict[str, Origin] = dict.fromkeys(Settings.model_fields, "default")
    values: dict[str, Any] = {}
    for name, layer in layers:
        values |= layer
        origin |= dict.fromkeys(layer, name)
    return Profile(_build(values, file), origin)


def _given(store: str | None) -> dict[str, str]:
    return {} if store is None else {"store": store}


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SettingsError(
            f"profile {file}", f"it cannot be read ({error.strerror})", "Name another: --profile."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"profile {file}", f"it is not YAML ({error})", "Mend it.") from None
    if not isinstance(values or {}, dict):
        raise SettingsError(f"profile {file}", "it holds no keys", "Write lines of 'key: value'.")
    return values or {}


def _build(values: Mapping[str, Any], file: Path | None) -> Settings:
    try:
        return Settings.build(values)
    except ConfigError as error:
        place = f"profile {file}: {error.value}" if file else error.value
        fix = "Correct it there." if error.fix.startswith("Set another value") else error.fix
        raise SettingsError(place, error.rule, fix) from None
