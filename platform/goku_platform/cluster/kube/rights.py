"""Whether the user may do what the verbs need, asked before anything is made.

One request lists the user's rules. Most clusters have an authorizer that cannot list (the node
authorizer, a webhook), so what the list lacks is asked one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from goku_platform.cluster.kube import kueue
from goku_platform.cluster.kube.api import Api
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind

_RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Right(NamedTuple):
    """One verb on one resource of the namespace."""

    verb: str
    group: str
    resource: str  # with its subresource: pods/log

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


def needed(spec: JobSpec) -> Iterator[Right]:
    """What launch, status, logs, events, stop and delete ask of the server for this job."""
    assert spec.placement.kind is not None
    job = RESOURCES[spec.placement.kind]
    for verb in ("create", "get", "list", "watch", "delete"):
        yield Right(verb, job.group, job.plural)
    for verb in ("get", "list", "watch"):
        yield Right(verb, "", "pods")
    yield Right("get", "", "pods/log")
    yield Right("list", "", "events")
    if spec.placement.kind is Kind.JOB:
        for verb in ("create", "get", "list", "patch", "delete"):
            yield Right(verb, "", "services")
    if spec.placement.queue:
        for verb in ("get", "list", "watch"):
            yield Right(verb, kueue.GROUP, "workloads")
        yield Right("get", kueue.GROUP, "localqueues")


def missing(api: Api, rights: Sequence[Right]) -> list[Right]:
    """Those that the user does not have. Raises TargetError."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": api.namespace},
    }
    rules = api.ask(_RULES, review, what="your rights")["status"].get("resourceRules", ())
    return [right for right in rights if not _granted(rules, right) and not _allowed(api, right)]


def _granted(rules: Sequence[Mapping[str, Any]], right: Right) -> bool:
    return any(
        not rule.get("resourceNames")
        and _has(rule.get("verbs"), right.verb)
        and _has(rule.get("apiGroups"), right.group)
        and _has(rule.get("resources"), right.resource)
        for rule in rules
    )


def _has(listed: Sequence[str] | None, wanted: str) -> bool:
    return bool({"*", wanted} & set(listed or ()))


def _allowed(api: Api, right: Right) -> bool:
    resource, _, part = right.resource.partition("/")
    asked = {
        "namespace": api.namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": part,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = api.ask(_ACCESS, review, what="your rights")
    return bool(answer["status"].get("allowed"))
