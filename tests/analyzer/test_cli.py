from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analyzer.baselines import baseline
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from pruner.policy.docker_gc import import_docker_gc
from pruner.policy.docuum import import_docuum
from tests.analyzer.command import analyzer
from tests.analyzer.test_loading import T0, S, container, observed, sample


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    log = EventLog(tmp_path_factory.mktemp("busy") / "events.duckdb", host="runner")
    log.append([sample(0, free=70, image_bytes=0), *container(1, 2, "a", "c1"), observed(1, "a")])
    log.append([*container(3, 4, "b", "c2"), observed(3, "b"), sample(2000, free=70, image_bytes=0)])
    return log


@pytest.mark.parametrize(("tool", "settings"), [("docker-gc", "GRACE_PERIOD_SECONDS=60"), ("docuum", "docuum -t 70%")])
def test_another_tools_settings_can_be_tried(busy: EventLog, tmp_path: Path, tool: str, settings: str) -> None:
    source, policy = tmp_path / f"{tool}.sh", tmp_path / "policy.toml"
    source.write_text(settings)
    made = import_docker_gc([source]) if tool == "docker-gc" else import_docuum([str(source)])
    policy.write_text(made.to_toml())
    done = analyzer("simulate", "--log", str(busy.path), "--policy", str(policy))
    assert done.returncode == 0, done.stderr
    assert str(made.policy().threshold) in done.stdout


def test_one_row_per_policy_beside_the_baselines(busy: EventLog) -> None:
    done = analyzer("simulate", "--log", str(busy.path), "--threshold", "10%", "--threshold", "30%", "--min-age", "60s")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 uses of 2 images in 33.3 min on host runner")
    header = next(line for line in lines if line.startswith("POLICY"))
    assert [name for name in ("RE-PULLS", "RE-PULLED", "FAILED PULLS", "MIN FREE") if name in header] == [
        "RE-PULLS",
        "RE-PULLED",
        "FAILED PULLS",
        "MIN FREE",
    ]
    rows = lines[lines.index(header) + 1 :]
    assert "note: docker-gc-24h is left out: it runs every 1 h, longer than the log spans" in lines
    assert [row.split("  ")[0] for row in rows[:3]] == [
        "never",
        "prune below 10% free (forecast order)",
        "prune below 30% free (forecast order)",
    ]
    assert "all policies: min age 1 min" in lines


def test_json_and_csv_say_the_same(busy: EventLog) -> None:
    common = ("simulate", "--log", str(busy.path), "--baseline", "none", "--threshold", "60B")
    data = json.loads(analyzer(*common, "--format", "json").stdout)
    (row,) = csv.DictReader(io.StringIO(analyzer(*common, "--format", "csv").stdout))
    (policy,) = data["policies"]
    assert data["begin"] == T0 / S
    assert policy["removals"] == 0
    assert row == {name: "" if value is None else str(value) for name, value in policy.items()}
    assert analyzer(*common, "--format", "json").stdout == analyzer(*common, "--format", "json").stdout


@pytest.mark.parametrize("order", ["lru", "forecast"])
def test_figures_do_not_depend_on_the_number_of_processors(mesa_log: EventLog, order: str) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("there is but one processor")
    log = ("--log", str(mesa_log.path), "--order", order, "--format", "json")
    commands = (
        ("simulate", "--baseline", "none", *(f"--threshold={share}%" for share in (5, 20, 35, 50)), *log),
        ("sweep", "--threshold", "5%:40%:5%", *log),
    )
    many = [analyzer(*command) for command in commands]
    os.sched_setaffinity(0, {min(allowed)})
    try:
        one = [analyzer(*command) for command in commands]
    finally:
        os.sched_setaffinity(0, allowed)
    assert [done.stderr for done in many if done.returncode] == []
    assert [done.stdout for done in one] == [done.stdout for done in many]


def test_regret_is_reported_if_asked_for(busy: EventLog) -> None:
    options = ("simulate", "--log", str(busy.path), "--threshold", "60B", "--min-age", "0s", "--regret")
    lines = analyzer(*options).stdout.splitlines()
    header = next(line for line in lines if line.startswith("POLICY"))
    rows = {line.split("  ")[0]: line for line in lines[lines.index(header) + 1 :]}
    assert header.endswith("REGRET")
    assert rows["never"].endswith("-")
    assert rows["prune below 60 B free (forecast order), min age 0 s"].endswith("0 B")
    (policy,) = json.loads(analyzer(*options, "--baseline", "none", "--format", "json").stdout)["policies"]
    assert (policy["optimum_least"], policy["optimum_most"]) == (0, 0)


def test_a_policy_file_is_taken_and_options_change_it(busy: EventLog, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('threshold = "40%"\norder = "created"\n')
    done = analyzer("simulate", "--log", str(busy.path), "--policy", str(file), "--min-age", "2h", "--baseline", "none")
    assert "prune below 40% free (created order), min age 2 h" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--threshold", "130%"), 2, "'130%' is not between 0% and 100%"),
        (
            ("--threshold", "5%:40%:1%"),
            2,
            "--threshold: '5%:40%:1%' is a range or a list, which `analyzer sweep` takes",
        ),
        (("--threshold", "2GB/job"), 2, "set job_slots in a policy file"),
        (
            ("--disk-size", "1GB", "--other", "2GB"),
            2,
            "a disk of 954 MiB with 1.86 GiB of other usage leaves no room",
        ),
        (("--other", "100TiB"), 2, "with 100 TiB of other usage leaves no room"),
        (("--threshold", "20%", "--target", "10%"), 2, "threshold = 20% must not be more than target = 10%"),
        (("--order", "best"), 2, "order"),
        (("--trigger", "never"), 2, "--trigger: 'never' is not one of tick, event"),
        (("--format", "xml"), 2, "--format: 'xml' is not one of table, json, csv"),
        (("--baseline", "nobody"), 2, "--baseline: unknown 'nobody'"),
        (("--disk-size", "big"), 2, "--disk-size: 'big' is not a size"),
        (("--pull-rate", "0"), 2, "--pull-rate must be"),
        *(
            (("--price-per-gib", amount), 2, f"'{amount}' is not a number from 0")
            for amount in ("nan", "-1", "0,1", "")
        ),
        (("--policy", "/nonexistent.toml"), 2, "no policy file /nonexistent.toml"),
        (("--log", "/nonexistent.duckdb"), 1, "no event log at /nonexistent.duckdb"),
        (("--only-host", "other"), 1, "knows no host 'other'; known are runner"),
        (("--interval", "1h"), 1, "spans 33.3 min, less than one interval of 1 h"),
    ],
)
def test_faults_are_one_line_and_an_exit_status(
    busy: EventLog, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = analyzer("simulate", "--log", str(busy.path), *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("analyzer: ")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_an_amount_per_job_says_for_how_many_slots_it_is_taken(busy: EventLog, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('threshold = "10B/job"\njob_slots = 4\n')
    done = analyzer(
        "simulate", "--log", str(busy.path), "--policy", str(file), "--baseline", "none", "--format", "json"
    )
    found = json.loads(done.stdout)
    (policy,) = found["policies"]
    assert policy["threshold"] == 40
    assert policy["name"] == "prune below 10B/job free (forecast order), 4 job slots, min age auto"
    assert "an amount per job is taken for all job slots" in found["assumptions"][-1]


def test_what_asks_for_more_than_the_disk_holds_is_reported(busy: EventLog) -> None:
    done = analyzer("simulate", "--log", str(busy.path), "--threshold", "1GB", "--format", "json")
    assert "1GB is more than the disk holds: under it pruning never ends" in json.loads(done.stdout)["assumptions"]


def test_a_baseline_is_known_by_the_name_that_the_table_shows(busy: EventLog) -> None:
    shown = json.loads(analyzer("simulate", "--log", str(busy.path), "--baseline", "all", "--format", "json").stdout)
    for name in [policy["name"] for policy in shown["policies"] if policy["baseline"]]:
        assert baseline(name).name == name


def test_a_log_of_gaps_only_is_refused(log: EventLog) -> None:
    log.append([Event(T0 + S, Kind.GAP, began_ns=T0), sample(2)])
    done = analyzer("simulate", "--log", str(log.path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "holds no images" in done.stderr


def test_version_and_help() -> None:
    assert analyzer("--version").stdout.startswith("docker-hindsight ")
    shown = analyzer("simulate", "--help")
    assert shown.returncode == 0
    assert "--threshold" in shown.stdout


def test_help_loads_neither_numpy_nor_duckdb_nor_docker() -> None:
    code = "import sys, analyzer.cli; print([m for m in ('numpy', 'pandas', 'docker', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("columns", [80, 180])
def test_the_table_fits_the_terminal_and_says_what_it_leaves_out(busy: EventLog, columns: int) -> None:
    done = analyzer("simulate", "--log", str(busy.path), "--min-age", "60s", columns=columns)
    assert max(len(line) for line in done.stdout.splitlines()) <= columns
    header = next(line for line in done.stdout.splitlines() if line.startswith("POLICY"))
    assert "RE-PULLED" in header
    assert ("EMERGENCY" in header) == (columns == 180)
    assert ("No room for" in done.stdout) == (columns == 80)
