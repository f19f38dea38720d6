"""The loop of a supervisor: ask for the stop, look at the ranks, end what will not end itself."""

import time
from typing import NamedTuple

from goku.contract.pod import PodDir
from goku_platform.supervisor.program import Program
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.verdict import Hang
from goku_platform.supervisor.watch import Watch

_LOOK_SECONDS = 0.1

# After one rank has failed the others cannot go on, but a rank that waits for it in NCCL does not
# know, and torchrun waits for that rank. They get this long to say what they saw: longer than the
# verdict takes any failure for a first one, so that those killed here do not count as such.
SETTLE_SECONDS = 5.0


class Ending(NamedTuple):
    """Why the loop ended: the program did, or one of these."""

    hang: Hang | None = None
    overran: bool = False


class Attendant:
    """Attends one program from its start until it has ended or must be ended."""

    def __init__(
        self,
        program: Program,
        watch: Watch,
        *,
        stop: StopRequest,
        pod: PodDir,
        stop_budget: float,
        settle_seconds: float,
    ) -> None:
        self._program, self._watch, self._stop, self._pod = program, watch, stop, pod
        self._stop_budget, self._settle_seconds = stop_budget, settle_seconds
        self._failed_at: float | None = None

    def run(self) -> Ending:
        """Return when the program has ended, or when it has to be ended."""
        while self._program.poll() is None:
            self._watch.look()
            if self._stop:
                self._pod.request_stop()
            if self._stop.waited_seconds() > self._stop_budget:
                return Ending(overran=True)
            if self._watch.failed():
                if self._settled():
                    return Ending()
            elif hang := self._watch.hang():
                return Ending(hang=hang)
            time.sleep(_LOOK_SECONDS)
        return Ending()

    def _settled(self) -> bool:
        """Whether the failed group had its time; on the way, kill the ranks that only wait."""
        if self._failed_at is None:
            self._failed_at = time.monotonic()
        waited = time.monotonic() - self._failed_at
        if waited > self._settle_seconds:
            self._program.kill_ranks()
        return waited > 2 * self._settle_seconds
