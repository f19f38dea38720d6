"""The end of an attempt as the ledger keeps it: steps, lost steps, and where the seconds went."""

from goku.contract.attempts import Attempt
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.metrics import TimeClass
from goku.contract.pod import Progress, Verdict
from goku_platform.supervisor.watch import Watch


def closed(attempt: Attempt, verdict: Verdict, watch: Watch, *, ended_at: float) -> Attempt:
    """The attempt's final record. Its seconds sum to the time from its start to `ended_at`."""
    first, last, durable = watch.first_step, watch.last_step, watch.durable_step
    kept = max(durable or 0, first or 0)
    return attempt.model_copy(
        update={
            "ended_at": ended_at,
            "cause": verdict.cause,
            "exit_code": EXIT_OF[verdict.cause],
            "message": verdict.message,
            "first_step": first,
            "last_step": last,
            "durable_step": durable,
            "lost_steps": max(0, (last or 0) - kept),
            "seconds": account(
                watch.progress.get(0), wall=ended_at - attempt.started_at, cause=verdict.cause
            ),
        }
    )


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


def summary(attempt: Attempt) -> str:
    """One line for people."""
    wall = (attempt.ended_at or attempt.started_at) - attempt.started_at
    line = f"attempt {attempt.number}: {attempt.cause} (exit {attempt.exit_code}) in {wall:.1f} s"
    if attempt.last_step is not None:
        productive = attempt.seconds.get(TimeClass.PRODUCTIVE, 0.0)
        line += (
            f", steps {attempt.first_step} to {attempt.last_step}, durable {attempt.durable_step}, "
            f"lost {attempt.lost_steps}, goodput {productive / wall if wall else 0:.0%}"
        )
    return f"{line}: {attempt.message}" if attempt.message else line


def _rest_is(progress: Progress | None, cause: Cause) -> TimeClass:
    if cause is Cause.HUNG:
        return TimeClass.HANG
    begun = progress is not None and bool(progress.seconds) and progress.section != "start"
    return TimeClass.SHUTDOWN if begun else TimeClass.STARTUP
