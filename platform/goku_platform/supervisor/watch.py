"""The supervisor's eyes: heartbeats that are overdue, ranks that are gone, stacks of the silent.

Silence is measured by this process's monotonic clock from the moment a heartbeat was first seen, so
that a step of the wall clock or a suspended machine raises no alarm. Files are read with distrust:
a rank may die at any moment.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from goku.contract.attempts import Steps
from goku.contract.exits import Cause
from goku.contract.pod import PodDir, Progress, Verdict
from goku_platform.supervisor.program import alive
from goku_platform.supervisor.verdict import Hang

_DUMP_SECONDS = 3.0  # most that a rank gets to write its stacks
_DUMP_PAUSE_SECONDS = 0.1


class Watch:
    """What is known of this node's ranks. `look` refreshes it."""

    def __init__(self, pod: PodDir, ranks: frozenset[int], *, start_budget: float | None) -> None:
        """`start_budget`: seconds until every rank's first heartbeat; None if none need come."""
        self._pod, self._ranks, self._start_budget = pod, ranks, start_budget
        self._began = time.monotonic()
        self._seen: dict[int, float] = {}  # rank -> when its last heartbeat was first seen
        self.progress: dict[int, Progress] = {}
        self.verdicts: dict[int, Verdict] = {}

    def look(self) -> None:
        """Read the pod folder."""
        with suppress(OSError, ValueError):
            for progress in self._pod.progress():
                if self.progress.get(progress.rank) != progress:
                    self._seen[progress.rank] = time.monotonic()
                    self.progress[progress.rank] = progress
        with suppress(OSError, ValueError, KeyError):
            self.verdicts = self._pod.verdicts()

    def failed(self) -> set[int]:
        """Ranks that ended badly: by their own account, or without one."""
        bad = {
            rank
            for rank, verdict in self.verdicts.items()
            if verdict.cause not in (Cause.DONE, Cause.YIELDED)
        }
        gone = {rank for rank, progress in self._speechless().items() if not alive(progress.pid)}
        return bad | gone

    def hang(self) -> Hang | None:
        """The rank that is longest overdue."""
        now = time.monotonic()
        overdue = [
            Hang(rank, progress.section, now - self._seen[rank], progress.budget_seconds)
            for rank, progress in self._speechless().items()
            if now - self._seen[rank] > progress.budget_seconds
        ]
        overdue += self._unborn(now - self._began)
        return max(
            overdue, key=lambda hang: hang.silent_seconds - hang.budget_seconds, default=None
        )

    def dump_stacks(self) -> list[Path]:
        """Have every living rank write its stacks; the files that have something in them.

        A rank that somebody stopped (SIGSTOP) is let go on, or it could not write.
        """
        waiting = {rank: self._pod.stacks_path(rank) for rank in self._speechless()}
        for rank in waiting:
            with suppress(ProcessLookupError):
                os.kill(self.progress[rank].pid, signal.SIGUSR2)
                os.kill(self.progress[rank].pid, signal.SIGCONT)
        _settle(list(waiting.values()))
        return [path for path in waiting.values() if _size(path)]

    @property
    def steps(self) -> Steps:
        """The highest that any rank has told."""
        told = Steps()
        for progress in tuple(self.progress.values()):
            told |= Steps.of(progress)
        return told

    def _speechless(self) -> dict[int, Progress]:
        """Ranks with a heartbeat and without a verdict."""
        return {r: progress for r, progress in self.progress.items() if r not in self.verdicts}

    def _unborn(self, waited: float) -> list[Hang]:
        """Ranks that never had a heartbeat, once it is too late for one."""
        budget = self._start_budget
        if budget is None or waited <= budget:
            return []
        absent = sorted(self._ranks - set(self.progress) - set(self.verdicts))
        return [Hang(rank, "start", waited, budget) for rank in absent]


def _settle(paths: list[Path]) -> None:
    """Wait until every file has something in it and none grows."""
    deadline = time.monotonic() + _DUMP_SECONDS
    before: list[int] = []
    while time.monotonic() < deadline:
        sizes = [_size(path) for path in paths]
        if all(sizes) and sizes == before:
            return
        before = sizes
        time.sleep(_DUMP_PAUSE_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
