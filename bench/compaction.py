"""What it takes to thin logs of a year, and how long it keeps others out: ``python -m bench compaction``.

``BENCH_EVENTS=200000`` names other logs.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from bench._busy_year import add_year, sizes
from bench._bystanders import bystanders
from bench.bounds import in_child, made_engine
from collector.daemon.loop import Collector
from collector.eventlog import retention
from collector.eventlog.log import EventLog
from collector.model.units import format_bytes
from collector.terminal import console

EVENTS = sizes(2_000_000, 20_000_000)
KEEP_S = 60 * 86400.0
_BEFORE_S = 10.0


def measured(log: EventLog) -> tuple[tuple[str, ...], ...]:
    """Compact a log; what that took and how long others waited meanwhile and before, as rows of two tables."""
    events = f"{log.query('SELECT count(*) FROM event')[0][0]:,}"
    with bystanders(log) as before:
        time.sleep(_BEFORE_S)
    with bystanders(log) as meanwhile:
        began, wall = time.process_time(), time.monotonic()
        found = retention.compact(log, KEEP_S)
        seconds, wall = time.process_time() - began, time.monotonic() - wall
    took = (
        events,
        f"{found.removed:,}",
        f"{seconds:.1f} s",
        f"{wall:.1f} s",
        f"{found.longest_hold:.2f} s",
        format_bytes(found.bytes_before),
        format_bytes(found.bytes_after),
    )
    return took, *((events, name, str(before.found[name]), str(one)) for name, one in meanwhile.found.items())


def main() -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder, pytest.MonkeyPatch.context() as patch:
        engine = made_engine(Path(folder))
        engine.disk_patched(patch)
        rows: list[tuple[str, ...]] = []
        waits: list[tuple[str, ...]] = []
        for events in EVENTS:
            log = EventLog(Path(folder) / f"{events}.duckdb")
            in_child(lambda log=log: Collector(engine, log).once())  # type: ignore[misc]
            in_child(partial(add_year, log, events))
            took, *waited = measured(log)
            rows.append(took)
            waits += waited
    console.print_table(("EVENTS", "THINNED", "PROCESSOR", "TIME", "LONGEST HOLD", "BEFORE", "AFTER"), rows)
    console.print_text("how long others waited at most, of how long it took at most (processor):")
    console.print_table(("EVENTS", "WHO", "BEFORE IT", "MEANWHILE"), waits)
