"""The pulse of a running attempt: node 0 tells the store how far it is, and hears if it is fenced.

Both are best effort, from a thread of their own: a store that is away costs neither training nor
the supervisor's attention. The ranks meet the fence too, but only when they save.
"""

import contextlib
import threading
import time

from goku.contract.attempts import Attempt, Ledger, Pulse
from goku.contract.rundir import Fenced, RunDir
from goku_platform.supervisor.watch import Watch

# What a vanished attempt did after its last pulse is not known, so this bounds the error of lost
# steps in the ledger; one small object and one read every five seconds cost nothing.
_PULSE_SECONDS = 5.0


class Heart:
    """Beats from `with` to the end of the block, on node 0; that of any other node is still."""

    def __init__(
        self, run: RunDir, attempt: Attempt, watch: Watch, *, node_rank: int, hosts: tuple[str, ...]
    ) -> None:
        self.fenced: str | None = None  # who has taken over, once somebody has
        self._run, self._number, self._watch = run, attempt.number, watch
        self._node_rank, self._hosts = node_rank, hosts
        self._over = threading.Event()

    def __enter__(self) -> "Heart":
        if self._node_rank == 0:
            threading.Thread(target=self._live, name="pulse", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _live(self) -> None:
        ledger = Ledger(self._run)
        while True:
            with contextlib.suppress(Exception):  # every driver has exceptions of its own
                self._look_at_fence()
                ledger.beat(self._number, self._pulse())
            if self._over.wait(_PULSE_SECONDS):
                return

    def _pulse(self) -> Pulse:
        return Pulse(at=time.time(), hosts=self._hosts, progress=self._watch.progress.get(0))

    def _look_at_fence(self) -> None:
        try:
            self._run.check_fence(self._number)
        except Fenced as error:
            self.fenced = str(error)
