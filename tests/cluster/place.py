"""A namespace for tests of KubernetesClient: small jobs of busybox pods, clients, and waiting."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from goku.config import presets
from goku_platform.cluster.client import Check, Sighting
from goku_platform.cluster.kubernetes import KubernetesClient
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render.kinds import render
from goku_platform.settings import Settings
from tests.cluster.cluster import Cluster

STORE = "s3://bucket/runs"
# Leaves as a supervisor does: it saves on SIGTERM, then 143.
OBEDIENT = "echo node $GOKU_NODE_RANK; trap 'echo saved; exit 143' TERM; sleep 600 & wait"


class Place:
    """A namespace, with specs and clients for it."""

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace, self.image = namespace, image

    def settings(self, **values: Any) -> Settings:
        small = {"gpus_per_node": 0, "memory_gib_per_node": 1, "shm_gib": 1, "scratch_gib": 1}
        where = {"namespace": self.namespace, "image": self.image, "image_pull_policy": "Never"}
        # a runtime belongs to the whole cluster, and tests beside this one remove theirs
        where["runtime"] = self.namespace
        given = {"store": STORE, "target": "kubernetes", **small, **where}
        return Settings.build({**given, **values})

    def spec(
        self,
        name: str = "run",
        *,
        nodes: int = 2,
        script: str = OBEDIENT,
        gpus: int = 0,
        **values: Any,
    ) -> JobSpec:
        """A job of busybox pods, which need next to nothing."""
        settings = self.settings(**values)
        over = {"parallel": {"nodes": nodes, "processes_per_node": 1}}
        over["data"] = {"packs_per_step": nodes}
        config = presets.build("stage1", store=STORE, size="tiny", name=name, overrides=over)
        planned = plan(config, settings, code_version="abc")
        return replace(
            planned,
            command=("/bin/sh", "-c", script),
            grace_seconds=20,
            stop_budget_seconds=10,
            resources=replace(planned.resources, cpus=0, gpus=gpus),
        )

    def client(
        self, *, render: Callable[..., Any] = render, seconds: float = 20, **values: Any
    ) -> KubernetesClient:
        return KubernetesClient(self.settings(**values), render=render, timeout_seconds=seconds)


def until(
    client: KubernetesClient,
    spec: JobSpec,
    wanted: Callable[[Sighting], object],
    seconds: float = 60,
) -> Sighting:
    """Look at the run until it is as wanted."""
    deadline = time.monotonic() + seconds
    while not wanted(seen := client.get(spec.run_uri)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)
    return seen


def gone(client: KubernetesClient, spec: JobSpec) -> Sighting:
    return until(client, spec, lambda seen: not seen.alive)


def runs(seen: Sighting) -> bool:
    return seen.pods == {"Running": 2}


def left(cluster: Cluster, namespace: str) -> list[str]:
    """Everything that a launch could have left."""
    kinds = [f"{one.plural}.{one.group}" for one in RESOURCES.values()]
    present = [kind for kind in kinds if kind.removesuffix(".batch") in _served(cluster)]
    words = ("get", ",".join([*present, "services", "pods"]), "-n", namespace, "-o", "name")
    return cluster.kubectl(*words).split()


def _served(cluster: Cluster) -> list[str]:
    return cluster.kubectl("api-resources", "-o", "name").replace(".batch\n", "\n").split()


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}
