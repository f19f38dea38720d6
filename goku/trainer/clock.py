"""Where the seconds of an attempt go: every one of them to exactly one class.

The clock starts when the supervisor did, before this process existed; the time until then is
startup. Kept in whole nanoseconds, so that the classes sum to the wall time and nothing is lost
to rounding. Only the main thread enters classes; any thread may read, so the state is one value
that is replaced whole.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from goku.contract.metrics import TimeClass


class _State(NamedTuple):
    now: TimeClass
    entered: int  # nanoseconds since the attempt began
    spent: dict[TimeClass, int]  # before `entered`


class Clock:
    """Divides the time since `started_at` (unix seconds) among the classes."""

    def __init__(self, started_at: float) -> None:
        """The attempt has spent all its time on startup so far."""
        # One reading of the wall clock: later steps of it (NTP) must not make time run backwards.
        self._zero = time.monotonic_ns() - max(0, time.time_ns() - round(started_at * 1e9))
        self._state = _State(TimeClass.STARTUP, 0, dict.fromkeys(TimeClass, 0))

    @property
    def current(self) -> TimeClass:
        return self._state.now

    def enter(self, cls: TimeClass) -> None:
        """From now on time belongs to `cls`."""
        at = self._elapsed()
        self._state = _State(cls, at, self._spent_until(at, self._state))

    @contextmanager
    def inside(self, cls: TimeClass) -> Iterator[None]:
        """Enter `cls` and go back to the class before it."""
        outer = self.current
        self.enter(cls)
        try:
            yield
        finally:
            self.enter(outer)

    def seconds(self) -> dict[str, float]:
        """Seconds by class up to now; they sum to the wall seconds of the attempt."""
        state = self._state
        spent = self._spent_until(self._elapsed(), state)
        return {cls.value: nanoseconds / 1e9 for cls, nanoseconds in spent.items()}

    def _elapsed(self) -> int:
        return time.monotonic_ns() - self._zero

    @staticmethod
    def _spent_until(at: int, state: _State) -> dict[TimeClass, int]:
        return state.spent | {state.now: state.spent[state.now] + at - state.entered}
