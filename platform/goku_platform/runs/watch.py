"""Watch: a run's status again and again, as the target reports changes and the store fills.

The target is listened to in a thread of its own: it blocks until something happens there, and the
store, which cannot report, is looked at every few seconds meanwhile.
"""

import queue
import threading
from collections.abc import Iterator

from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client, Sighting
from goku_platform.jobs.state import RunState
from goku_platform.runs.status import Status, status
from goku_platform.settings import Settings

_LOOK_SECONDS = 3.0  # a pulse is written every five
_LIVE = frozenset(
    {RunState.QUEUED, RunState.PENDING, RunState.STARTING, RunState.RUNNING}
)  # any other state stays until a person does something


def watch(
    run: RunDir, client: Client, settings: Settings, *, look_seconds: float = _LOOK_SECONDS
) -> Iterator[Status]:
    """A status now and after every change, the last one when the run has ended.

    Raises what the client and the store raise.
    """
    news: queue.SimpleQueue[Sighting | BaseException] = queue.SimpleQueue()
    threading.Thread(
        target=_listen, args=(client, run.uri, news), name="watch", daemon=True
    ).start()
    seen, shown = client.get(run.uri), None
    while True:
        state = status(run, client, settings=settings, seen=seen)
        if state != shown:
            yield state
        shown = state
        if state.state not in _LIVE and not state.alive:
            return
        seen = _newest(news, seen, seconds=look_seconds)


def _listen(
    client: Client, run_uri: str, news: "queue.SimpleQueue[Sighting | BaseException]"
) -> None:
    try:
        for sighting in client.watch(run_uri):
            news.put(sighting)
    except BaseException as error:  # handed to whoever waits
        news.put(error)


def _newest(
    news: "queue.SimpleQueue[Sighting | BaseException]", seen: Sighting, *, seconds: float
) -> Sighting:
    """The last of the sightings that came, or the one there was if none came in time."""
    try:
        item = news.get(timeout=seconds)
        while not isinstance(item, BaseException):
            seen = item
            item = news.get_nowait()
    except queue.Empty:
        return seen
    raise item
