"""One policy for a fleet or one per class, judged by hosts that it was not chosen on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from analyzer.report.fleet_page import fleet_study, render_fleet
from analyzer.report.study import Lineup
from analyzer.report.terminal_classes import finish_division
from analyzer.report.terminal_recommend import NothingFitsError
from analyzer.search.classes import Division, Found, divide, fits
from analyzer.search.fleet import Findings
from analyzer.search.grid import grid
from analyzer.search.proposal import Proposal
from analyzer.search.recommend import Constraints, Recommendation, recommend
from analyzer.trace.describe import HistoryFacts
from collector.terminal.console import Format
from pruner.policy.file import load_policy
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import history
from tests.analyzer.test_search import BASE

GIB = 2**30
CANDIDATES, _ = grid({"threshold": ["10%", "30%"]})
LOW, HIGH = (item.name for item in CANDIDATES)


def host(name: str, disk: int, low: tuple[int, int], high: tuple[int, int]) -> tuple[Findings, None]:
    """What (incidents, bytes pulled again) each policy comes to on a host."""
    results = [
        replace(BASE, name=policy, disk_full=full, repulled_bytes=again, compulsory_bytes=100 * GIB, losses=0)
        for policy, (full, again) in ((LOW, low), (HIGH, high))
    ]
    return Findings((), HistoryFacts(name, 0.0, 1.0, 0, 0, disk), tuple(results)), None


def divided(found: Found, most: int) -> Division:
    def choose(hosts: Found) -> Recommendation:
        return recommend(CANDIDATES, hosts, Constraints(), least_history=0.0)

    return divide(found, CANDIDATES, choose, Constraints(), most)


def names(division: Division) -> Sequence[str]:
    return [one.made.chosen.candidate.name for one in division.classes if one.made.chosen is not None]


@pytest.mark.slow
def test_small_and_large_disks_get_a_policy_each_where_one_serves_them_badly() -> None:
    small = [host(f"small-{k}", 100 * GIB, (3, 1 * GIB), (0, 2 * GIB)) for k in range(6)]
    large = [host(f"large-{k}", 900 * GIB, (0, 1 * GIB), (0, 60 * GIB)) for k in range(6)]
    together = divided([*small, *large], 1)
    assert names(together) == [HIGH]
    (one,) = together.classes
    assert [misfit.host for misfit in one.misfits] == [f"large-{k}" for k in range(6)]
    assert "large-4 (60.0 GiB pulled again; prune below 10% free" in fits(one)
    assert fits(one).endswith("; and 1 more.")
    assert together.judged is not None
    assert together.judged.repulled_bytes == 6 * 62 * GIB
    apart = divided([*small, *large], 4)
    assert [one.words for one in apart.classes] == ["disks under 500 GiB", "disks of 500 GiB and more"]
    assert names(apart) == [HIGH, LOW]
    assert [fits(one) for one in apart.classes] == ["It fits all 6 hosts."] * 2
    assert apart.judged is not None
    assert apart.judged.repulled_bytes == 6 * 3 * GIB
    assert apart.said[0].startswith("By host, chosen on half of each class")
    assert "the fleet pulls 18.0 GiB again" in apart.said[0]
    assert "the hosts are divided" in apart.said[1]
    policies = tuple(item.policy for item in CANDIDATES)
    lineup = Lineup.of(policies, Proposal(policies[1], holds=True))
    page = render_fleet(fleet_study([first for first, _ in (*small, *large)], lineup, division=apart))
    table = page.split('aria-labelledby="h-classes"')[1].split("</section>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    assert [row[:2] for row in rows] == [["disks under 500 GiB", "6"], ["disks of 500 GiB and more", "6"]]
    assert [row[5] for row in rows] == ["12.0 GiB", "6.00 GiB"]
    assert table.count("It fits all 6 hosts.") == 2
    assert "the hosts are divided" in table


def test_a_class_that_nothing_fits_keeps_no_other_from_its_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [host(f"small-{k}", 100 * GIB, (3, 1 * GIB), (2, 2 * GIB)) for k in range(6)]
    large = [host(f"large-{k}", 900 * GIB, (0, 1 * GIB), (0, 60 * GIB)) for k in range(6)]
    found = [*small, *large]
    out = tmp_path / "policy.toml"
    with pytest.raises(
        NothingFitsError, match=r"^disks under 500 GiB: none of 2 policies .*; it does not fit 6 of 6 hosts"
    ):
        finish_division(divided(found, 2), found, Constraints(), 1.0, Format.TABLE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["policy-disks-of-500-GiB-and-more.toml"]
    assert "disks of 500 GiB and more: 6 hosts" in capsys.readouterr().out
    (tmp_path / "policy-disks-of-500-GiB-and-more.toml").unlink()
    fitting = divided([*(host(f"small-{k}", 100 * GIB, (3, GIB), (0, 2 * GIB)) for k in range(6)), *large], 2)
    first, second = fitting.classes
    broken = replace(first, made=replace(first.made, broken=("1 disk-full incident, more than 0",)))
    with pytest.raises(NothingFitsError, match=r"^disks under 500 GiB: .* but not the rest \(1 disk-full"):
        finish_division(replace(fitting, classes=(broken, second)), found, Constraints(), 0.7, Format.TABLE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["policy-disks-of-500-GiB-and-more.toml"]


def test_hosts_that_one_policy_serves_are_not_divided() -> None:
    found = [host(f"h{k}", (100 + 100 * k) * GIB, (0, 1 * GIB), (0, 2 * GIB)) for k in range(9)]
    division = divided(found, 4)
    assert names(division) == [LOW]
    assert division.said[-1].endswith("not worth another policy.")


def test_too_few_hosts_to_judge_by_are_said_to_be() -> None:
    division = divided([host(f"h{k}", 100 * GIB, (0, 1), (0, 2)) for k in range(2)], 3)
    assert division.judged is None
    assert division.said[0].startswith("Nothing is judged across hosts: 2 hosts")


@pytest.mark.slow
def test_recommendations_for_a_fleet_are_written_class_by_class(tmp_path: Path) -> None:
    for k in range(4):
        history(tmp_path / f"{k}.duckdb", f"h{k}", "abcd", rounds=8)
    common = ("recommend", "--log", str(tmp_path / "*.duckdb"), "--least-history", "1h", "--baseline", "none")
    more = ("--threshold", "10%", "--threshold", "20%", "--classes", "2")
    done = analyzer(*common, *more, "--output", str(tmp_path / "policy.toml"))
    assert done.returncode == 0, done.stderr
    assert "It fits all 4 hosts." in done.stdout
    assert "By host, chosen on half of them" in done.stdout
    assert load_policy(tmp_path / "policy.toml")
    found = json.loads(analyzer(*common, *more, "--format", "json").stdout)
    assert (found["judged_by_host"]["name"], found["judged_by_host"]["uses"]) == ("chosen on other hosts", 4 * 32)
    assert [one["class"] for one in found["classes"]] == [""]
