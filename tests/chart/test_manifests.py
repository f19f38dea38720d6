"""manifests/: what a cluster needs once, pinned to the versions that the tests run against."""

import re
from pathlib import Path

import pytest

from goku_platform.jobs import names
from tests.chart.chart import MANIFESTS, loaded
from tests.cluster.binaries import BY_NAME

KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))
OPERATORS = sorted((MANIFESTS / "operators").iterdir())


@pytest.mark.parametrize("folder", OPERATORS, ids=lambda folder: folder.name)
def test_operators_are_pinned_to_the_tested_version(folder: Path) -> None:
    remotes = [each for each in loaded(folder / "kustomization.yaml")["resources"] if "://" in each]
    version = re.escape(BY_NAME[folder.name].version)
    assert remotes
    for remote in remotes:
        assert re.search(rf"(\?ref=|/download/){version}(/|$)", remote)


def test_the_readme_names_the_same_versions() -> None:
    text = (MANIFESTS / "README.md").read_text()
    for folder in OPERATORS:
        [line] = re.findall(rf"(?m)^\| `operators/{folder.name}` .*$", text)
        assert BY_NAME[folder.name].version in line
    assert f"JobSet {BY_NAME['jobset'].version}" in text


def test_kube_state_metrics_is_told_our_labels() -> None:
    assert f"pods=[{names.RUN},{names.JOB}]" in (MANIFESTS / "README.md").read_text()


def test_there_is_no_job_among_them() -> None:
    kinds = {
        document["kind"]
        for path in MANIFESTS.rglob("*.yaml")
        if (document := loaded(path)) and "kind" in document
    }
    assert kinds == {"Kustomization", "Namespace", "Configuration"}


def test_the_namespace_enforces_restricted() -> None:
    labels = loaded(MANIFESTS / "namespace" / "namespace.yaml")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_kustomization_says_what_it_is_for() -> None:
    assert KUSTOMIZATIONS
    assert all(path.read_text().startswith("# ") for path in KUSTOMIZATIONS)


def test_kueue_queues_every_kind_that_it_can() -> None:
    config = loaded(MANIFESTS / "operators" / "kueue" / "config.yaml")
    wanted = {
        "kubeflow.org/pytorchjob",
        "trainer.kubeflow.org/trainjob",
        "jobset.x-k8s.io/jobset",
        "batch/job",
        "ray.io/rayjob",
    }
    assert wanted <= set(config["integrations"]["frameworks"])
    assert config["metrics"]["enableClusterQueueResources"] is True
