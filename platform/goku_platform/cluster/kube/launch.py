"""Start a job: all of its objects or none, and never beside another job of the same run.

The job itself is created, not applied: of two launches at the same moment the server then tells
exactly one that it was second. It carries a mark of its launch, so that one that broke off without
an answer finds what it made, and removes only that.
"""

import secrets
import time
from collections.abc import Sequence

from goku_platform.cluster.kube import look, objects
from goku_platform.cluster.kube.api import Api, Json
from goku_platform.cluster.kube.conditions import standing
from goku_platform.cluster.kube.refusals import Refused
from goku_platform.cluster.kube.sighting import run_uri
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec

_POLL_SECONDS = 0.3
_UNDO_TRIES = 4  # a request that was cut off may still be on its way
_EXISTS = 409


def launch(api: Api, spec: JobSpec, manifests: Sequence[Json]) -> None:
    """Make every object, the job last. Raises RunError if the run is alive, and TargetError."""
    api.begin()
    _make_room(api, spec)
    api.begin()
    mark = secrets.token_hex(8)
    marked = [_marked(manifest, mark) for manifest in manifests]
    try:
        _make(api, marked)
    except BaseException as error:  # Ctrl-C too
        if (
            isinstance(error, Refused)
            and error.status == _EXISTS
            and error.value == _title(marked[-1])
        ):
            raise RunError(
                f"run {spec.name!r}",
                "someone else started it at this moment",
                f"Watch it: goku-platform status {spec.name}.",
            ) from None
        _undo(api, marked, mark, error)
        raise


def _make(api: Api, manifests: Sequence[Json]) -> None:
    *others, job = manifests
    for manifest in others:
        api.apply(_path(api, manifest), manifest, what=_title(manifest))
    path = objects.collection(job).path(api.namespace)
    made = api.create(path, job, what=_title(job), dry_run=False)
    for manifest in others:  # a job that goes when its time to live is over takes them along
        api.apply(_path(api, manifest), _owned(manifest, made), what=_title(manifest))


def _owned(manifest: Json, job: Json) -> Json:
    owner = {key: job[key] for key in ("apiVersion", "kind")}
    owner |= {key: job["metadata"][key] for key in ("name", "uid")}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


def _title(manifest: Json) -> str:
    return objects.title(manifest)


def _path(api: Api, manifest: Json) -> str:
    return objects.collection(manifest).path(api.namespace, manifest["metadata"]["name"])


def _marked(manifest: Json, mark: str) -> Json:
    metadata = manifest["metadata"]
    notes = {**metadata.get("annotations", {}), names.LAUNCH: mark}
    return {**manifest, "metadata": {**metadata, "annotations": notes}}


def _make_room(api: Api, spec: JobSpec) -> None:
    """Refuse if a job of the run lives under any kind; remove those that are over.

    A new pod takes the name of an old one, so it starts only when that one is really gone.
    """
    for kind, job in look.jobs(api, spec.name, spec.placement.kind):
        _refuse_other_run(spec, job)
        now = standing(kind, job)
        if not (now.finished or now.ending):
            raise RunError(
                f"run {spec.name!r}",
                f"it is alive as {RESOURCES[kind].kind} {api.namespace}/{spec.name}",
                f"Watch it: goku-platform status {spec.name}. End it: goku-platform stop.",
            )
        if not now.ending:
            objects.remove(api, job)
        while _is_there(api, job):
            _wait(api, spec, f"its last {RESOURCES[kind].kind} is still being deleted")
    while pods := look.pods(api, spec.name)["items"]:
        _wait(api, spec, f"{len(pods)} pods of its last job are still being deleted")


def _refuse_other_run(spec: JobSpec, job: Json) -> None:
    if run_uri(job).rstrip("/") != spec.run_uri.rstrip("/"):
        raise RunError(
            f"run {spec.name!r}",
            f"the cluster has a {job['kind']} of this name for {run_uri(job) or 'another run'}",
            "Launch under another --name.",
        )


def _is_there(api: Api, job: Json) -> bool:
    found = api.find(_path(api, job), what=_title(job))
    return found is not None and found["metadata"]["uid"] == job["metadata"]["uid"]


def _wait(api: Api, spec: JobSpec, why: str) -> None:
    if api.seconds_left <= _POLL_SECONDS:
        raise RunError(
            f"run {spec.name!r}", why, "Try again when they are gone, or give it more --timeout."
        )
    time.sleep(_POLL_SECONDS)


def _undo(api: Api, manifests: Sequence[Json], mark: str, cause: BaseException) -> None:
    """Remove what bears the mark, the job first. Without an answer it may still be on its way."""
    known = isinstance(cause, Refused) and cause.status < 500
    name = manifests[-1]["metadata"]["name"]
    try:
        api.begin()
        for attempt in range(1 if known else _UNDO_TRIES):
            if attempt:
                time.sleep(_POLL_SECONDS)
            for manifest in reversed(manifests):
                _remove(api, manifest, mark)
    except TargetError as error:
        raise TargetError(
            f"launch of {name!r}",
            f"it broke off, and what it made could not be removed ({error.rule})",
            f"See whether it runs: goku-platform status {name}. End it: goku-platform stop {name}.",
        ) from cause


def _remove(api: Api, manifest: Json, mark: str) -> None:
    found = api.find(_path(api, manifest), what=_title(manifest))
    if found and found["metadata"].get("annotations", {}).get(names.LAUNCH) == mark:
        objects.remove(api, found)
