"""Any other node's side of the gang: it looks for node 0, holds on to it, and does what it says.

Until the attempt begins a broken connection costs nothing: node 0's pod may not run yet, may have
no name yet, or may be replaced. After that it means that node 0 is gone.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from goku.contract.attempts import Attempt
from goku_platform.supervisor.gang import (
    LOOK_SECONDS,
    SILENCE_SECONDS,
    Alarm,
    Close,
    Report,
    vanished,
)
from goku_platform.supervisor.messages import (
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

_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_ASK_LEDGER_SECONDS = 15.0  # node 0 may never come because the run is over for good

# Survivors of node 0 close the ledger. The lowest goes first, the next a second later, and finds
# the record closed; the far ones come together, which is only a waste.
_HEIR_SECONDS, _HEIRS = 1.0, 5


class Member:
    """The gang as a node other than 0 sees it."""

    hosts: tuple[str, ...] = ()

    def __init__(
        self,
        place: Placement,
        *,
        stop: StopRequest,
        say: Callable[[str], None],
        final: Callable[[], Attempt | None],
        budget_seconds: float,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`final` asks the ledger for an end after which node 0 will not come any more."""
        self._place, self._stop, self._say, self._final = place, stop, say, final
        self._budget_seconds, self._silence_seconds = budget_seconds, silence_seconds
        self._hello = Hello(
            run=place.run_uri, node_rank=place.node_rank, nodes=place.nodes, host=place.host
        )
        self._trouble = "no connection yet"
        self._is_heard = False  # node 0 says that it is there
        self._outbox: list[Message] = []
        self._attempt: Attempt | None = None
        self._end: Attempt | None = None
        self._orphaned: str | None = None  # how node 0 was lost
        self._alarm = Alarm()
        self._changed = threading.Condition()
        self._left = threading.Event()
        threading.Thread(target=self._live, name="gang-member", daemon=True).start()

    @property
    def alarm(self) -> Alarm:
        return self._alarm

    def meet(self, begin: Callable[[], Attempt]) -> Attempt:  # noqa: ARG002 # node 0 begins it
        patience = Patience(self._budget_seconds, stop=self._stop, say=self._say)
        awaited = f"node 0 at {self._place.master_addr}:{self._place.gang_port}"
        with self._changed:
            while self._attempt is None:
                if self._is_heard:  # it has more patience than we, or less, and tells all
                    patience.renew()
                if nothing := patience.spent(awaited, self._trouble):
                    self.leave()
                    return nothing
                self._changed.wait(LOOK_SECONDS)
            return self._attempt

    def raise_alarm(self, alarm: Alarm) -> None:
        with self._changed:
            if (raised := self._alarm | alarm) != self._alarm:
                self._alarm = raised
                self._outbox.append(Raised(alarm=raised))

    def agree(self, report: Report, close: Close) -> Attempt:
        with self._changed:
            self._outbox.append(Ended(report=report))
            while self._end is None and self._orphaned is None:
                if self._stop:
                    self.raise_alarm(Alarm(stopping=True))
                self._changed.wait(LOOK_SECONDS)
        if self._end is not None:
            return self._end
        time.sleep(_HEIR_SECONDS * min(self._place.node_rank - 1, _HEIRS))
        host = self._attempt.host if self._attempt else ""
        return close([vanished(0, host, self._orphaned or ""), report])

    def leave(self) -> None:
        self._left.set()

    # --- the thread

    def _live(self) -> None:
        asked = time.monotonic()
        while not self._over():
            try:
                self._talk()
            except Exception as error:  # a bug must not leave this node waiting for ever
                self._lost(str(error))
            if self._over() or self._left.wait(_RETRY_SECONDS):
                return
            if time.monotonic() - asked > _ASK_LEDGER_SECONDS:
                asked = time.monotonic()
                self._ask_ledger()

    def _talk(self) -> None:
        """Connect, say hello, and go on until the connection ends. Raises Gone, OSError."""
        address = (self._place.master_addr, self._place.gang_port)
        peer = socket.create_connection(address, timeout=_CONNECT_SECONDS)
        connection = Connection(peer, silence_seconds=self._silence_seconds)
        try:
            connection.say(self._hello)
            while not self._over() and not self._left.is_set():
                self._turn(connection)
                time.sleep(LOOK_SECONDS)
        finally:
            connection.close()

    def _turn(self, connection: Connection) -> None:
        with self._changed:
            for message in connection.hear():
                self._heed(message)
            for message in self._outbox:
                connection.say(message)
            self._outbox.clear()
            connection.turn()
            self._changed.notify_all()

    def _heed(self, message: Message) -> None:
        match message:
            case Beat():
                self._is_heard = True
                self._trouble = "it is there and waits for the others"
            case Begin(attempt=attempt):
                self._attempt = attempt
            case Raised(alarm=alarm):
                self._alarm |= alarm
            case End(attempt=attempt):
                self._end = attempt
            case Refused(why=why):
                raise Gone(f"refused: {why}")
            case _:
                raise Gone(f"a leader does not say {message.type}")

    def _over(self) -> bool:
        """Whether nothing more can come from node 0."""
        nothing_to_start = self._attempt is not None and self._attempt.over
        return nothing_to_start or self._end is not None or self._orphaned is not None

    def _lost(self, why: str) -> None:
        with self._changed:
            self._is_heard = False
            if self._attempt is None:
                self._trouble = why
            else:
                self._orphaned = why
                self._alarm |= Alarm(failing=True)
            self._changed.notify_all()

    def _ask_ledger(self) -> None:
        with contextlib.suppress(Exception):  # a store that stumbles is asked again
            final = self._final()
            with self._changed:
                self._attempt = self._attempt or final
