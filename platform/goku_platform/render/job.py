"""JobSpec -> a plain batch Job, which every cluster serves, with a headless Service before it.

The Job controller replaces one pod at a time; the gang waits for it. The Service gives pods their
names, before they are ready. A job of one node meets nobody and has none.
"""

from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import pod, retries
from goku_platform.settings import Kind

_JOB_NAME = "batch.kubernetes.io/job-name"  # a label that the controller gives its pods


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """The Service, if there is one to meet, and the Job."""
    return (_service(spec), _job(spec)) if spec.nodes > 1 else (_job(spec),)


def _job(spec: JobSpec) -> pod.Manifest:
    resource = RESOURCES[Kind.JOB]
    meeting = pod.Meeting(
        rank=pod.field("annotations", names.COMPLETION_INDEX),
        address=f"{resource.pod(spec.name, 0)}.{spec.name}",
    )
    template = pod.template(spec, container=resource.container, meeting=meeting)
    if spec.nodes > 1:
        template["spec"]["subdomain"] = spec.name
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": pod.job_metadata(spec),
        "spec": {
            "completionMode": "Indexed",
            "parallelism": spec.nodes,
            "completions": spec.nodes,
            "backoffLimit": retries.UNCOUNTED,
            "podFailurePolicy": retries.replace_pods(resource.container),
            "podReplacementPolicy": "Failed",  # never two pods of one rank
            "ttlSecondsAfterFinished": spec.placement.ttl_seconds_after_finished,
            "template": template,
        },
    }


def _service(spec: JobSpec) -> pod.Manifest:
    meeting_ports = {"gang": spec.gang_port, "master": spec.master_port}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": spec.name,
            "namespace": spec.placement.namespace,
            "labels": dict(spec.labels),
            "annotations": dict(spec.annotations),
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {_JOB_NAME: spec.name},
            "ports": [{"name": name, "port": port} for name, port in meeting_ports.items()],
        },
    }
