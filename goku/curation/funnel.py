"""The funnel: how many spans each stage took, kept, turned away and failed on, over all commits.

In = kept + rejected + failed, for every stage and so for the run; a table that does not add up
cannot be made, because a tally that does not add up cannot.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from goku.data.records import Commit, Reject, Tally, slim

_ROW = "{:<9}{:>7}{:>7}{:>7}{:>10}{:>8}  {}"


def lean(commit: Commit) -> Commit:
    """All that a funnel needs of a commit: its tallies, and its rejects by stage and reason.

    There are few that differ, and they are shared: of a million commits all else is 8 GB.
    """
    rejects = _rejects(tuple((reject.stage, reject.reason) for reject in commit.rejects))
    return slim(commit, tallies=_tallies(commit.tallies), rejects=rejects)


@cache
def _tallies(tallies: tuple[Tally, ...]) -> tuple[Tally, ...]:
    return tallies


@cache
def _rejects(reasons: tuple[tuple[str, str], ...]) -> tuple[Reject, ...]:
    return tuple(_reject(stage, reason) for stage, reason in reasons)


@cache
def _reject(stage: str, reason: str) -> Reject:
    return Reject(stage=stage, reason=reason, detail="", start_seconds=0, end_seconds=0)


def totals(commits: Sequence[Commit]) -> list[Tally]:
    """One tally per stage, in the order of the stages."""
    sums: dict[str, Tally] = {}
    for tally in (tally for commit in commits for tally in commit.tallies):
        sums[tally.stage] = _plus(sums[tally.stage], tally) if tally.stage in sums else tally
    return list(sums.values())


def table(commits: Sequence[Commit]) -> str:
    """The funnel as lines for a person."""
    lines = [_ROW.format("stage", "in", "split", "kept", "rejected", "failed", "why").rstrip()]
    for tally in totals(commits):
        counts = (tally.taken, tally.added, tally.passed, tally.rejected, tally.failed)
        lines.append(_ROW.format(tally.stage, *counts, _why(tally.stage, commits)).rstrip())
    return "\n".join(lines)


def summary(commits: Sequence[Commit], *, sources: int) -> str:
    """The funnel, and what came of how many sources; copies of one content count once."""
    clips = sum(commit.clips for commit in commits)
    copies = sources - len(commits)
    also = f", {copies} of them copies of others" if copies > 0 else ""
    return f"{table(commits)}\n{clips} clips of {sources} sources{also}"


def _plus(one: Tally, other: Tally) -> Tally:
    fields = ("taken", "added", "passed", "rejected", "failed")
    return Tally(
        stage=one.stage, **{name: getattr(one, name) + getattr(other, name) for name in fields}
    )


def _why(stage: str, commits: Sequence[Commit]) -> str:
    reasons = Counter(
        reject.reason for commit in commits for reject in commit.rejects if reject.stage == stage
    )
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
