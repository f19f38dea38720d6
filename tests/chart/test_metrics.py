"""Dashboards and alerts name only what exists: our metrics, and a list of what others export."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from goku.contract import metrics
from scripts import dashboards
from scripts.grafana import Dashboard, as_json
from tests.chart.chart import CHART, DASHBOARDS, MANIFESTS, compare, loaded, queries, rules

_PARTS = {"histogram": ("_bucket", "_sum", "_count")}
OURS = {
    metric.name + part: {*metrics.LABELS, *metric.labels}
    for metric in metrics.ALL
    for part in _PARTS.get(metric.kind, ("",))
}
SCRAPED = {"namespace", "pod", "job"}  # what a scrape adds
EXTERNAL = {
    # Prometheus itself
    "up",
    # kube-state-metrics
    "kube_pod_labels",
    "kube_pod_status_phase",
    # Kueue; the two of the quota need enableClusterQueueResources
    "kueue_admitted_active_workloads",
    "kueue_admission_wait_time_seconds_bucket",
    "kueue_admitted_until_ready_wait_time_seconds_bucket",
    "kueue_cluster_queue_nominal_quota",
    "kueue_cluster_queue_resource_usage",
    "kueue_evicted_workloads_total",
    "kueue_pending_workloads",
    "kueue_preempted_workloads_total",
}
_METRIC = r"(?<![\w.$])([a-zA-Z_]\w*)(?:\{([^}]*)\})?(\s*\()?"
_WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
QUERIES = tuple(queries())


def counters() -> set[str]:
    """The fields that our list for dcgm-exporter switches on."""
    lines = (MANIFESTS / "dcgm-exporter" / "counters.csv").read_text().splitlines()
    return {line.split(",")[0] for line in lines if line and not line.startswith("#")}


def named(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, with the labels that it is asked for."""
    text = re.sub(r'"[^"]*"', '""', query)
    text = re.sub(r"\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", text)
    for name, labels, call in re.findall(_METRIC, text):
        if not call and name not in _WORDS and not re.fullmatch(r"e\d+", name):
            yield name, set(re.findall(r"(\w+)\s*[=!]", labels))


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[place for place, _ in QUERIES])
def test_every_metric_and_label_exists(place: str, query: str) -> None:
    found = dict(named(query))
    assert found
    assert set(found) <= {*OURS, *EXTERNAL, *counters()}
    for name in found.keys() & OURS.keys():
        assert found[name] <= OURS[name] | SCRAPED


def test_every_metric_of_ours_is_shown() -> None:
    shown = {name for place, query in QUERIES if ":" in place for name, _ in named(query)}
    assert {name.removesuffix("_sum").removesuffix("_count") for name in OURS} <= {
        name.removesuffix("_sum").removesuffix("_count") for name in shown
    }


@pytest.mark.parametrize("dashboard", dashboards.ALL, ids=lambda each: each.name)
def test_the_dashboards_are_those_of_the_script(dashboard: Dashboard) -> None:
    compare(dashboards.FOLDER / f"{dashboard.name}.json", as_json(dashboard))


def test_no_dashboard_is_left_over() -> None:
    assert {path.stem for path in DASHBOARDS} == {each.name for each in dashboards.ALL}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_side_by_side(path: Path) -> None:
    places = [panel["gridPos"] for panel in loaded(path)["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"] in ({"severity": "page"}, {"severity": "warn"}), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_time_classes_that_alerts_name_exist() -> None:
    texts = [query for _, query in QUERIES]
    named_classes = {name for text in texts for name in re.findall(r'class="(\w+)"', text)}
    assert named_classes <= set(metrics.TimeClass)
    assert (CHART / "rules").is_dir()
