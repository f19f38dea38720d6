"""The kubernetes target of this version: manifests are rendered here and applied by kubectl.

It refuses to submit, and says how to; what became of a run is read from its ledger in the store.
"""

from collections.abc import Iterator

from goku_platform.cluster.client import Sighting
from goku_platform.errors import TargetError
from goku_platform.jobs.spec import JobSpec

_TARGET = "target=kubernetes"


class KubernetesClient:
    """A target that only kubectl can reach."""

    def check(self, spec: JobSpec) -> None:
        raise TargetError(
            _TARGET,
            f"this version does not submit {spec.name!r} to a cluster",
            "Render it and apply it: goku-platform render PRESET --freeze | kubectl apply -f -",
        )

    def apply(self, spec: JobSpec) -> None:
        self.check(spec)

    def get(self, run_uri: str) -> Sighting:
        return Sighting(alive=None, place=f"PyTorchJob {_name(run_uri)}")

    def logs(self, run_uri: str, *, follow: bool = False) -> Iterator[str]:
        raise TargetError(
            _TARGET,
            "this version does not read pods, and nothing is shipped yet",
            f"Read them there: kubectl logs {'-f ' if follow else ''}{_name(run_uri)}-master-0.",
        )

    def stop(self, run_uri: str) -> None:
        raise TargetError(
            _TARGET,
            "this version does not reach a cluster",
            f"Stop it there: kubectl delete pytorchjob {_name(run_uri)}; its pods save.",
        )


def _name(run_uri: str) -> str:
    return run_uri.rstrip("/").rsplit("/", 1)[-1]
