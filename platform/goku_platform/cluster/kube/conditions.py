"""What a job object says of itself: one table over the kinds, and the words of its conditions.

Only conditions whose status is True count. TrainJob's STATE column shows the type of the
last one whatever its status: a running job that was once queued reads "Suspended" there, not here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from goku_platform.settings import Kind

_DONE: dict[Kind, str] = {
    Kind.PYTORCHJOB: "Succeeded",
    Kind.TRAINJOB: "Complete",
    Kind.JOBSET: "Completed",
    Kind.JOB: "Complete",
}
_FAILED = "Failed"


class Standing(NamedTuple):
    """How far a job object is."""

    finished: bool = False
    failed: bool = False  # only if it is finished
    suspended: bool = False  # by a queue, or by a person
    ending: bool = False  # it is being deleted
    words: str = ""  # why it failed, as the controller says it


def standing(kind: Kind, job: Mapping[str, Any]) -> Standing:
    """Read a job object of one of our kinds."""
    ending = "deletionTimestamp" in job["metadata"]
    if kind is Kind.RAYJOB:
        return _ray(job, ending)
    conditions = true_conditions(job)
    failed = conditions.get(_FAILED)
    return Standing(
        finished=failed is not None or _DONE[kind] in conditions,
        failed=failed is not None,
        suspended=is_suspended(job),
        ending=ending,
        words=words(failed) if failed else "",
    )


def nodes(kind: Kind, job: Mapping[str, Any]) -> int:
    """How many pods the controller makes at once; 0 where it decides itself (Ray)."""
    spec = job.get("spec", {})
    if kind is Kind.PYTORCHJOB:
        return sum(one.get("replicas", 1) for one in spec["pytorchReplicaSpecs"].values())
    if kind is Kind.TRAINJOB:
        return int(spec.get("trainer", {}).get("numNodes", 1))
    if kind is Kind.JOBSET:
        return sum(
            one.get("replicas", 1) * one["template"]["spec"].get("parallelism", 1)
            for one in spec["replicatedJobs"]
        )
    return int(spec.get("parallelism", 1)) if kind is Kind.JOB else 0


def true_conditions(thing: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Conditions that hold, by type."""
    return {name: one for name, one in all_conditions(thing).items() if one["status"] == "True"}


def all_conditions(thing: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Conditions of any status, by type."""
    return {one["type"]: one for one in thing.get("status", {}).get("conditions") or ()}


def is_suspended(job: Mapping[str, Any]) -> bool:
    """Whether its pods are held back: the wish, which comes before the condition."""
    spec = job.get("spec", {})
    return bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))


def words(condition: Mapping[str, Any]) -> str:
    """`Reason: message`, without the half that is not there."""
    return ": ".join(part for key in ("reason", "message") if (part := condition.get(key)))


def _ray(job: Mapping[str, Any], ending: bool) -> Standing:
    """RayJob has no conditions: `jobDeploymentStatus` is the operator's, `jobStatus` Ray's."""
    status = job.get("status", {})
    deployment, inner = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    failed = deployment == "Failed" or inner in ("FAILED", "STOPPED")
    return Standing(
        finished=failed or deployment == "Complete",
        failed=failed,
        suspended=is_suspended(job),
        ending=ending,
        words=words(status) if failed else "",
    )
