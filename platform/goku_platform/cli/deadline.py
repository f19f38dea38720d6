"""`--timeout`: no verb waits longer for a store or a cluster than it was given.

An alarm interrupts whatever call blocks, in any library. What it raises is no Exception, so that
no retry loop on the way takes it for one more failure; `limit` turns it into an error with a next
step. The alarm comes back every few seconds, for the clean-up that it caused may block as well.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_SECONDS = 5.0
_LONGEST_SECONDS = 1e9  # that the kernel's timer surely takes: for ever


class _Overdue(BaseException):
    """The time is over."""


@contextmanager
def limit(seconds: float, verb: str) -> Iterator[None]:
    """Raise OverdueError if the block takes longer. For the main thread."""
    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, _ring)
    until = min(max(seconds, 1e-3), _LONGEST_SECONDS)
    outer, every = signal.setitimer(signal.ITIMER_REAL, until, _AGAIN_SECONDS)
    try:
        yield
    except _Overdue:
        from goku_platform.errors import OverdueError

        raise OverdueError(
            f"goku-platform {verb}",
            f"it had no answer within {seconds:g} s",
            "Give it longer with --timeout, or see what does not answer: goku-platform doctor.",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:  # an alarm of whoever called us goes on
            left = outer - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), every)


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise _Overdue
