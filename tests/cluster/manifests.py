"""The manifests of the operators: rendered from their own charts and kustomize bases, and fitted
to the test cluster.

Fitted means: images of ours that are never pulled, requests that two cores can hold (without any,
an operator would lose to every host process), probes that ask every second, no election of a
leader (a killed operator would wait for its own lease), and Kueue's frameworks.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import BY_NAME, binary, files
from tests.cluster.daemons import ClusterError
from tests.cluster.images import busybox, operator
from tests.cluster.layout import KEPT

RENDERED = KEPT / "manifests"
NAMESPACES = {
    "training-operator": "kubeflow",
    "jobset": "jobset-system",
    "kueue": "kueue-system",
    "trainer": "kubeflow-system",
}
# PyTorchJob is not in Kueue's default list: a queued one would just run.
FRAMEWORKS = (
    "batch/job",
    "jobset.x-k8s.io/jobset",
    "kubeflow.org/pytorchjob",
    "ray.io/rayjob",
    "ray.io/raycluster",
    "trainer.kubeflow.org/trainjob",
)
REQUESTS = {"cpu": "50m", "memory": "64Mi"}


def manifest(name: str) -> str:
    """All objects of one operator or set of CRDs, as YAML. Rendered once, then kept."""
    kept = RENDERED / f"{key(name)}.yaml"
    if not kept.is_file():
        text = _fitted(RENDER[name](), _image(name))
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(kept)
    return kept.read_text()


def key(name: str) -> str:
    """Changes with everything that a manifest is made of."""
    recipe = f"{Path(__file__).read_text()}{BY_NAME[name].version}{_image(name)}"
    return f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def _image(name: str) -> str:
    return operator(name).reference if name in NAMESPACES else ""


def _training_operator() -> str:
    """Of its six kinds only the one that the platform uses: the other CRDs are 3 MB."""
    bases = files("training-operator", "manifests")
    text = _run([binary("kubectl"), "kustomize", bases / "overlays" / "standalone"])
    other = re.compile(r"(?m)^  name: (?!pytorchjobs)\w+\.kubeflow\.org$")
    return _joined(document for document in _documents(text) if not other.search(document))


def _jobset() -> str:
    chart = files("jobset", "charts/jobset")
    return _chart("jobset", chart, "controller.leaderElection.enable=false")


def _kueue() -> str:
    return _chart("kueue", files("kueue", "charts/kueue"))


def _trainer() -> str:
    """The chart names JobSet and LeaderWorkerSet as dependencies, which do not lie beside it."""
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder, "chart")
        shutil.copytree(files("trainer", "charts/kubeflow-trainer"), chart)
        described = yaml.safe_load((chart / "Chart.yaml").read_text())
        del described["dependencies"]
        (chart / "Chart.yaml").write_text(yaml.safe_dump(described))
        return _chart("trainer", chart, "jobset.install=false", "fullnameOverride=trainer")


def _crds(module: str, path: str, *kinds: str) -> Callable[[], str]:
    """CRDs of these kinds (plural names), from a folder that has one per file."""

    def render() -> str:
        found = sorted(files(module, path).glob("*.yaml"))
        texts = (file.read_text() for file in found)
        names = tuple(f"\n  name: {kind}." for kind in kinds)
        return _joined(text for text in texts if any(name in text for name in names))

    return render


RENDER: dict[str, Callable[[], str]] = {
    "training-operator": _training_operator,
    "jobset": _jobset,
    "kueue": _kueue,
    "trainer": _trainer,
    "kuberay": _crds("kuberay", "config/crd/bases", "rayjobs", "rayclusters"),
    "prometheus-operator": _crds(
        "prometheus-operator",
        "example/prometheus-operator-crd",
        *("servicemonitors", "podmonitors", "prometheusrules"),
    ),
}


def _chart(name: str, chart: Path, *values: str) -> str:
    flags = ["--namespace", NAMESPACES[name], "--include-crds", "--kube-version", "1.33.4"]
    flags += (f"--set={value}" for value in values)
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACES[name]}}}\n"
    return f"{namespace}---\n{_run([binary('helm'), 'template', name, chart, *flags])}"


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True)
    if done.returncode:
        raise ClusterError(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return done.stdout


def _fitted(text: str, image: str) -> str:
    """Only deployments and configurations are read as YAML: the CRDs are megabytes."""
    return _joined(
        yaml.safe_dump(_fit(yaml.safe_load(document), image))
        if re.search(r"(?m)^kind: (Deployment|ConfigMap)$", document)
        else document
        for document in _documents(text)
    )


def _documents(text: str) -> list[str]:
    return re.split(r"(?m)^---[ \t]*$", text)


def _joined(documents: Iterable[str]) -> str:
    return "\n---\n".join(documents)


def _fit(document: dict[str, Any], image: str) -> dict[str, Any]:
    if document["kind"] == "Deployment":
        pod = document["spec"]["template"]["spec"]
        for container in pod["containers"]:
            _fit_container(container, image)
    for name, data in document.get("data", {}).items():
        if name == "controller_manager_config.yaml" and "integrations" in data:
            document["data"][name] = _fit_kueue(data)
        elif "leaderElect: true" in data:
            document["data"][name] = data.replace("leaderElect: true", "leaderElect: false")
    return document


def _fit_container(container: dict[str, Any], image: str) -> None:
    container |= {"image": image, "imagePullPolicy": "Never"}
    container["resources"] = {"requests": REQUESTS}
    if "readinessProbe" in container:
        container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 1}
    if "livenessProbe" in container:
        container["livenessProbe"] |= {"timeoutSeconds": 10, "failureThreshold": 6}
    if container["name"] == "training-operator":
        # The default comes from a public registry and holds every worker that waits for a master.
        init = f"--pytorch-init-container-image={busybox().reference}"
        container["args"] = ["--enable-scheme=pytorchjob", init]


def _fit_kueue(configuration: str) -> str:
    settings = yaml.safe_load(configuration)
    settings["integrations"]["frameworks"] = list(FRAMEWORKS)
    settings["leaderElection"]["leaderElect"] = False
    return yaml.safe_dump(settings)
