"""One entry in the table of figures is seen wherever results are shown or added up."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer import api
from analyzer.report import parts
from analyzer.search.fleet import fleet_sum
from analyzer.search.trial import later
from analyzer.simulation.figures import FIGURES, Figure, Total, Unit, over_parts
from analyzer.simulation.result import Result, Timeline
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import history

NOT_FIGURES = {"name", "baseline", "removed", "timeline"}


@dataclass(frozen=True, slots=True)
class Longer(Result):
    """A result with a figure more."""

    waits: int = 0


def result(**figures: Any) -> Longer:
    zero: dict[str, Any] = {name: 0 for name, figure in FIGURES.items() if figure.total is not Total.DERIVED} | {
        "pull_rate": 1.0
    }
    return Longer(**{"name": "p", "baseline": False, **zero, "seconds": 10.0, **figures})


def test_every_stored_figure_is_declared() -> None:
    assert {item.name for item in fields(Result)} - NOT_FIGURES <= set(FIGURES)
    assert [name for name in FIGURES if not hasattr(Result, name)] == []


def test_a_new_figure_is_shown_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = str(history(tmp_path / "events.duckdb", "one").path)
    monkeypatch.setattr(Result, "pulls", property(lambda made: made.compulsory + made.repulls), raising=False)
    entry = Figure("all pulls", Unit.COUNT, Total.DERIVED, frame="all_pulls", header="PULLS", legend="any.", grid=0)
    monkeypatch.setitem(FIGURES, "pulls", entry)
    common = ("--log", log, "--threshold", "10%", "--threshold", "30%", "--baseline", "none")
    table = analyzer("simulate", *common).stdout
    assert "PULLS" in table
    assert "PULLS: any." in table
    found = json.loads(analyzer("simulate", *common, "--format", "json").stdout)["policies"]
    rows = list(csv.DictReader(io.StringIO(analyzer("simulate", *common, "--format", "csv").stdout)))
    assert [int(row["pulls"]) for row in rows] == [row["pulls"] for row in found]
    assert all(row["pulls"] == row["compulsory"] + row["repulls"] > 0 for row in found)
    assert "PULLS" in analyzer("sweep", "--log", log, "--threshold", "10%,20%").stdout
    assert api.simulate(api.open_log(log), {"threshold": "10%"}, baselines=())["all_pulls"].tolist() == [
        found[0]["pulls"]
    ]
    (made,) = [replace(result(compulsory=2, repulls=3))]
    shown = parts.columns([made])
    assert "pulls" in parts.heads(shown)
    assert "5" in [cell.text for cell in parts.figures(shown, made)]


def test_a_new_figure_is_summed_over_hosts_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIGURES, "waits", Figure("waits", Unit.COUNT))
    one, two = result(waits=2, min_free=5, mean_held_bytes=4.0), result(waits=3, min_free=-1, mean_held_bytes=8.0)
    both = fleet_sum([one, two])
    assert isinstance(both, Longer)
    assert (both.waits, both.min_free, both.mean_held_bytes, both.seconds) == (5, -1, 12.0, 20.0)
    parted = over_parts(one, replace(two, seconds=30.0))
    assert (parted["waits"], parted["min_free"], parted["mean_held_bytes"], parted["seconds"]) == (5, -1, 7.0, 40.0)
    steps = Timeline(np.array([0.0, 15.0]), np.array([9, 3]))
    rest = later(replace(two, waits=7, seconds=20.0, timeline=steps), one, 10.0)
    assert isinstance(rest, Longer)
    assert (rest.waits, rest.min_free, rest.mean_held_bytes, rest.seconds) == (5, 3, 12.0, 10.0)
