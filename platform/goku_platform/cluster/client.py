"""What every target can do with a job. The use cases in `runs/` know only this.

A job is named by its run's URI. The ledger in the run directory, not the target, says how a run
went; a target says whether something still lives, and carries signals and text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from goku_platform.jobs.spec import JobSpec


class Sighting(NamedTuple):
    """What a target sees of a job now."""

    alive: bool | None  # None: this target cannot know
    exit_code: int | None = None  # of the supervisor, where it is known
    place: str = ""  # for people: a process, a pod
    pid: int | None = None  # of the supervisor, if it is on this machine and alive
    pod_dir: Path | None = None  # the pod folder, if it is on this machine
    log: Path | None = None  # the supervisor's own output, likewise


class Client(Protocol):
    """One target."""

    def check(self, spec: JobSpec) -> None:
        """Raise TargetError if this target could never run the job. Changes nothing."""

    def apply(self, spec: JobSpec) -> None:
        """Start the job. Raises RunError if it is alive, TargetError as `check` does."""

    def get(self, run_uri: str) -> Sighting:
        """Look at a job; one that was never started is not alive."""
        ...

    def logs(self, run_uri: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of the supervisor since its last start; with `follow`, until it ends."""
        ...

    def stop(self, run_uri: str) -> None:
        """Ask the job to save and leave; returns at once. Raises RunError if it is not alive."""
