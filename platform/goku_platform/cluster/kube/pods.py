"""Pods -> how many are in which phase, why some do not run, the first bad thing, an exit code."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from goku.contract.exits import Exit
from goku_platform.cluster.kube.conditions import all_conditions
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES

Pod = Mapping[str, Any]

_SUPERVISORS = frozenset(resource.container for resource in RESOURCES.values())
_RAY_ROLE = "ray.io/node-type"
_ENDED = frozenset({"Succeeded", "Failed"})
_BAD_WAITS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
    }
)
_OUT_OF_MEMORY = (
    "out of memory (OOMKilled). Raise memory_gib_per_node in the profile, "
    "or have fewer data workers"
)
_MESSAGE_CHARACTERS = 300  # a kubelet's message may hold a whole log


def index(pod: Pod) -> int | None:
    """The node's rank, as the pod itself learns it; None for Ray's workers, which have none."""
    labels, notes = pod["metadata"].get("labels", {}), pod["metadata"].get("annotations", {})
    found = labels.get(names.REPLICA_INDEX, notes.get(names.COMPLETION_INDEX))
    if found is None:
        return 0 if labels.get(_RAY_ROLE) == "head" else None
    return int(found)


def container(pod: Pod) -> str:
    """Name of the supervisor's container; others may have been put beside it."""
    present = [one["name"] for one in pod["spec"]["containers"]]
    return next((name for name in present if name in _SUPERVISORS), str(present[0]))


def newest_of(pods: Iterable[Pod], node: int) -> list[Pod]:
    """Pods that are or were this node, the newest first."""
    mine = [pod for pod in pods if index(pod) == node]
    return sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


def is_over(pod: Pod) -> bool:
    """Whether all its containers ended for good."""
    return pod["status"].get("phase") in _ENDED


def phases(pods: Iterable[Pod]) -> dict[str, int]:
    """Kubernetes' own phases, and Ending for what has been told to go and has not yet."""
    return dict(sorted(Counter(_phase(pod) for pod in pods).items()))


def waiting(pods: Sequence[Pod]) -> str:
    """Why pods do not run yet: the scheduler's reason, or that they are being started."""
    pending = [pod for pod in pods if _phase(pod) == "Pending"]
    unscheduled = [reason for pod in pending if (reason := _unscheduled(pod))]
    if unscheduled:
        reason, _ = Counter(unscheduled).most_common(1)[0]
        return f"{len(unscheduled)} of {len(pods)} pods have no node: {reason}"
    if pending:
        return f"{len(pending)} of {len(pods)} pods are starting: image, volumes"
    return ""


def trouble(pods: Iterable[Pod]) -> str:
    """The worst thing about the lowest node, in words; "" if all is well.

    What keeps pods from starting comes first: a code is often only its consequence.
    """
    found = [
        (severity, _rank(pod), f"{pod['metadata']['name']}: {text}")
        for pod in pods
        for severity, text in _troubles(pod)
    ]
    return min(found)[2] if found else ""


def exit_code(pods: Iterable[Pod]) -> int | None:
    """Of the supervisors that ended: the first that was not 0, else 0; None if none ended."""
    ended = [state for pod in pods if (state := terminated(pod))]
    ended.sort(key=lambda state: str(state.get("finishedAt")))
    codes = [int(state["exitCode"]) for state in ended]
    return next((code for code in codes if code), 0) if codes else None


def _phase(pod: Pod) -> str:
    if "deletionTimestamp" in pod["metadata"] and not is_over(pod):
        return "Ending"
    return str(pod["status"].get("phase", "Pending"))


def _rank(pod: Pod) -> int:
    rank = index(pod)
    return -1 if rank is None else rank


def _unscheduled(pod: Pod) -> str:
    scheduled = all_conditions(pod).get("PodScheduled", {})
    return "" if scheduled.get("status", "True") == "True" else _short(scheduled.get("message", ""))


def _troubles(pod: Pod) -> Iterator[tuple[int, str]]:
    status = pod["status"]
    for state in _states(pod):
        wait = state.get("state", {}).get("waiting", {})
        if wait.get("reason") in _BAD_WAITS:
            yield 0, f"{wait['reason']}: {_short(wait.get('message', ''))}"
        for past in (state.get("state", {}), state.get("lastState", {})):
            if past.get("terminated", {}).get("reason") == "OOMKilled":
                yield 1, _OUT_OF_MEMORY
    disrupted = all_conditions(pod).get("DisruptionTarget")
    if disrupted:
        yield 2, f"{disrupted['reason']}: {_short(disrupted.get('message', ''))}"
    elif status.get("phase") == "Failed" and status.get("reason"):
        yield 2, f"{status['reason']}: {_short(status.get('message', ''))}"
    ended = terminated(pod)
    if ended and ended["exitCode"] not in (Exit.DONE, Exit.YIELDED):
        yield 3, f"exit code {ended['exitCode']}{_last_line(ended)}"


def _states(pod: Pod) -> list[Mapping[str, Any]]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def terminated(pod: Pod) -> Mapping[str, Any] | None:
    """How the supervisor's container ended; None if it has not."""
    name = container(pod)
    for state in pod["status"].get("containerStatuses", ()):
        if state["name"] == name:
            ended: Mapping[str, Any] | None = state.get("state", {}).get("terminated")
            return ended
    return None


def _last_line(ended: Mapping[str, Any]) -> str:
    lines = str(ended.get("message", "")).strip().splitlines()
    return f": {_short(lines[-1])}" if lines else ""


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MESSAGE_CHARACTERS else f"{flat[:_MESSAGE_CHARACTERS]}..."
