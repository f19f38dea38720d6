"""KubernetesClient against the true API server: every verb on every kind, logs that are followed, a
server that restarts, and the number of requests whatever the size."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goku_platform.cluster.client import Sighting
from goku_platform.cluster.kubernetes import KubernetesClient
from goku_platform.errors import RunError
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind, Toleration
from tests.cluster import kwok
from tests.cluster.cluster import Cluster
from tests.cluster.place import OBEDIENT, Place, gone, left, runs, until

# Node 0's script alone: a gang ends with its first node that fails, and the others' pods go.
COUNTING = "for i in 1 2 3; do echo line $i; sleep 1; done; exit 7"
KINDS = [kind for kind in Kind if kind is not Kind.RAYJOB]  # its operator is not run


@pytest.mark.usefixtures("training_runtime")
@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_on_every_kind(cluster: Cluster, place: Place, kind: Kind) -> None:
    client, spec = place.client(kind=kind), place.spec(kind=kind)
    assert client.get(spec.run_uri) == Sighting(alive=False)
    client.check(spec)
    assert not [check for check in client.preflight(spec) if check.ok is not True]
    assert f"+kind: {RESOURCES[kind].kind}" in client.diff(spec)
    assert left(cluster, place.namespace) == []  # nothing so far has made anything

    client.apply(spec)
    seen = next(one for one in client.watch(spec.run_uri) if runs(one))
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
    cluster.wait(lambda: left(cluster, place.namespace) == [], seconds=30, what="nothing left")


@pytest.mark.parametrize("kind", [Kind.PYTORCHJOB, Kind.JOB])
def test_a_job_that_ends_is_followed_to_its_last_line(place: Place, kind: Kind) -> None:
    client = place.client(kind=kind)
    spec = place.spec(
        kind=kind, script=f"if [ $GOKU_NODE_RANK = 1 ]; then {OBEDIENT}; fi; {COUNTING}"
    )
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


def test_a_jobs_service_goes_with_it(cluster: Cluster, place: Place) -> None:
    client, spec = place.client(kind=Kind.JOB), place.spec(kind=Kind.JOB)
    client.apply(spec)
    cluster.kubectl("delete", "job", spec.name, "-n", place.namespace)  # as its time to live would
    cluster.wait(lambda: left(cluster, place.namespace) == [], seconds=60, what="nothing left")


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
            "node_selector": kwok.label("client"),
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


@pytest.mark.disruptive
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
    watching.join(150)  # the cluster's garbage collector, which ends the pods, is a minute late
    assert not watching.is_alive()
    assert seen[-1].alive is False


def _until_over(client: KubernetesClient, spec: JobSpec) -> Iterator[Sighting]:
    for seen in client.watch(spec.run_uri):
        yield seen
        if not seen.alive:
            return
