"""Grafana's dashboards of one host and of a fleet, as the JSON that Grafana imports."""

from __future__ import annotations

import json
from string import ascii_uppercase

from collector.monitoring.panels import FLEET, HOST, JSON, Form, Panel

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_LATEST = {"calcs": ["lastNotNull"]}
# What each `@` in an expression means: of the hosts that are chosen above the panels.
_CHOSEN = 'instance=~"$instance"'
_OPTIONS: dict[Form, JSON] = {
    Form.NUMBER: {
        "reduceOptions": _LATEST,
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    Form.LINES: {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Form.BARS: {
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "minVizWidth": 0,
        "minVizHeight": 10,
        "valueMode": "color",
        "reduceOptions": _LATEST,
    },
}


def host() -> str:
    """The dashboard of one host or several, as JSON."""
    annotation = {
        "name": "Prunes",
        "enable": True,
        "iconColor": "orange",
        "datasource": _SOURCE,
        "expr": _expression("changes(docker_hindsight_last_prune_timestamp_seconds{@}[2m]) > 0"),
        "titleFormat": "prune on {{instance}}",
    }
    choice = {
        "name": "instance",
        "type": "query",
        "label": "Host",
        "datasource": _SOURCE,
        "query": {"query": "label_values(docker_hindsight_build_info, instance)", "refId": "instance"},
        "multi": True,
        "includeAll": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }
    return _as_json("docker-hindsight", HOST, [choice], [annotation])


def fleet() -> str:
    """The dashboard of many hosts together, as JSON; it needs the recording rules."""
    return _as_json("docker-hindsight fleet", FLEET, [], [])


def _as_json(title: str, panels: tuple[Panel, ...], choices: list[JSON], annotations: list[JSON]) -> str:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    dashboard = {
        "title": title,
        "uid": title.replace(" ", "-"),
        "tags": ["docker", "ci"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [source, *choices]},
        "annotations": {"list": annotations},
        "panels": [{"id": number, **_panel(panel, now=not choices)} for number, panel in enumerate(panels, 1)],
    }
    return json.dumps(dashboard, indent=2)


def _expression(query: str) -> str:
    return query.replace("@", _CHOSEN).replace("#", "docker_hindsight_")


def _panel(panel: Panel, *, now: bool) -> JSON:
    """One panel for Grafana; with `now`, figures that are not lines ask for the present only."""
    lines = panel.form is Form.LINES
    moment = {"instant": True, "range": False} if now and not lines else {}
    shown = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": at} for color, at in panel.steps]},
    }
    drawn = {"min": 0, "custom": panel.drawn} if lines else {}
    return {
        "type": panel.form,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": dict(zip("xywh", panel.place, strict=True)),
        "fieldConfig": {
            "defaults": {**shown, **drawn, **panel.defaults},
            "overrides": [
                {
                    "matcher": {"id": "byFrameRefID", "options": letter},
                    "properties": [{"id": name, "value": value} for name, value in properties.items()],
                }
                for letter, properties in panel.overrides.items()
            ],
        },
        "targets": [
            {"refId": letter, "datasource": _SOURCE, "expr": _expression(query), "legendFormat": legend, **moment}
            for letter, (query, legend) in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "options": _OPTIONS[panel.form] | ({"graphMode": "none"} if moment and panel.form is Form.NUMBER else {}),
    }
