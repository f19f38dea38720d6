"""What travels between supervisors: framing of any stream, and rubbish that is told apart."""

import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.contract.attempts import Attempt, Steps
from goku.contract.exits import Cause
from goku.contract.pod import Verdict
from goku_platform.supervisor.gang import Alarm, Report
from goku_platform.supervisor.messages import (
    MAX_BYTES,
    Beat,
    Begin,
    Decoder,
    End,
    Ended,
    Garbage,
    Hello,
    Message,
    Raised,
    Refused,
    encode,
)
from goku_platform.supervisor.wire import Connection, Gone

steps = st.none() | st.integers(0, 10**9)
attempts = st.builds(
    Attempt,
    number=st.integers(0, 10**4),
    started_at=st.floats(0, 2e9),
    cause=st.sampled_from(Cause),
    message=st.text(max_size=200),
)
reports = st.builds(
    Report,
    node_rank=st.integers(0, 1023),
    host=st.text(max_size=60),
    verdict=st.none() | st.builds(Verdict, st.sampled_from(Cause), st.text(max_size=200)),
    steps=st.builds(Steps, first=steps, last=steps, durable=steps),
)
messages = st.one_of(
    st.builds(
        Hello,
        run=st.text(max_size=80),
        node_rank=st.integers(),
        nodes=st.integers(),
        host=st.text(max_size=60),
    ),
    st.builds(Refused, why=st.text(max_size=200)),
    st.builds(Begin, attempt=attempts),
    st.just(Beat()),
    st.builds(Raised, alarm=st.builds(Alarm, st.booleans(), st.booleans(), st.booleans())),
    st.builds(Ended, report=reports),
    st.builds(End, attempt=attempts),
)


@given(st.lists(messages, max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[Message], cuts: list[int]
) -> None:
    stream, decoder, heard = b"".join(map(encode, sent)), Decoder(), []
    while stream:
        for cut in cuts:
            heard += decoder.feed(stream[:cut])
            stream = stream[cut:]
    assert heard == sent


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_waited_for_but_never_a_message(data: bytes) -> None:
    try:
        assert Decoder().feed(data) == []
    except Garbage:
        assert b"\n" in data


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"\n",
        b"[]\n",
        b'{"type": "beat", "more": 1}\n',
        b'{"type": "unknown"}\n',
        b'{"type": "alarm", "alarm": true}\n',
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_what_is_not_ours_is_garbage(line: bytes) -> None:
    with pytest.raises(Garbage):
        Decoder().feed(line)


def test_an_alarm_is_never_taken_back() -> None:
    both = Alarm(stopping=True) | Alarm(failing=True)
    assert both == Alarm(stopping=True, failing=True)
    assert both | Alarm() == both


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, silence_seconds=0.3)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_connection_beats_and_misses_the_beats_of_the_other(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, other = pair
    connection.say(Beat())
    connection.turn()
    assert other.recv(100) == encode(Beat())
    time.sleep(0.2)
    other.send(encode(Beat()))
    assert connection.hear() == [Beat()]
    time.sleep(0.2)
    connection.turn()
    time.sleep(0.2)
    with pytest.raises(Gone, match="silent"):
        connection.turn()


def test_the_end_of_a_connection_is_told(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    assert connection.hear() == []
    other.send(b"rubbish\n")
    with pytest.raises(Gone, match="language"):
        connection.hear()
    other.close()
    with pytest.raises(Gone, match="closed"):
        connection.hear()


def test_a_peer_that_takes_nothing_is_gone(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    for _ in range(200):
        connection.say(Refused(why="x" * 50_000))
    with pytest.raises(Gone, match="takes no messages"):
        connection.turn()
