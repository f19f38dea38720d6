"""What every target can do with a job. The use cases in `runs/` know only this.

A job is named by its run's URI. The ledger in the run directory, not the target, says how a run
went; a target says whether something still lives and why it waits, and carries signals and text.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from goku_platform.jobs.spec import JobSpec


class Sighting(NamedTuple):
    """What a target sees of a job now."""

    alive: bool | None  # None: this target cannot know
    exit_code: int | None = None  # of the supervisor, where it is known
    place: str = ""  # for people: a process, a PyTorchJob
    waiting: str = ""  # why it does not run yet, in words; "" if it does not wait
    queue_position: int | None = None  # from 0, where a queue tells
    pods: Mapping[str, int] = {}  # how many are in which phase
    trouble: str = ""  # the first bad event, in words
    pid: int | None = None  # of the supervisor, if it is on this machine and alive
    pod_dir: Path | None = None  # the pod folder, if it is on this machine
    log: Path | None = None  # the supervisor's own output, likewise


class Check(NamedTuple):
    """One thing a launch needs of its target, and whether it is so."""

    name: str  # short and stable: "rights", "queue", "grace"
    ok: bool | None  # None: it could not be found out
    detail: str  # what was seen, with the value
    fix: str = ""  # the next step, where it is not ok


class Event(NamedTuple):
    """Something that happened to a job or to one of its pods."""

    at: float  # unix seconds
    about: str  # kind/name
    reason: str
    message: str
    warning: bool = False
    times: int = 1  # that it was said again and again


class Seen(NamedTuple):
    """One job of a listing."""

    run_uri: str
    sighting: Sighting


class Client(Protocol):
    """One target. A call that needs a server raises TargetError when its time is over."""

    def place(self, spec: JobSpec) -> tuple[JobSpec, str]:
        """The job with everything decided that only the target knows, and why, in one line."""
        ...

    def check(self, spec: JobSpec) -> None:
        """Raise TargetError if this target could never run the job. Changes nothing."""

    def preflight(self, spec: JobSpec) -> Sequence[Check]:
        """Every check there is, passed or not. Changes nothing."""
        ...

    def diff(self, spec: JobSpec) -> str:
        """What `apply` would change, as a unified diff; empty if nothing."""
        ...

    def apply(self, spec: JobSpec) -> None:
        """Start the job. Raises RunError if it is alive, TargetError as `check` does."""

    def get(self, run_uri: str) -> Sighting:
        """Look at a job; one that was never started is not alive."""
        ...

    def watch(self, run_uri: str) -> Iterator[Sighting]:
        """A sighting now and after every change, until the caller stops asking."""
        ...

    def list(self) -> Sequence[Seen]:
        """Every job of ours that this target still knows."""
        ...

    def logs(
        self, run_uri: str, *, node: int | None = None, previous: bool = False, follow: bool = False
    ) -> Iterator[str]:
        """Lines of a node's supervisor (node 0 by default) since its last start, or of the start
        before that; with `follow`, until it ends."""
        ...

    def events(self, run_uri: str) -> Sequence[Event]:
        """What happened to the job and its pods, oldest first."""
        ...

    def stop(self, run_uri: str, *, now: bool = False) -> None:
        """Ask the job to save and leave, or with `now` end it at once; does not wait.

        Raises RunError if it is not alive.
        """

    def delete(self, run_uri: str) -> None:
        """Remove what the target keeps of a job that is over. Never touches the store."""
