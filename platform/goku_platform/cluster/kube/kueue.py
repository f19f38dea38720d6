"""Kueue's Workload -> why a job waits, in words, and the queue it waits in.

no QuotaReserved      Kueue has not tried it yet
QuotaReserved False   tried: the message says which quota is missing, or that none could ever do
Evicted True          it ran and had to go: reason Preempted, PodsReadyTimeout, ...
Admitted False        quota is held for it, checks of the queue are not done
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from goku_platform.cluster.kube.conditions import all_conditions, true_conditions

GROUP = "kueue.x-k8s.io"
VISIBILITY = "visibility.kueue.x-k8s.io"
JOB_UID = "kueue.x-k8s.io/job-uid"  # label on a Workload: whose it is

_CAUSES = {
    "Preempted": "preempted by a job of higher priority",
    "PodsReadyTimeout": "put back because not all pods became ready in time",
    "ClusterQueueStopped": "put back because its ClusterQueue was stopped",
    "LocalQueueStopped": "put back because its LocalQueue was stopped",
    "NodeFailures": "put back because a node failed",
    "Deactivated": "deactivated in Kueue",
}


class Queued(NamedTuple):
    """What Kueue says of a job."""

    admitted: bool
    waiting: str = ""  # in words, if it is not admitted


def queued(workload: Mapping[str, Any]) -> Queued:
    """Read a Workload."""
    conditions, true = all_conditions(workload), true_conditions(workload)
    if "Admitted" in true and "Evicted" not in true:
        return Queued(admitted=True)
    spec = workload["spec"]
    if not spec.get("active", True):
        return Queued(
            admitted=False, waiting="deactivated in Kueue: it waits until someone resumes it"
        )
    parts = [f"queued in {spec.get('queueName', '?')}"]
    evicted = true.get("Evicted")
    if evicted:
        parts.append(_CAUSES.get(evicted["reason"], f"evicted: {evicted['reason']}"))
    if not (evicted and "QuotaReserved" in true):  # else its pods are still saving
        parts.append(_missing(conditions, true))
    return Queued(admitted=False, waiting=": ".join(part for part in parts if part))


def position(pending: Sequence[Mapping[str, Any]], workload: str) -> int | None:
    """From 0, among all that compete for the same quota; None if it is not in line."""
    for item in pending:
        if item["metadata"]["name"] == workload:
            place: int = item["positionInClusterQueue"]
            return place
    return None


def _missing(conditions: Mapping[str, Any], true: Mapping[str, Any]) -> str:
    if "QuotaReserved" in true:
        return "quota is reserved, the queue's admission checks are not done"
    reserved = conditions.get("QuotaReserved")
    if reserved is None:
        return "not looked at yet"
    message: str = reserved.get("message", "")
    message = message.removeprefix("couldn't assign flavors to pod set ")
    message = message.replace("previously considered podsets requests (0) + ", "")
    if message.startswith("Preempted "):
        return ""  # Evicted has said so
    return f"it can never start: {message}" if "maximum capacity" in message else message
