"""The board as Grafana's classic JSON model: schema version 39, which Grafana 10.4 and later read."""

from __future__ import annotations

import json
from typing import Any

from .panels import Panel, Query, board
from .promql import Names

SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Labels to choose by, and what is asked for their values. `model` is one that a scrape configuration or
# `render(labels=...)` may add; a matcher of everything finds series without it too.
LABELS = (("job", "Job"), ("model", "Model"), ("instance", "Instance"))

# In columns and rows of Grafana's grid, which is 24 columns wide.
_WIDTH = 24
_STAT = (4, 4)
_GRAPH = (8, 8)


def matchers() -> tuple[str, ...]:
    """What every query of the board is narrowed by."""
    return tuple(f'{label}=~"${label}"' for label, _ in LABELS)


def dashboard(prefix: str) -> dict[str, Any]:
    """The whole board, of series that begin with `prefix`."""
    return {
        "uid": "balanceroute",
        "title": "BalanceRoute",
        "description": "Loads of data-parallel decode workers, who waits and why, where requests are placed.",
        "tags": ["llm", "balanceroute"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "panels": _panels(prefix),
        "templating": {"list": _variables(prefix)},
        "annotations": {
            "list": [
                {
                    "name": "Alerts that fire",
                    "enable": True,
                    "hide": False,
                    "iconColor": "red",
                    "datasource": DATASOURCE,
                    "expr": 'ALERTS{alertname=~"BalanceRoute.*",alertstate="firing"}',
                }
            ]
        },
    }


def text(prefix: str) -> str:
    """The board as a file."""
    return json.dumps(dashboard(prefix), indent=2) + "\n"


def _variables(prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "hide": 0,
            "skipUrlSync": False,
            "multi": False,
            "includeAll": False,
            "options": [],
            "refresh": 1,
            "regex": "",
        }
    ]
    narrowed = [f'__name__=~"{prefix}_worker_load_tokens|balanceroute_load_tokens"']
    for name, label in LABELS:
        query = f"label_values({{{','.join(narrowed)}}},{name})"
        narrowed.append(f'{name}=~"${name}"')
        found.append(
            {
                "type": "query",
                "name": name,
                "label": label,
                "datasource": DATASOURCE,
                "query": {"query": query, "refId": "StandardVariableQuery"},
                "hide": 0,
                "skipUrlSync": False,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
                "options": [],
                # When the time range changes too: instances come and go.
                "refresh": 2,
                "regex": "",
                "sort": 1,
            }
        )
    return found


def _panels(prefix: str) -> list[dict[str, Any]]:
    """Rows and panels, laid out from left to right and downwards."""
    found: list[dict[str, Any]] = []
    y = 0
    for row in board(Names(prefix, matchers())):
        found.append(
            {
                "type": "row",
                "id": len(found) + 1,
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = tallest = 0
        for panel in row.panels:
            width, height = _STAT if panel.kind == "stat" else _GRAPH
            if x + width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            position = {"h": height, "w": width, "x": x, "y": y}
            found.append(_panel(panel, len(found) + 1, position))
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return found


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": position,
        "targets": [_target(panel, query, chr(ord("A") + at)) for at, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _target(panel: Panel, query: Query, letter: str) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        "instant": panel.kind == "stat",
        "range": panel.kind != "stat",
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "stat":
        steps = [{"value": value, "color": color} for value, color in panel.steps]
        defaults["color"] = {"mode": "thresholds"}
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"value": None, "color": "green"}, *steps]}
        if panel.states:
            named = {
                str(value): {"text": text, "color": color, "index": at}
                for at, (value, text, color) in enumerate(panel.states)
            }
            defaults["mappings"] = [{"type": "value", "options": named}]
    elif panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return defaults


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {
            "showLegend": True,
            "displayMode": "table",
            "placement": "bottom",
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "graphMode": "none",
        "colorMode": "value",
        "justifyMode": "auto",
        "textMode": "value",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "heatmap": {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Viridis",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "showValue": "never",
        "rowsFrame": {"layout": "auto"},
    },
}
