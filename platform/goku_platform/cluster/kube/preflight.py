"""Every check before a launch, against the server that shall run the job. Nothing is made.

What can be tried is tried in a dry run, since only the server knows all of its policies: the job
(operator, schema, webhooks, Kueue), one of its pods (Pod Security, quota, limits, service account).
The rest is looked up; where the user has no right to look, the check is open (None), not failed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from goku_platform.cluster.client import Check
from goku_platform.cluster.kube import kueue, nodes, objects, place, quota, rights
from goku_platform.cluster.kube.api import Api, Collection, Json
from goku_platform.cluster.kube.conditions import all_conditions, is_suspended, words
from goku_platform.cluster.kube.objects import Render
from goku_platform.cluster.kube.refusals import Refused, Unreachable
from goku_platform.errors import TargetError
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind

_ENFORCED = "pod-security.kubernetes.io/enforce"


def preflight(api: Api, spec: JobSpec, render: Render) -> Sequence[Check]:
    """All checks, in the order in which a launch would meet them."""
    api.begin()
    try:
        version = api.get("/version", what="the server's version")["gitVersion"]
    except TargetError as error:
        return [Check("api", False, f"{error.value}: {error.rule}", error.fix)]
    checks = [Check("api", True, f"Kubernetes {version} at {api.server}"), *_namespace(api)]
    try:
        placed, why = place.place(api, spec, render)
    except TargetError as error:
        return [*checks, Check("kind", False, f"{error.value}: {error.rule}", error.fix)]
    return [*checks, *_Checks(api, placed, why, render).all()]


class _Checks:
    """Those that need a kind."""

    def __init__(self, api: Api, spec: JobSpec, why: str, render: Render) -> None:
        self._api, self._spec, self._why, self._render = api, spec, why, render
        assert spec.placement.kind is not None
        self._kind: Kind = spec.placement.kind

    def all(self) -> Iterator[Check]:
        """One after the other; a check that may not look is open, and none ends the others."""
        every: dict[str, Callable[[], Iterator[Check]]] = {
            "rights": self._rights,
            "kind": self._job,
            "init-container": self._init,
            "runtime": self._runtime,
            "queue": self._queue,
            "priority": self._priority,
            "secrets": self._secrets,
            "service-account": self._account,
            "image": self._image,
            "pod": self._pod,
            "nodes": self._nodes,
        }
        for name, check in every.items():
            yield from _open_if_unseen(name, check)

    def _rights(self) -> Iterator[Check]:
        wanted = list(rights.needed(self._spec))
        lacking = rights.missing(self._api, wanted)
        if lacking:
            listed = ", ".join(map(str, lacking))
            fix = "Ask for the Role of the chart (helm/goku-platform)."
            yield Check("rights", False, f"you may not, in {self._api.namespace}: {listed}", fix)
        else:
            yield Check("rights", True, f"all {len(wanted)} in namespace {self._api.namespace}")

    def _job(self) -> Iterator[Check]:
        try:
            answer = place.accepted(self._api, self._spec, self._render)
        except Unreachable:
            raise
        except TargetError as error:
            yield Check("kind", False, f"{error.value}: {error.rule}", error.fix)
            return
        yield Check("kind", True, f"{self._why}; the server accepts the job (dry run)")
        queue = self._spec.placement.queue
        if queue and is_suspended(answer):
            yield Check("integration", True, f"Kueue queues {RESOURCES[self._kind].kind}")
        elif queue:
            framework = place.FRAMEWORKS[self._kind]
            yield Check(
                "integration",
                False,
                f"{RESOURCES[self._kind].kind} would start at once, past queue {queue}: "
                f"{place.unqueued(self._kind)}",
                f"Add {framework} to integrations.frameworks of Kueue, or choose another kind.",
            )

    def _init(self) -> Iterator[Check]:
        if self._kind is not Kind.PYTORCHJOB:
            return
        roles = self._render(self._spec)[-1]["spec"]["pytorchReplicaSpecs"]
        alone = "Master" not in roles or len(roles) == 1
        detail = "the operator adds one, of its own image, only where a Master has Workers"
        yield Check("init-container", True if alone else None, detail)

    def _runtime(self) -> Iterator[Check]:
        if self._kind is not Kind.TRAINJOB:
            return
        name = self._spec.placement.runtime
        version = RESOURCES[Kind.TRAINJOB].api_version
        everywhere = Collection(version, "clustertrainingruntimes").path(None, name)
        found = self._api.find(everywhere, what=f"runtime {name}")
        yield _exists("runtime", f"ClusterTrainingRuntime {name}", found, "Install the chart.")

    def _queue(self) -> Iterator[Check]:
        name = self._spec.placement.queue
        if name is None:
            yield Check("queue", True, "none: the job starts as soon as its pods fit")
            return
        found = self._find_kueue("localqueues", name, self._api.namespace)
        if found is None:
            yield _exists(
                "queue",
                f"LocalQueue {self._api.namespace}/{name}",
                found,
                "Set queue in the profile: kubectl get localqueues, or install one by the chart.",
            )
            return
        cluster_queue = found["spec"]["clusterQueue"]
        yield _active("queue", f"LocalQueue {name} (ClusterQueue {cluster_queue})", found)
        yield from _open_if_unseen("quota", lambda: self._quota(cluster_queue))

    def _quota(self, name: str) -> Iterator[Check]:
        found = self._find_kueue("clusterqueues", name, None)
        if found is None:
            yield _exists("quota", f"ClusterQueue {name}", found, "Ask who runs Kueue here.")
            return
        pods = self._spec.nodes
        total = {key: one * pods for key, one in quota.of_pod(self._spec).items()}
        never, not_now = quota.fit(found, total)
        if never:
            fix = "Ask for fewer nodes or GPUs, or for more quota."
            yield Check("quota", False, f"it can never start in {name}: {'; '.join(never)}", fix)
        elif not_now:
            yield Check("quota", True, f"it would wait in {name} now: {'; '.join(not_now)}")
        else:
            yield Check("quota", True, f"{name} has room for all {pods} pods now")

    def _priority(self) -> Iterator[Check]:
        name = self._spec.placement.priority_class
        if name is not None:
            found = self._find_kueue("workloadpriorityclasses", name, None)
            fix = "Set priority_class in the profile: kubectl get workloadpriorityclasses."
            yield _exists("priority", f"WorkloadPriorityClass {name}", found, fix)

    def _secrets(self) -> Iterator[Check]:
        place = self._spec.placement
        for name in (*place.secrets, *place.image_pull_secrets):
            path = Collection("v1", "secrets").path(self._api.namespace, name)
            found = self._api.find(path, what=f"secret {name}", metadata_only=True)
            yield _exists("secrets", f"Secret {name}", found, f"kubectl create secret ... {name}")

    def _account(self) -> Iterator[Check]:
        name = self._spec.placement.service_account
        if name is not None:
            path = Collection("v1", "serviceaccounts").path(self._api.namespace, name)
            found = self._api.find(path, what=f"service account {name}")
            fix = "Install the chart, or set service_account in the profile."
            yield _exists("service-account", f"ServiceAccount {name}", found, fix)

    def _image(self) -> Iterator[Check]:
        image, policy = self._spec.placement.image, self._spec.placement.image_pull_policy
        floats = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
        if floats and policy == "IfNotPresent":
            yield Check(
                "image",
                False,
                f"{image} has no fixed tag and is pulled {policy}: nodes may run different code",
                "Name a version or a digest, or set image_pull_policy to Always.",
            )
        else:
            yield Check("image", True, f"{image}, pulled {policy}")

    def _pod(self) -> Iterator[Check]:
        """One pod of the job, whatever its kind: all kinds share the template."""
        job = self._render(place.of_kind(replace(self._spec, nodes=1), Kind.JOB))[-1]
        template = job["spec"]["template"]
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": f"{self._spec.name}-dry-run"},
            "spec": {**template["spec"], "restartPolicy": "Never"},
        }
        try:
            objects.dry_run(self._api, pod)
        except Refused as error:
            if error.of_rights:
                detail = "you may not create pods yourself, so none was tried"
                yield Check("pod", None, detail, "See events after the launch.")
            else:
                yield Check("pod", False, error.rule, error.fix)
            return
        yield Check("pod", True, "the namespace takes such a pod (dry run)")

    def _nodes(self) -> Iterator[Check]:
        path = Collection("v1", "nodes").path(None)
        found = self._api.get(path, what="nodes", resourceVersion="0")["items"]
        held = nodes.room(found, self._spec, quota.of_pod(self._spec))
        detail = f"{held} of {self._spec.nodes} pods would fit the nodes there are, were they empty"
        if held >= self._spec.nodes:
            yield Check("nodes", True, detail)
        else:
            fix = "Lower what a pod asks for, check node_selector and tolerations, or add nodes."
            yield Check("nodes", None, f"{detail}; an autoscaler may add some", fix)

    def _find_kueue(self, plural: str, name: str, namespace: str | None) -> Json | None:
        served = [one for one in self._api.served if one.startswith(f"{kueue.GROUP}/")]
        if not served:
            raise TargetError(
                "Kueue", "the cluster does not serve it", "Install Kueue, or set no queue."
            )
        return self._api.find(Collection(max(served), plural).path(namespace, name), what=name)


def _namespace(api: Api) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        found = api.find(f"/api/v1/namespaces/{api.namespace}", what=api.namespace)
        level = (found or {"metadata": {}})["metadata"].get("labels", {}).get(_ENFORCED, "none")
        check = _exists("namespace", api.namespace, found, "Install the chart into it.")
        yield (
            check._replace(detail=f"{check.detail}, Pod Security level {level}") if found else check
        )

    yield from _open_if_unseen("namespace", look)


def _open_if_unseen(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """What may not be looked at is open; any other error fails the check."""
    try:
        yield from check()
    except Refused as error:
        ok = None if error.of_rights else False
        yield Check(name, ok, f"{error.value}: {error.rule}", error.fix)
    except TargetError as error:
        yield Check(name, False, f"{error.value}: {error.rule}", error.fix)


def _exists(name: str, what: str, found: Json | None, fix: str) -> Check:
    if found is None:
        return Check(name, False, f"{what} does not exist", fix)
    return Check(name, True, what)


def _active(name: str, what: str, thing: Json) -> Check:
    active = all_conditions(thing).get("Active")
    if active is None or active["status"] == "True":
        return Check(name, True if active else None, what)
    return Check(name, False, f"{what} is not active: {words(active)}", "Ask who runs Kueue here.")
