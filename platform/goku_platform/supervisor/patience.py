"""How long a supervisor waits for the others: until a stop, or until its budget is spent."""

import time
from collections.abc import Callable

from goku.contract.attempts import Attempt
from goku.contract.exits import Cause
from goku_platform.supervisor.gang import unopened
from goku_platform.supervisor.stop import StopRequest

_TELL_SECONDS = 30.0  # between two lines that say who is awaited


class Patience:
    """One wait, from when it was made or renewed; told to people at once and then now and then."""

    def __init__(
        self, budget_seconds: float, *, stop: StopRequest, say: Callable[[str], None]
    ) -> None:
        self._budget_seconds, self._stop, self._say = budget_seconds, stop, say
        self._began = time.monotonic()
        self._tell_at = self._began

    def renew(self) -> None:
        """Begin anew: whom we wait for is there."""
        self._began = time.monotonic()

    def spent(self, awaited: str, why: str = "") -> Attempt | None:
        """Nothing while there is patience; after it an attempt that is over already."""
        now, because = time.monotonic(), f" ({why})" if why else ""
        if self._stop:
            return unopened(Cause.YIELDED, f"asked to stop while waiting for {awaited}")
        if now - self._began > self._budget_seconds:
            return unopened(
                Cause.CRASHED,
                f"{awaited} did not come within {self._budget_seconds:g} s{because}. "
                "See why not all pods run, or raise health.start_budget_seconds.",
            )
        if now >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._say(f"waiting for {awaited}{because}")
        return None
