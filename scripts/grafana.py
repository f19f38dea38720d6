"""Dashboards as Grafana reads them: panels in, JSON out. `dashboards.py` says what they show."""

import json
from dataclasses import dataclass
from typing import Any

_PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 24, 8  # of Grafana's grid, and of a panel


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: expressions, each with the legend of its series."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One dashboard. `variables` maps a name to the query that lists its values."""

    name: str
    title: str
    variables: dict[str, str]
    panels: tuple[Panel, ...]
    events: tuple[tuple[str, str, str], ...] = ()  # title, expression, colour: marks on every panel


def as_json(dashboard: Dashboard) -> str:
    """The dashboard as Grafana reads it."""
    document = {
        "uid": f"goku-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["goku"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": [_event(*event) for event in dashboard.events]},
        "templating": {
            "list": [_datasource(), *(_variable(*item) for item in dashboard.variables.items())]
        },
        "panels": _laid_out(dashboard.panels),
    }
    return json.dumps(document, indent=2) + "\n"


def _event(title: str, expression: str, colour: str) -> dict[str, Any]:
    return {
        "name": title,
        "datasource": _PROMETHEUS,
        "expr": expression,
        "enable": True,
        "iconColor": colour,
        "titleFormat": f"{title} of {{{{run}}}}",
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _PROMETHEUS,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes: runs come and go
        "includeAll": True,
        "multi": True,
        "sort": 1,
    }


def _laid_out(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Left to right, a new row where the next one does not fit."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(panels, start=1):
        height = _HEIGHT // 2 if panel.kind == "stat" else _HEIGHT
        if x + panel.width > _WIDTH:
            x, y = 0, y + placed[-1]["gridPos"]["h"]
        placed.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    return placed


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 60} if panel.stacked else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _PROMETHEUS,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _PROMETHEUS,
                "expr": expression,
                "legendFormat": legend,
                "instant": panel.kind == "table",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }
