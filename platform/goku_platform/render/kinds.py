"""One JobSpec, every kind of object: the choice between the renderers, and their one signature."""

from collections.abc import Callable

from goku_platform.jobs.spec import JobSpec
from goku_platform.render import job, jobset, pod, pytorchjob, rayjob, trainjob
from goku_platform.settings import Kind

Renderer = Callable[[JobSpec], tuple[pod.Manifest, ...]]

RENDERERS: dict[Kind, Renderer] = {
    Kind.PYTORCHJOB: pytorchjob.render,
    Kind.TRAINJOB: trainjob.render,
    Kind.JOBSET: jobset.render,
    Kind.JOB: job.render,
    Kind.RAYJOB: rayjob.render,
}


def render(spec: JobSpec) -> tuple[pod.Manifest, ...]:
    """What to apply, the job itself last. A kind that nobody decided is a PyTorchJob.

    Raises TargetError for a kind that cannot run the job.
    """
    return RENDERERS[spec.placement.kind or Kind.PYTORCHJOB](spec)
