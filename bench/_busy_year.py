"""A year of a busy runner as a log: jobs on images that an inventory found, pulls, and samples of the disk.

It is loaded in bulk and folded in large pieces, which takes minutes for 20 million events and some GiB of memory; that
appends fold it in small ones to the same is for the tests to show.
"""

from __future__ import annotations

import os
import time
from typing import Any

import duckdb
import pytest

from collector.eventlog import compaction, experience, hourly
from collector.eventlog.log import EventLog
from collector.eventlog.pace import Pace
from collector.eventlog.schema import STORED_KEY
from collector.model.events import Event, Kind
from collector.queries import tally

_NS = 10**9
# What sorting takes beyond this goes to the disk.
_MEMORY = "3GiB"
YEAR_NS = 365 * 86400 * _NS
_JOB = """'{"labels":{"com.gitlab.gitlab-runner.job.id":"' || i || '","com.gitlab.gitlab-runner.managed":"true",'
    || '"com.gitlab.gitlab-runner.pipeline.id":"' || (i // 10) || '","com.gitlab.gitlab-runner.project.id":"' || project
    || '","com.gitlab.gitlab-runner.type":"build"},"name":"runner-abcdef-project-' || project || '-concurrent-'
    || (i % 4) || '-' || left(md5(i::VARCHAR), 16) || '-build"}'"""
_DISK = '{"total_bytes":100000000000,"image_bytes":50000000000,"path":"/var/lib/docker"}'
_JOBS = """
CREATE TEMP TABLE made AS SELECT i, $begin + i * ($year // $jobs) AS began, (6e10 + random() * 6e11)::BIGINT AS lasts,
    floor($images * pow(random(), 3))::INTEGER AS image, (hash(i) % 200)::INTEGER AS project FROM range($jobs) AS t(i)
"""
_TYPED = """
INSERT INTO job (job, host, ci, job_id, project_id, project, ref, runner, name)
SELECT i, $host, 'gitlab', i::VARCHAR, project::VARCHAR, 'group/p' || project, 'main', 'abcdef', 'build' FROM made
"""
# So many jobs are added at a time: sorted in memory.
_JOBS_AT_ONCE = 200_000
_FOLDED_AT_ONCE = 1_000_000
_EVENTS = f"""
INSERT INTO event BY NAME
WITH now AS (FROM made WHERE i >= $first AND i < $last)
SELECT (SELECT max(seq) FROM event) + row_number() OVER (ORDER BY at_ns) AS seq, make_timestamp_ns(at_ns) AS time,
    (hash(at_ns, kind, container) & {STORED_KEY})::BIGINT AS key, make_timestamp_ns(at_ns + 1000000000) AS recorded,
    $host AS host, kind, image, container, bytes, attributes, make_timestamp_ns(began) AS began, job, role
FROM (
    SELECT began AS at_ns, 'container_created' AS kind, image, sha256(i::VARCHAR) AS container, NULL::BIGINT AS bytes,
        {_JOB} AS attributes, NULL::BIGINT AS began, i AS job, 'build' AS role FROM now
    UNION ALL SELECT began + lasts, 'container_destroyed', image, sha256(i::VARCHAR), NULL, NULL, began, NULL, NULL
    FROM now WHERE began + lasts < $begin + $year
    UNION ALL SELECT began - 5000000000, 'image_pulled', image, NULL, NULL, NULL, NULL, NULL, NULL FROM now
    WHERE i % 9 = 0 AND i > 0
    UNION ALL SELECT $begin + k * ($year // $samples), 'disk_sampled', NULL, NULL, (5e10 + 4e10 * random())::BIGINT,
        '{_DISK}', NULL, NULL, NULL
    FROM range($samples::BIGINT * $first // $jobs, $samples::BIGINT * least($last, $jobs) // $jobs) AS d(k)
)
"""


def sizes(*usual: int) -> tuple[int, ...]:
    """How many events the logs to measure have: those of the variable BENCH_EVENTS, such as ``100,200000``."""
    named = os.environ.get("BENCH_EVENTS")
    return tuple(map(int, named.split(","))) if named else usual


def add_year(log: EventLog, events: int) -> None:
    """Add so many events of the year before now to a log that holds an inventory, folded."""
    values: dict[str, Any] = {
        "begin": time.time_ns() - YEAR_NS - 3600 * _NS,
        "year": YEAR_NS,
        "jobs": events * 45 // 100,
        "samples": events * 5 // 100,
        "host": log.host,
        "images": log.query("SELECT count(*) FROM image")[0][0],
    }
    with duckdb.connect(str(log.path), config={"memory_limit": _MEMORY}) as connection:
        connection.execute("SELECT setseed(0.5)")
        _run(connection, _JOBS, values)
        _run(connection, _TYPED, values)
        for first in range(0, values["jobs"], _JOBS_AT_ONCE):
            _run(connection, _EVENTS, values | {"first": first, "last": first + _JOBS_AT_ONCE})
    catch_up(log)


def _run(connection: duckdb.DuckDBPyConnection, sql: str, values: dict[str, Any]) -> None:
    connection.execute(sql, {name: value for name, value in values.items() if f"${name}" in sql})


def catch_up(log: EventLog) -> None:
    """Append until all is folded that can be, and have the metrics add it up."""
    before = None
    with pytest.MonkeyPatch.context() as patch:
        for folding in (compaction, experience, hourly, tally):
            patch.setattr(folding, "PACE", Pace(_FOLDED_AT_ONCE, _FOLDED_AT_ONCE))
        while before != (before := _reached(log)):
            log.append([Event(time.time_ns(), Kind.EVENT_UNREADABLE, attributes={"raw": ""})])
        tally.Tally().advance(log)  # as a collector with metrics does, and stores how far it has come


def _reached(log: EventLog) -> tuple[int | None, ...]:
    sql = """
        SELECT (SELECT max(seq) FROM projection WHERE version = ?),
            (SELECT max(until) FROM experience WHERE version = ?), (SELECT max(seq) FROM hourly WHERE version = ?)"""
    found = log.query(sql, [compaction.VERSION, experience.VERSION, hourly.VERSION])
    return tuple(found[0])
