from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.search.grid import AllowlistSet, Candidate, expand, grid
from analyzer.search.pareto import badness, pareto, possible, sweep
from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.traits import Use
from pruner.policy.file import policy_from
from pruner.policy.orders import ORDERS
from tests.analyzer.command import analyzer
from tests.analyzer.test_cli import busy

__all__ = ["busy"]

HOUR = 3600.0


def workload(images: int = 7, uses: int = 60, size: int = 20) -> Trace:
    """Images of 20 bytes used one an hour, some more often than others, on a disk of 100."""
    facts = [ImageFacts(layers=[(f"l{i}", size)], references=(f"r/{i}:1",)) for i in range(images)]
    entries = [(HOUR * (1 + k), (k * k + k // 3) % images, HOUR * (1 + k) + 60, Use.CONTAINER) for k in range(uses)]
    return make_trace(facts, entries, [DiskState(0.0, 100, 0)])


BASE = sweep(workload(), [Candidate("p", policy_from({}, "test"))])[0]


@pytest.mark.parametrize(
    ("axis", "texts", "values"),
    [
        ("threshold", ["5%:8%:1%"], ["5%", "6%", "7%", "8%"]),
        ("threshold", ["10%", "0.5%:1.5%:0.5%"], ["10%", "0.5%", "1.0%", "1.5%"]),
        ("threshold", ["1GB:2GB:500MB"], ["1000000000B", "1500000000B", "2000000000B"]),
        ("threshold", ["10GB:25GB:10GB", "10GB"], ["10GB", "20GB"]),
        ("min_age", ["1h:3h:1h,1d"], ["1h", "2h", "3h", "1d"]),
        ("min_age", ["30min:1h:15min"], ["1800s", "2700s", "3600s"]),
        ("order", ["lru,created"], ["lru", "created"]),
        ("order", ["all"], list(ORDERS)),
    ],
)
def test_ranges_and_lists_are_written_out(axis: str, texts: list[str], values: list[str]) -> None:
    assert expand(axis, texts) == values


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("threshold", "40%:5%:1%", "range '40%:5%:1%' is empty: it starts over its end"),
        ("threshold", "5%:40%:0%", "never ends"),
        ("threshold", "5%:40%", "write START:END:STEP"),
        ("threshold", "5%:40GB:1%", "of one unit"),
        ("threshold", "a:b:c", "write START:END:STEP"),
        ("min_age", "1h:2h:x", "write START:END:STEP, such as 1h:24h:1h"),
        ("threshold", "0B:1TB:1B", "take a larger step"),
    ],
)
def test_impossible_ranges_are_named(axis: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^--{axis.replace('_', '-')}: ") as caught:
        expand(axis, [text])
    assert words in str(caught.value)


def test_a_grid_combines_all_and_leaves_out_what_contradicts_itself() -> None:
    found, left_out = grid({"threshold": ["10%,20%"], "target": ["10%,20%"], "order": ["lru", "lfu"]})
    chosen = [(str(item.policy.threshold), str(item.policy.target), item.policy.order) for item in found]
    assert left_out == 2
    assert len(set(chosen)) == 6
    assert ("20%", "10%", "lru") not in chosen
    with pytest.raises(UsageError, match=r"no policy of the grid is possible: .* more than target"):
        grid({"threshold": ["30%"], "target": ["10%"]})
    with pytest.raises(UsageError, match=r"^--order: .*must be one of"):
        grid({"order": ["lru,best"]})
    with pytest.raises(UsageError, match="more than 100,000"):
        grid({"threshold": ["1%:90%:0.01%"], "min_age": ["1h:99h:1h"]})


def test_allowlist_sets_are_named_and_combined(tmp_path: Path) -> None:
    file = tmp_path / "base.txt"
    file.write_text("# base images\nr/0\n\nr/1:*  # twice a day\n")
    sets = [AllowlistSet.parse(text) for text in ("none", "one=r/0,r/2", str(file))]
    assert sets == [
        AllowlistSet("none", ()),
        AllowlistSet("one", ("r/0", "r/2")),
        AllowlistSet("base", ("r/0", "r/1:*")),
    ]
    found, _ = grid({"threshold": ["10%"]}, sets)
    assert [item.policy.allowlist for item in found] == [(), ("r/0", "r/2"), ("r/0", "r/1:*")]
    assert ["sparing" in item.name for item in found] == [False, True, True]
    assert "sparing base" in found[2].name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=", "'x=' names no entries"),
        ("=a,b", "names no entries"),
        ("/nonexistent/list", "cannot be read: No such file"),
        ("bad=re:(", "--allowlist-set bad: allowlist entry 're:(' is not a regular expression"),
    ],
)
def test_impossible_sets_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        AllowlistSet.parse(text)
    assert words in str(caught.value)


def test_a_sweep_is_the_replays_of_its_policies() -> None:
    trace = workload()
    candidates, _ = grid({"threshold": ["10%:60%:10%"], "order": ["lru,lfu"], "min_age": ["0s,1h"]})
    output: list[float] = []
    results = sweep(trace, candidates, progress=output.append)
    assert [result.name for result in results] == [item.name for item in candidates]
    assert output[-1] == 1.0
    for result, item in zip(results, candidates, strict=True):
        assert result == replace(replay(trace, PolicyCleaner(item.policy, trace)), removed=())
    assert len({result.repulled_bytes for result in results}) > 3


def outcome(repulled: int, min_free: int, disk_full: int = 0, losses: int = 0) -> Result:
    return replace(BASE, repulled_bytes=repulled, min_free=min_free, disk_full=disk_full, losses=losses)


def test_the_front_is_what_no_other_beats() -> None:
    results = [
        outcome(0, 10),
        outcome(5, 20),
        outcome(6, 20),
        outcome(5, 20),
        outcome(0, 10, disk_full=1),
        outcome(9, 5, losses=1),
    ]
    assert pareto(results) == [True, True, False, True, False, False]
    assert pareto([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=12))
def test_the_front_is_what_comparing_all_pairs_finds(points: list[tuple[int, int, int, int]]) -> None:
    results = [outcome(repulled, free, full, lost) for repulled, free, full, lost in points]
    beaten = [False] * len(results)
    for (i, one), (_, other) in itertools.product(enumerate(results), enumerate(results)):
        a, b = badness(one), badness(other)
        beaten[i] |= a != b and all(y <= x for x, y in zip(a, b, strict=True))
    assert pareto(results) == [not flag for flag in beaten]


def test_policies_impossible_on_this_disk_are_left_out() -> None:
    trace = workload()
    candidates, _ = grid({"threshold": ["50B,20%"], "target": ["30%"]})
    assert [str(item.policy.threshold) for item in possible(trace, candidates)] == ["20%"]
    with pytest.raises(UsageError, match=r"no policy of the grid is possible on host made: .*less than threshold 50"):
        possible(trace, candidates[:1])


def test_the_command_marks_the_front_in_every_format(busy: EventLog) -> None:
    common = ("sweep", "--log", str(busy.path), "--threshold", "10%:90%:40%", "--min-age", "60s", "--order", "lru")
    table = analyzer(*common)
    assert (table.returncode, table.stderr) == (0, "")
    lines = table.stdout.splitlines()
    assert "all policies: min age 1 min" in lines
    rows_shown = [line for line in lines if line.startswith("prune below ")]
    assert [line.split("  ")[0] for line in rows_shown] == [
        f"prune below {level}% free (lru order)" for level in (10, 50, 90)
    ]
    data = json.loads(analyzer(*common, "--format", "json").stdout)
    assert [" * " in line for line in rows_shown] == [policy["pareto"] for policy in data["policies"]]
    assert [" R " in line for line in rows_shown] == [policy["recommended"] for policy in data["policies"]]
    rows = list(csv.DictReader(io.StringIO(analyzer(*common, "--format", "csv").stdout)))
    assert [row["pareto"] for row in rows] == [str(policy["pareto"]) for policy in data["policies"]]
    best = json.loads(analyzer(*common, "--front", "--format", "json").stdout)["policies"]
    assert best == [policy for policy in data["policies"] if policy["pareto"] or policy["recommended"]]


def test_a_sweep_marks_what_would_be_recommended_and_says_why_it_is_off_the_front(mesa_log: EventLog) -> None:
    grid = ("--log", str(mesa_log.path), "--order", "lru", "--threshold", "15%:40%:5%")
    advice = json.loads(analyzer("recommend", *grid, "--baseline", "none", "--format", "json").stdout)
    (marked,) = [
        policy
        for policy in json.loads(analyzer("sweep", *grid, "--format", "json").stdout)["policies"]
        if policy["recommended"]
    ]
    assert marked["name"] == advice["chosen"]["first"]["name"]
    assert not marked["pareto"]
    shown = analyzer("sweep", *grid, "--front").stdout
    assert [line.split()[6] for line in shown.splitlines() if line.startswith("prune below")] == ["R", "*"]
    output = " ".join(shown.split())
    assert "R: what `analyzer recommend` would choose of these. Of those that re-pull little more" in output
    off_front = "off the front, where free space counts and kept images do not: "
    assert f"{off_front}prune below 40% free (lru order) leaves 31.6 GiB" in output


def test_a_sweep_marks_nothing_where_nothing_fits_or_where_there_is_too_much(mesa_log: EventLog) -> None:
    log = ("--log", str(mesa_log.path), "--order", "lru")
    shown = analyzer("sweep", *log, "--threshold", "5%").stdout
    assert "None is recommended: no policy of these that leaves half of the disk to images keeps it from" in " ".join(
        shown.split()
    )
    shown = analyzer("sweep", *log, "--threshold", "10%:40%:0.1%", "--front").stdout
    assert "Of so many none is marked as recommended" in shown


def test_the_commands_grid_has_a_default(busy: EventLog) -> None:
    done = analyzer("sweep", "--log", str(busy.path), "--format", "json")
    assert len(json.loads(done.stdout)["policies"]) == 36


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--threshold", "40%:5%:1%"), 2, "--threshold: range '40%:5%:1%' is empty"),
        (("--allowlist-set", "x="), 2, "names no entries"),
        (("--order", "best"), 2, "--order: must be one of"),
        (("--threshold", "10%", "--target", "5%"), 2, "no policy of the grid is possible"),
        (("--only-host", "other"), 1, "knows no host 'other'"),
    ],
)
def test_faults_of_a_sweep_are_one_line(busy: EventLog, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = analyzer("sweep", "--log", str(busy.path), *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
