"""Pauses between looks at something that will change: short at first, then ever longer.

What takes a second is seen at once, and what takes a minute costs a server few requests.
"""

import time

_FIRST_SECONDS, _LONGEST_SECONDS, _GROWTH = 0.2, 3.0, 1.4


class Pauses:
    """One wait."""

    def __init__(self) -> None:
        self._next = _FIRST_SECONDS

    def sleep(self, *, at_most: float = _LONGEST_SECONDS) -> None:
        """Sleep until the next look, or `at_most` seconds if that is sooner."""
        time.sleep(max(0.0, min(self._next, at_most)))
        self._next = min(_GROWTH * self._next, _LONGEST_SECONDS)
