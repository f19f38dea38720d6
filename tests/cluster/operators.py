"""The operators, in the cluster as in production: installed together, waited for together.

One is ready when its deployment is available and a dry run of an object of its kind passes its
webhook: then everything between the API server and the operator works.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.cluster import kwok
from tests.cluster.daemons import ClusterError
from tests.cluster.kubectl import apply, kubectl
from tests.cluster.layout import RUN
from tests.cluster.manifests import NAMESPACES, manifest

READY_SECONDS = 180
# One empty file per operator that answered once.
INSTALLED = RUN / "operators"


@dataclass(frozen=True)
class Operator:
    """What is installed under one name: a deployment with a webhook, CRDs alone, or both.

    `probe` is an object that its webhook must admit."""

    name: str
    deployment: str = ""
    probe: dict[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Where its deployment is."""
        return NAMESPACES[self.name]


def _probe(version: str, kind: str, spec: dict[str, Any], *, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": "probe"} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _pod() -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "pytorch", "image": "none"}]}
    return {"template": {"spec": pod}}


OPERATORS = (
    Operator(
        "jobset",
        "jobset-controller",
        _probe(
            "jobset.x-k8s.io/v1alpha2",
            "JobSet",
            {"replicatedJobs": [{"name": "node", "template": {"spec": _pod()}}]},
            namespace="default",
        ),
    ),
    Operator(
        "training-operator",
        "training-operator",
        _probe(
            "kubeflow.org/v1",
            "PyTorchJob",
            {"pytorchReplicaSpecs": {"Worker": _pod()}},
            namespace="default",
        ),
    ),
    Operator(
        "trainer",
        "trainer-controller-manager",
        _probe(
            "trainer.kubeflow.org/v1alpha1",
            "ClusterTrainingRuntime",
            {
                "template": {
                    "spec": {"replicatedJobs": [{"name": "node", "template": {"spec": _pod()}}]}
                }
            },
        ),
    ),
    Operator(
        "kueue",
        "kueue-controller-manager",
        _probe("kueue.x-k8s.io/v1beta2", "ResourceFlavor", {}),
    ),
    Operator("kwok"),
    Operator("kuberay"),
    Operator("prometheus-operator"),
)
NAMES = tuple(operator.name for operator in OPERATORS)


def chosen(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list, and what they need. Raises `ClusterError`."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - set(NAMES)):
        raise ClusterError(f"no such operators: {unknown}; there are: {', '.join(NAMES)}")
    if "trainer" in names:
        names.add("jobset")
    return tuple(name for name in NAMES if name in names)


def imaged(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that run from an image."""
    return tuple(name for name in names if name in NAMESPACES)


def up(names: Sequence[str], *, restored: bool = False) -> None:
    """Install these operators, and return when all of them answer.

    `restored`: their objects are there already, from a snapshot.
    """
    there = {path.name for path in INSTALLED.glob("*")}
    wanted = [one for one in OPERATORS if one.name in names and one.name not in there]
    with ThreadPoolExecutor() as pool:
        # The list makes every failure show.
        list(pool.map(lambda operator: _install(operator, restored=restored), wanted))


def restart(name: str) -> None:
    """Kill an operator's pods, as a crash of its node would, and wait until new ones answer."""
    operator = next(operator for operator in OPERATORS if operator.name == name)
    pods = ("pods", "--namespace", operator.namespace, "--output=name")
    old = set(kubectl("get", *pods).split())
    words = ("--namespace", operator.namespace, "--grace-period=0", "--force")
    kubectl("delete", *sorted(old), *words)
    deadline = time.monotonic() + READY_SECONDS
    while not (set(kubectl("get", *pods).split()) - old) and time.monotonic() < deadline:
        time.sleep(0.2)
    _wait(operator)


def wait() -> None:
    """Return when every operator with a deployment that was installed answers."""
    there = {path.name for path in INSTALLED.glob("*")}
    for operator in OPERATORS:
        if operator.deployment and operator.name in there:
            _wait(operator)


def _install(operator: Operator, *, restored: bool) -> None:
    started = time.monotonic()
    if operator.name == "kwok":
        kwok.up()
    elif not restored:
        apply(manifest(operator.name))
    if operator.deployment:
        _wait(operator)
    INSTALLED.mkdir(parents=True, exist_ok=True)
    (INSTALLED / operator.name).touch()
    print(f"  {operator.name}: {time.monotonic() - started:.1f} s", flush=True)


def _wait(operator: Operator) -> None:
    namespace = ("--namespace", operator.namespace)
    kubectl(
        *("rollout", "status", f"deployment/{operator.deployment}", *namespace),
        f"--timeout={READY_SECONDS}s",
    )
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(operator.probe))
            return
        except ClusterError as error:
            if time.monotonic() > deadline:
                logs = kubectl("logs", f"deployment/{operator.deployment}", *namespace, "--tail=20")
                raise ClusterError(f"{operator.name} does not answer: {error}\n{logs}") from error
        time.sleep(0.3)
