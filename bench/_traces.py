"""Traces and logs to measure with: a real year repeated, and random requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

from analyzer.data import mesa_files
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs
from collector.model.traits import Use

DISK = 100 * 2**30
DAY_NS = 86400 * 10**9
ORACLE_GENERAL = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])


def mesa_log(folder: Path) -> EventLog:
    """A year of Mesa's CI as a log: 0.24 million events."""
    log = EventLog(folder / "year.duckdb", host="mesa")
    import_jobs(*mesa_files(), log, DISK, 0)
    return log


def repeated_log(year: EventLog, years: int) -> EventLog:
    """The year's log again and again, `years` times in all, the last one as it was: no event is later than now."""
    path = year.path.with_name(f"years-{years}.duckdb")
    path.write_bytes(year.path.read_bytes())
    with duckdb.connect(str(path)) as connection:
        count, span = connection.execute(
            "SELECT count(*), epoch_ns(max(time)) - epoch_ns(min(time)) FROM event"
        ).fetchall()[0]
        span = (span // DAY_NS + 1) * DAY_NS
        # Before 1970 nothing happens in a log, so there are 53 years at most.
        connection.execute(
            f"UPDATE event SET time = make_timestamp_ns(epoch_ns(time) - {(years - 1) * span}),"
            f" began = make_timestamp_ns(epoch_ns(began) - {(years - 1) * span})"
        )
        changed = {
            "seq": f"seq + k * {count}",
            "time": f"make_timestamp_ns(epoch_ns(time) + k * {span})",
            "began": f"make_timestamp_ns(epoch_ns(began) + k * {span})",
            "container": "container || '-' || k",
        }
        columns = [row[0] for row in connection.execute("DESCRIBE event").fetchall()]
        selected = ", ".join(changed.get(column, column) for column in columns)
        connection.execute(
            f"INSERT INTO event SELECT {selected} FROM (FROM event), range(1, {years}) AS years(k)"
            " WHERE kind != 'image_observed' ORDER BY k, seq"
        )
    return EventLog(path, host="mesa")


def repeated(trace: Trace, years: int) -> Trace:
    """The trace again and again, `years` times in all."""
    span = np.ceil(trace.end / 86400.0) * 86400.0
    shifts = np.repeat(np.arange(years) * span, len(trace.time))
    return replace(
        trace,
        end=float(trace.end + (years - 1) * span),
        time=np.tile(trace.time, years) + shifts,
        image=np.tile(trace.image, years),
        until=np.tile(trace.until, years) + shifts,
        kind=np.tile(trace.kind, years),
    )


def denser(trace: Trace, times: int) -> Trace:
    """The same history with each use made `times` uses, a millisecond apart: no more misses than before."""
    step = np.tile(np.arange(times) * 1e-3, len(trace.time))
    time = np.repeat(trace.time, times) + step
    order = np.argsort(time, kind="stable")
    return replace(
        trace,
        time=time[order],
        image=np.repeat(trace.image, times)[order],
        until=np.repeat(trace.until, times)[order],
        kind=np.repeat(trace.kind, times)[order],
    )


def zipf(requests: int, objects: int, alpha: float, capacity: float) -> Trace:
    """Random requests, one a second, by Zipf's law; sizes are lognormal, the disk has `capacity` of their sum.

    One layer per image and no duration, as a cache simulator knows it.
    """
    rng = np.random.default_rng(1)
    weights = 1.0 / np.arange(1, objects + 1) ** alpha
    drawn = np.searchsorted(np.cumsum(weights) / np.sum(weights), rng.random(requests))
    sizes = np.maximum(1, rng.lognormal(13.0, 1.0, objects)).astype(np.int64)
    images = [ImageFacts([(f"own{i}", int(size))]) for i, size in enumerate(sizes)]
    trace = make_trace(images, [], [DiskState(0, int(capacity * sizes.sum()), 0)], end=requests + 1.0)
    time = np.arange(1, requests + 1, dtype=np.float64)
    return replace(trace, time=time, image=drawn, until=time, kind=np.full(requests, int(Use.JOB)))


def write_oracle_general(trace: Trace, path: Path, unit: int) -> None:
    """The trace's requests in libCacheSim's own format, sizes in `unit` bytes."""
    records = np.zeros(len(trace.time), dtype=ORACLE_GENERAL)
    records["time"] = np.minimum(trace.time, 2**32 - 1).astype(np.uint32)
    records["object"] = trace.image
    records["size"] = np.maximum(1, trace.image_bytes // unit)[trace.image]
    records["next"] = -1
    records.tofile(path)
