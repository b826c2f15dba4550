"""The year of Mesa's CI: the figures that the project stands on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyzer.baselines import baseline
from analyzer.baselines.base import Baseline
from analyzer.baselines.by_age import DockerGc, PruneUntil
from analyzer.search.adoption import adoption_time, first_week
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.lifelines import stays
from analyzer.simulation.replay import replay, replay_many
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.units import HOUR_S, format_bytes
from pruner.policy.policy import Policy, Space
from tests.analyzer.conftest import GIB


def run(trace: Trace, order: str = "lru", threshold: str = "10%") -> Result:
    return replay(trace, PolicyCleaner(Policy(threshold=Space.parse(threshold), order=order), trace))


def test_the_year_is_read_whole(mesa: Trace) -> None:
    assert (mesa.demands, mesa.images) == (121_787, 533)
    assert mesa.layer_bytes.sum() / GIB == pytest.approx(1030.04, abs=0.01)


def test_age_pulls_again_what_is_needed(mesa: Trace) -> None:
    age = replay(mesa, PruneUntil(24 * HOUR_S, 900.0, "local"))
    assert age.repulled_bytes / GIB == pytest.approx(5090.3, abs=0.1)
    assert replay(mesa, DockerGc()).repulled_bytes / GIB == pytest.approx(49_422.3, abs=0.1)


def test_least_recently_used_pulls_nothing_again(mesa: Trace) -> None:
    result = run(mesa)
    assert (result.repulls, result.removals, result.disk_full) == (0, 489, 3)
    assert run(mesa, threshold="20%").disk_full == 0


def test_pull_time_is_the_poorer_criterion(mesa: Trace) -> None:
    assert run(mesa, "pulled").repulled_bytes / GIB == pytest.approx(9.63, abs=0.1)


def test_keeping_everything_needs_ten_disks(mesa: Trace) -> None:
    result = replay(mesa, Baseline())
    assert (result.repulls, result.compulsory, result.removals) == (0, 533, 0)
    assert result.min_free / GIB == pytest.approx(100 - 1030.04, abs=0.01)


def test_the_first_week_of_an_automatic_threshold_is_that_of_a_host_that_knows_its_past(mesa: Trace) -> None:
    small = replace(mesa, disk_total=np.full_like(mesa.disk_total, 35 * GIB))
    policy, begin = Policy(), adoption_time(small)
    year = replay(small, PolicyCleaner(policy, small, trigger=Trigger.EVENT))
    held = np.zeros(small.images, dtype=np.bool_)
    stay = stays(small, year.removed)
    held[stay.image[(stay.begin <= begin) & (begin < stay.end)]] = True
    week = first_week(small, policy, held)
    assert week is not None
    assert week.result.removals == sum(gone.time > begin for gone in year.removed) == 3
    assert week.result.repulls == 0


def test_the_page_of_comparison_says_what_the_simulation_does(mesa: Trace) -> None:
    page = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines()]
    output = {row[0].strip("`"): row[2:] for row in rows if len(row) == 5 and re.match(r"[\d,]+$", row[3])}
    assert {"docker-gc", "docuum", "kubelet", "ecs", "docker-hindsight"} <= set(output)
    cleaners = [baseline(name) for name in output if name != "docker-hindsight"]
    ours = PolicyCleaner(Policy(threshold=Space.parse("20%")), mesa)
    results = replay_many(mesa, [*cleaners, ours], removals=False)
    found = [[format_bytes(one.repulled_bytes), f"{one.disk_full:,}", format_bytes(one.min_free)] for one in results]
    assert found == [*(row for name, row in output.items() if name != "docker-hindsight"), output["docker-hindsight"]]
