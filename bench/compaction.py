"""What it takes to thin logs of a year, and how long it keeps others out: ``python -m bench compaction``.

Judged is what has a bound: the longest that the log was held (processor time), and how much longer others waited for it
than before (wall time, which says little on a busy machine: see its load). Beside it stands for how long of one wait,
at most, the log was held by it: others plan meanwhile, and whoever appends waits for them, too.
``BENCH_EVENTS=200000`` names other logs, ``BENCH_LOGS=FOLDER`` a folder that may hold them as `bench bounds` kept them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench._busy_year import sizes
from bench._bystanders import bystanders
from bench.bounds import made_engine, year_log
from collector.eventlog import retention, rewrite
from collector.eventlog.file import LogFile
from collector.eventlog.log import EventLog
from collector.eventlog.rewrite import Rewriting
from collector.model.units import format_bytes
from collector.terminal import console
from tests.fake_engine import FakeEngine

EVENTS = sizes(2_000_000, 20_000_000)
KEEP_S = 60 * 86400.0
_BEFORE_S = 10.0
# Seconds that the log may be held at a time, and that others may wait.
_BOUND = 1.0


_TOOK = (
    "EVENTS",
    "THINNED",
    "PROCESSOR",
    "TIME",
    "LONGEST HOLD (PROCESSOR)",
    "THE SAME IN WALL TIME",
    "BEFORE",
    "AFTER",
)


@dataclass(frozen=True)
class _Hold:
    """One time that a log was held: processor time, and from when until when (monotonic), seconds."""

    processor: float
    began: float
    ended: float


def judged(figure: float, bound: float) -> str:
    """A figure in seconds, and whether it is within its bound."""
    return f"{figure:.2f} s, {'met' if figure <= bound else f'over {bound:g} s'}"


def _timed(holding: Callable[..., AbstractContextManager[Any]], holds: list[_Hold]) -> Callable[..., Any]:
    """What holds a log, noting each time that it did."""

    @contextmanager
    def timed(*given: Any, **how: Any) -> Iterator[Any]:
        with holding(*given, **how) as held:
            processor, wall = time.process_time(), time.monotonic()
            try:
                yield held
            finally:
                holds.append(_Hold(time.process_time() - processor, wall, time.monotonic()))

    return timed


def measured(log: EventLog) -> tuple[tuple[str, ...], ...]:
    """Compact a log; what that took and how long others waited meanwhile and before, as rows of two tables."""
    events = f"{log.query('SELECT count(*) FROM event')[0][0]:,}"
    with bystanders(log) as before:
        time.sleep(_BEFORE_S)
    holds: list[_Hold] = []
    with bystanders(log) as meanwhile, pytest.MonkeyPatch.context() as patch:
        for owner, name in ((LogFile, "_opened"), (Rewriting, "holding"), (rewrite, "keeping_out_others")):
            patch.setattr(owner, name, _timed(getattr(owner, name), holds))
        began, wall = time.process_time(), time.monotonic()
        found = retention.compact(log, KEEP_S)
        seconds, wall = time.process_time() - began, time.monotonic() - wall
    after = found.bytes_without_gain or found.bytes_after
    took = (
        events,
        f"{found.removed:,}",
        f"{seconds:.1f} s",
        f"{wall:.1f} s",
        judged(max(hold.processor for hold in holds), _BOUND),
        f"{max(hold.ended - hold.began for hold in holds):.2f} s",
        format_bytes(found.bytes_before),
        format_bytes(after) + (", so it stayed" if found.bytes_without_gain else ""),
    )
    load = f"{os.getloadavg()[0]:.1f}"
    times = _joined(holds)
    waits = (
        (
            events,
            name,
            str(before.found[name]),
            str(one),
            judged(max(one.wait - before.found[name].wait, 0.0), _BOUND),
            judged(one.kept_out(times), _BOUND),
        )
        for name, one in meanwhile.found.items()
    )
    return took, *((*row, load) for row in waits)


def _joined(holds: Sequence[_Hold]) -> list[tuple[float, float]]:
    """From when until when a log was held, each moment once."""
    found: list[tuple[float, float]] = []
    for hold in sorted(holds, key=lambda hold: hold.began):
        if found and hold.began <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], hold.ended)
        else:
            found.append((hold.began, hold.ended))
    return found


def _log(folder: Path, engine: FakeEngine, events: int) -> EventLog:
    """A log of so many events: a copy of one that was kept, or a new one."""
    name = f"{events}.duckdb"
    kept = Path(os.environ.get("BENCH_LOGS") or folder) / name
    if kept.exists():
        shutil.copy(kept, folder / name)
    return year_log(folder, engine, events)


def main() -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder, pytest.MonkeyPatch.context() as patch:
        engine = made_engine(Path(folder))
        engine.disk_patched(patch)
        rows: list[tuple[str, ...]] = []
        waits: list[tuple[str, ...]] = []
        for events in EVENTS:
            took, *waited = measured(_log(Path(folder), engine, events))
            rows.append(took)
            waits += waited
    console.print_table(_TOOK, rows)
    console.print_text("how long others waited at most, of how long it took at most (processor):")
    console.print_table(("EVENTS", "WHO", "BEFORE IT", "MEANWHILE", "LONGER", "HELD BY IT", "LOAD"), waits)
