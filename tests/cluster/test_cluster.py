"""The test cluster does what a real one does: names, services, walls, queues, every kind of job.

What fails here is the cluster, not the platform.
"""

import time
from typing import Any

import pytest

from tests.cluster import kwok
from tests.cluster.cluster import Cluster
from tests.cluster.daemons import ClusterError
from tests.cluster.objects import SECURE, job, jobset, pod, pytorchjob, runtime, service, trainjob
from tests.cluster.queues import Queue, queue

SERVE = "mkdir /tmp/w && echo hello > /tmp/w/x && exec httpd -f -p 8080 -h /tmp/w"
GET = r"printf 'GET /x HTTP/1.0\r\n\r\n' | nc -w 3"


def _serve(cluster: Cluster, namespace: str) -> None:
    server = pod("server", namespace, cluster.busybox, SERVE)
    client = pod("client", namespace, cluster.busybox, "sleep 1000")
    cluster.apply([server, client, service("server", namespace, port=80, target=8080)])
    running = {"client": "Running", "server": "Running"}
    cluster.wait(lambda: cluster.phases(namespace) == running, seconds=60, what="two pods")


def _in_client(cluster: Cluster, namespace: str, command: str) -> str:
    return cluster.exec(namespace, "client", "sh", "-c", command)


def test_pods_find_services_by_name_and_reach_nothing_else(
    cluster: Cluster, namespace: str
) -> None:
    _serve(cluster, namespace)
    address = cluster.get("service", "server", namespace=namespace)["spec"]["clusterIP"]
    found = _in_client(cluster, namespace, "getent hosts server").split()
    assert found == [address, f"server.{namespace}.svc.cluster.local"]
    reached = f"{GET} {address} 80"
    cluster.wait(
        lambda: "hello" in _in_client(cluster, namespace, f"{reached} || true"),
        seconds=20,
        what="an answer through the service",
    )
    assert "hello" in _in_client(cluster, namespace, f"{GET} {_address(cluster, namespace)} 8080")
    assert "400" in _in_client(cluster, namespace, f"{GET} {cluster.address} 6443")
    for outside in ("1.1.1.1 443", "8.8.8.8 53", "192.0.2.1 80", "169.254.169.254 80"):
        with pytest.raises(ClusterError):
            _in_client(cluster, namespace, f"{GET} {outside}")
    with pytest.raises(ClusterError):
        _in_client(cluster, namespace, "getent hosts example.com")


def _address(cluster: Cluster, namespace: str) -> str:
    return str(cluster.get("pod", "server", namespace=namespace)["status"]["podIP"])


def test_restricted_namespaces_refuse_root(cluster: Cluster, namespace: str) -> None:
    root = pod("root", namespace, cluster.busybox, "id", security={"runAsUser": 0})
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
        cluster.apply(root)
    cluster.apply(pod("user", namespace, cluster.busybox, "id -u"))
    succeeded = {"user": "Succeeded"}
    cluster.wait(lambda: cluster.phases(namespace) == succeeded, seconds=60, what="a user's pod")
    assert cluster.logs(namespace, "user").strip() == str(SECURE["runAsUser"])


def test_an_image_that_is_not_here_is_never_asked_for_elsewhere(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(pod("absent", namespace, "registry.example/absent:1", "id"))

    def refused() -> bool:
        (found,) = cluster.pods(namespace)
        return "127.0.0.1:1: connect: connection refused" in str(found["status"])

    cluster.wait(refused, seconds=60, what="a refused image")


@pytest.mark.parametrize(
    ("kind", "make", "ended"),
    [
        ("job", job, "Complete"),
        ("jobset", jobset, "Completed"),
        ("pytorchjob", pytorchjob, "Succeeded"),
        ("trainjob", trainjob, "Complete"),
    ],
)
def test_every_kind_of_job_completes(cluster: Cluster, kind: str, make: Any, ended: str) -> None:
    with cluster.namespace(f"completes-{kind}") as name:
        if kind == "trainjob":
            cluster.apply(runtime(name, cluster.busybox))
        cluster.apply(make("tiny", name, cluster.busybox, "echo done by $HOSTNAME"))
        cluster.wait(
            lambda: cluster.condition(kind, "tiny", name, ended),
            seconds=120,
            what=f"{kind} being {ended}",
        )
        pods = cluster.pods(name)
        assert len(pods) == 2
        logs = [cluster.logs(name, one["metadata"]["name"]) for one in pods]
        assert all(text.startswith("done by tiny-") for text in logs)


def _queued(cluster: Cluster, own: Queue, name: str, seconds: int) -> dict[str, Any]:
    # A low job ends at once when it is asked to, as a training pod does after its save.
    command = f"trap 'exit 143' TERM; sleep {seconds} & wait"
    made = pytorchjob(name, own.namespace, cluster.busybox, command, gpus=1)
    labels = {
        "kueue.x-k8s.io/queue-name": own.name,
        "kueue.x-k8s.io/priority-class": own.priority(name),
    }
    made["metadata"]["labels"] = labels
    return made


def test_kueue_preempts_the_lower_priority_and_brings_it_back(
    cluster: Cluster, namespace: str
) -> None:
    with queue(cluster, namespace, gpus=2) as own:
        cluster.apply(_queued(cluster, own, "low", 600))
        running = {"low-worker-0": "Running", "low-worker-1": "Running"}
        cluster.wait(lambda: cluster.phases(namespace) == running, seconds=60, what="low running")
        first = {one["metadata"]["uid"] for one in cluster.pods(namespace)}
        cluster.apply(_queued(cluster, own, "high", 3))
        cluster.wait(
            lambda: cluster.condition("pytorchjob", "high", namespace, "Succeeded"),
            seconds=120,
            what="high done",
        )
        low = "training.kubeflow.org/job-name=low"
        cluster.wait(
            lambda: cluster.phases(namespace, low) == running, seconds=120, what="low again"
        )
        assert not first & {one["metadata"]["uid"] for one in cluster.pods(namespace, low)}
        events = cluster.get("events", namespace=namespace)["items"]
        assert "EvictedDueToPreempted" in {event["reason"] for event in events}


def test_128_nodes_on_paper_hold_1024_gpus(cluster: Cluster, namespace: str) -> None:
    started = time.monotonic()
    with kwok.nodes(128, gpus=8, prefix="paper") as names:
        print(f"128 nodes ready in {time.monotonic() - started:.1f} s")
        wide = job("wide", namespace, cluster.busybox, "sleep 600", nodes=128, gpus=8)
        wide["spec"]["template"]["spec"]["tolerations"] = [kwok.TOLERATION]
        wide["spec"]["template"]["spec"]["nodeSelector"] = kwok.label("paper")
        cluster.apply(wide)
        cluster.wait(
            lambda: list(cluster.phases(namespace).values()) == ["Running"] * 128,
            seconds=120,
            what="128 pods of 8 GPUs",
        )
        places = {one["spec"]["nodeName"] for one in cluster.pods(namespace)}
        assert places == set(names)


@pytest.mark.disruptive
def test_what_breaks_is_seen(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod("victim", namespace, cluster.busybox, "sleep 1000", restart="Always"))
    running = {"victim": "Running"}
    cluster.wait(lambda: cluster.phases(namespace) == running, seconds=60, what="the victim")

    def restarts() -> tuple[int, str]:
        (found,) = cluster.pods(namespace)
        (container,) = found["status"]["containerStatuses"]
        return container["restartCount"], str(container["lastState"])

    cluster.chaos.freeze(namespace, "victim")
    cluster.chaos.thaw(namespace, "victim")
    cluster.chaos.kill(namespace, "victim")
    cluster.wait(lambda: restarts()[0] == 1, seconds=30, what="a restart after SIGKILL")
    assert "'exitCode': 137" in restarts()[1]
    cluster.chaos.restart_apiserver()
    assert cluster.phases(namespace) == running
    cluster.chaos.evict(namespace, "victim")
    cluster.wait(lambda: not cluster.pods(namespace), seconds=60, what="the eviction")
