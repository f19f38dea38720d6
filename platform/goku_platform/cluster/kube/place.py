"""Which kind of object a job becomes in this cluster: found out by trying, without making anything.

A kind does if the server has it, accepts the job in a dry run (its operator's webhook answers, a
TrainJob's runtime is there, we may create it), and, where a queue is set, if Kueue queues it. Its
configuration need not be read for that: Kueue's webhook suspends what it queues, in a dry run too.
"""

from dataclasses import replace

from goku_platform.cluster.kube import objects
from goku_platform.cluster.kube.api import Api, Json
from goku_platform.cluster.kube.conditions import is_suspended
from goku_platform.cluster.kube.objects import Render
from goku_platform.cluster.kube.refusals import Unreachable
from goku_platform.errors import TargetError
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Kind

FRAMEWORKS = {  # what Kueue's configuration calls the kinds
    Kind.PYTORCHJOB: "kubeflow.org/pytorchjob",
    Kind.TRAINJOB: "trainer.kubeflow.org/trainjob",
    Kind.JOBSET: "jobset.x-k8s.io/jobset",
    Kind.JOB: "batch/job",
    Kind.RAYJOB: "ray.io/rayjob",
}


def place(api: Api, spec: JobSpec, render: Render) -> tuple[JobSpec, str]:
    """The job with its kind, and why that one. Raises TargetError if there is none."""
    if spec.placement.kind is not None:
        return spec, f"{RESOURCES[spec.placement.kind].kind}: the profile names it"
    refusals: list[str] = []
    for kind in _candidates(spec):
        placed = of_kind(spec, kind)
        reason = _refusal(api, placed, kind, render)
        if not reason:
            return placed, _why(kind, refusals, queue=spec.placement.queue)
        refusals.append(f"{RESOURCES[kind].kind}: {reason}")
    raise TargetError(
        f"kind of {spec.name!r}",
        f"none will do here ({'; '.join(refusals)})",
        "Install an operator (docs/operations.md), or see what is missing: goku-platform doctor.",
    )


def of_kind(spec: JobSpec, kind: Kind) -> JobSpec:
    """The same job as another kind."""
    return replace(spec, placement=replace(spec.placement, kind=kind))


def accepted(api: Api, spec: JobSpec, render: Render) -> Json:
    """The job object as the server would keep it. Raises TargetError."""
    kind = spec.placement.kind
    assert kind is not None
    resource = RESOURCES[kind]
    if resource.api_version not in api.served:
        raise TargetError(
            f"kind={kind}",
            f"the cluster does not serve {resource.kind} ({resource.api_version})",
            "Install its operator (docs/operations.md), or name another kind in the profile.",
        )
    return objects.dry_run(api, render(spec)[-1])


def unqueued(kind: Kind) -> str:
    """Why a job with a queue would start at once all the same."""
    return f"Kueue does not queue it (framework {FRAMEWORKS[kind]} is off)"


def _candidates(spec: JobSpec) -> list[Kind]:
    """By preference; Ray only for what Ray spreads."""
    return sorted((kind for kind in Kind if spec.on_ray or kind is not Kind.RAYJOB), key=_is_usual)


def _is_usual(kind: Kind) -> bool:
    return kind is not Kind.RAYJOB


def _refusal(api: Api, spec: JobSpec, kind: Kind, render: Render) -> str:
    """Why a kind will not do; "" if it will."""
    if RESOURCES[kind].api_version not in api.served:
        return "not served"
    try:
        answer = accepted(api, spec, render)
    except Unreachable:
        raise
    except TargetError as error:
        return error.rule
    queue = spec.placement.queue
    return unqueued(kind) if queue and not is_suspended(answer) else ""


def _why(kind: Kind, refusals: list[str], *, queue: str | None) -> str:
    how = "the cluster serves and Kueue queues it" if queue else "the cluster serves it"
    rest = f"; not {', not '.join(refusals)}" if refusals else ""
    return f"{RESOURCES[kind].kind}: {how}{rest}"
