"""Dashboards, alert rules and recording rules: valid, and about metrics that exist."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from collector.monitoring.metrics import PREFIX, SPECS
from collector.queries.project_costs import MOST_PROJECTS, OTHERS
from tests import commands
from tests.needs import cannot_run

RULE_TESTS = Path(__file__).parents[1] / "data" / "monitoring" / "alerts_test.yml"


RECORDED = re.compile(r"\b\w+:docker_hindsight_\w+:\w+")


def promtool(*argv: str | Path, given: str = "") -> str:
    program = shutil.which("promtool")
    if program is None:
        cannot_run("promtool is not installed: run .ci/install-packages")
    found = subprocess.run([str(program), *argv], input=given, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


@functools.cache
def shipped(name: str) -> str:
    return commands.run("collector", "monitoring", name).stdout


def test_alert_rules_are_valid_and_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(shipped("alerts"))
    shutil.copy(RULE_TESTS, tmp_path)
    assert "7 rules found" in promtool("check", "rules", tmp_path / "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", tmp_path / RULE_TESTS.name)
    alerts = set(re.findall(r"alert: (\w+)", shipped("alerts")))
    assert alerts == set(re.findall(r"alertname: (\w+)", RULE_TESTS.read_text()))


def test_recording_rules_are_valid_and_come_to_what_they_should(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(shipped("rules"))
    shutil.copy(RULE_TESTS.with_name("rules_test.yml"), tmp_path)
    assert "9 rules found" in promtool("check", "rules", tmp_path / "rules.yml")
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "rules_test.yml")
    # However many projects a fleet has, the metrics of them are few and add up.
    record, pulled = "project:docker_hindsight_pulled_bytes:increase1h", "docker_hindsight_project_pulled_bytes_total"
    series = [(f"p{number}", f"0+{number + 1}x90") for number in range(MOST_PROJECTS + 9)] + [(OTHERS, "0+100x90")]
    inputs = [{"series": f'{pulled}{{project="{name}",pull="first"}}', "values": values} for name, values in series]
    total = 60 * (sum(range(1, MOST_PROJECTS + 10)) + 100)
    expected = {
        f"count({record})": ("{}", MOST_PROJECTS + 1),
        f'{record}{{project="{OTHERS}"}}': (f'{record}{{project="{OTHERS}",pull="first"}}', 60 * (45 + 100)),
        f"sum({record})": ("{}", total),
    }
    asked = [
        {"expr": expr, "eval_time": "80m", "exp_samples": [{"labels": labels, "value": value}]}
        for expr, (labels, value) in expected.items()
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": asked}
    many = tmp_path / "many.yml"
    many.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    assert "SUCCESS" in promtool("test", "rules", many)


def paths(value: Any, at: str = "") -> dict[str, str]:
    """All that a JSON value says, by where it says it."""
    if isinstance(value, dict | list) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in parts for path, leaf in paths(part, f"{at}/{key}").items()}
    return {at: json.dumps(value)}


def loaded_by_grafana(dashboard: Any) -> Any:
    """The dashboard as it comes out again of Grafana's own model of dashboards."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafana_s_own_model_loads_the_dashboard_and_nothing_is_lost() -> None:
    dashboard = json.loads(shipped("dashboard"))
    said = paths(dashboard).items()
    # The model knows no options of one data source's annotations.
    assert {path for path, _ in said - paths(loaded_by_grafana(dashboard)).items()} == {
        "/annotations/list/0/titleFormat"
    }
    fleet = json.loads(shipped("fleet"))
    assert paths(fleet).items() <= paths(loaded_by_grafana(fleet)).items()
    dashboard["panels"][4]["fieldConfig"]["defaults"]["units"] = "bytes"
    dashboard["panels"][4]["options"]["legends"] = {}
    spoilt = paths(dashboard).items() - paths(loaded_by_grafana(dashboard)).items()
    assert {path for path, _ in spoilt - said} == {
        "/panels/4/fieldConfig/defaults/units",
        "/panels/4/options/legends",
    }


def test_dashboards_and_rules_ask_only_for_metrics_that_exist() -> None:
    known = {PREFIX + spec.name for spec in SPECS}
    recorded = set(re.findall(r"record: (\S+)", shipped("rules")))
    asked = set()
    for name in ("dashboard", "fleet", "alerts", "rules"):
        said = shipped(name)
        assert set(RECORDED.findall(said)) <= recorded
        found = set(re.findall(rf"\b{PREFIX}\w+", RECORDED.sub("", said)))
        assert found <= known
        asked |= found if name != "alerts" else set()
    # Nothing is exported that nobody would look at.
    unseen = {"gaps_total", "last_prune_reached_target"}
    assert {name.removeprefix(PREFIX) for name in known - asked} <= unseen
    assert recorded <= set(RECORDED.findall(shipped("fleet")))


@pytest.mark.parametrize("name", ["dashboard", "fleet"])
def test_panels_have_a_place_each_and_their_queries_parse(tmp_path: Path, name: str) -> None:
    panels = json.loads(shipped(name))["panels"]
    rules = []
    for panel in panels:
        assert {"id", "type", "title", "description", "gridPos", "targets", "fieldConfig"} <= set(panel)
        rules += [target["expr"] for target in panel["targets"]]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    # Every query parses: as a recording rule, with Grafana's variables filled in.
    lines = ["groups:", "- name: dashboard", "  rules:"]
    for number, query in enumerate(rules):
        filled = query.replace("$__rate_interval", "5m").replace("$instance", ".*")
        lines += [f"  - record: panel:{number}", f"    expr: {json.dumps(filled)}"]
    (tmp_path / "queries.yml").write_text("\n".join(lines) + "\n")
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "queries.yml")
