"""Shipped logs: parts joined, ranks picked, attempts chosen, followed to the end."""

import itertools

import pytest

from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import RunError
from goku_platform.runs.logs import logs
from tests.goku_platform import made


def part(run: RunDir, number: int, text: bytes, *, attempt: int = 1, node: int = 0) -> None:
    run.store.write(f"logs/attempt-{attempt:04d}/node-{node:04d}/part-{number:05d}.log", text)


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    made.attempt(made_run, Cause.CRASHED, nodes=2)
    return made_run


def test_parts_are_joined_even_inside_a_line(run: RunDir) -> None:
    part(run, 0, b"goku: begin\n[rank0]:st")
    part(run, 1, b"ep 1\n[rank1]:hi\nno end")
    part(run, 0, b"[rank0]:second node\n", node=1)
    run.store.write("logs/attempt-0001/stacks-00001.txt", b"stack")
    assert list(logs(run, FakeClient())) == [
        "goku: begin",
        "[rank0]:step 1",
        "[rank1]:hi",
        "no end",
        "[rank0]:second node",
    ]


def test_ranks_are_counted_over_nodes(run: RunDir) -> None:
    part(run, 0, b"goku: begin\n[rank0]:a\n[rank1]:b\n")
    part(run, 0, b"[rank0]:c\n[rank1]:d\n", node=1)
    lines = {rank: list(logs(run, FakeClient(), rank=rank)) for rank in range(4)}
    assert lines == {0: ["[rank0]:a"], 1: ["[rank1]:b"], 2: ["[rank0]:c"], 3: ["[rank1]:d"]}
    with pytest.raises(RunError, match=r"--rank 4: attempt 1 has 4 ranks. Use 0 to 3"):
        list(logs(run, FakeClient(), rank=4))


def test_the_newest_attempt_unless_another_is_named(run: RunDir) -> None:
    made.attempt(run, Cause.DONE, processes_per_node=1)
    part(run, 0, b"first\n")
    part(run, 0, b"second\n", attempt=2)
    assert list(logs(run, FakeClient())) == ["second"]
    assert list(logs(run, FakeClient(), rank=0)) == ["second"]
    assert list(logs(run, FakeClient(), attempt=1)) == ["first"]
    with pytest.raises(RunError, match=r"--attempt 3: .* There are: 1, 2"):
        list(logs(run, FakeClient(), attempt=3))


def test_following_ends_with_the_process_and_misses_nothing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part is shipped after the record was closed, while the supervisor still lives."""
    client, looks = FakeClient(), itertools.count(1)
    client.sightings[run.uri] = Sighting(alive=True)

    def later(_seconds: float) -> None:
        number = next(looks)
        part(run, number, f"part {number}\n".encode())
        if number == 3:
            client.end(run.uri, 139)

    monkeypatch.setattr("time.sleep", later)
    part(run, 0, b"part 0\n")
    assert list(logs(run, client, follow=True)) == ["part 0", "part 1", "part 2", "part 3"]


def test_parts_are_in_the_order_of_their_numbers(run: RunDir) -> None:
    """Five digits ran over after some days, and a name is not a number."""
    part(run, 99_999, b"before\n")
    part(run, 100_000, b"after\n")
    assert list(logs(run, FakeClient())) == ["before", "after"]


def test_the_attempt_before_the_newest(run: RunDir) -> None:
    made.attempt(run, Cause.DONE)
    part(run, 0, b"first\n")
    part(run, 0, b"second\n", attempt=2)
    assert list(logs(run, FakeClient(), previous=True)) == ["first"]
    with pytest.raises(RunError, match=r"--previous: --attempt 1 says already which"):
        list(logs(run, FakeClient(), previous=True, attempt=1))


def test_there_is_no_attempt_before_the_first(run: RunDir) -> None:
    with pytest.raises(RunError, match=r"--previous: run 'stage1' has no such attempt"):
        list(logs(run, FakeClient(), previous=True))


def test_a_living_attempt_that_has_shipped_nothing_is_read_from_its_pods(run: RunDir) -> None:
    client = FakeClient(lines={run.uri: ["goku: begin", "[rank1]:hi"]})
    assert list(logs(run, client)) == []  # it is over: there is nothing
    client.sightings[run.uri] = Sighting(alive=True)
    assert list(logs(run, client)) == ["goku: begin", "[rank1]:hi"]
    assert list(logs(run, client, rank=3)) == ["[rank1]:hi"]
    part(run, 0, b"shipped\n")
    assert list(logs(run, client)) == ["shipped"]


def test_before_the_first_attempt_the_target_is_asked(store: str) -> None:
    run, client = made.run(store), FakeClient()
    client.lines[run.uri] = ["goku: error: no such thing"]
    assert list(logs(run, client)) == ["goku: error: no such thing"]
