"""The chart in the test cluster: installed for one test, with cluster-wide names of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chart.chart import CHART
from tests.cluster.cluster import Cluster
from tests.cluster.helm import helm

RELEASE = "goku"
OURS = f"app.kubernetes.io/instance={RELEASE}"
# All kinds that the chart can make, as kubectl lists them.
NAMESPACED = (
    "serviceaccounts,roles,rolebindings,networkpolicies,configmaps,"
    "localqueues.kueue.x-k8s.io,podmonitors.monitoring.coreos.com,"
    "prometheusrules.monitoring.coreos.com"
)
CLUSTER_WIDE = (
    "clusterroles,clusterrolebindings,clustertrainingruntimes.trainer.kubeflow.org,"
    "clusterqueues.kueue.x-k8s.io,resourceflavors.kueue.x-k8s.io,topologies.kueue.x-k8s.io,"
    "workloadpriorityclasses.kueue.x-k8s.io"
)


@dataclass(frozen=True)
class Installed:
    """A release and its namespace."""

    cluster: Cluster
    namespace: str

    def helm(self, verb: str, *words: str | Path) -> str:
        """A verb on the release. Raises HelmError."""
        chart = () if verb == "uninstall" else (CHART,)
        return helm(verb, RELEASE, *chart, "--namespace", self.namespace, *words)

    def objects(self) -> dict[str, str]:
        """What is there of the release: kind/name, and what changes when its object is made anew or
        its spec is. Not the resource version: controllers write statuses at any time.

        Releases of the same name in other namespaces, of tests beside this one, are not it."""
        owner = r"{.metadata.annotations.meta\.helm\.sh/release-namespace}"
        form = (
            f"jsonpath={{range .items[*]}}{owner} {{.kind}}/{{.metadata.name}} "
            "{.metadata.uid}:{.metadata.generation}{'\\n'}{end}"
        )
        words = ("--selector", OURS, "--output", form)
        text = self.cluster.kubectl("get", NAMESPACED, "--all-namespaces", *words)
        text += self.cluster.kubectl("get", CLUSTER_WIDE, *words)
        rows = (line.split(" ") for line in text.splitlines())
        return {name: version for owner, name, version in rows if owner == self.namespace}


@contextmanager
def installed(
    cluster: Cluster, namespace: str, *words: str | Path, settings: Sequence[str] = ()
) -> Iterator[Installed]:
    """The release in a namespace that is there; nothing of it is left at the end."""
    release = Installed(cluster, namespace)
    names = (f"runtime.name={namespace}", *settings)
    release.helm("install", *words, *(part for one in names for part in ("--set", one)))
    try:
        yield release
    finally:
        release.helm("uninstall", "--ignore-not-found", "--wait")
