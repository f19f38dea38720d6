"""The loop of a supervisor: ask for the stop, look at the ranks and at the gang, end what must end.

Nothing in it may wait: a stop, a hang or a lost node is answered within a look.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from goku.contract.pod import PodDir
from goku_platform.supervisor.gang import LOOK_SECONDS, SETTLE_SECONDS, Alarm, Gang
from goku_platform.supervisor.program import Program
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.verdict import Hang
from goku_platform.supervisor.watch import Watch


class Ending(NamedTuple):
    """Why the loop ended: the program did, or one of these."""

    hang: Hang | None = None
    overran: bool = False
    fenced: str | None = None
    followed: bool = False  # another node failed before anything failed here

    @property
    def puzzling(self) -> bool:
        """Whether only stacks can tell what the ranks were doing."""
        return self.hang is not None or self.overran


class Attendant:
    """Attends one program from its start until it has ended or must be ended."""

    def __init__(
        self,
        program: Program,
        watch: Watch,
        *,
        stop: StopRequest,
        pod: PodDir,
        gang: Gang,
        fenced: Callable[[], str | None],
        stop_budget: float,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """`fenced` says who has taken over the run, if somebody has."""
        self._program, self._watch, self._stop, self._pod = program, watch, stop, pod
        self._gang, self._fenced = gang, fenced
        self._stop_budget, self._settle_seconds = stop_budget, settle_seconds
        self._failed_at: float | None = None
        self._followed = False

    def run(self) -> Ending:
        """Return when the program has ended, or when it has to be ended."""
        while self._program.poll() is None:
            self._watch.look()
            self._spread_stop()
            if ending := self._own_ending():
                self._gang.raise_alarm(Alarm(failing=True, stacks=ending.puzzling))
                return ending
            if self._group_is_over():
                break
            time.sleep(LOOK_SECONDS)
        return Ending(followed=self._followed)

    def _spread_stop(self) -> None:
        """One pod's stop is everybody's."""
        if self._stop:
            self._gang.raise_alarm(Alarm(stopping=True))
        if self._gang.alarm.stopping:
            self._stop.ask()
            self._pod.request_stop()

    def _own_ending(self) -> Ending | None:
        """What ends this node, and with it the others."""
        if fenced := self._fenced():
            return Ending(fenced=fenced)
        if self._stop.waited_seconds() > self._stop_budget:
            return Ending(overran=True)
        hang = None if self._failing() else self._watch.hang()
        return Ending(hang=hang) if hang else None

    def _failing(self) -> bool:
        """Whether a rank has failed, here or elsewhere."""
        if self._failed_at is None and self._watch.failed():
            self._gang.raise_alarm(Alarm(failing=True))
            self._failed_at = time.monotonic()
        elif self._failed_at is None and self._gang.alarm.failing:
            self._followed = True
            self._failed_at = time.monotonic()
        return self._failed_at is not None

    def _group_is_over(self) -> bool:
        """Whether the failed group had its time; on the way, kill the ranks that only wait."""
        if self._failed_at is None:
            return False
        waited = time.monotonic() - self._failed_at
        if waited > self._settle_seconds:
            self._program.kill_ranks()
        return waited > 2 * self._settle_seconds or self._gang.alarm.stacks
