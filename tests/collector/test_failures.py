"""Pulls and jobs that failed: as a runner's log says, and as status, costs and reports show it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyzer import cli as analyzer_cli
from analyzer.audit.costs import NEVER_CAME, costs
from analyzer.audit.grouping import By
from analyzer.trace.load import load_trace
from collector.cli import app
from collector.daemon.least_free import LeastFree
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import ingest
from collector.job_sources.reading import StoredLog
from collector.job_sources.runnerlog import RunnerLog, parse_line
from collector.machine.disk import DiskSample
from collector.model.errors import EngineError
from collector.model.events import Event, Kind
from collector.model.traits import Use
from collector.queries.failures import read_failures
from collector.queries.status import status

S = 10**9
NOW = int(time.time()) - 3600
FULL = "failed to register layer: Error processing tar file(exit status 1): write /data/103: no space left on device"
POLICIES = "policies [always if-not-present]: Error response from daemon: manifest unknown (manager.go:203:0s)\n"
IMAGE = "registry.example.org/mesa/build:v3"


@pytest.mark.parametrize(
    ("message", "reference", "full"),
    [
        (f'Job failed: failed to pull image "{IMAGE}" with specified policies [if-not-present]: {FULL}', IMAGE, True),
        (
            f'Job failed (system failure): preparation: failed to pull image "{IMAGE}" with specified {POLICIES}',
            IMAGE,
            False,
        ),
        (f'Job failed (runner system failure): failed to pull image "a:1": {FULL.upper()}', "a:1", True),
        ('Job failed: exit code 1: failed to pull image "a b": x', None, False),
        ('Failed to pull image with policy "always": no space left on device', None, False),
        ('echo Job failed: failed to pull image "a:1": no space left on device', None, False),
    ],
)
def test_a_failed_pull_in_the_runner_s_log(message: str, reference: str | None, *, full: bool) -> None:
    line = parse_line(json.dumps({"msg": message, "job": 7, "project": 1, "time": "2026-01-02T03:04:05Z"}))
    assert line is not None
    failed = [fact for fact in RunnerLog().facts(line) if fact.kind is Kind.PULL_FAILED]
    assert [(fact.sighting.reference, bool(fact.details["disk_full"])) for fact in failed if fact.sighting] == (
        [(reference, full)] if reference else []
    )


def entry(message: str, job: int, at: int) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return json.dumps({"msg": message, "job": job, "project": 1, "project_full_path": "mesa/mesa", "time": moment})


@pytest.fixture
def failed(log: EventLog, tmp_path: Path) -> EventLog:
    """Two jobs whose pulls found the disk full, one that a full disk stopped later, one whose image is nowhere."""
    layers = [{"diff_id": "a", "chain_id": "a", "bytes": 5}]
    log.append(
        [
            Event(NOW * S, Kind.DISK_SAMPLED, bytes=10, attributes={"total_bytes": 100, "image_bytes": 5}),
            Event(
                NOW * S,
                Kind.IMAGE_OBSERVED,
                image="sha256:" + "1" * 64,
                attributes={"references": [IMAGE], "size": 5, "layers": layers},
            ),
        ]
    )
    path = tmp_path / "runner.log"
    pull = f'Job failed: failed to pull image "{{}}" with specified policies [always]: {FULL}'
    lines = [
        entry(pull.format(IMAGE), 1, NOW + 10),
        entry(pull.format("never/came:1"), 2, NOW + 20),
        entry("Job failed (system failure): mkdir /x: no space left on device", 3, NOW + 30),
        entry('Job failed: failed to pull image "no/such:1": manifest unknown', 4, NOW + 40),
        entry("Using Docker executor with image typo:1 ...", 5, NOW + 50),
        entry("Job failed: exit code 1", 5, NOW + 51),
        entry("Using Docker executor with image gone:1 ...", 6, NOW + 52),
        entry("Job succeeded", 6, NOW + 53),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    ingest(log, StoredLog(path))
    path.write_text("\n".join(lines) + "\n" + entry("Job succeeded", 9, NOW + 99) + "\n", encoding="utf-8")
    ingest(log, StoredLog(path))
    return log


@pytest.mark.slow
def test_failures_come_first_in_status_costs_and_simulations(failed: EventLog) -> None:
    with failed.reading() as connection:
        found = read_failures(connection, failed.host)
    # The last pull is of a failed job whose image never came, without a line that says so.
    assert (found.pulls, found.pulls_on_full_disk, found.jobs_on_full_disk) == (4, 2, 3)
    assert (found.latest, found.reference) == (NOW + 30, "never/came:1")
    assert status(failed).failures == found
    where = ("--log", str(failed.path))
    shown = CliRunner().invoke(app, ["status", *where]).output.replace("\n", " ")
    assert shown.startswith("warning: in the last 7 d 3 jobs failed on a full disk, 2 failed pulls among the causes")
    assert json.loads(CliRunner().invoke(app, ["status", *where, "--format", "json"]).output)["failures"]["pulls"] == 4
    assert {row.name: row.failed_pulls for row in costs(failed, By.IMAGE)} == {IMAGE: 1, NEVER_CAME: 3}
    assert {row.name: row.failed_pulls for row in costs(failed, By.PROJECT)}["mesa/mesa"] == 4
    shown = CliRunner().invoke(analyzer_cli.app, ["costs", *where]).output.replace("\n", " ")
    assert "4 pulls failed" in shown
    trace = load_trace(failed)
    assert trace.failures == str(found)
    # What could not be pulled is demanded all the same.
    demanded = [(round(at), kind) for at, kind in zip(trace.time.tolist(), trace.kind.tolist(), strict=True)]
    assert (10, Use.JOB) in demanded


def test_a_log_without_failures_says_nothing_of_them(log: EventLog) -> None:
    log.append([Event(NOW * S, Kind.DISK_SAMPLED, bytes=10, attributes={"total_bytes": 100})])
    assert str(status(log).failures) == ""
    assert "failed" not in CliRunner().invoke(app, ["status", "--log", str(log.path)]).output


def test_the_least_free_space_between_two_samples() -> None:
    gib = 2**30
    free = {"/a": [9 * gib, 2 * gib, 5 * gib], "/b": [1]}

    def measure(path: str) -> DiskSample:
        if not free[path]:
            raise EngineError("gone")
        return DiskSample(path, 10 * gib, free[path].pop(0), 0, 0)

    def sampled(path: str, amount: int) -> int | None:
        found = watch.since_last(DiskSample(path, 10 * gib, amount, 0, 0))
        return found and found[1].free_bytes

    watch = LeastFree(lambda: 1, measure)
    watch.look()  # no disk is known yet
    assert sampled("/a", 8 * gib) is None
    for _ in range(4):
        watch.look()
    assert sampled("/a", 6 * gib) == 2 * gib
    assert sampled("/a", 6 * gib) is None
    free["/a"] = [6 * gib - 10]
    watch.look()
    assert sampled("/a", 6 * gib) is None  # hardly less
    free["/a"] = [1]
    watch.look()
    assert sampled("/b", 6 * gib) is None  # of another disk
