"""Leader and members in one process, on loopback: who may join, when, and who is lost."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from goku.contract.attempts import Attempt
from goku.contract.exits import Cause
from goku.contract.pod import Verdict
from goku_platform.supervisor import leader as leaders
from goku_platform.supervisor.gang import Alarm, Alone, Gang, Report
from goku_platform.supervisor.leader import Leader
from goku_platform.supervisor.member import Member
from goku_platform.supervisor.messages import Beat, Hello, encode
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.verdict import merge
from tests.goku_platform.supervisor.ports import quiet_port

RUN = "/runs/a"
ATTEMPT = Attempt(number=7, started_at=0.0, host="pod-0")
GOOD = Verdict(Cause.DONE, "")


def close(reports: Sequence[Report]) -> Attempt:
    """What the books would write, without a ledger."""
    verdict = merge(reports)
    return ATTEMPT.model_copy(update={"cause": verdict.cause, "message": verdict.message})


def report(rank: int, verdict: Verdict | None = GOOD) -> Report:
    return Report(node_rank=rank, host=f"pod-{rank}", verdict=verdict)


class Room:
    """Supervisors' gangs by node rank, each with a main thread of its own where it has to wait."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.port = nodes, quiet_port()
        self.stops = [StopRequest() for _ in range(nodes)]
        self.gangs: list[Gang] = []
        self.said: list[str] = []
        self.final: Attempt | None = None

    def place(self, rank: int) -> Placement:
        return Placement(
            run_uri=RUN,
            pod_folder=Path("/none"),
            node_rank=rank,
            nodes=self.nodes,
            master_addr="localhost",
            gang_port=self.port,
            host=f"pod-{rank}",
        )

    def leader(self, *, budget: float = 20.0) -> Leader:
        made = Leader(
            self.place(0),
            stop=self.stops[0],
            say=self.said.append,
            budget_seconds=budget,
            silence_seconds=2.0,
        )
        self.gangs.append(made)
        return made

    def member(self, rank: int, *, budget: float = 20.0) -> Member:
        made = Member(
            self.place(rank),
            stop=self.stops[rank],
            say=self.said.append,
            final=lambda: self.final,
            budget_seconds=budget,
            silence_seconds=2.0,
        )
        self.gangs.append(made)
        return made

    def stranger(self, *first: bytes) -> socket.socket:
        peer = socket.create_connection(("localhost", self.port), timeout=5)
        for line in first:
            peer.sendall(line)
        return peer


class Later:
    """A call in a thread; `result` waits for it."""

    def __init__(self, call: Callable[[], Attempt]) -> None:
        self._results: list[Attempt] = []
        self._thread = threading.Thread(target=lambda: self._results.append(call()), daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Attempt:
        self._thread.join(30)
        assert self._results, "it still waits"
        return self._results[0]


def meet(gang: Gang) -> Later:
    return Later(lambda: gang.meet(lambda: ATTEMPT))


def agree(gang: Gang, told: Report) -> Later:
    return Later(lambda: gang.agree(told, close))


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def hello(rank: int, **other: object) -> bytes:
    fields = {"run": RUN, "node_rank": rank, "nodes": 2, "host": "stranger"}
    return encode(Hello.model_validate(fields | other))


@pytest.fixture
def make() -> Iterator[Callable[[int], Room]]:
    rooms: list[Room] = []

    def made(nodes: int) -> Room:
        rooms.append(Room(nodes))
        return rooms[-1]

    yield made
    for room in rooms:
        for gang in room.gangs:
            gang.leave()


@pytest.fixture
def pair(make: Callable[[int], Room]) -> tuple[Room, Leader, Member]:
    """Two that have met."""
    room = make(2)
    leader, member = room.leader(), room.member(1)
    for waiting in (meet(leader), meet(member)):
        assert waiting.result() == ATTEMPT
    return room, leader, member


def test_one_node_needs_nobody() -> None:
    gang = Alone("here")
    assert gang.meet(lambda: ATTEMPT) is ATTEMPT
    gang.raise_alarm(Alarm(stopping=True))
    gang.raise_alarm(Alarm(failing=True))
    assert gang.alarm == Alarm(stopping=True, failing=True)
    assert gang.agree(report(0), close).cause is Cause.DONE
    gang.leave()


def test_all_begin_together_and_leave_with_one_end(make: Callable[[int], Room]) -> None:
    room = make(3)
    second = meet(two := room.member(2))  # before the leader has a socket
    first = meet(leader := room.leader())
    time.sleep(0.5)
    assert first.waiting
    assert second.waiting
    third = meet(one := room.member(1))
    assert [waiting.result() for waiting in (first, second, third)] == [ATTEMPT] * 3
    assert leader.hosts == ("pod-0", "pod-1", "pod-2")
    ends = [agree(gang, report(rank)) for rank, gang in enumerate((leader, one, two))]
    assert {end.result().cause for end in ends} == {Cause.DONE}
    assert "waiting for nodes 1, 2 of 3" in room.said


def test_an_end_without_a_start_reaches_all(make: Callable[[int], Room]) -> None:
    room = make(2)
    over = ATTEMPT.model_copy(update={"cause": Cause.NO_PROGRESS, "exit_code": 93})
    member, leader = meet(room.member(1)), room.leader()
    assert leader.meet(lambda: over) == over
    assert member.result() == over


def test_an_alarm_on_one_node_is_heard_on_all(pair: tuple[Room, Leader, Member]) -> None:
    _, leader, member = pair
    member.raise_alarm(Alarm(stopping=True))
    eventually(lambda: leader.alarm.stopping)
    assert not leader.alarm.failing
    leader.raise_alarm(Alarm(failing=True, stacks=True))
    eventually(lambda: member.alarm == Alarm(stopping=True, failing=True, stacks=True))


def test_the_bad_end_of_one_node_ends_the_other(pair: tuple[Room, Leader, Member]) -> None:
    _, leader, member = pair
    end = agree(member, report(1, Verdict(Cause.USER_ERROR, "no such data")))
    eventually(lambda: leader.alarm.failing)
    ended = leader.agree(report(0, None), close)
    assert ended == end.result()
    assert (ended.cause, ended.message) == (Cause.USER_ERROR, "node 1 (pod-1): no such data")


def test_a_stop_while_others_still_work_is_spread(pair: tuple[Room, Leader, Member]) -> None:
    room, leader, member = pair
    end = agree(member, report(1))
    room.stops[1].ask()
    eventually(lambda: leader.alarm.stopping)
    leader.agree(report(0), close)
    assert end.result().cause is Cause.DONE


def test_a_node_that_vanishes_is_named(pair: tuple[Room, Leader, Member]) -> None:
    _, leader, member = pair
    member.leave()
    eventually(lambda: leader.alarm.failing)
    ended = leader.agree(report(0, Verdict(Cause.CRASHED, "connection reset")), close)
    assert ended.cause is Cause.LOST
    assert ended.message.startswith("node 1 (pod-1): vanished (the connection was closed)")


def test_a_node_that_has_spoken_is_not_lost(pair: tuple[Room, Leader, Member]) -> None:
    _, leader, member = pair
    agree(member, report(1))
    eventually(lambda: len(leader._reports) == 1)
    member.leave()
    time.sleep(0.5)
    assert leader.agree(report(0), close).cause is Cause.DONE


def test_without_a_leader_the_members_close(pair: tuple[Room, Leader, Member]) -> None:
    _, leader, member = pair
    leader.leave()
    eventually(lambda: member.alarm.failing)
    ended = member.agree(report(1, None), close)
    assert ended.cause is Cause.LOST
    assert ended.message.startswith("node 0 (pod-0): vanished")


def test_a_node_that_does_not_end_is_given_up(
    pair: tuple[Room, Leader, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaders, "LAST_WORD_SECONDS", 0.5)
    _, leader, member = pair
    ended = leader.agree(report(0, Verdict(Cause.HUNG, "rank 0 was silent")), close)
    assert ended.message == "node 0 (pod-0): rank 0 was silent"
    assert member.alarm.failing  # it heard, and did nothing


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_while_waiting_is_no_attempt(make: Callable[[int], Room], rank: int) -> None:
    room = make(2)
    gang: Gang = room.member(1) if rank else room.leader()
    waiting = meet(gang)
    time.sleep(0.2)
    room.stops[rank].ask()
    ended = waiting.result()
    assert (ended.number, ended.cause) == (0, Cause.YIELDED)


def test_a_leader_that_is_replaced_before_the_start_costs_nothing(
    make: Callable[[int], Room],
) -> None:
    room = make(3)
    old, members = meet(room.leader()), [meet(room.member(rank)) for rank in (1,)]
    time.sleep(0.5)
    room.stops[0].ask()
    assert old.result().cause is Cause.YIELDED
    room.stops[0] = StopRequest()
    members.append(meet(room.member(2)))
    time.sleep(0.3)
    assert all(member.waiting for member in members)
    new = meet(room.leader())
    assert [waiting.result().number for waiting in (new, *members)] == [7, 7, 7]


def test_who_does_not_come_is_named_and_all_leave(make: Callable[[int], Room]) -> None:
    room = make(3)
    leader, member = meet(room.leader(budget=1.0)), meet(room.member(2))
    ended = leader.result()
    assert (ended.number, ended.cause) == (0, Cause.CRASHED)
    assert ended.message.startswith("nodes 1 of 3 did not come within 1 s")
    assert member.result() == ended


def test_who_has_found_the_leader_leaves_with_it_and_not_before(
    make: Callable[[int], Room],
) -> None:
    room = make(3)
    leader = meet(room.leader(budget=5.0))
    member = meet(room.member(2, budget=2.5))
    ended = leader.result()
    assert ended.message.startswith("nodes 1 of 3 did not come within 5 s")
    assert member.result() == ended


def test_a_thousand_missing_nodes_are_one_line(make: Callable[[int], Room]) -> None:
    room = make(1024)
    ended = room.leader(budget=0.1).meet(lambda: ATTEMPT)
    assert "nodes 1, 2, 3, 4, 5, 6, 7, 8 and 1015 more of 1024 did not come" in ended.message
    assert len(room.said) == 1


def test_a_leader_that_never_comes_is_named(make: Callable[[int], Room]) -> None:
    ended = make(2).member(1, budget=1.0).meet(lambda: ATTEMPT)
    assert (ended.number, ended.cause) == (0, Cause.CRASHED)
    assert "refused" in ended.message


def test_a_run_that_is_over_needs_no_leader(
    make: Callable[[int], Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goku_platform.supervisor.member._ASK_LEDGER_SECONDS", 0.1)
    room = make(2)
    room.final = ATTEMPT.model_copy(update={"cause": Cause.DONE, "exit_code": 0})
    assert room.member(1).meet(lambda: ATTEMPT) == room.final


def test_a_second_hello_before_the_start_takes_the_place_of_the_first(
    make: Callable[[int], Room],
) -> None:
    room = make(2)
    leader = room.leader()
    old = room.stranger(hello(1))
    eventually(lambda: leader.hosts[1] == "stranger")
    member = room.member(1)
    eventually(lambda: leader.hosts[1] == "pod-1")
    assert {waiting.result().number for waiting in (meet(leader), meet(member))} == {7}
    assert old.recv(1000) in (b"", encode(Beat()))
    old.close()


def test_a_second_hello_after_the_start_is_a_lost_node(pair: tuple[Room, Leader, Member]) -> None:
    room, leader, _ = pair
    late = room.stranger(hello(1))
    eventually(lambda: leader.alarm.failing)
    assert late.recv(1000) == b""
    late.close()
    ended = leader.agree(report(0, None), close)
    assert "vanished (its pod was replaced)" in ended.message


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        b"x" * 70_000,
        encode(Beat()),
        hello(1, run="/runs/other"),
        hello(1, nodes=3),
        hello(1, version=99),
        hello(0),
        hello(2),
    ],
)
def test_strangers_are_shown_out_and_change_nothing(
    pair: tuple[Room, Leader, Member], first: bytes
) -> None:
    room, leader, member = pair
    stranger = room.stranger(first)
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # it was shown out with words unread
        while data := stranger.recv(1000):
            answer += data
    stranger.close()
    assert (b"refused" in answer) == (b"hello" in first)
    assert leader.alarm == member.alarm == Alarm()
    end = agree(member, report(1))
    assert leader.agree(report(0), close) == end.result()


def test_a_stranger_that_says_nothing_is_shown_out(make: Callable[[int], Room]) -> None:
    room = make(2)
    room.leader()
    stranger = room.stranger()
    while data := stranger.recv(1000):
        assert set(data.split(b"\n")) <= {b"", encode(Beat()).strip()}
    stranger.close()


def test_a_member_that_is_refused_says_why(make: Callable[[int], Room]) -> None:
    room = make(2)
    room.leader()
    room.nodes = 3
    ended = room.member(1, budget=1.0).meet(lambda: ATTEMPT)
    assert "refused: this is version 1, run /runs/a on 2 nodes" in ended.message


def test_a_port_that_is_taken_is_an_error(make: Callable[[int], Room]) -> None:
    room = make(2)
    room.leader()
    with pytest.raises(OSError, match="in use"):
        room.leader()
