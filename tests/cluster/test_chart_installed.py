"""The chart on the cluster: installed, upgraded and removed whole, and accepted by every CRD.

That NetworkPolicies are enforced is not tested: the bridge plugin of the test cluster ignores them.
"""

from collections.abc import Iterator

import pytest

from goku_platform.jobs import names
from goku_platform.render.kinds import render
from goku_platform.settings import Kind
from tests.chart.chart import VALUES, loaded
from tests.cluster.cluster import RESTRICTED, Cluster
from tests.cluster.installed import Installed, installed
from tests.goku_platform import rendering

MONITORING = ("podMonitor", "rules", "dashboards")
MONITORED = tuple(f"monitoring.{one}.enabled=true" for one in MONITORING)
QUEUES = ("--values", VALUES / "two-queues.yaml")
KUEUE = {
    "ClusterQueue/goku-production",
    "ClusterQueue/goku-research",
    "LocalQueue/production",
    "LocalQueue/research",
    "LocalQueue/research-nightly",
    "ResourceFlavor/goku-reserved",
    "ResourceFlavor/goku-spot",
    "WorkloadPriorityClass/goku-high",
}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster.attach()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("chart") as name:
        yield name


def test_installed_upgraded_and_removed_whole(cluster: Cluster, namespace: str) -> None:
    with installed(cluster, namespace) as release:
        first = release.objects()
        assert first.keys() >= {"Role/goku-launcher", "ServiceAccount/goku-training"}
        assert not first.keys() & KUEUE

        _upgrade(release, *MONITORED)
        second = release.objects()
        assert second.keys() >= {*first, *KUEUE, "PodMonitor/goku", "PrometheusRule/goku"}
        assert second["Role/goku-launcher"] == first["Role/goku-launcher"]

        _upgrade(release, *MONITORED)
        assert release.objects() == second  # nothing moves where nothing changed

        release.helm("upgrade", "--set", f"runtime.name={namespace}")
        assert release.objects().keys() == first.keys()
    assert release.objects() == {}


def _upgrade(release: Installed, *settings: str) -> None:
    chosen = (f"runtime.name={release.namespace}", *settings)
    release.helm("upgrade", *QUEUES, *(part for one in chosen for part in ("--set", one)))


def test_everything_is_accepted_and_its_queue_is_active(cluster: Cluster, namespace: str) -> None:
    values = VALUES / "everything.yaml"
    runs = loaded(values)["namespace"]["name"]
    try:
        with installed(cluster, namespace, "--values", values) as release:
            expected = {"PrometheusRule/goku", "PodMonitor/goku", "NetworkPolicy/goku-runs"}
            expected |= {"Topology/goku", f"ClusterTrainingRuntime/{namespace}"}
            assert release.objects().keys() >= expected
            labels = cluster.get("namespace", runs)["metadata"]["labels"]
            assert labels[RESTRICTED] == "restricted"
            for kind, where in (("clusterqueue", ""), ("localqueue", runs)):
                cluster.wait(
                    lambda kind=kind, where=where: cluster.condition(  # type: ignore[misc]
                        kind, "goku", where, "Active"
                    ),
                    seconds=30,
                    what=f"{kind} goku",
                )
        assert cluster.exists("namespace", runs)  # kept, with the Secrets that people made
    finally:
        cluster.kubectl("delete", "namespace", runs, "--ignore-not-found")


def test_a_trainjob_finds_its_runtime(cluster: Cluster, namespace: str) -> None:
    with installed(cluster, namespace):
        [job] = render(rendering.one_cpu_node(Kind.TRAINJOB))
        job["metadata"]["namespace"] = namespace
        job["spec"]["runtimeRef"]["name"] = namespace
        cluster.apply(job)
        cluster.wait(
            lambda: cluster.exists("jobset", job["metadata"]["name"], namespace=namespace),
            seconds=30,
            what="the TrainJob's JobSet",
        )
        made = cluster.get("jobset", job["metadata"]["name"], namespace=namespace)
        rules = made["spec"]["failurePolicy"]["rules"]
        assert [rule["name"] for rule in rules] == ["final", "retried", "vanished"]
        # A namespace that ends before it would have its JobSet try again and again, for minutes.
        cluster.kubectl("delete", "trainjob", job["metadata"]["name"], "-n", namespace)


def test_a_job_passes_the_queue_by_priority(cluster: Cluster, namespace: str) -> None:
    with installed(cluster, namespace, settings=["kueue.enabled=true"]):
        cluster.apply(_job(cluster, namespace))
        try:
            cluster.wait(
                lambda: cluster.condition("job", "queued", namespace, "Complete"),
                seconds=180,
                what="the queued job",
            )
            [workload] = cluster.get("workloads", namespace=namespace)["items"]
            assert workload["spec"]["priority"] == 1000
            assert workload["status"]["admission"]["clusterQueue"] == "goku"
        finally:  # a ClusterQueue goes only after its workloads
            cluster.kubectl("delete", "job", "queued", "--namespace", namespace)


def _job(cluster: Cluster, namespace: str) -> dict[str, object]:
    """One pod that passes the restricted level, as the service account of training."""
    container = {
        "name": "node",
        "image": cluster.busybox,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", "test ! -e /var/run/secrets/kubernetes.io/serviceaccount"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": "goku-training",
        "containers": [container],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "queued",
            "namespace": namespace,
            "labels": {names.QUEUE: "goku", names.PRIORITY: "goku-high"},
        },
        "spec": {"suspend": True, "backoffLimit": 0, "template": {"spec": pod}},
    }
