"""The chart as files: what the tests of this folder and tests/cluster/test_chart.py read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "goku-platform"
MANIFESTS = ROOT / "manifests"
VALUES = Path(__file__).parent / "values"
RULES = tuple(sorted((CHART / "rules").glob("*.yaml")))
DASHBOARDS = tuple(sorted((CHART / "dashboards").glob("*.json")))


def loaded(path: Path) -> Any:
    """A YAML or JSON file."""
    return yaml.safe_load(path.read_text())


def rules() -> Iterator[dict[str, Any]]:
    """Every alert of the chart."""
    for path in RULES:
        for group in loaded(path)["groups"]:
            yield from group["rules"]


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of dashboards and alerts, and where it stands."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        dashboard = loaded(path)
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for event in dashboard["annotations"]["list"]:
            yield f"{path.stem}: {event['name']}", event["expr"]


def compare(path: Path, text: str) -> None:
    """The file holds this text. After a change that is meant: GOKU_GOLDEN=write."""
    if os.environ.get("GOKU_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text
