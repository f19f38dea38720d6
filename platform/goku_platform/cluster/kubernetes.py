"""The kubernetes target: one API server, seen as little as possible.

Here is only the order of things; what is asked of the server, and what its answers mean, is in
`kube/`. It connects, and imports the Kubernetes package, when it is first asked something.
"""

import difflib
import time
from collections.abc import Iterator, Sequence

import yaml

from goku_platform.cluster.client import Check, Event, Seen, Sighting
from goku_platform.cluster.kube import events, listing, logs, look, objects, place, sighting, watch
from goku_platform.cluster.kube.api import EVENTS, PODS, Api, Json
from goku_platform.cluster.kube.launch import launch
from goku_platform.cluster.kube.objects import Render
from goku_platform.cluster.kube.preflight import preflight
from goku_platform.cluster.kube.sighting import View
from goku_platform.errors import RunError
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Settings

_NOW_SECONDS = 1  # not 0: the API would forget pods whose processes still run
_ROUNDS, _ROUND_SECONDS = 4, 0.5


class KubernetesClient:
    """Jobs in the namespace of a profile. `timeout_seconds` is for one call, all its requests."""

    def __init__(
        self, settings: Settings, *, render: Render, timeout_seconds: float = 10.0
    ) -> None:
        self._api = Api(
            context=settings.context,
            namespace=settings.namespace,
            timeout_seconds=timeout_seconds,
        )
        self._first = settings.kind
        self._render = render

    @property
    def requests(self) -> int:
        """How many requests the server was sent so far."""
        return self._api.requests

    def place(self, spec: JobSpec) -> tuple[JobSpec, str]:
        self._api.begin()
        return place.place(self._api, spec, self._render)

    def check(self, spec: JobSpec) -> None:
        placed, _ = self.place(spec)
        for manifest in self._render(placed)[:-1]:
            objects.dry_run(self._api, manifest)
        place.accepted(self._api, placed, self._render)

    def preflight(self, spec: JobSpec) -> Sequence[Check]:
        return preflight(self._api, spec, self._render)

    def diff(self, spec: JobSpec) -> str:
        placed, _ = self.place(spec)
        return "".join(self._diff(manifest) for manifest in self._render(placed))

    def apply(self, spec: JobSpec) -> None:
        placed, _ = self.place(spec)
        launch(self._api, placed, self._render(placed))

    def get(self, run_uri: str) -> Sighting:
        self._api.begin()
        return _seen(look.look(self._api, _name(run_uri), self._first), run_uri)

    def watch(self, run_uri: str) -> Iterator[Sighting]:
        last: Sighting | None = None
        for view in watch.watch(self._api, _name(run_uri), self._first):
            seen = _seen(view, run_uri)
            if seen != last:
                last = seen
                yield seen

    def list(self) -> Sequence[Seen]:
        self._api.begin()
        return listing.listing(self._api, self._first)

    def logs(
        self, run_uri: str, *, node: int | None = None, previous: bool = False, follow: bool = False
    ) -> Iterator[str]:
        name = _name(run_uri)
        if follow:
            return logs.follow(self._api, name, self._first, node=node or 0)
        return logs.logs(self._api, name, self._first, node=node or 0, previous=previous)

    def events(self, run_uri: str) -> Sequence[Event]:
        self._api.begin()
        ours = events.of_run(_name(run_uri))
        found = self._api.pages(EVENTS.path(self._api.namespace), what="events")
        return sorted(
            events.event(one) for one in found if ours.fullmatch(one["involvedObject"]["name"])
        )

    def stop(self, run_uri: str, *, now: bool = False) -> None:
        self._api.begin()
        name = _name(run_uri)
        view = look.look(self._api, name, self._first, reasons=False)
        if not _seen(view, run_uri).alive:
            raise RunError(
                f"run {name!r}", "it is not alive in the cluster", "See goku-platform status."
            )
        if view.job is not None:
            objects.remove(self._api, view.job)
        if now or view.job is None:  # pods whose job is gone have nobody else to end them
            self._end_pods(name, grace=_NOW_SECONDS if now else None)

    def delete(self, run_uri: str) -> None:
        self._api.begin()
        name = _name(run_uri)
        view = look.look(self._api, name, self._first, reasons=False)
        if look.is_of(view, run_uri):
            listing.remove(self._api, name, view, self._first)

    def _end_pods(self, name: str, *, grace: int | None) -> None:
        """More than once: a controller may make pods again until its own object is deleted."""
        for _ in range(_ROUNDS):
            self._api.delete(
                PODS.path(self._api.namespace),
                what="pods",
                grace=grace,
                labelSelector=look.selector(name),
            )
            time.sleep(_ROUND_SECONDS)
            if not look.pods(self._api, name)["items"]:
                return

    def _diff(self, manifest: Json) -> str:
        path = objects.collection(manifest).path(self._api.namespace, manifest["metadata"]["name"])
        live = self._api.find(path, what=objects.title(manifest))
        wanted = objects.dry_run(self._api, manifest)
        lines = difflib.unified_diff(
            _yaml(live).splitlines(keepends=True) if live else [],
            _yaml(wanted).splitlines(keepends=True),
            f"{objects.title(manifest)} in the cluster",
            f"{objects.title(manifest)} as launched",
        )
        return "".join(lines)


def _name(run_uri: str) -> str:
    return run_uri.rstrip("/").rsplit("/", 1)[-1]


def _seen(view: View, run_uri: str) -> Sighting:
    """A namesake of another store is not this run."""
    if look.is_of(view, run_uri):
        return sighting.sighting(view)
    assert view.job is not None
    other = sighting.run_uri(view.job) or "another run"
    return Sighting(alive=False, trouble=f"the cluster has a job of this name for {other}")


def _yaml(thing: Json) -> str:
    text: str = yaml.safe_dump(objects.plain(thing), sort_keys=True)
    return text
