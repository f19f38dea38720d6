"""A queue of Kueue for one namespace: a flavor, a cluster queue with a quota of GPUs, a local queue
and priorities. Cluster-wide objects carry the namespace's name, so tests do not meet.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import Cluster

VERSION = "kueue.x-k8s.io/v1beta2"
# Besides GPUs, so that pods with requests are admitted: far more than there is.
PLENTY = {"cpu": "1000", "memory": "10Ti"}


@dataclass(frozen=True)
class Queue:
    """The queue of a namespace. Its priorities are `<namespace>-<name>`, high preempts low."""

    namespace: str
    gpus: int = 2
    name: str = "research"
    priorities: Mapping[str, int] = field(default_factory=lambda: {"low": 100, "high": 1000})
    # Labels of the nodes that the queue's flavor stands for; none means any node.
    node_labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, str]] = ()
    topology: str | None = None

    def priority(self, name: str) -> str:
        """The name of the WorkloadPriorityClass behind a short name."""
        return f"{self.namespace}-{name}"

    def manifests(self) -> list[Any]:
        """Everything, in the order in which it must exist."""
        return [self._flavor(), self._cluster_queue(), self._local_queue(), *self._priorities()]

    def _flavor(self) -> Any:
        spec: dict[str, Any] = {}
        if self.node_labels:
            spec["nodeLabels"] = dict(self.node_labels)
        if self.tolerations:
            spec["tolerations"] = [dict(toleration) for toleration in self.tolerations]
        if self.topology:
            spec["topologyName"] = self.topology
        return self._object("ResourceFlavor", self.namespace, spec)

    def _cluster_queue(self) -> Any:
        quota = PLENTY | {"nvidia.com/gpu": str(self.gpus)}
        resources = [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]
        flavor = {"name": self.namespace, "resources": resources}
        spec = {
            "namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": self.namespace},
            },
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": list(quota), "flavors": [flavor]}],
        }
        return self._object("ClusterQueue", self.namespace, spec)

    def _local_queue(self) -> Any:
        queue = self._object("LocalQueue", self.name, {"clusterQueue": self.namespace})
        queue["metadata"]["namespace"] = self.namespace
        return queue

    def _priorities(self) -> Iterator[Any]:
        for name, value in self.priorities.items():
            priority = self._object("WorkloadPriorityClass", self.priority(name), None)
            yield priority | {"value": value, "description": f"{name}, for tests"}

    def _object(self, kind: str, name: str, spec: Any) -> Any:
        found: Any = {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}}
        return found if spec is None else found | {"spec": spec}


@contextmanager
def queue(cluster: Cluster, namespace: str, **options: Any) -> Iterator[Queue]:
    """A queue in a namespace, usable when this returns; the cluster-wide objects go at the end."""
    made = Queue(namespace, **options)
    cluster.apply(made.manifests())
    cluster.wait(
        lambda: cluster.condition("clusterqueue", namespace, "", "Active"),
        seconds=30,
        what=f"the cluster queue {namespace}",
    )
    try:
        yield made
    finally:
        # A cluster queue goes only after its workloads, which go with their namespace.
        kinds = [f"clusterqueue/{namespace}", f"resourceflavor/{namespace}"]
        kinds += [f"workloadpriorityclass/{made.priority(name)}" for name in made.priorities]
        cluster.kubectl("delete", *kinds, "--wait=false", "--ignore-not-found")


def rival(queue: Queue, image: str, *, name: str = "urgent", seconds: int = 5) -> dict[str, Any]:
    """Somebody else's job of high priority, which needs the whole quota for a few seconds."""
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", str(seconds)],
        "resources": {"limits": {"nvidia.com/gpu": str(queue.gpus)}, "requests": {"cpu": "10m"}},
        "securityContext": security,
    }
    labels = {
        "kueue.x-k8s.io/queue-name": queue.name,
        "kueue.x-k8s.io/priority-class": queue.priority("high"),
    }
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": queue.namespace, "labels": labels},
        "spec": {"template": {"spec": pod}, "suspend": True},
    }
