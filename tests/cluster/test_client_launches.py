"""Launches that do not go well: all of a job's objects are made or none, and never a second job."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from goku_platform.cluster.kube.api import Api
from goku_platform.cluster.kubernetes import KubernetesClient
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec
from goku_platform.render.kinds import render
from goku_platform.settings import Kind
from tests.cluster.cluster import Cluster
from tests.cluster.place import Place, gone, left, runs, until


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
    cluster.wait(lambda: left(cluster, place.namespace) == [], seconds=30, what="nothing left")


def test_a_job_that_is_refused_leaves_nothing(cluster: Cluster, place: Place) -> None:
    def broken(spec: JobSpec) -> Any:
        *others, job = render(spec)
        return (*others, {**job, "spec": {**job["spec"], "completions": -1}})

    client, spec = place.client(kind=Kind.JOB, render=broken), place.spec(kind=Kind.JOB)
    with pytest.raises(TargetError, match="must be greater than or equal to 0"):
        client.check(spec)
    with pytest.raises(TargetError, match="must be greater than or equal to 0"):
        client.apply(spec)
    assert left(cluster, place.namespace) == []


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
    second = place.client(kind=Kind.PYTORCHJOB, seconds=60)  # another test's garbage may be first
    second.apply(place.spec(kind=Kind.PYTORCHJOB))
    with pytest.raises(RunError, match="it is alive as PyTorchJob"):
        client.apply(first)
    assert not cluster.exists("jobset", "run", namespace=place.namespace)
    second.stop(first.run_uri, now=True)
