"""A request to stop, as the supervisor hears it. Imports nothing slow: it comes first of all.

PID 1 has no default handlers: a SIGTERM before this is installed would be lost, and the pod killed
when its grace ends.
"""

import signal
import time
from types import FrameType


class StopRequest:
    """Set once, by the first SIGTERM or SIGINT; later ones change nothing."""

    def __init__(self) -> None:
        self.asked_at: float | None = None  # monotonic seconds

    def __bool__(self) -> bool:
        return self.asked_at is not None

    def install(self) -> None:
        """Catch the signals. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def ask(self) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    def waited_seconds(self) -> float:
        """Seconds since the request; 0 without one."""
        return 0.0 if self.asked_at is None else time.monotonic() - self.asked_at

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.ask()
