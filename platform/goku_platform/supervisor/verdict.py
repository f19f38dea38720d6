"""Why an attempt ended: one table from what was seen to a cause. Pure, and read top to bottom.

The first row that applies wins. What the ranks say of a good end comes first, because nothing that
happens to a process after it has saved matters. Then what the supervisor did itself, and then the
causes from the one that explains the others to the ones that it entails: when a rank is killed,
the rest of its group crashes. `merge` does the same over the nodes of a run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from goku.contract.exits import Cause
from goku.contract.outcome import Failure
from goku.contract.pod import Verdict
from goku_platform.supervisor.gang import Report

_GOOD = {Cause.DONE, Cause.YIELDED}
_SIGKILL = -9

# Failures this much later than the first are torchrun's or our own clearing up after it.
_FIRST_SECONDS = 2.0
_ELSEWHERE = Verdict(Cause.CRASHED, "ended because another node was")
_HINT = "Lower data.pack_tokens, or raise parallel.sequence or the pod's memory."


class Hang(NamedTuple):
    """A rank that outlived the budget of its section."""

    rank: int
    section: str
    silent_seconds: float
    budget_seconds: float


class Evidence(NamedTuple):
    """All that the supervisor saw of an attempt on its node."""

    ranks: frozenset[int]  # of this node
    verdicts: Mapping[int, Verdict]  # what the ranks said of their end
    failures: tuple[Failure, ...] = ()  # what torchrun saw of it
    exit_code: int | None = 0  # of the program; negative: a signal; None: it was never started
    hang: Hang | None = None
    overran_seconds: float | None = None  # the stop budget, if it was spent
    oom_kills: int = 0  # by the kernel, in this pod, meanwhile
    saved: bool = True  # the last step is durable, or there is none
    fenced: str | None = None  # who has taken over, if somebody has
    followed: bool = False  # another node failed first, and this one had to end with it
    cleared_at: float | None = None  # unix seconds at which we began to kill what was left

    @property
    def causes(self) -> set[Cause]:
        return {verdict.cause for verdict in self.verdicts.values()}

    @property
    def ended_well(self) -> bool:
        return set(self.verdicts) >= self.ranks and self.causes <= _GOOD

    @property
    def killed(self) -> list[str]:
        """Who was killed by SIGKILL, not by us, before anybody else had failed."""
        first = min((failure.at for failure in self.failures), default=0.0)
        ranks = [
            f"rank {failure.rank}"
            for failure in self.unforced
            if failure.exit_code == _SIGKILL and failure.at - first <= _FIRST_SECONDS
        ]
        outright = self.exit_code == _SIGKILL and self.cleared_at is None
        return ranks or (["the program"] if outright else [])

    @property
    def unforced(self) -> list[Failure]:
        """Failures from before our own killing; torchrun knows their time to the second."""
        end = float("inf") if self.cleared_at is None else int(self.cleared_at)
        return [failure for failure in self.failures if failure.at < end]


# What explains the end of a run on several nodes, the best explanation first.
_WORST_FIRST = (
    Cause.SUPERSEDED,
    Cause.USER_ERROR,
    Cause.NO_PROGRESS,
    Cause.OUT_OF_MEMORY,
    Cause.HUNG,
    Cause.KILLED,
    Cause.LOST,  # its neighbours crash, or are ended
    Cause.CRASHED,
    Cause.UNSAVED,
    Cause.YIELDED,
    Cause.DONE,
)


def decide(seen: Evidence) -> Verdict | None:
    """The cause and one line that explains it; None if it lies on another node alone."""
    verdict = next(verdict for row in _TABLE if (verdict := row(seen)) is not None)
    return None if verdict is _ELSEWHERE else verdict


def merge(reports: Sequence[Report]) -> Verdict:
    """One verdict of all nodes. Of equals the first: reports come in the order of trouble."""
    told = [report for report in reports if report.verdict is not None]
    if not told:
        return Verdict(Cause.CRASHED, "every node was ended because of another")
    worst = min(told, key=lambda report: _WORST_FIRST.index(_cause(report)))
    assert worst.verdict is not None
    if len(reports) == 1 or not worst.bad:
        return worst.verdict
    where = f"node {worst.node_rank} ({worst.host}): "
    return Verdict(worst.verdict.cause, where + worst.verdict.message)


def _cause(report: Report) -> Cause:
    assert report.verdict is not None
    return report.verdict.cause


def _never_started(seen: Evidence) -> Verdict | None:
    if seen.exit_code is not None:
        return None
    return Verdict(Cause.YIELDED, "asked to stop before the program was started")


def _done(seen: Evidence) -> Verdict | None:
    done = seen.ended_well and seen.causes == {Cause.DONE}
    return Verdict(Cause.DONE, "") if done else None


def _yielded(seen: Evidence) -> Verdict | None:
    if not (seen.ended_well and seen.saved):
        return None
    return Verdict(Cause.YIELDED, "asked to stop: saved and left")


def _superseded(seen: Evidence) -> Verdict | None:
    if seen.fenced is not None:
        return Verdict(Cause.SUPERSEDED, seen.fenced)
    return _said(seen, Cause.SUPERSEDED)


def _unsaved(seen: Evidence) -> Verdict | None:
    if seen.overran_seconds is not None and seen.saved and seen.causes <= _GOOD:
        return Verdict(Cause.YIELDED, "asked to stop: ended, there was nothing left to save")
    if seen.overran_seconds is not None:
        return Verdict(
            Cause.UNSAVED,
            f"asked to stop, and not saved within {seen.overran_seconds:g} s. "
            "Raise checkpoint.stop_budget_seconds and checkpoint.grace_seconds.",
        )
    if seen.ended_well:
        return Verdict(Cause.UNSAVED, "asked to stop: the ranks left without a durable last step")
    return None


def _hung(seen: Evidence) -> Verdict | None:
    if seen.hang is None:
        return None
    rank, section, silent, budget = seen.hang
    return Verdict(
        Cause.HUNG,
        f"rank {rank} was silent for {silent:.1f} s in section {section!r}, whose budget is "
        f"{budget:g} s. Its stacks are among the attempt's logs.",
    )


def _users(seen: Evidence) -> Verdict | None:
    return _said(seen, Cause.USER_ERROR)


def _memory(seen: Evidence) -> Verdict | None:
    if said := _said(seen, Cause.OUT_OF_MEMORY):
        return Verdict(said.cause, f"{said.message} {_HINT}")
    if seen.oom_kills:
        who = " and ".join(seen.killed) or "a process"
        text = f"{who} was killed by the kernel: the pod is out of memory. {_HINT}"
        return Verdict(Cause.OUT_OF_MEMORY, text)
    return None


def _killed(seen: Evidence) -> Verdict | None:
    if not seen.killed:
        return None
    return Verdict(
        Cause.KILLED,
        f"{' and '.join(seen.killed)} was killed by SIGKILL from outside. "
        "Look for an eviction, or for memory taken outside the pod's control group.",
    )


def _crashed(seen: Evidence) -> Verdict | None:
    return _said(seen, Cause.CRASHED)


def _not_saved(seen: Evidence) -> Verdict | None:
    """What a rank says whose last save failed."""
    return _said(seen, Cause.UNSAVED)


def _elsewhere(seen: Evidence) -> Verdict | None:
    return _ELSEWHERE if seen.followed and not seen.unforced else None


def _speechless(seen: Evidence) -> Verdict | None:
    """The last row: it always applies."""
    if seen.unforced:
        first = seen.unforced[0]
        text = f"rank {first.rank} ended with exit code {first.exit_code}: {first.message}"
        return Verdict(Cause.CRASHED, text)
    silent = sorted(seen.ranks - set(seen.verdicts))
    who = f"ranks {silent} said nothing" if silent else "the ranks contradict one another"
    return Verdict(Cause.CRASHED, f"the program ended with exit code {seen.exit_code}; {who}")


def _said(seen: Evidence, cause: Cause) -> Verdict | None:
    """The verdict of the first rank that names this cause."""
    for rank, verdict in sorted(seen.verdicts.items()):
        if verdict.cause is cause:
            one = len(seen.ranks) == 1
            return verdict if one else Verdict(cause, f"rank {rank}: {verdict.message}")
    return None


_TABLE: tuple[Callable[[Evidence], Verdict | None], ...] = (
    _never_started,
    _done,
    _yielded,
    _superseded,
    _unsaved,
    _hung,
    _users,
    _memory,
    _killed,
    _crashed,
    _not_saved,
    _elsewhere,
    _speechless,
)
