"""Rendered manifests and the server: where each goes, what the server would make of it."""

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from goku_platform.cluster.kube.api import Api, Collection, Json
from goku_platform.cluster.kube.refusals import Refused
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind

# JobSpec with its kind -> manifests, the job last; given from above, since render is a sibling
Render = Callable[[JobSpec], tuple[dict[str, Any], ...]]

SERVICES = Collection("v1", "services")
_PLURALS = {resource.kind: resource.plural for resource in RESOURCES.values()} | {
    "Service": SERVICES.plural,
    "Pod": "pods",
}
_SERVERS = frozenset(  # keys that only the server writes, different for every object it makes
    {
        "managedFields",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "ownerReferences",  # of what a job takes along when it goes: its uid is the server's
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
        names.LAUNCH,
    }
)
_EXISTS = 409


def collection(manifest: Mapping[str, Any]) -> Collection:
    """Where objects of a manifest's kind are kept."""
    return Collection(manifest["apiVersion"], _PLURALS[manifest["kind"]])


def title(manifest: Mapping[str, Any]) -> str:
    """`PyTorchJob stage1`."""
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def dry_run(api: Api, manifest: Mapping[str, Any]) -> Json:
    """The object as the server would keep it: defaults, webhooks and admission are all asked.

    The answer is the same if an object of that name exists already. Raises TargetError.
    """
    path, what = collection(manifest).path(api.namespace), title(manifest)
    try:
        return api.create(path, manifest, what=what, dry_run=True)
    except Refused as error:
        if error.status != _EXISTS:
            raise
    name, other = manifest["metadata"]["name"], f"dry-run-{secrets.token_hex(4)}"
    renamed = {**manifest, "metadata": {**manifest["metadata"], "name": other}}
    answer = api.create(path, renamed, what=what, dry_run=True)
    named: Json = json.loads(json.dumps(answer).replace(other, name))  # in labels too
    return named


def remove(api: Api, thing: Mapping[str, Any]) -> None:
    """Delete an object as it was read, with all that it owns; not one made since by that name.

    It goes last, so that it tells of its pods while they save. Not so a TrainJob: while that is
    being deleted, its controller makes the JobSet again that was deleted first.
    """
    metadata = thing["metadata"]
    path = collection(thing).path(api.namespace, metadata["name"])
    owned_first = thing["kind"] != RESOURCES[Kind.TRAINJOB].kind
    api.delete(path, what=title(thing), owned_first=owned_first, uid=metadata["uid"])


def plain(thing: Mapping[str, Any]) -> Json:
    """An object without what only the server writes, and without a queue's suspension."""
    kept: Json = _without_servers({key: one for key, one in thing.items() if key != "status"})
    spec = kept.get("spec", {})
    spec.pop("suspend", None)
    spec.get("runPolicy", {}).pop("suspend", None)
    if patches := spec.get("runtimePatches"):  # a TrainJob's: Kueue adds its own to them
        mine = [patch for patch in patches if patch["manager"] == names.PATCH_MANAGER]
        spec["runtimePatches"] = [{**patch, "time": None} for patch in mine]
    return kept


def _without_servers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_servers(one) for key, one in value.items() if key not in _SERVERS}
    return [_without_servers(one) for one in value] if isinstance(value, list) else value
