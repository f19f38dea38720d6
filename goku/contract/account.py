"""Where the seconds of an attempt that is over went, when its ranks can no longer say.

Rank 0's last heartbeat accounts for every second up to then (`TimeClass`); what came after it goes
to one class, so that the classes always sum to the wall time.
"""

from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.contract.pod import Progress


def account(progress: Progress | None, *, wall: float, cause: Cause) -> dict[str, float]:
    """Seconds by class, summing to `wall`: rank 0's last account, and the rest since then.

    The rest is the hang if there was one, start-up if rank 0 never got further, else the shutdown.
    """
    seconds = {cls.value: 0.0 for cls in TimeClass}
    seconds |= progress.seconds if progress else {}
    rest = wall - sum(seconds.values())
    if rest < 0:  # the rank's clock runs ahead of ours: never by more than a step of NTP
        seconds = {name: value * wall / (wall - rest) for name, value in seconds.items()}
        rest = 0.0
    seconds[_rest_is(progress, cause)] += rest
    return seconds


def _rest_is(progress: Progress | None, cause: Cause) -> TimeClass:
    if cause is Cause.HUNG:
        return TimeClass.HANG
    begun = progress is not None and bool(progress.seconds) and progress.section != "start"
    return TimeClass.SHUTDOWN if begun else TimeClass.STARTUP
