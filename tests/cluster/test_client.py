"""KubernetesClient against the true API server: every verb on every kind, launches that break off,
missing rights, queues, a server that restarts, and the number of requests whatever the size."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from goku.config import presets
from goku_platform.cluster.client import Check, Sighting
from goku_platform.cluster.kube.api import Api
from goku_platform.cluster.kubernetes import KubernetesClient
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import runtime
from goku_platform.render.kinds import render
from goku_platform.settings import Kind, Settings, Toleration
from tests.cluster import kwok
from tests.cluster.cluster import Cluster
from tests.cluster.queues import Queue, queue

STORE = "s3://bucket/runs"
RUNTIME = "client-test"
KINDS = [kind for kind in Kind if kind is not Kind.RAYJOB]  # its operator is not run
# Leaves as a supervisor does: it saves on SIGTERM, then 143.
OBEDIENT = "echo node $GOKU_NODE_RANK; trap 'echo saved; exit 143' TERM; sleep 600 & wait"


class Place:
    """A namespace, with specs and clients for it."""

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace, self.image = namespace, image

    def settings(self, **values: Any) -> Settings:
        small = {"gpus_per_node": 0, "memory_gib_per_node": 1, "shm_gib": 1, "scratch_gib": 1}
        where = {"namespace": self.namespace, "image": self.image, "image_pull_policy": "Never"}
        given = {"store": STORE, "target": "kubernetes", "runtime": RUNTIME, **small, **where}
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

    def client(self, *, render: Callable[..., Any] = render, **values: Any) -> KubernetesClient:
        return KubernetesClient(self.settings(**values), render=render, timeout_seconds=20)


@pytest.fixture
def place(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return Place(namespace, cluster.busybox)


@pytest.fixture
def training_runtime(cluster: Cluster, place: Place) -> Iterator[None]:
    cluster.apply(runtime.render(place.settings()))
    yield
    cluster.kubectl("delete", "clustertrainingruntime", RUNTIME, "--ignore-not-found")


def until(
    client: KubernetesClient,
    spec: JobSpec,
    wanted: Callable[[Sighting], object],
    seconds: float = 60,
) -> Sighting:
    """Watch the run until a sighting is as wanted."""
    deadline = time.monotonic() + seconds
    for seen in client.watch(spec.run_uri):
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, seen
    raise AssertionError("a watch does not end by itself")


def gone(client: KubernetesClient, spec: JobSpec) -> Sighting:
    return until(client, spec, lambda seen: not seen.alive)


def runs(seen: Sighting) -> bool:
    return seen.pods == {"Running": 2}


def objects(cluster: Cluster, namespace: str) -> list[str]:
    """Everything that a launch could have left."""
    kinds = [f"{one.plural}.{one.group}" for one in RESOURCES.values()]
    present = [kind for kind in kinds if kind.removesuffix(".batch") in _served(cluster)]
    words = ("get", ",".join([*present, "services", "pods"]), "-n", namespace, "-o", "name")
    return cluster.kubectl(*words).split()


def _served(cluster: Cluster) -> list[str]:
    return cluster.kubectl("api-resources", "-o", "name").replace(".batch\n", "\n").split()


def by_name(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.mark.usefixtures("training_runtime")
@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_on_every_kind(cluster: Cluster, place: Place, kind: Kind) -> None:
    client, spec = place.client(kind=kind), place.spec(kind=kind)
    assert client.get(spec.run_uri) == Sighting(alive=False)
    client.check(spec)
    assert not [check for check in client.preflight(spec) if check.ok is not True]
    assert f"+kind: {RESOURCES[kind].kind}" in client.diff(spec)
    assert objects(cluster, place.namespace) == []  # nothing so far has made anything

    client.apply(spec)
    seen = until(client, spec, runs)
    assert seen.place == f"{RESOURCES[kind].kind} {place.namespace}/run"
    assert (seen.alive, seen.waiting, seen.trouble) == (True, "", "")
    assert client.diff(spec) == ""
    with pytest.raises(RunError, match="it is alive as"):
        client.apply(spec)
    assert [one.run_uri for one in client.list()] == [spec.run_uri]
    assert list(client.logs(spec.run_uri, node=1)) == ["node 1"]
    assert any(event.about.startswith("Pod/") for event in client.events(spec.run_uri))
    with pytest.raises(RunError, match="it is alive"):
        client.delete(spec.run_uri)

    client.stop(spec.run_uri)
    ended = gone(client, spec)
    assert ended.exit_code in (143, None)  # None: the pods were gone before they were looked at
    with pytest.raises(RunError, match="it is not alive"):
        client.stop(spec.run_uri)

    client.apply(spec)  # which waits until nothing is left of the last job
    until(client, spec, runs)
    client.stop(spec.run_uri, now=True)
    gone(client, spec)
    client.delete(spec.run_uri)
    cluster.wait(lambda: objects(cluster, place.namespace) == [], seconds=30, what="nothing left")


@pytest.mark.parametrize("kind", [Kind.PYTORCHJOB, Kind.JOB])
def test_a_job_that_ends_is_followed_to_its_last_line(place: Place, kind: Kind) -> None:
    client = place.client(kind=kind)
    spec = place.spec(kind=kind, script="for i in 1 2 3; do echo line $i; sleep 1; done; exit 7")
    client.apply(spec)
    lines = list(client.logs(spec.run_uri, follow=True))  # from before its pods exist
    assert lines == ["line 1", "line 2", "line 3"]
    seen = gone(client, spec)
    assert seen.exit_code == 7
    assert "exit code 7: line 3" in seen.trouble
    client.delete(spec.run_uri)
    assert client.get(spec.run_uri).alive is False


def test_the_start_before_can_be_read_while_its_pod_is_there(place: Place) -> None:
    client = place.client(kind=Kind.JOB)
    spec = place.spec(
        kind=Kind.JOB, nodes=1, script="cat /proc/sys/kernel/random/uuid; sleep 2; exit 137"
    )
    client.apply(spec)
    with pytest.raises(RunError, match="keeps nothing of an earlier start"):
        list(client.logs(spec.run_uri, previous=True))
    until(client, spec, lambda seen: sum(seen.pods.values()) == 2)
    [before] = client.logs(spec.run_uri, previous=True)
    until(client, spec, lambda seen: seen.pods.get("Failed") == 2 or seen.pods.get("Running"))
    [now] = client.logs(spec.run_uri)
    assert before != now
    client.stop(spec.run_uri, now=True)


class Interrupted(Api):
    """Ctrl-C comes when the server has made the job and its answer is on the way."""

    def create(self, *arguments: Any, dry_run: bool, **named: Any) -> Any:
        answer = super().create(*arguments, dry_run=dry_run, **named)
        if not dry_run:
            raise KeyboardInterrupt
        return answer


@pytest.mark.parametrize("kind", [Kind.PYTORCHJOB, Kind.JOB])
def test_an_interrupted_launch_leaves_nothing(cluster: Cluster, place: Place, kind: Kind) -> None:
    client, spec = place.client(kind=kind), place.spec(kind=kind)
    client._api = Interrupted(context=None, namespace=place.namespace, timeout_seconds=20)
    with pytest.raises(KeyboardInterrupt):
        client.apply(spec)
    cluster.wait(lambda: objects(cluster, place.namespace) == [], seconds=30, what="nothing left")


def test_a_job_that_is_refused_leaves_nothing(cluster: Cluster, place: Place) -> None:
    def broken(spec: JobSpec) -> Any:
        *others, job = render(spec)
        return (*others, {**job, "spec": {**job["spec"], "completions": -1}})

    client, spec = place.client(kind=Kind.JOB, render=broken), place.spec(kind=Kind.JOB)
    with pytest.raises(TargetError, match="must be greater than or equal to 0"):
        client.check(spec)
    with pytest.raises(TargetError, match="must be greater than or equal to 0"):
        client.apply(spec)
    assert objects(cluster, place.namespace) == []


def test_an_unknown_field_is_an_error(place: Place) -> None:
    def misspelt(spec: JobSpec) -> Any:
        *others, job = render(spec)
        return (*others, {**job, "spec": {**job["spec"], "suspended": True}})

    client = place.client(kind=Kind.JOBSET, render=misspelt)
    with pytest.raises(TargetError, match=r'unknown field "spec\.suspended"'):
        client.check(place.spec(kind=Kind.JOBSET))


@pytest.mark.parametrize("kind", [Kind.PYTORCHJOB, Kind.JOB])
def test_of_two_launches_one_is_told_that_it_is_second(place: Place, kind: Kind) -> None:
    spec, ready = place.spec(kind=kind), threading.Barrier(2)
    clients = [place.client(kind=kind) for _ in range(2)]
    outcomes: list[str] = []

    def launch(client: KubernetesClient) -> None:
        client.get(spec.run_uri)  # connected
        ready.wait()
        try:
            client.apply(spec)
            outcomes.append("started")
        except RunError as error:
            outcomes.append(error.rule)

    threads = [threading.Thread(target=launch, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("started") == 1, outcomes
    until(clients[0], spec, runs)  # and the second has not taken anything from the first
    clients[0].stop(spec.run_uri, now=True)


def test_a_namesake_of_another_store_is_not_the_run(place: Place) -> None:
    client, spec = place.client(kind=Kind.JOB), place.spec(kind=Kind.JOB)
    client.apply(spec)
    uri = "s3://elsewhere/runs/run"
    other = replace(spec, run_uri=uri, annotations={**spec.annotations, names.RUN_URI: uri})
    seen = client.get(uri)
    assert (seen.alive, seen.trouble) == (
        False,
        f"the cluster has a job of this name for {spec.run_uri}",
    )
    with pytest.raises(RunError, match="Launch under another --name"):
        client.apply(other)
    with pytest.raises(RunError, match="it is not alive"):
        client.stop(uri)
    client.delete(uri)
    assert client.get(spec.run_uri).alive
    client.stop(spec.run_uri, now=True)


def test_another_kind_takes_the_place_of_a_finished_job(cluster: Cluster, place: Place) -> None:
    first = place.spec(kind=Kind.JOBSET, script="true")
    client = place.client(kind=Kind.JOBSET)
    client.apply(first)
    gone(client, first)
    second = place.client(kind=Kind.PYTORCHJOB)
    second.apply(place.spec(kind=Kind.PYTORCHJOB))
    with pytest.raises(RunError, match="it is alive as PyTorchJob"):
        client.apply(first)
    assert not cluster.exists("jobset", "run", namespace=place.namespace)
    second.stop(first.run_uri, now=True)


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
        waits = until(client, next_low, lambda seen: seen.queue_position is not None)
        assert (waits.alive, waits.queue_position) == (True, 0)
        assert "insufficient unused quota for nvidia.com/gpu" in waits.waiting

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


def _requests(client: KubernetesClient, spec: JobSpec) -> dict[str, int]:
    """How many each verb makes, from a launch to the end of a run."""
    counted: dict[str, int] = {}

    def count(verb: str, call: Callable[[], object]) -> None:
        before = client.requests
        call()
        counted[verb] = client.requests - before

    client.get(spec.run_uri)  # what is asked once
    count("apply", lambda: client.apply(spec))
    watching = client.watch(spec.run_uri)
    before = client.requests
    next(seen for seen in watching if seen.pods.get("Running") == spec.nodes)
    counted["watch"] = client.requests - before
    watching.close()  # type: ignore[attr-defined]  # it is a generator
    count("get", lambda: client.get(spec.run_uri))
    count("list", client.list)
    count("stop", lambda: client.stop(spec.run_uri))
    gone(client, spec)
    return counted


def test_requests_do_not_grow_with_the_number_of_pods(place: Place) -> None:
    kwok.add_nodes(13, prefix="client")
    try:
        where: dict[str, Any] = {
            "kind": Kind.PYTORCHJOB,
            "node_selector": dict(kwok.LABEL),
            "tolerations": (Toleration(key=kwok.TOLERATION["key"]),),
        }
        client = place.client(**where)
        few = _requests(client, place.spec("few", nodes=2, gpus=1, **where))
        many = _requests(client, place.spec("many", nodes=100, gpus=1, **where))
    finally:
        kwok.remove_nodes("client")
    # while pods start, a watch asks for reasons every few seconds: more only if it takes longer
    watching = many.pop("watch"), few.pop("watch")
    assert many == few
    assert max(many.values()) <= 8, many
    assert watching[0] - watching[1] <= 6, watching


def test_a_watch_outlives_a_restart_of_the_server(cluster: Cluster, place: Place) -> None:
    client, spec = place.client(kind=Kind.JOB), place.spec(kind=Kind.JOB)
    client.apply(spec)
    seen: list[Sighting] = []
    watching = threading.Thread(target=lambda: seen.extend(_until_over(client, spec)), daemon=True)
    until(client, spec, runs)
    watching.start()
    cluster.wait(lambda: seen or watching.is_alive(), seconds=10, what="the watch")
    cluster.chaos.restart_apiserver()
    client.stop(spec.run_uri)
    watching.join(60)
    assert not watching.is_alive()
    assert seen[-1].alive is False


def _until_over(client: KubernetesClient, spec: JobSpec) -> Iterator[Sighting]:
    for seen in client.watch(spec.run_uri):
        yield seen
        if not seen.alive:
            return
