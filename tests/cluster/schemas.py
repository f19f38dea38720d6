"""JSON schemas of what we render, made from the CRDs of the very versions that the cluster runs.

A CRD's schema lets unknown fields pass, since the API server prunes them without a word; here they
are refused, at every depth. batch/v1 Jobs come with no CRD, but a JobSet's holds all of theirs.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import files

Schema = dict[str, Any]

_CRDS = {
    "pytorchjob": ("training-operator", "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"),
    "jobset": ("jobset", "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"),
    "trainjob": ("trainer", "manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml"),
    "clustertrainingruntime": (
        "trainer",
        "manifests/base/crds/trainer.kubeflow.org_clustertrainingruntimes.yaml",
    ),
    "rayjob": ("kuberay", "config/crd/bases/ray.io_rayjobs.yaml"),
}
_VERSIONS = {
    "pytorchjob": "v1",
    "jobset": "v1alpha2",
    "trainjob": "v1alpha1",
    "clustertrainingruntime": "v1alpha1",
    "rayjob": "v1",
}
KINDS = (*_CRDS, "job", "service")


def write(folder: Path) -> None:
    """One file a kind, named as kubeconform looks for it."""
    schemas = {kind: _of_crd(kind) for kind in _CRDS}
    schemas["job"] = _job(schemas["jobset"])
    schemas["service"] = _SERVICE
    for kind, schema in schemas.items():
        (folder / f"{kind}.json").write_text(json.dumps(schema))


def _of_crd(kind: str) -> Schema:
    crd = yaml.load(
        files(*_CRDS[kind]).read_text(), yaml.CSafeLoader
    )  # 1 MB: the slow one takes 4 s
    [schema] = [
        version["schema"]["openAPIV3Schema"]
        for version in crd["spec"]["versions"]
        if version["name"] == _VERSIONS[kind]
    ]
    strict: Schema = _strict(schema)
    strict["properties"]["metadata"] = {"type": "object"}  # the API server knows these fields
    return strict


def _job(jobset: Schema) -> Schema:
    replicated = jobset["properties"]["spec"]["properties"]["replicatedJobs"]["items"]
    job = replicated["properties"]["template"]["properties"]["spec"]
    return {**jobset, "properties": {**jobset["properties"], "spec": job}}


def _strict(node: Any) -> Any:
    """JSON Schema of OpenAPI: closed objects, and two types where Kubernetes takes either."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items() if key != "description"}
    if node.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    open_ended = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
        made.setdefault("properties", {})
    return made


_NAMED_PORT: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "port"],
    "properties": {"name": {"type": "string"}, "port": {"type": "integer"}},
}
# as much of a core/v1 Service as ours uses
_SERVICE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "Service"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["clusterIP", "publishNotReadyAddresses", "selector", "ports"],
            "properties": {
                "clusterIP": {"const": "None"},
                "publishNotReadyAddresses": {"const": True},
                "selector": {"type": "object", "additionalProperties": {"type": "string"}},
                "ports": {"type": "array", "items": _NAMED_PORT},
            },
        },
    },
}
