"""Least rights: what the chart's identities may do and what they may not, asked of the cluster.

Each row is one `kubectl auth can-i`; all rows are asked at once, as SubjectAccessReviews.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from goku_platform.cluster.kube import rights
from goku_platform.settings import Kind
from tests.chart.chart import VALUES
from tests.cluster.cluster import Cluster
from tests.cluster.daemons import ClusterError
from tests.cluster.installed import installed
from tests.goku_platform import rendering

NAMESPACE = "chart-rights"
LAUNCHER = f"system:serviceaccount:{NAMESPACE}:goku-launcher"
TRAINING = f"system:serviceaccount:{NAMESPACE}:goku-training"


class Row(NamedTuple):
    """One question. Resources are written as people write them: pods/log, jobs.batch."""

    verb: str
    resource: str
    namespace: str = NAMESPACE

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} in {self.namespace or 'all'}"


def rows(verbs: str, resources: str, *, namespace: str = NAMESPACE) -> list[Row]:
    """Every verb on every resource."""
    return [Row(verb, one, namespace) for one in resources.split() for verb in verbs.split()]


ALLOWED = [
    *rows("get list watch", "pods events"),
    *rows("get", "pods/log"),
    *rows("deletecollection", "pods"),
    *rows("get", "serviceaccounts"),
    *rows("get list watch", "workloads.kueue.x-k8s.io localqueues.kueue.x-k8s.io"),
    *rows("get", "localqueues/pendingworkloads.visibility.kueue.x-k8s.io"),
    *rows("get list", "clusterqueues.kueue.x-k8s.io", namespace=""),
    *rows("get list", "workloadpriorityclasses.kueue.x-k8s.io nodes", namespace=""),
    *rows("get list", "clustertrainingruntimes.trainer.kubeflow.org", namespace=""),
]
JOBS = "pytorchjobs.kubeflow.org trainjobs.trainer.kubeflow.org jobsets.jobset.x-k8s.io"
JOBS += " jobs.batch rayjobs.ray.io"
DENIED = [
    # what others hold
    *rows("get list watch create patch delete", "secrets configmaps"),
    *rows("create", "serviceaccounts serviceaccounts/token"),
    *rows("create patch", "roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io"),
    *rows("impersonate", "users groups serviceaccounts", namespace=""),
    # a way into pods, or pods of one's own
    *rows("create", "pods pods/exec pods/attach pods/portforward pods/eviction"),
    *rows("patch update delete", "pods"),
    *rows("patch", "pods/ephemeralcontainers"),
    *rows("create", "deployments.apps daemonsets.apps cronjobs.batch mpijobs.kubeflow.org"),
    # more than starting and stopping
    *rows("update deletecollection", JOBS),
    *rows("patch", "pytorchjobs/status.kubeflow.org jobs/status.batch"),
    *rows("watch update", "services"),
    # the queues' rules
    *rows("create patch update delete", "workloads.kueue.x-k8s.io localqueues.kueue.x-k8s.io"),
    *rows(
        "create patch delete",
        "clusterqueues.kueue.x-k8s.io resourceflavors.kueue.x-k8s.io",
        namespace="",
    ),
    *rows("create patch delete", "workloadpriorityclasses.kueue.x-k8s.io", namespace=""),
    # the guards
    *rows("create patch delete", "networkpolicies.networking.k8s.io"),
    *rows("create patch delete", "clustertrainingruntimes.trainer.kubeflow.org", namespace=""),
    *rows("patch delete", "namespaces nodes", namespace=""),
    *rows("list", "namespaces", namespace=""),
    # anybody else's namespace
    *rows("get list create delete", f"{JOBS} pods services", namespace="default"),
    *rows("list", f"{JOBS} pods events", namespace=""),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster.attach()
    with cluster.namespace(NAMESPACE), installed(cluster, NAMESPACE):
        yield cluster


def answers(cluster: Cluster, user: str, asked: Sequence[Row], *groups: str) -> dict[Row, bool]:
    """What the cluster's authorizers say."""
    reviews = [_review(user, row, groups) for row in asked]
    listed = {"apiVersion": "v1", "kind": "List", "items": reviews}
    form = r"jsonpath={.status.allowed}{'\n'}"
    text = cluster.kubectl("create", "-f", "-", "-o", form, input=json.dumps(listed))
    return {row: yes == "true" for row, yes in zip(asked, text.splitlines(), strict=True)}


def _review(user: str, row: Row, groups: Sequence[str]) -> dict[str, object]:
    full, _, group = row.resource.partition(".")
    resource, _, part = full.partition("/")
    attributes = {
        "verb": row.verb,
        "group": group,
        "resource": resource,
        "subresource": part,
        "namespace": row.namespace,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:authenticated", *groups],
            "resourceAttributes": attributes,
        },
    }


def allowed(found: dict[Row, bool]) -> list[str]:
    return [str(row) for row, yes in found.items() if yes]


def test_the_launcher_may(cluster: Cluster) -> None:
    assert allowed(answers(cluster, LAUNCHER, ALLOWED)) == [str(row) for row in ALLOWED]


def test_the_launcher_may_not(cluster: Cluster) -> None:
    assert allowed(answers(cluster, LAUNCHER, DENIED)) == []


@pytest.mark.parametrize("kind", Kind)
def test_what_the_preflight_asks_for_is_what_the_role_gives(cluster: Cluster, kind: Kind) -> None:
    needed = rights.needed(rendering.two_gpu_nodes(kind))
    asked = [Row(one.verb, f"{one.resource}.{one.group}".rstrip(".")) for one in needed]
    assert allowed(answers(cluster, LAUNCHER, asked)) == [str(row) for row in asked]


def test_a_training_pod_may_nothing(cluster: Cluster) -> None:
    assert allowed(answers(cluster, TRAINING, [*ALLOWED, *DENIED, *rows("create", JOBS)])) == []


def test_a_server_says_no_in_earnest(cluster: Cluster) -> None:
    who = ("--namespace", NAMESPACE, f"--as={LAUNCHER}")
    assert cluster.kubectl("get", "pods", *who, "--output", "name") == ""
    for refused in (("get", "secrets"), ("get", "pods", "--all-namespaces"), ("get", "configmaps")):
        with pytest.raises(ClusterError, match="forbidden"):
            cluster.kubectl(*refused, *who)
    with pytest.raises(ClusterError, match="forbidden"):
        cluster.kubectl("run", "mine", f"--image={cluster.busybox}", *who)


def test_a_kind_that_is_not_named_is_not_allowed(cluster: Cluster) -> None:
    values = VALUES / "minimal.yaml"
    with (
        cluster.namespace("chart-minimal") as namespace,
        installed(cluster, namespace, "--values", values),
    ):
        here = [row._replace(namespace=namespace) for row in rows("create", JOBS)]
        found = answers(cluster, "grace", here, "researchers")
        assert allowed(found) == [f"create jobsets.jobset.x-k8s.io in {namespace}"]
        views = rows("list", "clusterqueues.kueue.x-k8s.io nodes", namespace="")
        assert allowed(answers(cluster, "grace", views, "researchers")) == []
