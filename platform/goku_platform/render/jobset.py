"""JobSpec -> JobSet v1alpha2: one Indexed Job whose pods are made and ended together.

The controller gives every pod a name in DNS; `retries` says which exits start the gang again.
"""

from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import pod, retries
from goku_platform.settings import Kind

NODE = "node"  # the one replicated job; the trainer's runtimes call it so too

# node 0 must be found before any pod can be ready
NETWORK = {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """The JobSet as plain data."""
    resource = RESOURCES[Kind.JOBSET]
    template = pod.template(spec, container=resource.container, meeting=meeting(spec))
    job = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": pod.job_metadata(spec),
        "spec": {
            "network": dict(NETWORK),
            "failurePolicy": retries.jobset(),
            "ttlSecondsAfterFinished": spec.placement.ttl_seconds_after_finished,
            "replicatedJobs": [
                {
                    "name": NODE,
                    "replicas": 1,
                    "template": {
                        "metadata": {"labels": dict(spec.labels)},
                        "spec": gang(resource.container, nodes=spec.nodes, template=template),
                    },
                }
            ],
        },
    }
    return (job,)


def meeting(spec: JobSpec) -> pod.Meeting:
    """Ranks are the Job's indexes; the subdomain is the JobSet's name."""
    return pod.Meeting(
        rank=pod.field("annotations", names.COMPLETION_INDEX),
        address=f"{RESOURCES[Kind.JOBSET].pod(spec.name, 0)}.{spec.name}",
    )


def gang(container: str, *, nodes: int, template: pod.Manifest) -> pod.Manifest:
    """The Job: the first pod that fails ends all of them."""
    return {
        "completionMode": "Indexed",
        "parallelism": nodes,
        "completions": nodes,
        "backoffLimit": 0,
        "podFailurePolicy": retries.replace_gang(container),
        "template": template,
    }
