"""A target in memory, for tests of whatever takes a Client."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from goku_platform.cluster.client import Sighting
from goku_platform.errors import RunError
from goku_platform.jobs.spec import JobSpec


@dataclass
class FakeClient:
    """Remembers what it was asked. A job lives from `apply` until `end`."""

    checked: list[JobSpec] = field(default_factory=list)
    applied: list[JobSpec] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)  # by run
    followed: list[str] = field(default_factory=list)
    refusal: Exception | None = None  # raised by `check`
    ends_on_stop: bool = True
    sightings: dict[str, Sighting] = field(default_factory=dict)

    def check(self, spec: JobSpec) -> None:
        self.checked.append(spec)
        if self.refusal:
            raise self.refusal

    def apply(self, spec: JobSpec) -> None:
        self.check(spec)
        self.applied.append(spec)
        self.sightings[spec.run_uri] = Sighting(alive=True, place="fake")

    def get(self, run_uri: str) -> Sighting:
        return self.sightings.get(run_uri, Sighting(alive=False))

    def logs(self, run_uri: str, *, follow: bool = False) -> Iterator[str]:
        if follow:
            self.followed.append(run_uri)
        yield from self.lines.get(run_uri, [])

    def stop(self, run_uri: str) -> None:
        if not self.get(run_uri).alive:
            raise RunError(run_uri, "it is not alive", "Nothing to stop.")
        self.stopped.append(run_uri)
        if self.ends_on_stop:
            self.end(run_uri, 143)

    def end(self, run_uri: str, exit_code: int) -> None:
        """Let the job end by itself."""
        self.sightings[run_uri] = Sighting(alive=False, exit_code=exit_code)
