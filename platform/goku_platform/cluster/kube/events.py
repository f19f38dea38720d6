"""Event objects -> ours, and the first warning that tells why a job does not go on.

The API keeps events for an hour, one object per repeated message. They name what they are about but
carry no labels, so a run's are told by the names that its controllers give.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from goku_platform.cluster.client import Event
from goku_platform.jobs.kinds import RESOURCES

_HARMLESS = frozenset(
    {
        "FailedScheduling",  # the pod's own condition says it, and only while it is so
        "Unschedulable",
        "PyTorchJobRestarting",  # also sent for a job that failed
        "Unhealthy",
        "BackOff",  # the container's state says it better
    }
)
_PASSING = re.compile(
    r'Invalid value: "null"'  # a TrainJob's, at every eviction; the next try works
    r"|exit code 143 "  # a pod that saved and left
    r"|applying RestartJobSet"  # the gang starts again; a JobSet that fails says so itself
)
_HINTS = {
    "violates PodSecurity": "The namespace's Pod Security level refuses the pod",
    "exceeded quota": "The namespace's ResourceQuota is used up",
    "failed calling webhook": "An operator's webhook does not answer",
}
_KINDS = "|".join(resource.kind.lower() for resource in RESOURCES.values())


def of_run(name: str) -> re.Pattern[str]:
    """Names of the objects that come of a job: itself, what its controllers make, its pods, and
    its Workload. Another run may be called `name-2`, so a prefix would not do."""
    run = re.escape(name)
    pod = r"-worker-\d+|-node-0(-\d+(-\w{5})?)?|-\d+-\w{5}|-\w{5}-(head|\w+-worker)-\w{5}"
    return re.compile(rf"{run}({pod})?|({_KINDS})-{run}-[0-9a-f]{{5}}")


def event(raw: Mapping[str, Any]) -> Event:
    """One Event object of either age: `count` and `lastTimestamp`, or `series`."""
    about, series = raw["involvedObject"], raw.get("series") or {}
    at = (
        series.get("lastObservedTime")
        or raw.get("lastTimestamp")
        or raw.get("eventTime")
        or raw["metadata"]["creationTimestamp"]
    )
    return Event(
        at=seconds(at),
        about=f"{about.get('kind', '')}/{about.get('name', '')}",
        reason=raw.get("reason", ""),
        message=raw.get("message", "").strip(),
        warning=raw.get("type") == "Warning",
        times=series.get("count") or raw.get("count") or 1,
    )


def first_warning(raw: Iterable[Mapping[str, Any]], *, since: float) -> str:
    """The oldest warning that still matters, in words; older ones are of an earlier job."""
    events = sorted(map(event, raw))
    for one in events:
        if one.warning and one.at >= since and not _is_harmless(one):
            return f"{one.about}: {one.reason}: {_hint(one.message)}{one.message}"
    return ""


def seconds(timestamp: str) -> float:
    """Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def _is_harmless(one: Event) -> bool:
    return one.reason in _HARMLESS or _PASSING.search(one.message) is not None


def _hint(message: str) -> str:
    return next((f"{hint}: " for key, hint in _HINTS.items() if key in message), "")
