"""JobSpec -> Kubeflow PyTorchJob v1, built with the SDK's own models. Workers only, no Master.

What the training-operator 1.9 does with it decides the shape (docs/decisions/0008):
- for a Master it would add an init container to every worker, without a security context: the
  restricted Pod Security level refuses that; without one it adds none and injects no rank;
- without a Master the job has succeeded when every worker has, and not when the first is done;
- it reads the exit code of the container named "pytorch"; under ExitCode it retries 128 and above,
  one pod at a time, and its backoffLimit counts none of that: our ledger keeps the restart budget.
The SDK costs a second to import, so it is imported on use.
"""

from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import pod
from goku_platform.settings import Kind


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """The PyTorchJob as plain data, ready for YAML or an API call."""
    from kubeflow.training import models
    from kubernetes.client import ApiClient

    resource = RESOURCES[Kind.PYTORCHJOB]
    meeting = pod.Meeting(
        rank=pod.field("labels", names.REPLICA_INDEX),
        address=resource.pod(spec.name, 0),  # each worker has a service of its own name
    )
    template = pod.template(spec, container=resource.container, meeting=meeting)
    del template["spec"]["restartPolicy"]  # the operator sets it, and warns where it is set
    job = models.KubeflowOrgV1PyTorchJob(
        api_version=resource.api_version,
        kind=resource.kind,
        metadata=pod.job_metadata(spec),
        spec=models.KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(spec.processes_per_node),
            run_policy=models.KubeflowOrgV1RunPolicy(
                clean_pod_policy="Running",  # a failed job's other pods would hold their GPUs
                ttl_seconds_after_finished=spec.placement.ttl_seconds_after_finished,
            ),
            pytorch_replica_specs={
                "Worker": models.KubeflowOrgV1ReplicaSpec(
                    replicas=spec.nodes, restart_policy="ExitCode", template=template
                )
            },
        ),
    )
    return (ApiClient().sanitize_for_serialization(job),)
