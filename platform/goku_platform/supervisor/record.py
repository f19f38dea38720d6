"""The end of an attempt as the ledger and people see it: what all nodes know of it together."""

from collections.abc import Callable, Sequence

from goku.contract.attempts import Attempt, Steps
from goku.contract.metrics import TimeClass
from goku.contract.pod import Progress
from goku_platform.supervisor.gang import Report
from goku_platform.supervisor.verdict import merge


def closed(
    attempt: Attempt,
    reports: Sequence[Report],
    *,
    progress: Progress | None,
    committed: Callable[[], Steps],
    at: float,
) -> Attempt:
    """The attempt's final record. `progress` is the last that is known of rank 0.

    `committed` is asked where steps seem to be lost: ranks may die between a commit and the word
    of it.
    """
    steps = Steps.of(progress) if progress else Steps()
    for report in reports:
        steps |= report.steps
    if steps.lost:
        steps |= committed()
    return attempt.ended(merge(reports), at=at, steps=steps, progress=progress)


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
