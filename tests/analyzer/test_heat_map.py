"""A thousand hosts and a year in one picture, and in a page that stays small."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from analyzer.report.fleet_page import fleet_study, render_fleet
from analyzer.report.heat_map import heat_map
from analyzer.report.study import Lineup
from analyzer.search.fleet import Findings, Simulation
from analyzer.search.grid import grid
from analyzer.search.proposal import Proposal
from analyzer.trace.daily import UNKNOWN, DailyFree, daily_free
from analyzer.trace.describe import HistoryFacts
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.traits import Use
from collector.model.units import DAY_S
from tests.analyzer.test_search import BASE, workload

CANDIDATES, _ = grid({"threshold": ["5%:80%:5%"]})


def test_each_day_has_the_least_that_was_free_then() -> None:
    images = [ImageFacts(layers=[("l", 10)], references=("r:1",))]
    trace = make_trace(images, [(1.0, 0, 2.0, Use.CONTAINER)], [DiskState(0.0, 200, 0)], end=3.5 * DAY_S)
    origin = trace.utc(0.0) % DAY_S
    # Lowered within the first day, raised at the next midnight, lowered for a moment on the third day.
    seconds = np.array([0.0, 10.0, DAY_S - origin, 2 * DAY_S - origin + 5, 2 * DAY_S - origin + 6])
    found = daily_free(trace, seconds, np.array([100, 50, 80, 1, 90]))
    assert found.first == int(trace.utc(0.0) // DAY_S)
    assert list(found.shares[:4]) == [50, 80, 1, 90]


def test_a_simulation_says_how_free_space_went_when_asked() -> None:
    trace, policies = workload(uses=60), tuple(item.policy for item in CANDIDATES[:2])
    assert Simulation(policies)(trace).free is None
    found = Simulation(policies, drawn=policies[0])(trace).free
    assert found is not None
    assert len(found.shares) == int(trace.utc(trace.end) // DAY_S) - found.first + 1


def test_the_picture_has_a_line_for_each_host_and_a_column_for_some_days() -> None:
    made = heat_map([DailyFree(100, bytes([10, 3, 200])), DailyFree(102, bytes([7]))])
    assert made is not None
    data = base64.b64decode(made.source.partition(",")[2])
    assert data.startswith(b"\x89PNG")
    length = int.from_bytes(data[data.index(b"IDAT") - 4 : data.index(b"IDAT")])
    lines = zlib.decompress(data[data.index(b"IDAT") + 4 :][:length])
    assert lines == bytes([0, 10, 3, 200, 0, UNKNOWN, UNKNOWN, 7])
    assert (made.columns, made.days, made.first, made.last) == (3, 1, 100, 102)
    long = heat_map([DailyFree(0, bytes(1000))])
    assert long is not None
    assert (long.columns, long.days) == (334, 3)
    assert heat_map([]) is None


def host(number: int) -> Findings:
    results = [replace(BASE, name=item.name, repulled_bytes=number, losses=0) for item in CANDIDATES]
    size = 2 ** (36 + number % 3)
    facts = HistoryFacts(f"runner-{number:04}.example.org", 1.7e9, 1.73e9, 9, 99, size, ("a note on all",))
    return Findings((), facts, tuple(results), free=DailyFree(19000 + number % 5, bytes([number % 200]) * 365))


@pytest.mark.slow
def test_a_page_of_a_thousand_hosts_stays_small() -> None:
    lineup = Lineup.of(
        [item.policy for item in CANDIDATES], Proposal(CANDIDATES[0].policy, holds=True, name=CANDIDATES[0].name)
    )
    page = render_fleet(fleet_study([host(number) for number in range(1000)], lineup))
    assert len(page) < 4_000_000
    assert len(re.findall(r"<tr", page)) < 2100
    assert "a note on all" in page
    assert page.count("a note on all") == 1
    assert "Hosts by the size of their disks" in page
    few = render_fleet(fleet_study([host(number) for number in range(3)], lineup))
    assert len(re.findall(r"<tr", few)) > 3 * len(CANDIDATES)
    assert "From above: runner-0000.example.org" in few
