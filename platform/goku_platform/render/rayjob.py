"""JobSpec -> KubeRay RayJob v1: curation spread over a Ray cluster of its own.

The entrypoint is the supervisor. Ray runs it in the head's pod with RAY_ADDRESS set, which is how
`goku.curation` finds the cluster. The head is a worker too: the work is light on it. What is
surprising: an exit code never reaches the RayJob, so it retries nothing, and a person resumes a
failed curation; what it had committed is kept.
"""

import math
import shlex

from goku_platform.errors import TargetError
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import pod
from goku_platform.settings import Kind

_SUBMITTER = {"cpu": "500m", "memory": "1Gi"}  # it only follows a log


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """The RayJob as plain data. Raises TargetError for a job that has no use for Ray."""
    if not spec.on_ray:
        raise TargetError(
            f"kind={Kind.RAYJOB}",
            f"{spec.name} is {spec.job}, and only curation with curation.executor=ray runs on Ray",
            "Choose another kind, or set curation.executor=ray.",
        )
    resource = RESOURCES[Kind.RAYJOB]
    job = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": pod.job_metadata(spec),
        "spec": {
            "entrypoint": shlex.join(spec.command),
            "submissionMode": "K8sJobMode",
            "backoffLimit": 0,
            # the cluster goes, at once: the RayJob stays for a look
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "submitterPodTemplate": _submitter(spec),
            "rayClusterSpec": {
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0"},  # the submitter's pod asks it
                    "template": _node(spec),
                },
                "workerGroupSpecs": [_workers(spec)],
            },
        },
    }
    return (job,)


def _workers(spec: JobSpec) -> pod.Manifest:
    count = spec.placement.ray_workers
    return {
        "groupName": "workers",
        "replicas": count,
        "minReplicas": count,  # Kueue admits a fixed size
        "maxReplicas": count,
        "rayStartParams": {},
        "template": _node(spec),
    }


def _node(spec: JobSpec) -> pod.Manifest:
    """The head's or a worker's pod. The operator gives it its command and its probes."""
    template = pod.template(spec, container=RESOURCES[Kind.RAYJOB].container, meeting=None)
    [container] = template["spec"]["containers"]
    container["image"] = spec.placement.ray_image
    del container["command"]
    container["env"].append(
        # of `ray job stop`; 3 s by default
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(math.ceil(spec.stop_budget_seconds))}
    )
    return template


def _submitter(spec: JobSpec) -> pod.Manifest:
    """A small pod with the same guards and no secret. The operator gives it its command."""
    template = _node(spec)
    [container] = template["spec"]["containers"]
    container.pop("envFrom", None)
    del container["ports"]
    container["resources"] = {"limits": dict(_SUBMITTER), "requests": dict(_SUBMITTER)}
    return template
