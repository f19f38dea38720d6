"""What breaks in real clusters, done on purpose: processes die or freeze, pods are evicted, the API
server restarts, a node falls silent.

Processes are found on the host through containerd, so what is killed is the real thing, and nobody
in the cluster is told.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import control_plane, daemons, node, operators
from tests.cluster.containers import processes
from tests.cluster.daemons import ClusterError
from tests.cluster.kubectl import kubectl
from tests.cluster.layout import GPUS


class Chaos:
    """Every way of breaking things that tests use."""

    def processes(self, namespace: str, pod: str, *, container: str = "") -> list[int]:
        """The host's process ids of a running container (the first one without a name), its own
        first process first."""
        status = json.loads(kubectl("get", "pod", pod, "-n", namespace, "-o", "json"))["status"]
        for found in status.get("containerStatuses", []):
            if container in ("", found["name"]) and "running" in found["state"]:
                return processes(found["containerID"].removeprefix("containerd://"))
        raise ClusterError(f"pod {namespace}/{pod} has no running container {container}".rstrip())

    def kill(self, namespace: str, pod: str, *, container: str = "") -> None:
        """SIGKILL to every process of a container, as the kernel does when memory is out."""
        self._signal(namespace, pod, container, signal.SIGKILL)

    def freeze(self, namespace: str, pod: str, *, container: str = "") -> None:
        """SIGSTOP to every process of a container: it holds its connections and says nothing."""
        self._signal(namespace, pod, container, signal.SIGSTOP)

    def thaw(self, namespace: str, pod: str, *, container: str = "") -> None:
        """SIGCONT to every process of a container."""
        self._signal(namespace, pod, container, signal.SIGCONT)

    def evict(self, namespace: str, pod: str, *, grace_seconds: int | None = None) -> None:
        """Evict a pod as a drain of its node does, through the eviction API."""
        document = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        if grace_seconds is not None:
            document["deleteOptions"] = {"gracePeriodSeconds": grace_seconds}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        kubectl("create", "--raw", path, "-f", "-", input=json.dumps(document))

    def delete_now(self, namespace: str, pod: str) -> None:
        """Delete a pod with no grace at all."""
        kubectl("delete", "pod", pod, "-n", namespace, "--grace-period=0", "--force")

    def slow_down(self, namespace: str, pod: str, *, cores: str = "250m") -> None:
        """Limit each container of a running pod to so much CPU by an in-place resize.

        More than it asks for: a resize may not change a pod's class of service."""
        containers = json.loads(kubectl("get", "pod", pod, "-n", namespace, "-o", "json"))["spec"]
        limits = {"limits": {"cpu": cores}}
        patch = [{"name": one["name"], "resources": limits} for one in containers["containers"]]
        words = ("patch", "pod", pod, "-n", namespace, "--subresource", "resize", "-p")
        kubectl(*words, json.dumps({"spec": {"containers": patch}}))

    def restart_apiserver(self, *, down_seconds: float = 0) -> None:
        """Kill the API server and start it again; return when it is ready."""
        command = daemons.find("kube-apiserver").command
        daemons.stop(daemons.find("kube-apiserver"), grace_seconds=0)
        time.sleep(down_seconds)
        daemons.start("kube-apiserver", command)
        daemons.wait(
            control_plane.ready, seconds=90, name="kube-apiserver", what="being ready again"
        )

    def restart_operator(self, name: str) -> None:
        """Kill an operator and wait until its successor answers."""
        operators.restart(name)

    @contextmanager
    def silent_node(self) -> Iterator[None]:
        """The node's kubelet says nothing for a while; its pods run on, but services leave them out
        until it speaks again. The operators answer when this returns."""
        daemons.find("kubelet").signal(signal.SIGSTOP)
        try:
            yield
        finally:
            daemons.find("kubelet").signal(signal.SIGCONT)
            daemons.wait(node.ready, seconds=60, name="kubelet", what="the node being ready again")
            operators.wait()

    def restart_kubelet(self) -> None:
        """Kill the kubelet and start it again; containers live on, and the GPUs come back."""
        daemons.restart("kubelet")
        daemons.wait(node.ready, seconds=60, name="kubelet", what="the node being ready again")
        node.set_gpus(GPUS)

    def _signal(self, namespace: str, pod: str, container: str, number: signal.Signals) -> None:
        for pid in self.processes(namespace, pod, container=container):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
