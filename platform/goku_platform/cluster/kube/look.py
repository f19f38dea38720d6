"""What there is of a run in a cluster: which requests are made, and how many.

A look costs the same however many pods the run has: one request per kind until its job is found,
one list of pods, one of workloads; and one for the queue and up to three for events, only while
something waits. The kinds that a server has are asked once.
"""

from collections.abc import Iterator, Sequence

from goku_platform.cluster.kube import kueue, sighting
from goku_platform.cluster.kube.api import EVENTS, PODS, Api, Collection, Json
from goku_platform.cluster.kube.conditions import standing
from goku_platform.cluster.kube.refusals import Refused
from goku_platform.cluster.kube.sighting import View
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.settings import Kind

_FROM_MEMORY = "0"  # a list at any recent version: the server answers without asking its store
_WARNINGS = 100  # of one object: each repeated message is one event


def collection(kind: Kind) -> Collection:
    """Where the jobs of a kind are."""
    resource = RESOURCES[kind]
    return Collection(resource.api_version, resource.plural)


def selector(name: str) -> str:
    """Of everything that belongs to a run."""
    return f"{names.RUN}={name}"


def served(api: Api, first: Kind | None) -> list[Kind]:
    """Kinds that the server has, the preferred one first."""
    kinds = sorted(Kind, key=lambda kind: (kind is not first, list(Kind).index(kind)))
    return [kind for kind in kinds if RESOURCES[kind].api_version in api.served]


def jobs(api: Api, name: str, first: Kind | None) -> Iterator[tuple[Kind, Json]]:
    """Job objects of this name, of every kind that we may read.

    Raises TargetError if the first kind, which the profile names, may not be read.
    """
    for kind in served(api, first):
        resource = RESOURCES[kind]
        try:
            found = api.find(
                collection(kind).path(api.namespace, name), what=f"{resource.kind} {name}"
            )
        except Refused as error:
            if error.of_rights and kind is not first:
                continue
            raise
        if found and is_ours(found):
            yield kind, found


def is_ours(job: Json) -> bool:
    """Whether it is a run's own object, not one that a controller made beneath it."""
    metadata = job["metadata"]
    owned = any(owner.get("controller") for owner in metadata.get("ownerReferences", ()))
    return not owned and names.RUN in metadata.get("labels", {})


def job(api: Api, name: str, first: Kind | None) -> tuple[Kind | None, Json | None]:
    """The run's job: the one that is not finished, else the newest."""
    finished: list[tuple[str, Kind, Json]] = []
    for kind, found in jobs(api, name, first):
        if not standing(kind, found).finished:
            return kind, found
        finished.append((found["metadata"]["creationTimestamp"], kind, found))
    if not finished:
        return None, None
    _, kind, found = max(finished, key=lambda one: one[0])
    return kind, found


def look(api: Api, name: str, first: Kind | None, *, reasons: bool = True) -> View:
    """Everything about a run that a sighting needs; why it waits can be left out."""
    kind, found = job(api, name, first)
    view = View(kind, found, pods(api, name)["items"])
    if found is not None:
        view = view._replace(workload=next(iter(workloads(api, found)["items"]), None))
    return with_reasons(api, view) if reasons else view


def with_reasons(api: Api, view: View) -> View:
    """Ask, while a job waits, for its place in the queue and for what went wrong."""
    if not view.waits:
        return view
    return view._replace(pending=pending(api, view), warnings=warnings(api, view))


def pods(api: Api, name: str) -> Json:
    """The list of a run's pods."""
    return api.get(
        PODS.path(api.namespace),
        what="pods",
        labelSelector=selector(name),
        resourceVersion=_FROM_MEMORY,
    )


def workload_collection(api: Api) -> Collection | None:
    """Kueue's Workloads in the newest version served; None without Kueue."""
    versions = [version for version in api.served if version.startswith(f"{kueue.GROUP}/")]
    return Collection(max(versions), "workloads") if versions else None


def workloads(api: Api, job: Json) -> Json:
    """The list of the job's Workload; empty without Kueue or without the right to look."""
    where = workload_collection(api)
    if where is None:
        return {"items": []}
    try:
        return api.get(
            where.path(api.namespace),
            what="workloads",
            labelSelector=f"{kueue.JOB_UID}={job['metadata']['uid']}",
        )
    except Refused as error:
        if error.of_rights:
            return {"items": []}
        raise


def pending(api: Api, view: View) -> Sequence[Json]:
    """What stands in line with the job; empty if nobody tells."""
    versions = [version for version in api.served if version.startswith(f"{kueue.VISIBILITY}/")]
    if view.workload is None or kueue.queued(view.workload).admitted or not versions:
        return ()
    queue = view.workload["spec"].get("queueName", "")
    path = Collection(max(versions), "localqueues").path(api.namespace, queue, "pendingworkloads")
    try:
        items: Sequence[Json] = api.get(path, what=f"queue {queue}").get("items", ())
    except Refused:
        return ()  # the position is a comfort: a server without it, or a right, must not matter
    return items


def warnings(api: Api, view: View) -> list[Json]:
    """Warnings about the job, what its controller makes for it, and one pod that does not run."""
    assert view.job is not None
    about = [view.job["metadata"]["name"]]
    if view.kind in (Kind.TRAINJOB, Kind.JOBSET):
        about.append(f"{about[0]}-node-0")  # the Job beneath: it is what fails to make pods
    waiting = (pod for pod in view.pods if pod["status"].get("phase") == "Pending")
    about += [pod["metadata"]["name"] for _, pod in zip(range(1), waiting, strict=False)]
    return [one for name in about for one in _warnings(api, name)]


def _warnings(api: Api, name: str) -> Sequence[Json]:
    found: Sequence[Json] = api.get(
        EVENTS.path(api.namespace),
        what="events",
        fieldSelector=f"type=Warning,involvedObject.name={name}",
        limit=_WARNINGS,
    ).get("items", ())
    return found


def is_of(view: View, run_uri: str) -> bool:
    """Whether the job object, if there is one, belongs to this run and not to its namesake."""
    if view.job is None:
        return True
    return sighting.run_uri(view.job).rstrip("/") == run_uri.rstrip("/")
