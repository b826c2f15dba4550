"""How much is kept, when a log is written again, and what the command says it won."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import duckdb
import pytest

from collector.eventlog import retention
from collector.eventlog import rewrite as rewriting
from collector.eventlog.log import EventLog
from collector.eventlog.retention import OFTEN_S, compact, whole_since_ns
from collector.job_sources.ingest import store
from collector.job_sources.joblog import Sighting
from collector.job_sources.runnerlog import JobFact
from collector.model.events import Event, Kind
from collector.model.jobs import Job
from tests import commands
from tests.collector.retention.thinned import DAY, KEEP, S


def test_what_a_job_source_says_again_of_jobs_that_became_sums_is_known(tmp_path: Path) -> None:
    log, now = EventLog(tmp_path / "events.duckdb", host="h"), 1_790_000_000
    used, image, job_s = now - 200 * DAY, f"sha256:{1:064x}", 300
    log.append([Event((used - 5) * S, Kind.IMAGE_OBSERVED, image=image)])
    facts = [
        JobFact(kind, Job("gitlab", str(number), "7"), (used + number * job_s) * S, sighting)
        for number in range(100)
        for kind, sighting in (
            (Kind.JOB_STARTED, None),
            (Kind.JOB_IMAGE_USED, Sighting("build", "a:1", image, time_ns=(used + number * job_s) * S)),
        )
    ]
    assert store(log, facts, "runner log", 0).new == len(facts)
    log.append([Event((now - DAY) * S + n, Kind.COLLECTOR_STARTED) for n in range(60)])
    uses = log.query("SELECT sum(uses) FROM image_uses")
    assert compact(log, KEEP, now=now).removed > 0
    assert store(log, facts, "runner log", 0).new < len(facts) // 10  # of a few jobs only the beginning became a sum
    assert log.query("SELECT sum(uses) FROM image_uses") == uses == [(100,)]
    later = JobFact(Kind.JOB_STARTED, Job("gitlab", "1", "8"), used * S, None)  # of another project
    assert store(log, [later], "runner log", 0).new == 1


@pytest.mark.slow
def test_a_largest_size_keeps_less_but_never_less_than_decisions_need(log: EventLog, now: float) -> None:
    assert compact(log, KEEP + 2.5 * DAY, now=now).removed > 0
    # A month has not passed since, nor need it where the file is too large; a week must have.
    assert compact(log, KEEP, 1, least_s=OFTEN_S, now=now).removed == 0
    assert compact(log, KEEP, least_s=OFTEN_S, now=now + 8 * DAY).removed == 0
    assert compact(log, KEEP, 1, least_s=OFTEN_S, now=now + 8 * DAY).removed > 0
    now += 8 * DAY
    found = compact(log, math.inf, 1, now=now)
    assert found.whole_since == int(now - KEEP) // DAY * DAY
    assert compact(log, math.inf, 2**40, now=now).removed == 0


def test_the_command_says_what_it_won(log: EventLog) -> None:
    command = ["collector", "compact", "--log", str(log.path)]
    shown = commands.run(*command, "--keep", "3d")
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    shown = commands.run(*command, "--format", "json")
    assert json.loads(shown.stdout)["bytes_before"] > 0


@pytest.mark.slow
def test_a_compaction_that_would_make_the_file_larger_leaves_it_and_is_not_tried_again_soon(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "GROWTH", -(2**30))
    before = log.query("FROM event ORDER BY seq")
    found = compact(log, KEEP, now=now, least_s=DAY)
    assert (found.removed, found.bytes_before) == (0, found.bytes_after)
    assert found.bytes_without_gain
    assert log.query("FROM event ORDER BY seq") == before
    assert whole_since_ns(log) is None
    monkeypatch.setattr(rewriting, "GROWTH", 2**30)
    assert compact(log, KEEP, now=now + DAY / 2, least_s=DAY).removed == 0
    assert compact(log, KEEP, now=now + DAY, least_s=DAY).removed > 0


def test_a_command_that_won_nothing_says_so(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    found = retention.Compacted(None, 9, 0, 2**20, 2**20, 0.0, 3 * 2**20)
    monkeypatch.setattr(retention, "compact", lambda *_, **__: found)
    shown = commands.run("collector", "compact", "--log", str(log.path))
    assert (shown.returncode, shown.stdout.count("\n")) == (0, 1)
    assert shown.stdout.startswith("nothing was won: thinned, the file would take 3.00 MiB instead of 1.00 MiB")


@pytest.mark.slow
def test_an_operator_gets_space_back_for_which_the_collector_does_nothing_yet(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    words = [hashlib.shake_256(b"%d" % number).hexdigest(1000) for number in range(5_000)]
    log.append([Event(n, Kind.EVENT_UNREADABLE) for n in range(1, 3)])
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("CREATE TABLE gone AS SELECT unnest(?) AS word", [words[:1_200]])
    log.append([Event(n, Kind.EVENT_UNREADABLE, attributes={"raw": word}) for n, word in enumerate(words, 3)])
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("DROP TABLE gone")
    before = log.path.stat().st_size
    assert compact(log, math.inf, least_s=DAY).bytes_after == before
    assert compact(log, math.inf).bytes_after < before - 2**20
    assert log.query("SELECT count(*) FROM event WHERE kind = 'event_unreadable'") == [(2 + len(words),)]
