"""The one pod template: every kind of job wraps what is made here, and adds nothing to a pod.

A pod learns its rank and node 0's address from the downward API and a fixed name, so that nothing
a controller injects is needed. The pod runs under the restricted Pod Security level as it is: no
root, a read-only image, no capability, no token. Probes are left out on purpose: see `jobs/spec`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from goku.contract import env
from goku_platform.jobs import names
from goku_platform.jobs.plan import SCRATCH
from goku_platform.jobs.spec import JobSpec, NodeFolder, Volume

Manifest = dict[str, Any]
USER = 1000  # of the image; any but root

# What no run changes. The training runtime holds these for TrainJobs, which cannot set them.
POD: Mapping[str, Any] = {
    "restartPolicy": "Never",  # a container restarted in place would hide its exit code
    "automountServiceAccountToken": False,  # a training pod never talks to the API server
    "enableServiceLinks": False,  # hundreds of variables in a busy namespace
}
CONTAINER: Mapping[str, Any] = {
    # the last lines of the log stand in when the supervisor could not write its verdict
    "terminationMessagePolicy": "FallbackToLogsOnError",
}


class Meeting(NamedTuple):
    """How the pods of one kind find their rank and one another."""

    rank: str  # the downward API's path to a pod's index
    address: str  # a name of node 0's pod


def job_metadata(spec: JobSpec) -> Manifest:
    """Of the job object: the pods' labels, and the queue's."""
    place = spec.placement
    queue = present({names.QUEUE: place.queue, names.PRIORITY: place.priority_class})
    return {
        "name": spec.name,
        "namespace": place.namespace,
        "labels": {**spec.labels, **queue},
        "annotations": dict(spec.annotations),
    }


def template(spec: JobSpec, *, container: str, meeting: Meeting | None) -> Manifest:
    """The pod template. Without a meeting, it is one pod that meets nobody."""
    return {
        "metadata": pod_metadata(spec),
        "spec": {
            "containers": [_container(spec, name=container, meeting=meeting)],
            **POD,
            **grace(spec.grace_seconds),
            **placement(spec),
        },
    }


def pod_metadata(spec: JobSpec) -> Manifest:
    """Labels and annotations of every pod. Kueue reads its topology requests here."""
    topology = spec.placement.topology
    request = {}
    if topology is not None:
        key = names.TOPOLOGY_REQUIRED if topology.required else names.TOPOLOGY_PREFERRED
        request[key] = topology.level
    return {"labels": dict(spec.labels), "annotations": {**spec.annotations, **request}}


def placement(spec: JobSpec) -> Manifest:
    """The pod's own fields that differ from run to run, containers and grace aside."""
    place = spec.placement
    return present(
        {
            "volumes": [*map(_volume, spec.volumes), *map(_node_folder, spec.node_folders)],
            "serviceAccountName": place.service_account,
            "securityContext": pod_security(),
            "imagePullSecrets": [{"name": name} for name in place.image_pull_secrets],
            "nodeSelector": dict(place.node_selector),
            "affinity": _affinity(place.excluded_nodes),
            "tolerations": [
                present(toleration.model_dump(mode="json")) for toleration in place.tolerations
            ],
        }
    )


def grace(seconds: float) -> Manifest:
    """The time from SIGTERM to SIGKILL. Apart, for a TrainJob leaves it to its runtime."""
    return {"terminationGracePeriodSeconds": math.ceil(seconds)}


def pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def variables(spec: JobSpec, meeting: Meeting | None) -> list[Manifest]:
    """The fabric's variables, the job's own on top, and those that name places in this pod."""
    values = {variable.name: variable.value for variable in spec.placement.network.variables}
    values |= spec.env
    values |= {
        env.POD_DIR: f"{SCRATCH}/pod",
        env.METRICS_PORT: str(spec.metrics_port),
        # torch 2.13 and later end the ranks after 30 s unless told; earlier ones ignore it
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(spec.stop_budget_seconds)),
        "HOME": SCRATCH,  # caches go where writing is allowed
        "USER": "goku",  # torch names its caches by user, and the image's /etc/passwd has none
    }
    if meeting is None:
        return _named(values)
    if spec.nodes > 1:
        values |= {
            env.MASTER_ADDR: meeting.address,
            env.MASTER_PORT: str(spec.master_port),
            env.GANG_PORT: str(spec.gang_port),
        }
    rank = {"name": env.NODE_RANK, "valueFrom": {"fieldRef": {"fieldPath": meeting.rank}}}
    return [*_named(values), rank]


def resources(spec: JobSpec) -> Manifest:
    """Memory and devices as limits; no CPU limit, which would throttle data workers in bursts."""
    wanted = spec.resources
    limits = {"memory": f"{wanted.memory_gib}Gi"}
    if wanted.gpus:
        limits[wanted.gpu_resource] = str(wanted.gpus)
    limits |= {device.resource: device.quantity for device in spec.placement.network.devices}
    return {"limits": limits, "requests": {"cpu": f"{wanted.cpus:g}", **limits}}


def ports(spec: JobSpec) -> list[Manifest]:
    """Named, so that monitors and network policies need no numbers."""
    listening = {"metrics": spec.metrics_port}
    if spec.nodes > 1:
        listening |= {"gang": spec.gang_port, "master": spec.master_port}
    return [{"name": name, "containerPort": port} for name, port in listening.items()]


def mounts(spec: JobSpec) -> list[Manifest]:
    folders: list[Volume | NodeFolder] = [*spec.volumes, *spec.node_folders]
    return [{"name": folder.name, "mountPath": folder.path} for folder in folders]


def secrets(given: Sequence[str]) -> list[Manifest]:
    """Whole Secrets as variables, by reference."""
    return [{"secretRef": {"name": name}} for name in given]


def field(kind: str, key: str) -> str:
    """The downward API's path to one of a pod's labels or annotations."""
    return f"metadata.{kind}['{key}']"


def present(fields: Mapping[str, Any]) -> Manifest:
    """What is set: an empty list or None would read as a decision."""
    return {key: value for key, value in fields.items() if value not in (None, [], {}, "")}


def _container(spec: JobSpec, *, name: str, meeting: Meeting | None) -> Manifest:
    return present(
        {
            "name": name,
            "image": spec.placement.image,
            "imagePullPolicy": spec.placement.image_pull_policy,
            "command": list(spec.command),
            "env": variables(spec, meeting),
            "envFrom": secrets(spec.placement.secrets),
            "ports": ports(spec),
            "resources": resources(spec),
            "securityContext": container_security(),
            **CONTAINER,
            "volumeMounts": mounts(spec),
        }
    )


def _named(values: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _affinity(excluded: Sequence[str]) -> Manifest | None:
    """Never on these nodes. A label's value, not a name: the scheduler matches labels."""
    if not excluded:
        return None
    rule = {"key": names.HOSTNAME, "operator": "NotIn", "values": list(excluded)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _volume(volume: Volume) -> Manifest:
    medium = {"medium": "Memory"} if volume.in_memory else {}
    return {"name": volume.name, "emptyDir": {**medium, "sizeLimit": f"{volume.size_gib}Gi"}}


def _node_folder(folder: NodeFolder) -> Manifest:
    """Never made by the kubelet: that would be root's, and may be a disk that is not mounted."""
    return {"name": folder.name, "hostPath": {"path": folder.path, "type": "Directory"}}
