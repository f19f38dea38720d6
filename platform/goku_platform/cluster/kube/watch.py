"""A run in a cluster, looked at again whenever something changes: three streams, whatever its size.

Each of job, pods and Workload is listed once and then watched by a thread of its own; all of them
feed one queue. A stream ends every few minutes, when the server restarts or has forgotten where we
were (410): it goes on from the last version seen, or from a new list.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from goku_platform.cluster.kube import kueue, look
from goku_platform.cluster.kube.api import PODS, Api, Json, Stream
from goku_platform.cluster.kube.refusals import Refused, Unreachable
from goku_platform.cluster.kube.sighting import View
from goku_platform.settings import Kind

_ABSENT_SECONDS = 5.0  # between looks for a job that is not there
_GATHER_SECONDS = 0.25  # a gang of a thousand pods changes a thousand times at once
_REFRESH_SECONDS = 15.0  # of queue positions and events, while something waits: they have no stream
_PATIENCE_SECONDS = 60.0  # with a server that is away
_PAUSE_SECONDS = 0.2  # before every request of a stream: a proxy that cuts at once is not hammered
_GONE = 410


class _Change(NamedTuple):
    """What a stream has to say."""

    slot: str
    listed: bool  # `items` are all there are, not those that changed
    items: Mapping[str, Json | None]  # by name; None: deleted


def watch(api: Api, name: str, first: Kind | None) -> Iterator[View]:
    """A view now and after every change. Raises TargetError if the server stays away."""
    while True:
        api.begin()
        kind, job = look.job(api, name, first)
        if kind is None or job is None:
            yield View(None, None, look.pods(api, name)["items"])
            time.sleep(_ABSENT_SECONDS)
        else:
            yield from _Streams(api, kind, job).views()


class _Streams:
    """The streams about one job, until its object is gone."""

    def __init__(self, api: Api, kind: Kind, job: Json) -> None:
        self._api, self._kind = api, kind
        self._changes: queue.SimpleQueue[_Change | Exception] = queue.SimpleQueue()
        self._known: dict[str, dict[str, Json]] = {}
        self._reasons = View(kind, job)
        self._asked = -_REFRESH_SECONDS
        self._waits = False
        self._followers = [
            _Follower(api, source, self._changes.put) for source in _sources(api, kind, job)
        ]

    def views(self) -> Iterator[View]:
        for follower in self._followers:
            follower.start()
        try:
            while True:
                self._gather()
                view = self._view()
                yield view
                if view.job is None:
                    return
        finally:
            for follower in self._followers:
                follower.close()

    def _gather(self) -> None:
        """Wait for a change, and a little longer for those that come with it."""
        deadline = time.monotonic() + _REFRESH_SECONDS if self._waits else None
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                change = self._changes.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(change, Exception):
                raise change
            self._take(change)
            if self._complete():
                settled = time.monotonic() + _GATHER_SECONDS
                deadline = settled if deadline is None else min(deadline, settled)

    def _complete(self) -> bool:
        return len(self._known) == len(self._followers)

    def _take(self, change: _Change) -> None:
        known = {} if change.listed else self._known[change.slot]
        for name, item in change.items.items():
            if item is None:
                known.pop(name, None)
            else:
                known[name] = item
        self._known[change.slot] = known

    def _view(self) -> View:
        """What is known now; reasons of waiting are asked for, but not too often."""
        view = View(
            self._kind,
            next(iter(self._known["job"].values()), None),
            list(self._known["pods"].values()),
            next(iter(self._known.get("workload", {}).values()), None),
            self._reasons.pending,
            self._reasons.warnings,
        )
        self._waits = view.waits
        if view.waits and time.monotonic() - self._asked >= _REFRESH_SECONDS:
            self._asked = time.monotonic()
            self._api.begin()
            view = self._reasons = look.with_reasons(self._api, view)
        return view


class _Source(NamedTuple):
    """What to follow, and the query that selects it."""

    slot: str
    path: str
    query: Mapping[str, str]
    optional: bool = False  # without the right to look there is nothing to see, and no error


def _sources(api: Api, kind: Kind, job: Json) -> Iterator[_Source]:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    path = look.collection(kind).path(api.namespace)
    yield _Source("job", path, {"fieldSelector": f"metadata.name={name}"})
    yield _Source("pods", PODS.path(api.namespace), {"labelSelector": look.selector(name)})
    workloads = look.workload_collection(api)
    if workloads is not None:
        query = {"labelSelector": f"{kueue.JOB_UID}={uid}"}
        yield _Source("workload", workloads.path(api.namespace), query, optional=True)


class _Follower(threading.Thread):
    """List, then watch, again and again."""

    def __init__(
        self, api: Api, source: _Source, put: Callable[[_Change | Exception], None]
    ) -> None:
        super().__init__(name=f"watch-{source.slot}", daemon=True)
        self._api, self._source, self._put = api, source, put
        self._stream: Stream | None = None
        self._closed = threading.Event()
        self._away_since: float | None = None
        self._version = ""  # "": list first
        self._heard = False  # whether a list ever came

    def close(self) -> None:
        """End the thread soon."""
        self._closed.set()
        if self._stream:
            self._stream.close()

    def run(self) -> None:
        while not self._closed.wait(_PAUSE_SECONDS):
            try:
                if self._version:
                    self._follow()
                else:
                    self._list()
            except Exception as error:  # whatever it is, the reader must hear of it
                if not self._bear(error):
                    return

    def _list(self) -> None:
        self._api.begin()
        source = self._source
        found = self._api.get(source.path, what=source.slot, resourceVersion="0", **source.query)
        self._version, self._away_since = found["metadata"]["resourceVersion"], None
        self._heard = True
        self._say({item["metadata"]["name"]: item for item in found["items"]}, listed=True)

    def _follow(self) -> None:
        self._api.begin()
        source = self._source
        self._stream = self._api.watch(
            source.path, what=source.slot, version=self._version, **source.query
        )
        self._away_since = None
        if self._closed.is_set():
            self._stream.close()
        for line in self._stream:
            self._hear(json.loads(line))

    def _hear(self, event: Mapping[str, Any]) -> None:
        item: Json = event["object"]
        if event["type"] == "ERROR":
            raise Refused(item.get("code", 0), self._source.slot, item.get("message", ""), "")
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] != "BOOKMARK":
            gone = event["type"] == "DELETED"
            self._say({item["metadata"]["name"]: None if gone else item}, listed=False)

    def _bear(self, error: Exception) -> bool:
        """Whether to go on after an error.

        A server that starts again knows neither all paths nor all rights for a moment, so what
        was heard once is tried again for a while, whatever it answers.
        """
        if isinstance(error, Refused) and error.status == _GONE:
            self._version = ""
            return True
        if not self._heard and self._source.optional and isinstance(error, Refused):
            self._say({}, listed=True)
            return False
        now = time.monotonic()
        self._away_since = self._away_since or now
        passes = self._heard and isinstance(error, (Refused, Unreachable))
        if passes and now - self._away_since < _PATIENCE_SECONDS:
            return True
        self._put(error)
        return False

    def _say(self, items: Mapping[str, Json | None], *, listed: bool) -> None:
        self._put(_Change(self._source.slot, listed=listed, items=items))
