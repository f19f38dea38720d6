"""JobSpec -> Kubeflow TrainJob v1alpha1: what differs from run to run, on top of a runtime.

`trainer` takes the image, the command, the variables and the resources; everything else about the
pods goes through `runtimePatches`. What it cannot say stays with the runtime (`runtime`): retry
rules, the grace, Secrets as variables, the container's ports and pull policy. `lint` compares.
"""

from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import jobset, pod
from goku_platform.settings import Kind


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """The TrainJob as plain data."""
    resource = RESOURCES[Kind.TRAINJOB]
    job = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": pod.job_metadata(spec),
        "spec": {
            "runtimeRef": {
                "apiGroup": resource.group,
                "kind": "ClusterTrainingRuntime",
                "name": spec.placement.runtime,
            },
            "trainer": {
                "image": spec.placement.image,
                "command": list(spec.command),
                "env": pod.variables(spec, jobset.meeting(spec)),
                "numNodes": spec.nodes,
                "resourcesPerNode": pod.resources(spec),
            },
            "runtimePatches": [
                {
                    "manager": names.PATCH_MANAGER,
                    "trainingRuntimeSpec": {"template": _patch(spec, resource.container)},
                }
            ],
        },
    }
    return (job,)


def _patch(spec: JobSpec, container: str) -> pod.Manifest:
    """Of the runtime's JobSet, down to its one container."""
    mounts = {"name": container, "volumeMounts": pod.mounts(spec)}
    template = {
        "metadata": pod.pod_metadata(spec),
        "spec": {"containers": [mounts], **pod.placement(spec)},
    }
    return {
        "metadata": {"labels": dict(spec.labels)},
        "spec": {
            "replicatedJobs": [
                {
                    "name": jobset.NODE,
                    "template": {
                        "metadata": {"labels": dict(spec.labels)},
                        "spec": {"template": template},
                    },
                }
            ]
        },
    }
