"""The cluster profile: where runs live and what a node is. It never changes what a run computes.

Values come from, in rising order: the defaults below, the profile (`--profile`, else
`./goku-platform.yaml` if it is there), GOKU_STORE, `--store`. `Profile.origin` says which it was.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, field_validator

from goku.config import ConfigError
from goku.config.section import Section
from goku_platform.errors import SettingsError
from goku_platform.version import package_version

DEFAULT_PROFILE = Path("goku-platform.yaml")
STORE_VARIABLE = "GOKU_STORE"
Target = Literal["local", "kubernetes"]
Origin = Literal["default", "profile", "environment", "option"]

# Set by this platform or by the job controller: a profile that sets one would break rendezvous.
_RESERVED = re.compile(r"(GOKU|PET|TORCHELASTIC)_.*|MASTER_(ADDR|PORT)|(LOCAL_)?RANK|WORLD_SIZE")


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
    namespace: str = "goku"
    image: str = Field(default_factory=lambda: f"goku-platform:{package_version()}")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"  # fixed tags
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None  # carries the cloud identity; None: the namespace's default
    secrets: tuple[str, ...] = ()  # Secrets whose keys become variables: the store's credentials
    queue: str | None = None  # Kueue's LocalQueue; None starts at once
    gpus_per_node: int = Field(8, ge=0)  # HGX and DGX; 0 trains on CPUs
    gpu_resource: str = "nvidia.com/gpu"
    cpus_per_node: int = Field(96, gt=0)  # 8-GPU nodes have 192 or more; the rest is headroom
    memory_gib_per_node: int = Field(1024, gt=0)  # of about 2 TiB on such nodes
    shm_gib: int = Field(64, gt=0)  # /dev/shm: NCCL's buffers; the runtime's 64 MiB end it
    scratch_gib: int = Field(200, gt=0)  # pod folder, logs in flight, compiled kernels
    metrics_port: int = Field(9464, gt=0, lt=65536)  # customary for Prometheus exporters
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)  # such as NCCL_SOCKET_IFNAME
    store_gib_per_second: float = Field(1.0, gt=0)  # one node's writes: a modest bucket's rate

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
        ("environment", _given(environ.get(STORE_VARIABLE))),
        ("option", _given(store)),
    ]
    origin: dict[str, Origin] = dict.fromkeys(Settings.model_fields, "default")
    values: dict[str, Any] = {}
    for name, layer in layers:
        values |= layer
        origin |= dict.fromkeys(layer, name)
    return Profile(_build(values, file), origin)


def _given(store: str | None) -> dict[str, str]:
    return {"store": store} if store else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SettingsError(
            f"profile {file}", f"it cannot be read ({error.strerror})", "Name another: --profile."
        ) from None
    except yaml.YAMLError as error:
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
