"""All that was read about one job -> what people see of it. Pure: no request is made here."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from goku_platform.cluster.client import Sighting
from goku_platform.cluster.kube import conditions, events, kueue, pods
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.settings import Kind

Json = Mapping[str, Any]


class View(NamedTuple):
    """Raw objects of one job."""

    kind: Kind | None  # None: there is no job object
    job: Json | None
    pods: Sequence[Json] = ()
    workload: Json | None = None
    pending: Sequence[Json] = ()  # of the queue's visibility API
    warnings: Sequence[Json] = ()

    @property
    def waits(self) -> bool:
        """Whether a job that should run has pods that do not, or not all of its pods."""
        if self.kind is None or self.job is None:
            return False
        standing = conditions.standing(self.kind, self.job)
        begun = sum(pod["status"].get("phase", "Pending") != "Pending" for pod in self.pods)
        return not (standing.finished or standing.ending) and begun < max(self.nodes, 1)

    @property
    def nodes(self) -> int:
        """How many pods there should be."""
        if self.kind is None or self.job is None:
            return 0
        return conditions.nodes(self.kind, self.job) or len(self.pods)


def is_alive(view: View) -> bool:
    """A job object that is not finished, or pods that have not ended: they hold GPUs and write.

    A job that is being deleted counts only by its pods.
    """
    if any(not pods.is_over(pod) for pod in view.pods):
        return True
    if view.kind is None or view.job is None:
        return False
    standing = conditions.standing(view.kind, view.job)
    return not (standing.finished or standing.ending)


def sighting(view: View) -> Sighting:
    """The whole of it."""
    alive = is_alive(view)
    if view.kind is None or view.job is None:
        return Sighting(alive=alive, pods=pods.phases(view.pods), trouble=_orphans(view))
    standing = conditions.standing(view.kind, view.job)
    metadata = view.job["metadata"]
    place = f"{RESOURCES[view.kind].kind} {metadata['namespace']}/{metadata['name']}"
    return Sighting(
        alive=alive,
        exit_code=None if alive else _exit_code(view, standing),
        place=f"{place}, being deleted" if standing.ending else place,
        waiting=_waiting(view, standing),
        queue_position=_position(view),
        pods=pods.phases(view.pods),
        trouble=_trouble(view, standing),
    )


def run_uri(job: Json) -> str:
    """Whose job it is: two stores may hold runs of one name."""
    uri: str = job["metadata"].get("annotations", {}).get(names.RUN_URI, "")
    return uri


def _waiting(view: View, standing: conditions.Standing) -> str:
    if standing.finished or standing.ending:
        return ""
    if view.workload is not None:
        queued = kueue.queued(view.workload)
        if not queued.admitted:
            return queued.waiting
    if standing.suspended:
        return "suspended: neither a queue nor a person has let it run yet"
    if len(view.pods) < max(view.nodes, 1):
        return f"{len(view.pods)} of {max(view.nodes, 1)} pods are made"
    return pods.waiting(view.pods)


def _position(view: View) -> int | None:
    if view.workload is None:
        return None
    return kueue.position(view.pending, view.workload["metadata"]["name"])


def _exit_code(view: View, standing: conditions.Standing) -> int | None:
    """The pods' own word; a finished job whose pods are gone has at least succeeded or not."""
    code = pods.exit_code(view.pods)
    if code is None and standing.finished and not standing.failed:
        return 0
    return code


def _trouble(view: View, standing: conditions.Standing) -> str:
    if found := pods.trouble(view.pods):
        return found
    if standing.failed:
        return standing.words
    if not view.waits or view.job is None:
        return ""
    created = events.seconds(view.job["metadata"]["creationTimestamp"])
    return events.first_warning(view.warnings, since=created)


def _orphans(view: View) -> str:
    living = sum(not pods.is_over(pod) for pod in view.pods)
    return f"{living} pods are left of a job that is gone" if living else ""
