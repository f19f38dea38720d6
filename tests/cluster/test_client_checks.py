"""What is found out before a launch and while a job waits: rights, kinds, queues, policies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from goku_platform.errors import TargetError
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render.kinds import render
from goku_platform.settings import Kind
from tests.cluster.cluster import Cluster
from tests.cluster.place import Place, by_name, runs, until
from tests.cluster.queues import Queue, queue


@pytest.fixture
def as_nobody(
    cluster: Cluster, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Be the namespace's default service account, which may do nothing; returns its token."""
    token = cluster.kubectl("create", "token", "default", "-n", place.namespace).strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    [user] = config["users"]
    user["user"] = {"token": token}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    return token


def test_a_missing_right_is_named_with_the_role_that_grants_it(
    place: Place, as_nobody: str
) -> None:
    client, spec = place.client(kind=Kind.JOB), place.spec(kind=Kind.JOB)
    for verb in (client.get, client.stop, client.events):
        with pytest.raises(TargetError) as caught:
            verb(spec.run_uri)
        assert f"in namespace {place.namespace}" in caught.value.value
        assert "may not" in caught.value.rule
        assert "Role of the chart" in caught.value.fix
        assert as_nobody not in str(caught.value)
    checks = by_name(client.preflight(spec))
    assert checks["api"].ok
    assert checks["rights"].ok is False
    assert "create jobs.batch" in checks["rights"].detail
    assert checks["pod"].ok is None
    assert checks["nodes"].ok is None


def test_preflight_names_everything_that_is_not_there(place: Place) -> None:
    absent: dict[str, Any] = {
        "queue": "nope",
        "priority_class": "nope",
        "secrets": ("nope",),
        "service_account": "nope",
        "runtime": "nope",
        "image": "busybox:latest",
        "image_pull_policy": "IfNotPresent",
        "node_selector": {"pool": "nope"},
        "kind": Kind.TRAINJOB,
    }
    checks = by_name(place.client(**absent).preflight(place.spec(**absent)))
    for name in (
        "kind",
        "runtime",
        "queue",
        "priority",
        "secrets",
        "service-account",
        "image",
        "pod",
    ):
        assert checks[name].ok is False, checks[name]
        assert checks[name].fix, checks[name]
    assert checks["nodes"].ok is None
    assert "0 of 2 pods" in checks["nodes"].detail


def test_preflight_tries_a_pod_against_the_pod_security_level(place: Place) -> None:
    def careless(spec: JobSpec) -> Any:
        text = json.dumps(render(spec)).replace('"runAsNonRoot": true', '"runAsNonRoot": false')
        return tuple(json.loads(text))

    client, spec = place.client(kind=Kind.JOB, render=careless), place.spec(kind=Kind.JOB)
    check = by_name(client.preflight(spec))["pod"]
    assert check.ok is False
    assert 'violates PodSecurity "restricted' in check.detail
    client.apply(spec)
    seen = until(client, spec, lambda seen: seen.trouble)
    assert "The namespace's Pod Security level refuses the pod" in seen.trouble
    assert seen.waiting == "0 of 2 pods are made"
    client.stop(spec.run_uri)


def test_a_namespace_that_is_not_there(place: Place) -> None:
    client = place.client(namespace="absent")
    checks = by_name(client.preflight(place.spec(namespace="absent")))
    assert checks["namespace"].ok is False
    with pytest.raises(TargetError, match='namespaces "absent" not found'):
        client.apply(place.spec(namespace="absent"))


def test_a_kind_that_is_not_served(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old = RESOURCES[Kind.JOBSET]._replace(version="v1alpha1")
    monkeypatch.setitem(RESOURCES, Kind.JOBSET, old)
    client, spec = place.client(kind=Kind.JOBSET), place.spec(kind=Kind.JOBSET)
    with pytest.raises(TargetError, match="the cluster does not serve JobSet"):
        client.check(spec)
    assert client.get(spec.run_uri).alive is False


def unqueued(*kinds: Kind) -> Callable[[JobSpec], Any]:
    """A renderer as if Kueue did not queue these kinds: it only sees those with the label."""

    def rendered(spec: JobSpec) -> Any:
        *others, job = render(spec)
        if spec.placement.kind in kinds:
            del job["metadata"]["labels"][names.QUEUE]
        return (*others, job)

    return rendered


def test_auto_takes_the_first_kind_that_is_queued(cluster: Cluster, place: Place) -> None:
    with queue(cluster, place.namespace) as made:
        spec = place.spec(queue=made.name)
        placed, why = place.client(queue=made.name).place(spec)
        assert placed.placement.kind is Kind.PYTORCHJOB
        assert why == "PyTorchJob: the cluster serves and Kueue queues it"

        old = place.client(render=unqueued(Kind.PYTORCHJOB), queue=made.name)
        placed, why = old.place(place.spec(queue=made.name, runtime="absent"))
        assert placed.placement.kind is Kind.JOBSET
        assert "not PyTorchJob: Kueue does not queue it (framework kubeflow.org/pytorchjob" in why
        assert "not TrainJob: " in why  # its runtime is not there

        none = place.client(render=unqueued(*Kind), queue=made.name, runtime="absent")
        with pytest.raises(TargetError, match="none will do here"):
            none.place(place.spec(queue=made.name, runtime="absent"))
        named: dict[str, Any] = {"kind": Kind.PYTORCHJOB, "queue": made.name}
        client = place.client(render=unqueued(Kind.PYTORCHJOB), **named)
        integration = by_name(client.preflight(place.spec(**named)))["integration"]
        assert integration.ok is False
        assert "kubeflow.org/pytorchjob" in integration.fix


@pytest.mark.usefixtures("training_runtime")
@pytest.mark.parametrize("kind", [Kind.PYTORCHJOB, Kind.TRAINJOB, Kind.JOBSET])
def test_a_queued_job_tells_why_it_waits_and_where(
    cluster: Cluster, place: Place, kind: Kind
) -> None:
    with queue(cluster, place.namespace, gpus=2) as made:
        low, high = (_queued(place, made, kind, priority) for priority in ("low", "high"))
        next_low = _queued(place, made, kind, "low", name="next")
        big = place.spec("big", gpus=2, kind=kind, queue=made.name)
        client = place.client(kind=kind, queue=made.name)

        assert by_name(client.preflight(low))["quota"].ok
        client.apply(low)
        assert until(client, low, runs).queue_position is None
        assert "it can never start" in by_name(client.preflight(big))["quota"].detail
        assert "it would wait" in by_name(client.preflight(next_low))["quota"].detail

        client.apply(next_low)
        short = "insufficient unused quota for nvidia.com/gpu"  # once Kueue has looked at it
        waits = until(client, next_low, lambda seen: short in seen.waiting)
        assert (waits.alive, waits.queue_position) == (True, 0)

        client.apply(high)
        until(client, low, lambda seen: "preempted by a job of higher priority" in seen.waiting)
        until(client, high, runs)
        assert client.get(low.run_uri).alive
        client.stop(next_low.run_uri)
        client.stop(high.run_uri)
        until(client, low, runs)  # admitted again
        client.stop(low.run_uri, now=True)


def _queued(place: Place, made: Queue, kind: Kind, priority: str, name: str = "") -> JobSpec:
    given: dict[str, Any] = {
        "kind": kind,
        "queue": made.name,
        "priority_class": made.priority(priority),
    }
    return place.spec(name or priority, gpus=1, **given)
