"""JobSpec -> Kubeflow PyTorchJob v1, built with the SDK's own models.

What the training-operator 1.9 does with it decides the shape:
- it reads the exit code of the container named "pytorch"; under ExitCode it retries 128 and above,
  one pod at a time, and its backoffLimit counts none of that: our ledger keeps the restart budget;
- it appends PET_* and MASTER_* after our variables, so a rank cannot be passed by `$(VAR)`: the
  supervisor reads PET_NODE_RANK itself;
- its init container for workers has no security context, so a namespace that enforces the
  "restricted" pod security level refuses workers of jobs with more than one node.
The SDK costs a second to import, so it is imported on use.
"""

import math
from typing import Any

from goku.contract import env
from goku_platform.jobs import names
from goku_platform.jobs.plan import SCRATCH
from goku_platform.jobs.spec import JobSpec, Volume

CONTAINER = "pytorch"  # the operator looks for this name
_USER = 1000  # of the image; any but root


def render(spec: JobSpec) -> dict[str, Any]:
    """The manifest as plain data, ready for YAML or an API call."""
    from kubeflow.training import models as kubeflow
    from kubernetes import client as kubernetes

    replicas = {"Master": 1, "Worker": spec.nodes - 1}
    job = kubeflow.KubeflowOrgV1PyTorchJob(
        api_version="kubeflow.org/v1",
        kind="PyTorchJob",
        metadata=kubernetes.V1ObjectMeta(
            name=spec.name,
            namespace=spec.placement.namespace,
            labels={**spec.labels, **_queue(spec)},
            annotations=dict(spec.annotations),
        ),
        spec=kubeflow.KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(spec.processes_per_node),
            # a failed job's other pods would hold their GPUs until a person came
            run_policy=kubeflow.KubeflowOrgV1RunPolicy(clean_pod_policy="Running"),
            pytorch_replica_specs={
                role: kubeflow.KubeflowOrgV1ReplicaSpec(
                    replicas=count, restart_policy="ExitCode", template=_template(spec)
                )
                for role, count in replicas.items()
                if count
            },
        ),
    )
    manifest: dict[str, Any] = kubernetes.ApiClient().sanitize_for_serialization(job)
    return manifest


def _queue(spec: JobSpec) -> dict[str, str]:
    return {names.QUEUE: spec.placement.queue} if spec.placement.queue else {}


def _template(spec: JobSpec) -> Any:
    from kubernetes import client as kubernetes

    place = spec.placement
    return kubernetes.V1PodTemplateSpec(
        metadata=kubernetes.V1ObjectMeta(
            labels=dict(spec.labels), annotations=dict(spec.annotations)
        ),
        spec=kubernetes.V1PodSpec(
            containers=[_container(spec)],
            volumes=[_volume(volume) for volume in spec.volumes],
            termination_grace_period_seconds=math.ceil(spec.grace_seconds),
            service_account_name=place.service_account,
            automount_service_account_token=False,  # a training pod never talks to the API server
            enable_service_links=False,  # hundreds of variables in a busy namespace
            security_context=kubernetes.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=_USER,
                run_as_group=_USER,
                fs_group=_USER,
                seccomp_profile=kubernetes.V1SeccompProfile(type="RuntimeDefault"),
            ),
            image_pull_secrets=[
                kubernetes.V1LocalObjectReference(name=name) for name in place.image_pull_secrets
            ]
            or None,
            node_selector=dict(place.node_selector) or None,
            tolerations=[
                kubernetes.V1Toleration(**toleration.model_dump())
                for toleration in place.tolerations
            ]
            or None,
        ),
    )


def _container(spec: JobSpec) -> Any:
    from kubernetes import client as kubernetes

    return kubernetes.V1Container(
        name=CONTAINER,
        image=spec.placement.image,
        image_pull_policy=spec.placement.image_pull_policy,
        command=list(spec.command),
        env=[kubernetes.V1EnvVar(name=name, value=value) for name, value in _env(spec).items()],
        env_from=[
            kubernetes.V1EnvFromSource(secret_ref=kubernetes.V1SecretEnvSource(name=name))
            for name in spec.placement.secrets
        ]
        or None,
        ports=[kubernetes.V1ContainerPort(name="metrics", container_port=spec.metrics_port)],
        resources=_resources(spec),
        security_context=kubernetes.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=kubernetes.V1Capabilities(drop=["ALL"]),
        ),
        # the last lines of the log stand in when the supervisor could not write its verdict
        termination_message_policy="FallbackToLogsOnError",
        volume_mounts=[
            kubernetes.V1VolumeMount(name=volume.name, mount_path=volume.path)
            for volume in spec.volumes
        ],
    )


def _env(spec: JobSpec) -> dict[str, str]:
    """The job's variables, and those that name places in this pod."""
    return {
        **spec.env,
        env.POD_DIR: f"{SCRATCH}/pod",
        env.METRICS_PORT: str(spec.metrics_port),
        # torch 2.13 and later end the ranks after 30 s unless told; earlier ones ignore it
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(spec.stop_budget_seconds)),
        "HOME": SCRATCH,  # caches go where writing is allowed
    }


def _resources(spec: JobSpec) -> Any:
    """Memory and GPUs as limits; no CPU limit, which would throttle data workers in bursts."""
    from kubernetes import client as kubernetes

    wanted = spec.resources
    limits = {"memory": f"{wanted.memory_gib}Gi"}
    if wanted.gpus:
        limits[wanted.gpu_resource] = str(wanted.gpus)
    return kubernetes.V1ResourceRequirements(
        requests={"cpu": str(wanted.cpus), **limits}, limits=limits
    )


def _volume(volume: Volume) -> Any:
    from kubernetes import client as kubernetes

    return kubernetes.V1Volume(
        name=volume.name,
        empty_dir=kubernetes.V1EmptyDirVolumeSource(
            medium="Memory" if volume.in_memory else None, size_limit=f"{volume.size_gib}Gi"
        ),
    )
