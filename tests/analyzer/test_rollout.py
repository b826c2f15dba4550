"""A policy's way onto a fleet: where to begin, and what a week there says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyzer.search.rollout import Expected, Judged, Observed, canaries, default_count, verdict
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.shipping.ship import ship
from collector.shipping.store import Folder
from pruner.policy.file import to_toml
from tests.analyzer.command import analyzer
from tests.analyzer.test_loading import T0, S, container, observed, sample
from tests.analyzer.test_verify import HOUR, POLICY, STAYS, ended, entry, recorded
from tests.needs import first_row_fast

DAY = 24 * HOUR
BEGUN = "2023-11-14T22:43:20"  # half an hour after T0


def expected(host: str, *, disk: int = 2**40, again: float = 1.0, free: int = 2**38, full: int = 0) -> Expected:
    return Expected(host, 1.0, again, 2 * again, free, full, 0, disk, 2.0**30)


def test_the_tightest_the_dearest_and_the_most_usual_host_come_first() -> None:
    usual = [expected(f"usual-{k}") for k in range(9)]
    special = [
        expected("tight", free=2**30),
        expected("dear", again=2.0**35),
        expected("small", disk=2**30, free=2**28),
        expected("broken", full=2),
    ]
    begin = canaries([*usual, *special], 4)
    assert [one.expected.host for one in begin] == ["tight", "dear", "usual-0", "small"]
    assert len(canaries(usual, 100)) == 9
    assert [one.why for one in canaries([expected(name, again=0.0) for name in "ab"], 2)] == [
        "least space left",
        "the most usual disk and load",
    ]
    assert canaries([expected("broken", full=1)], 3) == []
    assert [default_count(hosts) for hosts in (4, 1500)] == [3, 30]


def seen(host: str, *, prunes: int = 1, faults: tuple[str, ...] = ()) -> Judged:
    return Judged(expected(host), Observed(seconds=8 * 86400.0, prunes=prunes, least_free=2**38), faults)


@pytest.mark.parametrize(
    ("judged", "unjudged", "says"),
    [
        ([seen("a"), seen("b", prunes=0)], (), "go on: 2 hosts did as predicted: 1 prune, no disk full"),
        ([seen("a", prunes=0)], (), "wait: no prune by this policy was seen on a: is it in force there, and needed?"),
        ([seen("a")], ("b",), "wait: 1 of 2 hosts did not do as predicted: b: it cannot be judged"),
        ([], ("b",), "wait: 1 of 1 host did not do as predicted: b: it cannot be judged"),
        ([seen("a"), seen("b", faults=("x", "y"))], (), "wait: 1 of 2 hosts did not do as predicted: b: x, y"),
    ],
)
def test_to_go_on_takes_a_prune_and_every_canary(judged: list[Judged], unjudged: tuple[str, ...], says: str) -> None:
    good, said = verdict(judged, unjudged)
    assert (good, said.startswith(says), "\n" in said) == (says.startswith("go on"), True, False)
    assert good == said.endswith("; no prune was needed on b")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts that pruned by the policy an hour after T0 and went on for eight days, shipped to a folder."""
    tmp_path = tmp_path_factory.mktemp("fleet")
    for name in ("one", "two"):
        log = EventLog(tmp_path / f"{name}.duckdb", host=name)
        log.append([sample(0, free=40, image_bytes=60), Event(T0, Kind.COLLECTOR_STARTED)])
        for k, image in enumerate("abc"):
            log.append([observed(1 + k, image), *container(10 + 20 * k, 20 + 20 * k, image, f"c{k}")])
        log.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS]), ended(HOUR + 1, HOUR, "a")])
        log.append([sample(hour * HOUR, free=60, image_bytes=40) for hour in range(2, 8 * 24)])
        if name == "two":
            log.append([Event(T0 + int(2 * DAY * S), Kind.PULL_FAILED, attributes={"disk_full": "true"})])
        ship(log, Folder(tmp_path / "fleet"))
    (tmp_path / "policy.toml").write_text(to_toml(POLICY))
    return tmp_path


@pytest.mark.slow
def test_a_week_is_judged_in_one_line_from_shipped_logs(fleet: Path) -> None:
    common = ("rollout", "--log", str(fleet / "fleet"), "--policy", str(fleet / "policy.toml"))
    beginning = json.loads(analyzer(*common, "--hosts", "1", "--format", "json").stdout)
    assert [one["host"] for one in beginning["begin"]] == ["one"]
    table = analyzer(*common)
    assert (table.returncode, "start with 2 of 2 hosts" in table.stdout) == (0, True), table.stderr
    good = analyzer(*common, "--since", BEGUN, "--canary", "one")
    assert (good.returncode, good.stderr) == (0, "")
    assert "note: one: predicted from only 30 min of history" in good.stdout
    assert good.stdout.splitlines()[-1].startswith("go on: 1 host did as predicted: 1 prune, no disk full, 0 B pulled")
    verified = analyzer("verify", "--log", str(fleet / "fleet"), "--only-host", "one")
    assert "100.0% of 3 verdicts on images are what the history says." in verified.stdout, verified.stderr
    several = analyzer("verify", "--log", str(fleet / "fleet"))
    assert (several.returncode, "holds 2 hosts (one, two): choose one with --only-host" in several.stderr) == (2, True)
    bad = analyzer(*common, "--since", BEGUN)
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[-1] == "wait: 1 of 2 hosts did not do as predicted: two: the disk was full 1 time"
    unknown = analyzer(*common, "--since", "2000-01-01", "--canary", "one", "--canary", "two", "--format", "json")
    said = json.loads(unknown.stdout)
    assert (unknown.returncode, said["go_on"], len(said["notes"])) == (1, False, 2)
    assert said["verdict"].endswith("one: it cannot be judged; two: it cannot be judged")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    first_row_fast(
        (("--since", "1d"), "no host has pruned by this policy since then"),
        (("--since", "2000-01-01"), "has no history before 2000-01-01"),
        (("--since", "soon"), "--since: 'soon' is neither"),
        (("--since", BEGUN, "--canary", "three"), "no log knows host 'three'"),
        (("--canary", "one"), "--canary: needs --since"),
    ),
)
def test_what_cannot_be_judged_is_one_line(fleet: Path, arguments: tuple[str, ...], says: str) -> None:
    done = analyzer("rollout", "--log", str(fleet / "fleet"), "--policy", str(fleet / "policy.toml"), *arguments)
    assert (done.returncode != 0, done.stderr.count("\n"), says in done.stderr) == (True, 1, True), done.stderr
    assert "are , " not in done.stderr
