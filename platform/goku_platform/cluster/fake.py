"""A target in memory, for tests of whatever takes a Client. It ignores what it has no use for."""

# ruff: noqa: ARG002

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from goku_platform.cluster.client import Check, Event, Seen, Sighting
from goku_platform.errors import RunError
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind


@dataclass
class FakeClient:
    """Remembers what it was asked. A job lives from `apply` until `end`."""

    checked: list[JobSpec] = field(default_factory=list)
    applied: list[JobSpec] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)  # those of `stopped` that had no grace
    deleted: list[str] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)  # by run
    followed: list[str] = field(default_factory=list)
    happened: dict[str, list[Event]] = field(default_factory=dict)  # by run
    refusal: Exception | None = None  # raised by `check`
    kind: Kind | None = None  # where `place` puts a job that names none
    checks: Sequence[Check] = (Check("api", True, "in memory"),)
    difference: str = ""
    ends_on_stop: bool = True
    sightings: dict[str, Sighting] = field(default_factory=dict)
    watched: dict[str, list[Sighting]] = field(default_factory=dict)  # what a watch goes on with

    def place(self, spec: JobSpec) -> tuple[JobSpec, str]:
        kind = spec.placement.kind or self.kind
        return replace(spec, placement=replace(spec.placement, kind=kind)), "in memory"

    def check(self, spec: JobSpec) -> None:
        self.checked.append(spec)
        if self.refusal:
            raise self.refusal

    def preflight(self, spec: JobSpec) -> Sequence[Check]:
        return self.checks

    def diff(self, spec: JobSpec) -> str:
        return self.difference

    def apply(self, spec: JobSpec) -> None:
        self.check(spec)
        if self.get(spec.run_uri).alive:
            raise RunError(spec.run_uri, "it is alive", "Watch it.")
        self.applied.append(spec)
        self.sightings[spec.run_uri] = Sighting(alive=True, place="fake")

    def get(self, run_uri: str) -> Sighting:
        return self.sightings.get(run_uri, Sighting(alive=False))

    def watch(self, run_uri: str) -> Iterator[Sighting]:
        yield self.get(run_uri)
        for sighting in self.watched.get(run_uri, []):
            self.sightings[run_uri] = sighting
            yield sighting

    def list(self) -> Sequence[Seen]:
        return [Seen(uri, sighting) for uri, sighting in self.sightings.items()]

    def logs(
        self, run_uri: str, *, node: int | None = None, previous: bool = False, follow: bool = False
    ) -> Iterator[str]:
        if follow:
            self.followed.append(run_uri)
        yield from self.lines.get(run_uri, [])

    def events(self, run_uri: str) -> Sequence[Event]:
        return self.happened.get(run_uri, [])

    def stop(self, run_uri: str, *, now: bool = False) -> None:
        if not self.get(run_uri).alive:
            raise RunError(run_uri, "it is not alive", "Nothing to stop.")
        self.stopped.append(run_uri)
        if now:
            self.killed.append(run_uri)
        if self.ends_on_stop:
            self.end(run_uri, 137 if now else 143)

    def delete(self, run_uri: str) -> None:
        if self.get(run_uri).alive:
            raise RunError(run_uri, "it is alive", "Stop it first.")
        self.deleted.append(run_uri)
        self.sightings.pop(run_uri, None)

    def end(self, run_uri: str, exit_code: int) -> None:
        """Let the job end by itself."""
        self.sightings[run_uri] = Sighting(alive=False, exit_code=exit_code)
