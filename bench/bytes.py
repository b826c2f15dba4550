"""Bytes that the log takes per event: ``python -m bench bytes``.

The year that ships with the project, imported; and a day of a GitLab runner: the recorded run of 13 minutes again and
again, with IDs, names and labels as a runner gives them to each container, in appends of a minute's events.
Each as it was written, and after `collector compact` where that wins anything. ``BENCH_DAYS=7`` writes so many days of
the runner, a minute each.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from bench._traces import mesa_log
from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.eventlog.retention import compact
from collector.eventlog.schema import PROJECTIONS
from collector.model.events import Event
from collector.model.jobs import GITLAB
from collector.model.observation import CreatedFrom
from collector.terminal import console

_RECORDED = Path(__file__).parents[1] / "tests" / "data" / "gitlab-runner" / "busy"
_RUN_S, _APPEND_S = 800, 60
_NS = 10**9
_ID = re.compile(r'"([0-9a-f]{16})"')
_SUFFIX = re.compile(r"-([0-9a-f]{16})\b")
_JOBS = 160


@dataclass
class _Engine:
    """What the recorded engine answers."""

    ids: dict[str, str]

    def resolve(self, reference: str) -> str | None:
        return self.ids.get(reference)

    def created_from(self, _: str) -> CreatedFrom:
        return CreatedFrom()


def runs(count: int) -> Iterator[Event]:
    """The events of the recorded run, so many times, the last a moment ago."""
    engine = _Engine(json.loads((_RECORDED / "moments.json").read_text())["images"])
    with gzip.open(_RECORDED / "docker-events.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = file.readlines()
    first_ns = json.loads(lines[0])["timeNano"]
    begin_ns = time.time_ns() - count * _RUN_S * _NS
    for number in range(count):
        translator = Translator(engine)
        for line in lines:
            # The recording has the first 16 of 64 digits of a container's ID.
            text = _ID.sub(lambda found: f'"{_hash(found[1], number)}"', line)  # noqa: B023 - called at once
            text = _SUFFIX.sub(lambda found: f"-{_hash(found[1], number)[:16]}", text)  # noqa: B023
            event = json.loads(text)
            event["timeNano"] += begin_ns + number * _RUN_S * _NS - first_ns
            _label(event["Actor"]["Attributes"], number)
            yield from translator.translate(event)


def _hash(text: str, number: int) -> str:
    return hashlib.sha256(f"{text} {number}".encode()).hexdigest()


def _label(labels: dict[str, Any], number: int) -> None:
    """Give a container of a job of its own in this run the labels that the recording leaves out."""
    if job := labels.get(f"{GITLAB}job.id"):
        job = labels[f"{GITLAB}job.id"] = str(int(job) + number * _JOBS)
        pipeline = str(int(job) // 10)
        labels |= {
            f"{GITLAB}job.before_sha": _hash("before", int(pipeline))[:40],
            f"{GITLAB}job.sha": _hash("sha", int(pipeline))[:40],
            f"{GITLAB}job.url": f"https://gitlab.example.org/group/project/-/jobs/{job}",
            f"{GITLAB}managed": "true",
            f"{GITLAB}pipeline.id": pipeline,
            f"{GITLAB}runner.local_id": "1",
        }


def runner_log(path: Path, count: int) -> EventLog:
    """A log of so many runs, as a collector writes it."""
    log = EventLog(path, host="runner")
    for _, events in groupby(runs(count), key=lambda event: event.time_ns // (_APPEND_S * _NS)):
        log.append(list(events))
    return log


def _row(name: str, log: EventLog) -> tuple[str, ...]:
    """What the file, its events with their jobs, and what is folded of them take per event."""
    with duckdb.connect(str(log.path), read_only=True) as connection:
        (events,) = connection.execute("SELECT count(*) FROM event").fetchall()[0]
        (block,) = connection.execute("SELECT block_size FROM pragma_database_size()").fetchall()[0]
        sizes = {
            table: connection.execute(
                f"SELECT count(*) FROM (SELECT block_id FROM pragma_storage_info('{table}') WHERE block_id >= 0"
                f" UNION SELECT unnest(additional_block_ids) FROM pragma_storage_info('{table}'))"
            ).fetchall()[0][0]
            * block
            for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        }
    folded = sum(size for table, size in sizes.items() if table in PROJECTIONS)
    figures = (log.path.stat().st_size, sizes["event"], sizes["job"], folded)
    return name, f"{events:,}", *(f"{figure / events:.1f}" for figure in figures)


def main() -> None:
    """Measure, and print a table."""
    rows, days = [], int(os.environ.get("BENCH_DAYS", "1"))
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        place = Path(folder)
        for name, log in (
            ("shipped year", mesa_log(place)),
            ("runner's hour", runner_log(place / "hour.duckdb", 5)),
            (
                "runner's day" if days == 1 else f"runner's {days} days",
                runner_log(place / "day.duckdb", days * 86400 // _RUN_S),
            ),
        ):
            rows.append(_row(name, log))
            written = rows[-1][2:]
            compact(log, math.inf)
            if (after := _row(f"{name}, compacted", log))[2:] != written:
                rows.append(after)
    columns = ("LOG", "EVENTS", "FILE", "EVENTS' OWN", "JOBS", "FOLDED")
    console.print_table(columns, rows, right=columns[1:])
