"""Node 0's side of the gang: it listens, counts who is there, and has the last word.

One thread looks at every connection ten times a second; nothing it does blocks, so one lock guards
all. 128 nodes cost it 1 % of a core, 1,024 cost 7 %. Whatever goes wrong with a connection is the
loss of that node and of nothing else.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from goku.contract.attempts import Attempt
from goku_platform.supervisor.gang import (
    LAST_WORD_SECONDS,
    LOOK_SECONDS,
    SILENCE_SECONDS,
    Alarm,
    Close,
    Report,
    vanished,
)
from goku_platform.supervisor.messages import (
    VERSION,
    Beat,
    Begin,
    End,
    Ended,
    Hello,
    Message,
    Raised,
    Refused,
)
from goku_platform.supervisor.patience import Patience
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.wire import Connection, Gone

_BACKLOG = 1024  # a gang comes all at once; whom the kernel turns away waits for seconds
_DISMISS_SECONDS = 5.0  # for the last word to be heard everywhere
_NAMED = 8  # missing nodes that are named one by one
_STRANGERS = 64  # connections without a hello that are listened to, beside the expected ones


class Leader:
    """The gang as node 0 sees it."""

    def __init__(
        self,
        place: Placement,
        *,
        stop: StopRequest,
        say: Callable[[str], None],
        budget_seconds: float,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Listen at once. Raises OSError if the port is taken."""
        self._place, self._stop, self._say = place, stop, say
        self._budget_seconds, self._silence_seconds = budget_seconds, silence_seconds
        self._hosts = {0: place.host}
        self._members: dict[int, Connection] = {}
        self._strangers: list[Connection] = []
        self._begun = False
        self._reports: dict[int, Report] = {}
        self._troubled: list[int] = []  # nodes in the order in which their trouble became known
        self._failing_at: float | None = None  # monotonic seconds
        self._alarm = Alarm()
        self._changed = threading.Condition()
        self._left = threading.Event()
        self._server = _listen(place.gang_port)
        threading.Thread(target=self._serve, name="gang-leader", daemon=True).start()

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(self._hosts.get(rank, "") for rank in range(self._place.nodes))

    @property
    def alarm(self) -> Alarm:
        return self._alarm

    def meet(self, begin: Callable[[], Attempt]) -> Attempt:
        if (nothing := self._gather()) is not None:
            self._dismiss(Begin(attempt=nothing))
            return nothing
        attempt = begin()
        if attempt.over:
            self._dismiss(Begin(attempt=attempt))
            return attempt
        with self._changed:
            self._begun = True
            self._tell_all(Begin(attempt=attempt))
            for rank in self._missing():  # it left while the attempt was being opened
                self._lose(rank, "it left before the start")
        return attempt

    def raise_alarm(self, alarm: Alarm) -> None:
        with self._changed:
            self._raise(0, alarm)

    def agree(self, report: Report, close: Close) -> Attempt:
        with self._changed:
            self._take(report)
            while len(self._reports) < self._place.nodes:
                if self._stop:
                    self._raise(0, Alarm(stopping=True))
                self._give_up_on_the_silent()
                self._changed.wait(LOOK_SECONDS)
            reports = sorted(self._reports.values(), key=self._by_trouble)
        ended = close(reports)
        self._dismiss(End(attempt=ended))
        return ended

    def leave(self) -> None:
        self._left.set()
        with self._changed:
            self._server.close()
            for connection in (*self._strangers, *self._members.values()):
                connection.close()
            self._members.clear()

    # --- the main thread's waiting

    def _gather(self) -> Attempt | None:
        """Wait until all are there. An attempt that is over already if they do not come."""
        patience = Patience(self._budget_seconds, stop=self._stop, say=self._say)
        with self._changed:
            while missing := self._missing():
                if nothing := patience.spent(f"{_names(missing)} of {self._place.nodes}"):
                    if self._stop:
                        self.leave()  # alone: the others wait for the pod that takes our place
                    return nothing
                self._changed.wait(LOOK_SECONDS)
        return None

    def _give_up_on_the_silent(self) -> None:
        """A node that was told to end and does not say how has had its time."""
        if self._failing_at is None or time.monotonic() - self._failing_at < LAST_WORD_SECONDS:
            return
        for rank in range(self._place.nodes):
            self._lose(rank, f"did not say how it ended within {LAST_WORD_SECONDS:g} s")

    def _dismiss(self, last_word: Message) -> None:
        """Say the last word, and wait until all have heard it: they close, we do not.

        A connection that is closed with unread beats in it is reset, and takes the word along.
        """
        deadline = time.monotonic() + _DISMISS_SECONDS
        with self._changed:
            self._tell_all(last_word)
            while self._members and time.monotonic() < deadline:
                self._changed.wait(LOOK_SECONDS)
        self.leave()

    # --- the thread

    def _serve(self) -> None:
        while not self._left.wait(LOOK_SECONDS):
            with self._changed:
                self._accept()
                for stranger in tuple(self._strangers):
                    self._guarded(stranger, None)
                for rank, member in tuple(self._members.items()):
                    self._guarded(member, rank)
                self._changed.notify_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # none waits, or there is no descriptor left for it
            while True:
                peer, _ = self._server.accept()
                if len(self._strangers) > _STRANGERS + self._place.nodes:
                    peer.close()
                else:
                    self._strangers.append(Connection(peer, silence_seconds=self._silence_seconds))

    def _guarded(self, connection: Connection, rank: int | None) -> None:
        """One look at a connection; None: nobody knows yet who it is."""
        try:
            for message in connection.hear():
                if rank is None:
                    rank = self._greet(connection, message)
                else:
                    self._heed(rank, message)
            connection.turn()
        except Exception as error:  # a bug must cost one node, not leave all of them waiting
            connection.close()
            if connection in self._strangers:
                self._strangers.remove(connection)
            if rank is not None and self._members.get(rank) is connection:
                self._drop(rank, str(error))

    def _greet(self, connection: Connection, message: Message) -> int:
        """A stranger's first word. Raises Gone unless it may join."""
        if not isinstance(message, Hello):
            raise Gone("no hello")
        if why := self._objection(message):
            connection.say(Refused(why=why))
            connection.turn()
            raise Gone(why)
        rank = message.node_rank
        if self._begun:  # a pod was replaced: the one that we knew is gone, this one comes too late
            self._lose(rank, "its pod was replaced")
            raise Gone("the attempt has begun")
        if older := self._members.get(rank):
            older.close()
        self._strangers.remove(connection)
        self._members[rank], self._hosts[rank] = connection, message.host
        return rank

    def _objection(self, hello: Hello) -> str | None:
        mine = (VERSION, self._place.run_uri, self._place.nodes)
        if (hello.version, hello.run, hello.nodes) != mine:
            return f"this is version {mine[0]}, run {mine[1]} on {mine[2]} nodes"
        if not 0 < hello.node_rank < self._place.nodes:
            return f"node {hello.node_rank} is none of 1 to {self._place.nodes - 1}"
        return None

    def _heed(self, rank: int, message: Message) -> None:
        match message:
            case Beat():
                pass
            case Raised(alarm=alarm):
                self._raise(rank, alarm)
            case Ended(report=report):
                self._take(report.model_copy(update={"node_rank": rank}))
            case _:
                raise Gone(f"a member does not say {message.type}")

    # --- under the lock

    def _missing(self) -> list[int]:
        return [rank for rank in range(1, self._place.nodes) if rank not in self._members]

    def _drop(self, rank: int, why: str) -> None:
        del self._members[rank]
        if self._begun:
            self._lose(rank, why)

    def _lose(self, rank: int, seen: str) -> None:
        """A node is gone. If it has said how it ended, that is no loss."""
        if rank not in self._reports:
            self._take(vanished(rank, self._hosts.get(rank, ""), seen))

    def _take(self, report: Report) -> None:
        self._reports.setdefault(report.node_rank, report)
        if report.bad:
            self._raise(report.node_rank, Alarm(failing=True))

    def _raise(self, rank: int, alarm: Alarm) -> None:
        if alarm.failing:
            self._failing_at = self._failing_at or time.monotonic()
            if rank not in self._troubled:
                self._troubled.append(rank)
        if (raised := self._alarm | alarm) != self._alarm:
            self._alarm = raised
            self._tell_all(Raised(alarm=raised))

    def _tell_all(self, message: Message) -> None:
        for member in self._members.values():
            member.say(message)

    def _by_trouble(self, report: Report) -> tuple[int, int]:
        """The node whose trouble came first explains the others'."""
        place = _index(self._troubled, report.node_rank)
        return place, report.node_rank


def _names(ranks: list[int]) -> str:
    """A thousand of them in one line."""
    named, more = ", ".join(map(str, ranks[:_NAMED])), len(ranks) - _NAMED
    return f"nodes {named} and {more} more" if more > 0 else f"nodes {named}"


def _index(ranks: list[int], rank: int) -> int:
    return ranks.index(rank) if rank in ranks else len(ranks)


def _listen(port: int) -> socket.socket:
    """On every address of the pod, of both families where the kernel has both."""
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    except (OSError, ValueError):  # no IPv6 here
        server = socket.create_server(("", port), backlog=_BACKLOG)
    server.setblocking(False)
    return server
