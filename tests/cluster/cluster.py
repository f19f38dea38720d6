"""The test cluster as tests see it: `Cluster.attach()`, then objects, namespaces and waiting.

What breaks things on purpose is in `chaos`, reached as `cluster.chaos`; queues are in `queues`,
nodes on paper in `kwok`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import control_plane, images, lifecycle
from tests.cluster.chaos import Chaos
from tests.cluster.daemons import ClusterError, tail
from tests.cluster.kubectl import apply, kubectl
from tests.cluster.layout import ADDRESS, KUBECONFIG

Manifest = Mapping[str, Any]
RESTRICTED = "pod-security.kubernetes.io/enforce"


class Cluster:
    """A handle of the cluster that runs on this machine. It holds no state of its own."""

    kubeconfig: Path = KUBECONFIG
    # Where a server of a test listens so that pods reach it, and nobody else does.
    address: str = ADDRESS

    def __init__(self) -> None:
        self.chaos = Chaos()
        self.busybox = images.busybox().reference

    @classmethod
    def attach(cls) -> "Cluster":
        """The running cluster. Raises `ClusterError` with the command to start one."""
        if not lifecycle.running():
            raise ClusterError(f"no test cluster runs: `make cluster-up`\n{lifecycle.status()}")
        return cls()

    def kubectl(self, *words: str, input: str | None = None) -> str:
        """Run kubectl as the administrator and return what it prints. Raises `ClusterError`."""
        return kubectl(*words, input=input)

    def apply(self, manifests: str | Manifest | Sequence[Manifest]) -> None:
        """Apply YAML text, one object or several, by server-side apply."""
        if not isinstance(manifests, str):
            items = [manifests] if isinstance(manifests, Mapping) else list(manifests)
            manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        apply(manifests)

    def get(self, kind: str, name: str = "", *, namespace: str = "", selector: str = "") -> Any:
        """One object, or the list of a kind, as `kubectl get` gives it in JSON."""
        words = [kind, *([name] if name else [])]
        words += ["--namespace", namespace] if namespace else []
        words += ["--selector", selector] if selector else []
        return json.loads(kubectl("get", *words, "--output", "json"))

    def exists(self, kind: str, name: str, *, namespace: str = "") -> bool:
        """Whether an object is there."""
        words = ["--namespace", namespace] if namespace else []
        return bool(kubectl("get", kind, name, *words, "--ignore-not-found", "-o", "name"))

    def pods(self, namespace: str, selector: str = "") -> list[Any]:
        """The pods of a namespace, in the order of their names."""
        items = self.get("pods", namespace=namespace, selector=selector)["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["name"]))

    def phases(self, namespace: str, selector: str = "") -> dict[str, str]:
        """The phase of each pod."""
        pods = self.pods(namespace, selector)
        return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods}

    def condition(self, kind: str, name: str, namespace: str, *types: str) -> bool:
        """Whether one of these conditions of an object is true."""
        if not self.exists(kind, name, namespace=namespace):
            return False
        found = self.get(kind, name, namespace=namespace).get("status", {}).get("conditions", [])
        return any(one["type"] in types and one["status"] == "True" for one in found)

    def logs(self, namespace: str, pod: str, *words: str) -> str:
        """The log of a pod."""
        return kubectl("logs", pod, "--namespace", namespace, *words)

    def exec(self, namespace: str, pod: str, *command: str) -> str:
        """Run a command in a pod. Raises `ClusterError` when it fails."""
        return kubectl("exec", pod, "--namespace", namespace, "--", *command)

    @contextmanager
    def namespace(self, name: str, *, restricted: bool = True) -> Iterator[str]:
        """A fresh namespace that enforces the restricted Pod Security profile; it goes at the end.

        Nobody waits for that, which takes a minute after a restart of the control plane, but the
        next namespace of the same name.
        """
        if self.exists("namespace", name):
            self._remove_namespace(name)
            kubectl("wait", "namespace", name, "--for=delete", "--timeout=120s")
        labels = {RESTRICTED: "restricted"} if restricted else {}
        metadata = {"name": name, "labels": labels}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        # Pods are refused until the namespace's default account is there.
        self.wait(
            lambda: self.exists("serviceaccount", "default", namespace=name),
            seconds=30,
            what=f"the default account of {name}",
        )
        try:
            yield name
        finally:
            self._remove_namespace(name)

    def wait(self, condition: Callable[[], object], *, seconds: float, what: str) -> None:
        """Wait until the condition holds. Raises `ClusterError` that says what did not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not within {seconds:.0f} s")
            time.sleep(0.2)

    def requests(self) -> list[Any]:
        """What people and programs (no component of the cluster) have asked the API server so far:
        the audit log's records, oldest first. Take the length before, and the rest after."""
        lines = control_plane.AUDIT.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def troubles(self) -> str:
        """The ends of all logs of the control plane and the node, for a failed test's report."""
        ends = ((name, tail(name, lines=12).splitlines()) for name in lifecycle.NEEDED)
        # The kubelet prints whole containers: the start of a line says enough.
        cut = ((name, "\n".join(line[:300] for line in lines)) for name, lines in ends)
        return "\n".join(f"--- {name}\n{text}" for name, text in cut)

    def _remove_namespace(self, name: str) -> None:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
        words = ("delete", "pods", "--namespace", name, "--wait=false")
        # A pod that ignores TERM would hold the namespace for its whole grace.
        kubectl(*words, "--all", "--grace-period=1")
        # Nobody ends a pod that is on no node but the collector of garbage, in minutes.
        kubectl(*words, "--field-selector", "spec.nodeName=", "--grace-period=0", "--force")
