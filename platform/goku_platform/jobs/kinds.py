"""Where the API server keeps each kind of job, and what the kind calls our container and its pods.

Which kinds a cluster serves and queues differs and changes with its age: the client asks. The kinds
themselves are named in `settings`, since a profile may choose one.
"""

from typing import NamedTuple

from goku_platform.settings import Kind


class Resource(NamedTuple):
    """A kind as the API server names it."""

    group: str
    version: str
    plural: str
    kind: str
    container: str = "node"  # of the supervisor, in every pod
    pod_suffix: str = ""  # what the controller appends to the job's name, {rank} being the node's

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"

    def pod(self, job: str, rank: int) -> str:
        """A pod's name, or the part of it that is not random."""
        return job + self.pod_suffix.format(rank=rank)


RESOURCES: dict[Kind, Resource] = {
    # the operator looks for a container of this name
    Kind.PYTORCHJOB: Resource(
        "kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", "pytorch", "-worker-{rank}"
    ),
    # the trainer's torch plugin looks for the replicated job and the container "node"
    Kind.TRAINJOB: Resource(
        "trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", pod_suffix="-node-0-{rank}"
    ),
    Kind.JOBSET: Resource(
        "jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", pod_suffix="-node-0-{rank}"
    ),
    Kind.JOB: Resource("batch", "v1", "jobs", "Job", pod_suffix="-{rank}"),
    # the entrypoint runs in the head's pod
    Kind.RAYJOB: Resource("ray.io", "v1", "rayjobs", "RayJob"),
}
