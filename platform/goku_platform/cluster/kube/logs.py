"""A node's log as its kubelet has it: gone with the pod, so attempts are shipped to the store too.

Following survives a server that restarts and connections that are cut: every line comes with its
time, which is cut off here and tells where to go on.
"""

import time
from collections.abc import Iterator

from goku_platform.cluster.kube import look, pods, sighting
from goku_platform.cluster.kube.api import PODS, Api, Stream
from goku_platform.cluster.kube.refusals import Refused, Unreachable
from goku_platform.errors import RunError
from goku_platform.settings import Kind

_POLL_SECONDS = 2.0
_NOT_BEGUN = 400  # how the kubelet answers for a container that waits
_PATIENCE_SECONDS = 60.0  # with a server that is away


def logs(api: Api, name: str, first: Kind | None, *, node: int, previous: bool) -> Iterator[str]:
    """What there is now. Raises RunError if there is no such pod, and TargetError."""
    api.begin()
    mine = pods.newest_of(look.pods(api, name)["items"], node)
    restarted = mine and _restarts(mine[0])
    chosen = mine[1:] if previous and not restarted else mine
    if not chosen:
        raise _nothing(api, name, first, node=node, previous=previous)
    try:
        for line in _stream(api, chosen[0], previous="true" if previous and restarted else ""):
            yield line.decode(errors="replace")
    except Refused as error:
        if error.status != _NOT_BEGUN:
            raise
        raise _nothing(api, name, first, node=node, previous=previous) from error


def follow(api: Api, name: str, first: Kind | None, *, node: int) -> Iterator[str]:
    """Lines as they come, over restarts, until the job is over. Raises TargetError."""
    done = ""  # uid of the pod that was read to its end
    while True:
        api.begin()
        view = look.look(api, name, first, reasons=False)
        newest = next(iter(pods.newest_of(view.pods, node)), None)
        if newest and newest["metadata"]["uid"] != done:
            yield from _follow(api, newest)
            done = newest["metadata"]["uid"]
        elif not sighting.is_alive(view):
            return
        else:
            time.sleep(_POLL_SECONDS)


def _follow(api: Api, pod: pods.Pod) -> Iterator[str]:
    """One pod to its end."""
    since, away = "", None
    while True:
        try:
            api.begin()
            over = _is_over(api, pod)  # before the read: the last words are not missed
            for line in _stream(api, pod, follow="true", timestamps="true", sinceTime=since):
                away = None
                at, _, text = line.decode(errors="replace").partition(" ")
                if at > since:
                    since = at
                    yield text
            if over:
                return
        except Refused as error:
            if error.status == 404:
                return
            if error.of_rights:
                raise
            time.sleep(_POLL_SECONDS)  # its container has not begun
        except Unreachable:
            away = away or time.monotonic()
            if time.monotonic() - away > _PATIENCE_SECONDS:
                raise
            time.sleep(_POLL_SECONDS)


def _is_over(api: Api, pod: pods.Pod) -> bool:
    found = api.find(PODS.path(api.namespace, pod["metadata"]["name"]), what=_title(pod))
    gone = found is None or found["metadata"]["uid"] != pod["metadata"]["uid"]
    return gone or pods.is_over(found or pod)


def _nothing(api: Api, name: str, first: Kind | None, *, node: int, previous: bool) -> RunError:
    seen = sighting.sighting(look.look(api, name, first))
    what, shipped = f"node {node} of run {name!r}", f"goku-platform logs {name} --attempt N"
    if previous:
        rule = "the cluster keeps nothing of an earlier start"
    elif seen.alive:
        rule = f"its container has not begun ({seen.waiting or seen.trouble or 'unknown'})"
        return RunError(what, rule, f"See what it waits for: goku-platform status {name}.")
    else:
        rule = "none of its pods is left in the cluster"
    return RunError(what, rule, f"Every attempt's logs are in the store: {shipped}.")


def _restarts(pod: pods.Pod) -> int:
    states = pod["status"].get("containerStatuses", ())
    return max((state["restartCount"] for state in states), default=0)


def _title(pod: pods.Pod) -> str:
    return f"log of pod {pod['metadata']['name']}"


def _stream(api: Api, pod: pods.Pod, **query: str) -> Stream:
    path = PODS.path(api.namespace, pod["metadata"]["name"], "log")
    return api.stream(path, what=_title(pod), container=pods.container(pod), **query)
