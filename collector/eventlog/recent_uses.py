"""How often the images of each repository were used lately.

When uses are folded up to a midnight (`collector.eventlog.experience`), those that began in the last days before it are
counted by image and day in a table of their own, so that the events of these days need not be looked through for each
decision. Only events that were not folded then are added; where nothing was counted, all events of these days are.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import duckdb

from collector.eventlog import compaction
from collector.eventlog.sql import sql_list
from collector.eventlog.views import show, table_of_events, true_times
from collector.model.events import MOMENTS, Kind
from collector.model.traits import Use
from collector.model.untrusted import LAST_NS

DAY_NS = 86400 * 10**9
RECENT_DAYS = 28
"""How many days before the last midnight the uses of a repository are counted."""


@dataclass(frozen=True, slots=True)
class CountedUses:
    """Which uses are counted: of events before a midnight (UTC nanoseconds) and up to a number; at first none are."""

    until: int = 0
    seq: int = -1


def counted(connection: duckdb.DuckDBPyConnection, host: str, until: int, seq: int) -> CountedUses:
    """What is counted of the uses that are folded up to a midnight, UTC nanoseconds, and up to the event of a number.

    Args:
        connection: the log, showing all events that are kept for decisions.
        host: whose.
        until: the midnight.
        seq: the number.
    """
    found = connection.execute(_IS_COUNTED, [host, VERSION, until, seq]).fetchall()[0][0]
    return CountedUses(until, seq) if found else CountedUses()


def fold(
    connection: duckdb.DuckDBPyConnection, host: str, known: CountedUses, until: CountedUses, origin: int | None
) -> None:
    """Count the uses up to a midnight from those that were counted and the events since.

    Args:
        connection: the log, open for writing, with our views.
        host: whose.
        known: what was counted.
        until: what is to be.
        origin: when the log began, UTC nanoseconds: earlier uses do not count.
    """
    since = max(until.until - RECENT_DAYS * DAY_NS, 0)
    _show_new(connection, known, since)
    values: dict[str, Any] = {"host": host, "version": VERSION, "known": known.until, "seq": known.seq}
    values |= {"until": until.until, "newest": until.seq}
    connection.execute(_COUNT, values | {"from": max(since, origin or 0), "since": since // DAY_NS})
    connection.execute("DELETE FROM recent_use WHERE host = ?", [host])
    connection.execute("INSERT INTO recent_use BY NAME FROM recent_uses")


def is_counted(connection: duckdb.DuckDBPyConnection, host: str) -> bool:
    """Whether anything is counted by these rules."""
    sql = "SELECT 1 FROM recent_use WHERE host = ? AND version = ? LIMIT 1"
    return bool(connection.execute(sql, [host, VERSION]).fetchall())


def make_recent(
    connection: duckdb.DuckDBPyConnection, host: str, known: CountedUses, midnight: int, origin: int | None
) -> None:
    """Make the temporary table `recent`: each image with the uses of its most used repository.

    Args:
        connection: the log, with our views and the temporary table `repository`.
        host: whose.
        known: what is counted.
        midnight: the last midnight, UTC nanoseconds: later uses do not count.
        origin: when the log began, UTC nanoseconds: earlier uses do not count.
    """
    since = max(midnight - RECENT_DAYS * DAY_NS, 0)
    values: dict[str, Any] = {"host": host, "from": max(since, origin or 0), "midnight": midnight}
    show(connection, LAST_NS, again=True)
    connection.execute(_STILL_OPEN, values)
    _show_new(connection, known, since)
    values |= {"known": known.until, "seq": known.seq, "since": since // DAY_NS, "until": midnight // DAY_NS}
    connection.execute(_RECENT, values)


def _show_new(connection: duckdb.DuckDBPyConnection, known: CountedUses, since: int) -> None:
    """Let a connection see the events of uses since a time (UTC nanoseconds) that are not counted, and some others."""
    table, after = table_of_events(connection), compaction.reached(connection)
    begin = f"make_timestamp_ns({max(known.until, since)})"
    events = f"FROM {table} WHERE time >= {begin}"
    if known.until:
        events += f" UNION ALL FROM {table} WHERE time < {begin} AND seq > {known.seq}"
    kept = table if after is None else compaction.folded(table, after, LAST_NS)
    events = true_times(connection, time.time_ns(), f"({events})", kept, kept)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW event AS FROM {events}")


# Had the clock been set back since, what was counted might have had impossible times.
_IS_COUNTED = f"""
SELECT EXISTS (FROM recent_use WHERE host = $1 AND version = $2 AND until = $3)
    AND NOT EXISTS (FROM event WHERE kind = '{Kind.CLOCK_SET_BACK}' AND seq > $4)
"""
_BEGAN = f"""
SELECT image, time, seq, epoch_ns(CASE WHEN kind = 'container_destroyed' THEN began ELSE time END) AS began FROM event
WHERE host = $host AND image IS NOT NULL
    AND kind IN ('container_destroyed', {sql_list(kind for kind in MOMENTS if kind.traits.use is Use.JOB)})
    AND (time >= make_timestamp_ns($known) OR seq > $seq)
"""
_COUNT = f"""
CREATE OR REPLACE TEMP TABLE recent_uses AS
SELECT $host AS host, $version AS version, $until AS until, image, day, CAST(sum(uses) AS BIGINT) AS uses FROM (
    SELECT image, began // {DAY_NS} AS day, count(*) AS uses FROM ({_BEGAN})
    WHERE began >= $from AND time < make_timestamp_ns($until) AND seq <= $newest GROUP BY ALL
    UNION ALL SELECT image, day, uses FROM recent_use WHERE host = $host AND until = $known AND day >= $since
) GROUP BY image, day ORDER BY image, day
"""
VERSION = hashlib.sha256(f"{RECENT_DAYS}{_COUNT}".encode()).hexdigest()[:16]
"""What distinguishes these rules from others: what others counted is counted again."""
# Containers that still exist, however long ago they began; those that have gone are known by their end.
_STILL_OPEN = """
CREATE OR REPLACE TEMP TABLE still_open AS
SELECT image, count(*) AS uses FROM (
    SELECT image, epoch_ns(min(time)) AS began
    FROM event ANTI JOIN (
        SELECT container FROM event WHERE host = $host AND kind = 'container_destroyed'
    ) USING (container)
    WHERE host = $host AND kind = 'container_created' AND image IS NOT NULL GROUP BY image, container
) WHERE began >= $from AND began < $midnight GROUP BY image
"""
_RECENT = f"""
CREATE OR REPLACE TEMP TABLE recent AS
WITH counted AS (
    SELECT image, count(*) AS uses FROM ({_BEGAN}) WHERE began >= $from AND began < $midnight GROUP BY image
    UNION ALL
    SELECT image, sum(uses) FROM recent_use
    WHERE host = $host AND until = $known AND day >= $since AND day < $until GROUP BY image
    UNION ALL FROM still_open
), total AS (
    SELECT repository, CAST(sum(uses) AS BIGINT) AS uses FROM counted JOIN repository USING (image) GROUP BY repository
)
SELECT image, max(uses) AS uses FROM repository JOIN total USING (repository) GROUP BY image
"""
