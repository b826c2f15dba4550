"""The state of a log and of the host in it, as `collector status` shows it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.eventlog.database import files_aside
from collector.eventlog.identity import label_of
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.retention import WHOLE_SINCE
from collector.eventlog.spool import waiting_for
from collector.machine.prune_runs import Fruitless, read_runs
from collector.machine.wake import read_min_age
from collector.model.defaults import LEAST_HISTORY
from collector.model.errors import LogError
from collector.model.events import DEMANDS
from collector.model.units import DAY_S, format_duration, parse_duration
from collector.queries.coverage import OBSERVED_SPAN, coverage, known_host
from collector.queries.failures import Failures, read_failures
from collector.queries.next_step import how_to_start, next_step

if TYPE_CHECKING:
    import duckdb

LEAST_HISTORY_S = parse_duration(LEAST_HISTORY)
# Less than this share of a week leaves room for uses that nobody saw.
_ENOUGH_OBSERVED = 0.95
# A collector that runs samples the disk every 5 minutes.
_SILENT_S = 900.0
# The last sample may be one of least free space, which says nothing else; so long before it there are others.
_LATEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class DiskState:
    """A file system that holds bytes of the engine, as it was last sampled. Sizes are bytes.

    Attributes:
        file_system: where it is mounted; None: the engine has only this one.
        holds: what of the engine lies there; empty: all of it.
        free_bytes, total_bytes: what was free, and what there is in all.
    """

    file_system: str | None
    holds: list[str]
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a log. Times are UTC seconds, sizes bytes, shares 0 to 1.

    `unwatched_seconds` is the time since the collector last recorded anything, once it has stopped or been silent for
    longer than it ever is; None: it runs.
    `holds` says what fills the disk of the images, by kind, as of the latest sample; what the engine does not account
    for is `unaccounted`, with containers' logs, which `pruner plan` lists by themselves.
    `disks` has each file system that holds bytes of the engine, as last sampled, that of the images first.
    `damaged_logs` names the files that were set aside because they were damaged, the oldest first.
    `min_age` is the minimum age by which the pruner last decided, in words with its evidence; empty: not known.
    `failures` says which pulls and jobs failed in the last 7 days.
    `standstill` has the latest runs of the pruner that removed nothing though space was short; None: there is none
    since one that did or had nothing to do. `target_reached` is when one last ended with enough space; None: not known.
    `whole_since` is from when on the history is complete: older events were thinned; None: from its beginning.
    `recommendation_from` is from when on the history is long enough for `analyzer recommend`; None: no image was
    used yet.
    `next_step` says what to do next.
    `free_history` has the least free space of each of up to 168 equal intervals in the last week of disk samples.
    """

    log: str
    host: str
    schema_version: int
    file_bytes: int
    spooled_events: int
    events: int
    events_by_kind: dict[str, int]
    first_event: float | None
    last_event: float | None
    lag_seconds: float | None
    unwatched_seconds: float | None
    gaps: int
    gap_seconds: float
    coverage_7_days: float | None
    coverage_30_days: float | None
    images: int
    image_bytes: int | None
    free_bytes: int | None
    total_bytes: int | None
    data_root: str | None
    holds: dict[str, int]
    disks: list[DiskState]
    free_history: list[tuple[float, int]]
    damaged_logs: list[str]
    failures: Failures
    min_age: str
    standstill: Fruitless | None
    target_reached: float | None
    whole_since: float | None
    recommendation_from: float | None
    next_step: str

    def misses_uses(self, now: float) -> bool:
        """Whether so little of the last 7 days was observed that uses may be missing; a younger log misses none."""
        is_old = self.first_event is not None and now - self.first_event > 7 * DAY_S
        return is_old and self.coverage_7_days is not None and self.coverage_7_days < _ENOUGH_OBSERVED


def status(log: EventLog, now: float | None = None) -> Status:
    """The state of a log, and of this host (or the only one) in it. Raises LogError."""
    now = time.time() if now is None else now
    # What the last week of samples shows may be long ago.
    sampled_at, names_main = log.query(_SAMPLED, whole_since=ONLY_KEPT)[0]
    week, latest = (ONLY_KEPT if sampled_at is None else sampled_at - span for span in (7 * DAY_S + 1, _LATEST_S))
    with log.one_state():
        with log.reading(whole_since=week) as connection:
            host = known_host(connection, log.host)
            of_main = "AND main" if names_main else ""
            history = connection.execute(_FREE_HISTORY.format(of_main=of_main), [host, host]).fetchall()
            failures = read_failures(connection, host, now - 7 * DAY_S)
        with log.reading(whole_since=latest) as connection:
            kinds = dict(
                connection.execute(
                    "SELECT kind, events FROM kind_counts WHERE host = ? ORDER BY kind", [host]
                ).fetchall()
            )
            first, last, recorded = connection.execute(
                "SELECT epoch_ns(min(time)) / 1e9, epoch_ns(max(time)) / 1e9, epoch_ns(max(recorded)) / 1e9"
                " FROM event WHERE host = ?",
                [host],
            ).fetchall()[0]
            seen = coverage(connection, host)
            last_mark = _last_mark(connection, host)
            disk = connection.execute(_LAST_DISK, [host]).fetchall()
            sampled = connection.execute(_LAST_DISKS, [host]).fetchall()
            filled = disk_holds(connection, host)
            name = label_of(connection, host)
            whole_since = connection.execute(WHOLE_SINCE, [host]).fetchall()[0][0]
            images = connection.execute("SELECT count(*) FROM present_images WHERE host = ?", [host]).fetchall()[0][0]
    runs = read_runs(log.path)
    free, total, path, *_ = disk[0] if disk else (None,) * 3
    unwatched = _unwatched(seen.last, last_mark, now)
    used = any(kinds.get(kind) for kind in DEMANDS)
    sound = None if first is None or not used else _sound_from(first, last, now)
    return Status(
        log=str(log.path),
        host=name,
        schema_version=log.schema_version(),
        file_bytes=log.path.stat().st_size,
        spooled_events=waiting_for(log.path),
        events=sum(kinds.values()),
        events_by_kind=kinds,
        first_event=first,
        last_event=last,
        lag_seconds=None if recorded is None else max(0.0, now - recorded),
        unwatched_seconds=unwatched,
        gaps=len(seen.gaps),
        gap_seconds=seen.lost(-math.inf, math.inf),
        coverage_7_days=seen.coverage(now - 7 * DAY_S, now),
        coverage_30_days=seen.coverage(now - 30 * DAY_S, now),
        images=images,
        image_bytes=filled.get("images"),
        free_bytes=free,
        total_bytes=total,
        data_root=path,
        holds=filled,
        disks=[DiskState(mount, holds or [], *sizes) for mount, holds, *sizes in sampled],
        free_history=history,
        damaged_logs=[str(path) for path in files_aside(log.path)],
        failures=failures,
        min_age=read_min_age(log.path),
        standstill=runs.row,
        target_reached=runs.reached,
        whole_since=None if whole_since is None else whole_since / 1e9,
        recommendation_from=sound,
        next_step=next_step(
            log.path,
            now,
            watching=unwatched is None and seen.first is not None,
            sound=sound is not None and now >= sound,
        ),
    )


def _sound_from(first: float, last: float, now: float) -> float:
    """When the history is long enough, if it goes on from now: what was recorded long ago does not grow by waiting."""
    sound = first + LEAST_HISTORY_S
    return sound if now < sound or last >= sound else now + sound - last


def require_collector(log: EventLog, now: float | None = None) -> None:
    """Make sure that a collector is running, by the rule of `Status.unwatched_seconds`.

    Args:
        log: the log that the collector writes.
        now: UTC seconds; None: the present.

    Raises:
        LogError: none is running, none ever has, or the log cannot be read.
    """
    now = time.time() if now is None else now
    with log.reading(whole_since=ONLY_KEPT) as connection:
        host = known_host(connection, log.host)
        first, last = connection.execute(OBSERVED_SPAN, [host]).fetchall()[0]
        last_mark = _last_mark(connection, host)
    if first is None:
        raise LogError(f"no collector has recorded anything in {log.path} yet: start it: {how_to_start(log.path)}")
    silent = _unwatched((last or first) / 1e9, last_mark, now)
    if silent is not None:
        raise LogError(f"{unwatched_text(silent)}: start it: {how_to_start(log.path)}")


def unwatched_text(seconds: float) -> str:
    """What to say to the user about so many seconds without a collector."""
    return f"no collector has been running for {format_duration(seconds)}"


def _last_mark(connection: duckdb.DuckDBPyConnection, host: str) -> str | None:
    """Which a host's collector recorded last, its start or its stop; None: neither."""
    found: str | None = connection.execute(_LAST_MARK, [host]).fetchall()[0][0]
    return found


def _unwatched(last: float | None, last_mark: str | None, now: float) -> float | None:
    """Seconds since the collector last recorded anything; None if it seems to run."""
    if last is None:
        return None
    silent = max(0.0, now - last)
    return silent if last_mark == "collector_stopped" or silent > _SILENT_S else None


_LAST_MARK = """
SELECT arg_max(kind, seq) FROM event WHERE host = ? AND kind IN ('collector_started', 'collector_stopped')
"""


_HOLDERS = ("images", "containers", "volumes", "build_cache")


_LAST_DISK = """
SELECT free_bytes, total_bytes, path, used_bytes, image_bytes, container_bytes, volume_bytes, build_cache_bytes
FROM disk WHERE host = ? ORDER BY time DESC LIMIT 1
"""


def disk_holds(connection: duckdb.DuckDBPyConnection, host: str) -> dict[str, int]:
    """What filled the disk of the images when it was last sampled, bytes by kind; empty where it never was.

    What the engine does not account for is `unaccounted`, containers' logs among it.
    """
    row = connection.execute(_LAST_DISK, [host]).fetchone()
    free, total, _, used, *known = row or (None,) * 8
    if free is None or total is None:
        return {}
    parts = {name: int(size) for name, size in zip(_HOLDERS, known, strict=True) if size is not None}
    return {**parts, "unaccounted": max(0, int(used or total - free) - sum(parts.values()))}


# When a disk was last sampled, and whether samples say which of several disks they are of.
_SAMPLED = """
SELECT epoch_ns(max(time)) / 1e9, coalesce(bool_or(contains(attributes::VARCHAR, '"main"')), false)
FROM event WHERE kind = 'disk_sampled'
"""
# All disks are sampled at once, and what was sampled in the past may not be there any more.
_LAST_DISKS = """
SELECT file_system, holds, free_bytes, total_bytes FROM disks
WHERE host = $1 AND free_bytes IS NOT NULL AND total_bytes IS NOT NULL
    AND time = (SELECT max(time) FROM disks WHERE host = $1 AND main)
QUALIFY row_number() OVER (PARTITION BY file_system ORDER BY free_bytes) = 1
ORDER BY main DESC, file_system
"""
# The newest week, an hour at a time, so that the answer stays small. To read what else samples say takes most of it.
_FREE_HISTORY = """
WITH week AS (
    SELECT epoch_ns(time) AS at_ns, free_bytes FROM disks
    WHERE host = ? {of_main} AND free_bytes IS NOT NULL
        AND disks.time > (SELECT max(time) FROM event WHERE kind = 'disk_sampled' AND host = ?) - INTERVAL 7 DAYS
), span AS (
    SELECT min(at_ns) AS begun, max(at_ns) - min(at_ns) + 1 AS lasted FROM week
)
SELECT arg_min(at_ns, free_bytes) / 1e9, min(free_bytes) FROM week, span
GROUP BY (at_ns - begun) * 168 // lasted ORDER BY 1
"""
