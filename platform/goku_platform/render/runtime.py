"""The ClusterTrainingRuntime that TrainJobs of ours refer to, as data. The chart installs it.

A TrainJob cannot say which exits are retried, nor how its container is guarded: that can live only
here. What differs from run to run comes from the TrainJob (`trainjob`); together they are the very
pod that a JobSet gets.
"""

from collections.abc import Sequence

from goku.config.checkpoint import CheckpointConfig
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.render import pod, retries
from goku_platform.render.jobset import NETWORK, NODE, gang
from goku_platform.settings import Kind, Settings

_ANCESTOR = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
_FRAMEWORK = {"trainer.kubeflow.org/framework": "torch"}


GRACE_SECONDS: float = CheckpointConfig.model_fields["grace_seconds"].default


def render(settings: Settings, *, grace_seconds: float = GRACE_SECONDS) -> pod.Manifest:
    """The runtime of a profile, which gives its name, Secrets, pull policy and metrics port.

    The grace is here and not in the TrainJob's patch, for Kueue (0.19) drops that field of a patch
    when it admits the job, and JobSet then refuses what has become of it.
    """
    container = RESOURCES[Kind.TRAINJOB].container
    return {
        "apiVersion": RESOURCES[Kind.TRAINJOB].api_version,
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": settings.runtime, "labels": dict(_FRAMEWORK)},
        "spec": {
            # one node until a TrainJob says more; torch only adds variables that nobody reads
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {
                "spec": {
                    "network": dict(NETWORK),
                    "failurePolicy": retries.jobset(),
                    "replicatedJobs": [
                        {
                            "name": NODE,
                            "replicas": 1,
                            "template": {
                                "metadata": {"labels": dict(_ANCESTOR)},
                                "spec": gang(
                                    container,
                                    nodes=1,
                                    template=_template(settings, container, grace_seconds),
                                ),
                            },
                        }
                    ],
                }
            },
        },
    }


def _template(settings: Settings, name: str, grace_seconds: float) -> pod.Manifest:
    container = pod.present(
        {
            "name": name,
            "image": settings.image,  # every TrainJob names its own
            "imagePullPolicy": settings.image_pull_policy,
            "envFrom": _secrets(settings.secrets),
            "ports": [{"name": "metrics", "containerPort": settings.metrics_port}],
            "securityContext": pod.container_security(),
            **pod.CONTAINER,
        }
    )
    return {
        "spec": {
            "containers": [container],
            **pod.POD,
            **pod.grace(grace_seconds),
            "securityContext": pod.pod_security(),
        }
    }


def _secrets(given: Sequence[str]) -> list[pod.Manifest]:
    """Optional: one runtime serves every namespace, and not each has all of them."""
    return [{"secretRef": {"name": name, "optional": True}} for name in given]
