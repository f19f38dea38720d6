"""Small objects for tests of the cluster itself: a pod, a service, and a job of every kind, with
containers that the restricted Pod Security profile admits."""

from collections.abc import Mapping
from typing import Any

SECURE = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(
    name: str,
    namespace: str,
    image: str,
    command: str,
    *,
    security: Mapping[str, Any] = SECURE,
    restart: str = "Never",
) -> dict[str, Any]:
    """A pod that runs a shell command; its label `app` is its name."""
    spec = _pod_spec(image, command, container="main") | {"restartPolicy": restart}
    spec["containers"][0]["securityContext"] = dict(security)
    made = _object("v1", "Pod", name, namespace, spec)
    made["metadata"]["labels"] = {"app": name}
    return made


def service(name: str, namespace: str, *, port: int, target: int) -> dict[str, Any]:
    """A service for the pod of its name."""
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}
    return _object("v1", "Service", name, namespace, spec)


def job(
    name: str, namespace: str, image: str, command: str, *, nodes: int = 2, gpus: int = 0
) -> dict[str, Any]:
    """An Indexed Job."""
    template = {"spec": _pod_spec(image, command, gpus=gpus)}
    return _object("batch/v1", "Job", name, namespace, _indexed(template, nodes))


def jobset(
    name: str, namespace: str, image: str, command: str, *, nodes: int = 2, gpus: int = 0
) -> dict[str, Any]:
    """A JobSet of one replicated job."""
    return _object(
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        name,
        namespace,
        _replicated(image, command, nodes, gpus),
    )


def pytorchjob(
    name: str, namespace: str, image: str, command: str, *, nodes: int = 2, gpus: int = 0
) -> dict[str, Any]:
    """A PyTorchJob of workers alone: with a master the operator adds an init container that the
    restricted profile refuses."""
    template = {"spec": _pod_spec(image, command, container="pytorch", gpus=gpus)}
    worker = {"replicas": nodes, "restartPolicy": "ExitCode", "template": template}
    spec = {"runPolicy": {"cleanPodPolicy": "None"}, "pytorchReplicaSpecs": {"Worker": worker}}
    return _object("kubeflow.org/v1", "PyTorchJob", name, namespace, spec)


def runtime(namespace: str, image: str) -> dict[str, Any]:
    """The training runtime `tiny` of a namespace."""
    replicated = _replicated(image, "true", 1, 0)
    (node,) = replicated["replicatedJobs"]
    node["template"]["metadata"] = {
        "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"},
    }
    spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": replicated}}
    return _object("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", "tiny", namespace, spec)


def trainjob(
    name: str, namespace: str, image: str, command: str, *, nodes: int = 2, gpus: int = 0
) -> dict[str, Any]:
    """A TrainJob of the runtime `tiny`."""
    spec = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "TrainingRuntime",
            "name": "tiny",
        },
        "trainer": {
            "image": image,
            "numNodes": nodes,
            "command": ["sh", "-c", command],
            "resourcesPerNode": _resources(gpus),
        },
    }
    return _object("trainer.kubeflow.org/v1alpha1", "TrainJob", name, namespace, spec)


def _replicated(image: str, command: str, nodes: int, gpus: int) -> dict[str, Any]:
    template = {"spec": _pod_spec(image, command, gpus=gpus)}
    return {
        "replicatedJobs": [{"name": "node", "template": {"spec": _indexed(template, nodes)}}],
    }


def _indexed(template: dict[str, Any], nodes: int) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        "template": template,
    }


def _pod_spec(
    image: str, command: str, *, container: str = "node", gpus: int = 0
) -> dict[str, Any]:
    main = {
        "name": container,
        "image": image,
        "command": ["sh", "-c", command],
        "securityContext": dict(SECURE),
        "resources": _resources(gpus),
    }
    return {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [main]}


def _resources(gpus: int) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": limits}


def _object(
    version: str, kind: str, name: str, namespace: str, spec: dict[str, Any]
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
