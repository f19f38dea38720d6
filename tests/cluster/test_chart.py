"""The chart and manifests/ as helm and kustomize make them: golden files, and what is refused.

After a change that is meant: GOKU_GOLDEN=write pytest tests/cluster/test_chart.py
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from goku_platform.render import runtime
from goku_platform.settings import Settings
from tests.chart.chart import CHART, DASHBOARDS, MANIFESTS, ROOT, VALUES, compare, loaded, rules
from tests.cluster.binaries import BY_NAME, binary, files
from tests.cluster.helm import HelmError, helm, objects, template

GOLDEN = ROOT / "tests" / "golden" / "chart"
FILES = sorted(VALUES.glob("*.yaml"))
EVERYTHING = VALUES / "everything.yaml"
TRAINER = ("--api-versions", "trainer.kubeflow.org/v1alpha1")


def kustomize(folder: Path) -> str:
    """What `kubectl apply -k` would apply."""
    command = [str(binary("kubectl")), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lint_finds_nothing() -> None:
    for file in FILES:
        helm("lint", "--strict", CHART, "--values", file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    documents = template(CHART, "--values", file).split("\n---\n")
    shown = [text for text in documents if "templates/dashboards.yaml" not in text]
    compare(GOLDEN / file.name, "\n---\n".join(shown).rstrip("\n") + "\n")


def test_dashboards_arrive_as_they_are() -> None:
    made = objects(
        template(CHART, "--values", EVERYTHING, "--show-only", "templates/dashboards.yaml")
    )
    data = {name: text for each in made for name, text in each["data"].items()}
    assert {name: json.loads(text) for name, text in data.items()} == {
        f"goku-{path.name}": loaded(path) for path in DASHBOARDS
    }


def test_every_alert_arrives_but_those_switched_off() -> None:
    [made] = objects(template(CHART, "--values", EVERYTHING, "--show-only", "templates/rules.yaml"))
    arrived = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    disabled = loaded(EVERYTHING)["monitoring"]["rules"]["disabled"]
    key = str
    assert sorted(arrived, key=key) == sorted(
        (rule for rule in rules() if rule["alert"] not in disabled), key=key
    )


def test_every_object_is_ours_and_in_its_namespace() -> None:
    cluster_wide = {"Namespace", "ClusterRole", "ClusterRoleBinding", "ClusterTrainingRuntime"}
    cluster_wide |= {"ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass", "Topology"}
    for made in objects(template(CHART, "--values", EVERYTHING)):
        metadata = made["metadata"]
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        wide = made["kind"] in cluster_wide
        assert metadata.get("namespace") == (None if wide else "goku-runs"), made["kind"]


def test_the_runtime_comes_where_the_cluster_serves_it() -> None:
    def kinds(*words: str) -> set[str]:
        return {made["kind"] for made in objects(template(CHART, *words))}

    assert "ClusterTrainingRuntime" not in kinds()
    assert "ClusterTrainingRuntime" in kinds(*TRAINER)
    assert "ClusterTrainingRuntime" not in kinds(*TRAINER, "--set", "runtime.create=false")


def test_the_runtime_is_that_of_a_profile_with_the_same_values() -> None:
    [made] = objects(
        template(CHART, "--values", EVERYTHING, "--show-only", "templates/runtime.yaml")
    )
    profile = Settings(image_pull_policy="Always", secrets=("store",), metrics_port=9465)
    rendered = runtime.render(profile, grace_seconds=600)
    assert made["spec"] == rendered["spec"]
    assert made["metadata"]["labels"].items() >= rendered["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("launcher.kind=job", "kind"),
        ("launcher.kinds={mpijob}", "launcher.kinds.0|launcher/kinds/0"),
        ("namespace.create=true", "the release's own namespace is there already"),
        ("monitoring.port=http", "monitoring.port|monitoring/port"),
        (
            "monitoring.rules.enabled=true,monitoring.rules.disabled={GokuGone}",
            "there is no alert GokuGone",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(values: str, words: str) -> None:
    with pytest.raises(HelmError, match=words):
        template(CHART, "--set", values)


def test_the_notes_give_a_profile_that_is_one() -> None:
    words = ("--dry-run=client", "--namespace", "goku", "--set", "kueue.enabled=true")
    printed = helm("install", "goku", CHART, *words)
    notes = printed.split("NOTES:\n")[1]
    [profile] = re.findall(r"for it:\n((?:  .*\n)+)", notes)
    settings = Settings.build(yaml.safe_load(profile))
    assert (settings.namespace, settings.queue) == ("goku", "goku")
    assert settings.service_account == "goku-training"


@pytest.mark.parametrize("name", ["namespace", "dcgm-exporter"])
def test_own_manifests_build(name: str) -> None:
    assert objects(kustomize(MANIFESTS / name))


def test_the_training_operator_builds(tmp_path: Path) -> None:
    """Remote bases are not fetched here: the module's own files stand in for them."""
    bases = files("training-operator", "manifests")
    folder = _with_local(tmp_path, "training-operator", bases, "bases/overlays/standalone")
    assert "Deployment" in {made["kind"] for made in objects(kustomize(folder))}


def test_kueue_has_its_own_configuration_and_our_two_changes(tmp_path: Path) -> None:
    chart = files("kueue", "charts/kueue")
    release = helm(
        *("template", "kueue", chart, "--namespace", "kueue-system"),
        *("--kube-version", "v1.33.4", "--show-only", "templates/manager/manager-config.yaml"),
    )
    (tmp_path / "release.yaml").write_text(release)
    folder = _with_local(tmp_path, "kueue", tmp_path / "release.yaml", "release.yaml")
    [theirs], [ours] = objects(release), objects(kustomize(folder))
    file = "controller_manager_config.yaml"
    default, changed = (yaml.safe_load(made["data"][file]) for made in (theirs, ours))
    del default["internalCertManagement"]  # helm writes Kueue's own defaults out
    default["metrics"]["enableClusterQueueResources"] = True
    added = set(changed["integrations"]["frameworks"]) - set(default["integrations"]["frameworks"])
    assert added == {"kubeflow.org/pytorchjob"}
    default["integrations"], changed["integrations"] = None, None
    assert changed == default


def test_trainer_brings_the_jobset_that_is_tested() -> None:
    overlay = loaded(files("trainer", "manifests/overlays/manager/kustomization.yaml"))
    assert "../../third-party/jobset" in overlay["resources"]
    third = loaded(files("trainer", "manifests/third-party/jobset/kustomization.yaml"))
    assert f"/download/{BY_NAME['jobset'].version}/" in third["resources"][0]
    ours = MANIFESTS / "operators" / "trainer" / "kustomization.yaml"
    assert f"brings {BY_NAME['jobset'].version} of that" in ours.read_text()


def _with_local(folder: Path, operator: str, source: Path, resource: str) -> Path:
    """A copy of an operator's kustomization whose one remote resource lies beside it."""
    made = folder / operator
    shutil.copytree(MANIFESTS / "operators" / operator, made)
    place = made / resource.split("/")[0]
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copyfile(source, place)
    kustomization = loaded(made / "kustomization.yaml")
    [_] = kustomization["resources"]
    kustomization["resources"] = [resource]
    (made / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return made
