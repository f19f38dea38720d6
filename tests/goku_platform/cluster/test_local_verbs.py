"""What a target of one machine makes of the verbs that a cluster needs; and the fake likewise."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from goku_platform.cluster.client import Client, Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.cluster.local import LocalClient
from goku_platform.errors import RunError
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made

_FAKE = str(Path(__file__).parents[1] / "fake_supervisor.py")


def spec(store: str, *words: str) -> JobSpec:
    planned = plan(made.config(store), Settings(), code_version="abc")
    return replace(planned, command=(sys.executable, _FAKE, *(words or ("0", "0", "stay"))))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def client(store: str) -> Iterator[LocalClient]:
    """A client of an empty state folder; what still runs at the end is killed."""
    one = LocalClient()
    yield one
    for child in one._children.values():
        child.kill()
        child.wait()


def began(client: Client, job: JobSpec) -> bool:
    return any(line.startswith("began") for line in client.logs(job.run_uri))


def test_nothing_is_left_to_decide_or_to_compare(store: str, client: LocalClient) -> None:
    job = spec(store)
    placed, why = client.place(job)
    assert placed is job
    assert why.startswith("processes on ")
    assert client.diff(job) == ""
    assert client.events(job.run_uri) == ()


def test_preflight_counts_nodes_and_gpus(store: str, client: LocalClient) -> None:
    checks = {check.name: check for check in client.preflight(spec(store))}
    assert checks["nodes"].ok
    assert set(checks) == {"nodes", "gpus", "state"}
    many = {check.name: check for check in client.preflight(replace(spec(store), nodes=2))}
    assert many["nodes"].ok is False
    assert "Set parallel.nodes=1" in many["nodes"].fix


def test_a_watch_tells_every_change_once(store: str, client: LocalClient) -> None:
    job = spec(store)
    seen: list[Sighting] = []
    for sighting in client.watch(job.run_uri):
        seen.append(sighting)
        if len(seen) == 1:
            client.apply(job)
        elif len(seen) == 2:
            until(lambda: began(client, job))
            client.stop(job.run_uri)
        else:
            break
    assert [sighting.alive for sighting in seen] == [False, True, False]
    assert seen[-1].exit_code == 143


def test_every_job_of_the_machine_is_listed(store: str, client: LocalClient) -> None:
    assert client.list() == []
    client.apply(spec(store))
    [one] = client.list()
    assert (one.run_uri, one.sighting.alive) == (spec(store).run_uri, True)


def test_the_start_before_the_last_can_be_read(store: str, client: LocalClient) -> None:
    first, second = spec(store, "1", "0"), spec(store, "2", "0")
    with pytest.raises(RunError, match="started only once"):
        client.logs(first.run_uri, previous=True)
    for job in (first, replace(second, command=("python", "-c", "print('second')"))):
        client.apply(job)
        until(lambda: not client.get(first.run_uri).alive)
    assert list(client.logs(first.run_uri)) == ["second"]
    assert list(client.logs(first.run_uri, previous=True)) == [f"began {first.run_uri} rank 0"]


def test_a_machine_is_node_0(store: str, client: LocalClient) -> None:
    job = spec(store, "0", "0")
    client.apply(job)
    until(lambda: not client.get(job.run_uri).alive)
    assert list(client.logs(job.run_uri, node=0))
    with pytest.raises(RunError, match="Use node 0"):
        client.logs(job.run_uri, node=1)


def test_a_stop_without_grace_does_not_wait_for_a_save(store: str, client: LocalClient) -> None:
    job = spec(store, "0", "60", "stay")
    client.apply(job)
    until(lambda: began(client, job))
    client.stop(job.run_uri, now=True)
    until(lambda: not client.get(job.run_uri).alive)
    assert client.get(job.run_uri).exit_code == -9


def test_what_is_kept_of_a_job_goes_when_it_is_over(store: str, client: LocalClient) -> None:
    job = spec(store)
    client.apply(job)
    with pytest.raises(RunError, match="it is alive"):
        client.delete(job.run_uri)
    client.stop(job.run_uri, now=True)
    until(lambda: not client.get(job.run_uri).alive)
    client.delete(job.run_uri)
    assert client.list() == []
    assert client.get(job.run_uri) == Sighting(alive=False)
    client.delete(job.run_uri)  # nothing is there any more, and that is what was wanted


def test_the_fake_keeps_the_rules_of_a_client(store: str) -> None:
    fake = FakeClient(kind=Kind.JOBSET)
    client: Client = fake
    job = spec(store)
    placed, _ = client.place(job)
    assert placed.placement.kind is Kind.JOBSET
    client.apply(placed)
    with pytest.raises(RunError):
        client.apply(placed)
    with pytest.raises(RunError):
        client.delete(job.run_uri)
    client.stop(job.run_uri, now=True)
    assert (fake.killed, client.get(job.run_uri).exit_code) == ([job.run_uri], 137)
    with pytest.raises(RunError):
        client.stop(job.run_uri)
    client.delete(job.run_uri)
    assert client.list() == []
