"""Nodes that do not exist, for tests of scale: KWOK keeps them ready and runs their pods on paper.

They carry a taint, so that only pods which tolerate it (`TOLERATION`) land on them, and a label
(`label`), so that pods are sent to one test's nodes. The stage that ends every pod of a Job at once
is left out.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.cluster import daemons
from tests.cluster.binaries import binary, files
from tests.cluster.kubectl import kubectl
from tests.cluster.layout import RUN, kubeconfig

TOLERATION = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}
ANNOTATION = "kwok.x-k8s.io/node"
PREFIX = "kwok"
_PREFIX_LABEL = "kwok-prefix"
LEFT_OUT = "pod-complete"
READY_SECONDS = 60


def up() -> None:
    """Start KWOK, if it does not run; it looks after the nodes that carry its annotation."""
    records = daemons.recorded()
    if "kwok" in records and records["kwok"].alive:
        return
    stages = RUN / "kwok-stages.yaml"
    stages.write_text("\n---\n".join(_stages()))
    flags = [f"--kubeconfig={kubeconfig('kwok')}", f"--config={stages}"]
    flags.append(f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake")
    flags += ["--server-address=127.0.0.1:10247", "--node-lease-duration-seconds=40"]
    daemons.start("kwok", [binary("kwok"), *flags])


def label(prefix: str = PREFIX) -> dict[str, str]:
    """A node selector: the nodes that were added under a prefix."""
    return {_PREFIX_LABEL: prefix}


@contextmanager
def nodes(count: int, **options: Any) -> Iterator[list[str]]:
    """Nodes for the time of a test: `add_nodes` and `remove_nodes`."""
    prefix = options.get("prefix", PREFIX)
    remove_nodes(prefix)
    try:
        yield add_nodes(count, **options)
    finally:
        remove_nodes(prefix)


def add_nodes(
    count: int, *, gpus: int = 8, prefix: str = PREFIX, labels: Mapping[str, str] | None = None
) -> list[str]:
    """Add nodes and return their names; they are ready when this returns."""
    names = [f"{prefix}-{index}" for index in range(count)]
    items = [_node(name, prefix, gpus, labels or {}) for name in names]
    document = {"apiVersion": "v1", "kind": "List", "items": items}
    kubectl("create", "-f", "-", input=json.dumps(document))
    deadline = time.monotonic() + READY_SECONDS
    while _ready(prefix) < count:
        if time.monotonic() > deadline:
            ready, log = _ready(prefix), daemons.tail("kwok")
            raise daemons.ClusterError(f"{ready} of {count} nodes on paper are ready:\n{log}")
        time.sleep(0.5)
    return names


def remove_nodes(prefix: str = PREFIX) -> None:
    """Remove all nodes that were added under a prefix, and their pods, which nobody else ends."""
    names = {item["metadata"]["name"] for item in _listed(prefix)}
    pods = json.loads(kubectl("get", "pods", "-A", "-o", "json"))["items"] if names else []
    lost = [pod["metadata"] for pod in pods if pod["spec"].get("nodeName") in names]
    # Nodes first: a controller would put new pods in the place of the old.
    kubectl("delete", "nodes", "-l", f"{_PREFIX_LABEL}={prefix}", "--wait=false")
    for namespace in {pod["namespace"] for pod in lost}:
        own = [pod["name"] for pod in lost if pod["namespace"] == namespace]
        now = ("--force", "--wait=false", "--ignore-not-found")
        kubectl("delete", "pods", "-n", namespace, *now, *own)


def _listed(prefix: str) -> list[Any]:
    words = ("get", "nodes", "-l", f"{_PREFIX_LABEL}={prefix}", "-o", "json")
    return list(json.loads(kubectl(*words))["items"])


def _ready(prefix: str) -> int:
    conditions = (one for node in _listed(prefix) for one in node["status"].get("conditions", []))
    return sum(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _node(name: str, prefix: str, gpus: int, labels: Mapping[str, str]) -> dict[str, Any]:
    amount = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    own = {"kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION: "fake"},
            "labels": own | label(prefix) | dict(labels),
        },
        "spec": {"taints": [{"key": TOLERATION["key"], "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": amount, "allocatable": amount},
    }


def _stages() -> Iterator[str]:
    root = files("kwok", "kustomize")
    for folder in ("stage/node/fast", "stage/node/heartbeat", "stage/pod/fast"):
        for path in sorted((root / folder).glob("*.yaml")):
            text = path.read_text()
            if "kind: Stage" in text and path.stem != LEFT_OUT:
                yield text
