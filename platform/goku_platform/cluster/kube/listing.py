"""Every job of ours in a namespace, and removing what is left of one.

A listing costs one request a kind, one for pods and one for Workloads, however many runs there are
(more only past a page of 500 jobs).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from goku_platform.cluster.client import Seen
from goku_platform.cluster.kube import kueue, look, objects, sighting
from goku_platform.cluster.kube.api import PODS, Api, Json
from goku_platform.cluster.kube.refusals import Refused
from goku_platform.cluster.kube.sighting import View
from goku_platform.errors import RunError
from goku_platform.jobs import names
from goku_platform.settings import Kind

_OURS = f"{names.MANAGED_BY}=goku-platform"


def listing(api: Api, first: Kind | None) -> Sequence[Seen]:
    """All jobs, the newest first. Raises TargetError."""
    jobs = [found for kind in look.served(api, first) for found in _jobs(api, kind, first)]
    jobs.sort(key=lambda found: str(found[1]["metadata"]["creationTimestamp"]), reverse=True)
    pods, workloads = _pods(api), _workloads(api)
    return [
        Seen(sighting.run_uri(job), sighting.sighting(view))
        for kind, job in jobs
        for view in [
            View(
                kind,
                job,
                pods[job["metadata"]["labels"][names.RUN]],
                workloads.get(job["metadata"]["uid"]),
            )
        ]
    ]


def remove(api: Api, name: str, view: View, first: Kind | None) -> None:
    """Delete finished jobs of a run and what served them. Raises RunError if it is alive."""
    if sighting.is_alive(view):
        raise RunError(f"run {name!r}", "it is alive", f"End it first: goku-platform stop {name}.")
    for _, job in look.jobs(api, name, first):
        objects.remove(api, job)
    services = objects.SERVICES.path(api.namespace)
    found = api.get(services, what="services", labelSelector=look.selector(name))
    for service in found["items"]:
        owned = service["metadata"].get("ownerReferences")
        if not owned:  # else it goes with its owner
            api.delete(f"{services}/{service['metadata']['name']}", what="service")


def _jobs(api: Api, kind: Kind, first: Kind | None) -> Iterator[tuple[Kind, Json]]:
    path = look.collection(kind).path(api.namespace)
    try:
        for job in api.pages(path, what=f"{kind}s", labelSelector=_OURS):
            if look.is_ours(job):
                yield kind, job
    except Refused as error:
        if not error.of_rights or kind is first:
            raise


def _pods(api: Api) -> dict[str, list[Json]]:
    """By run."""
    found = api.get(PODS.path(api.namespace), what="pods", labelSelector=_OURS, resourceVersion="0")
    by_run: dict[str, list[Json]] = defaultdict(list)
    for pod in found["items"]:
        by_run[pod["metadata"]["labels"].get(names.RUN, "")].append(pod)
    return by_run


def _workloads(api: Api) -> dict[str, Json]:
    """By the uid of their job."""
    where = look.workload_collection(api)
    if where is None:
        return {}
    try:
        found = api.get(where.path(api.namespace), what="workloads", resourceVersion="0")
    except Refused as error:
        if error.of_rights:
            return {}
        raise
    return {
        item["metadata"].get("labels", {}).get(kueue.JOB_UID, ""): item for item in found["items"]
    }
