"""What the chart shares with the code, it shares exactly: keys, kinds, ports, versions, runtime."""

import re

import yaml

from goku.config.run import Job
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.render import runtime
from goku_platform.settings import Kind, Settings
from goku_platform.version import package_version
from tests.chart.chart import CHART, compare, loaded

TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
VALUES = loaded(CHART / "values.yaml")
OURS = {value for key, value in vars(names).items() if key.isupper()}


def test_keys_of_ours_are_those_of_the_code() -> None:
    keys = set(re.findall(r"(?m)[\s{](goku\.platform/[\w-]+)", "".join(TEMPLATES.values())))
    assert keys
    assert keys <= OURS


def test_the_monitor_selects_training_pods_of_index_0() -> None:
    monitor = TEMPLATES["podmonitor.yaml"]
    assert f"{names.JOB}: {Job.TRAIN}" in monitor
    for key in (names.REPLICA_INDEX, names.COMPLETION_INDEX):
        assert "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", key) in monitor


def test_kinds_are_where_the_code_says() -> None:
    [text] = re.findall(r'define "goku.resources" -}}\n(.*?){{- end', TEMPLATES["_names.tpl"], re.S)
    assert yaml.safe_load(text) == {
        kind.value: {"group": resource.group, "plural": resource.plural}
        for kind, resource in RESOURCES.items()
    }
    assert VALUES["launcher"]["kinds"] == [kind.value for kind in Kind]


def test_a_default_profile_fits_the_default_values() -> None:
    settings = Settings()
    assert VALUES["runtime"]["name"] == settings.runtime
    assert VALUES["runtime"]["imagePullPolicy"] == settings.image_pull_policy
    assert VALUES["runtime"]["graceSeconds"] == runtime.GRACE_SECONDS
    assert VALUES["monitoring"]["port"] == settings.metrics_port


def test_the_runtime_is_the_one_that_the_code_renders() -> None:
    """After a change that is meant: GOKU_GOLDEN=write pytest tests/chart."""
    heading = (
        "# Written by a test from render/runtime.py, for a default profile. The template sets the\n"
        "# name, the Secrets, the pull policy, the grace and the port.\n"
    )
    text = yaml.safe_dump(runtime.render(Settings()), sort_keys=False)
    compare(CHART / "runtime.yaml", heading + text)


def test_chart_and_package_have_one_version() -> None:
    chart = loaded(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == package_version()
