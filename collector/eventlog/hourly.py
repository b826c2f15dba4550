"""What of the past counts by its hour: how soon containers follow pulls, and how far free space falls.

Appends keep both as rows for each hour or five minutes, with the number of the event that they have reached. What has
been recorded since then may change the hours from its own on, late as it may come: whoever asks gets these from the
events. Hours whose events a compaction has thinned are never folded again: their rows are all that is left of them.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace

import duckdb

from collector.eventlog import compaction
from collector.eventlog.pace import Pace
from collector.eventlog.sql import sql_list
from collector.eventlog.views import table_of_events, true_times
from collector.model.events import Kind
from collector.model.untrusted import LAST_NS

HOUR_NS = 3600 * 10**9
SLOT_S = 300
_SLOT_NS = SLOT_S * 10**9
# How far free space fell within a minute and within five is stored; within any other time it is read from the events.
_WITHIN = {60.0: "in_minute", float(SLOT_S): "in_slot"}
_DAY_SLOTS = 86400 // SLOT_S
# An old log is caught up by appends, none of which is to take long.
PACE = Pace(20_000, 200_000, 100_000)
"""A fold takes so many events."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of rows by time.

    Attributes:
        name: of the table.
        column: when, in whole spans since 1970.
        span_ns: nanoseconds.
        kinds: the events that it is made from, as an SQL list.
        rows: SQL of the rows that these events make.
    """

    name: str
    column: str
    span_ns: int
    kinds: str
    rows: str


_WAITS = f"""
WITH pull AS (FROM events WHERE kind = 'image_pulled' AND image IS NOT NULL),
hours AS (SELECT image, unnest([epoch_ns(time) // {HOUR_NS}, epoch_ns(time) // {HOUR_NS} + 1]) AS hour FROM pull),
created AS (
    -- Most containers follow no pull: the rest need not be sorted.
    SELECT image, time FROM (
        SELECT image, time, epoch_ns(time) // {HOUR_NS} AS hour FROM events
        WHERE kind = 'container_created' AND image IS NOT NULL
    ) SEMI JOIN hours USING (image, hour)
),
followed AS (
    SELECT epoch_ns(created.time) AS met, epoch_ns(created.time) - epoch_ns(pull.time) AS waited
    FROM pull ASOF JOIN created ON pull.image = created.image AND pull.time <= created.time
)
SELECT met // {HOUR_NS} AS hour, (waited + 999999999) // 1000000000 AS seconds, count(*) AS pulls FROM followed
WHERE waited <= {HOUR_NS} GROUP BY ALL
"""


def _falls(within: dict[float, str], span_s: float) -> str:
    """SQL of how far free space fell within some times (seconds), the deepest of each span that was sampled.

    A prune between two samples hides what it freed: a fall is counted from the highest point on. What a sample showed
    was so until the next one. What was least between them counts: a pull takes more for a while than it leaves.
    """
    falls = ", ".join(
        f"max(before) OVER (PARTITION BY disk ORDER BY time RANGE BETWEEN {seconds!r} PRECEDING AND CURRENT ROW)"
        f" - free AS {name}"
        for seconds, name in within.items()
    )
    deepest = ", ".join(f"greatest(coalesce(max({name}), 0), 0) AS {name}" for name in within.values())
    return f"""
WITH sample AS (
    SELECT epoch_ns(time) / 1e9 AS time, seq, bytes AS free, attributes ->> '$.file_system' AS file_system,
        coalesce(TRY_CAST(attributes ->> '$.main' AS BOOLEAN), true) AS main
    FROM events WHERE kind = 'disk_sampled' AND bytes >= 0
), each AS (
    SELECT '' AS disk, time, seq, free FROM sample WHERE main
    UNION ALL SELECT file_system, time, seq, free FROM sample WHERE file_system <> ''
    UNION ALL FROM earlier
), step AS (
    SELECT disk, time, seq, free, lag(free) OVER (PARTITION BY disk ORDER BY time, seq) AS before FROM each
), fall AS (SELECT disk, time, seq, free, {falls} FROM step)
SELECT disk, CAST(floor(time / {span_s!r}) AS BIGINT) AS slot, {deepest}, arg_max(free, (time, seq)) AS free
FROM fall GROUP BY disk, slot
"""


_PULL_WAIT = _Table("pull_wait", "hour", HOUR_NS, sql_list((Kind.IMAGE_PULLED, Kind.CONTAINER_CREATED)), _WAITS)
_FALL = _Table("free_space_fall", "slot", _SLOT_NS, sql_list((Kind.DISK_SAMPLED,)), _falls(_WITHIN, float(SLOT_S)))
_TABLES = (_PULL_WAIT, _FALL)
VERSION = hashlib.sha256(repr(_TABLES).encode()).hexdigest()[:16]
"""Identifies these rules: what was folded by other rules is folded again."""


def reached(connection: duckdb.DuckDBPyConnection, host: str) -> int | None:
    """The number of the last event of a host that is folded; None: nothing is that these rules made."""
    sql = "SELECT max(seq) FROM hourly WHERE host = ? AND version = ?"
    found: int | None = connection.execute(sql, [host, VERSION]).fetchall()[0][0]
    return found


def advance(connection: duckdb.DuckDBPyConnection, host: str) -> bool:
    """Fold what other folds have taken up since, one piece per call; whether that is all.

    Args:
        connection: the log, open for writing, in the transaction of an append.
        host: the host.
    """
    after, wanted = reached(connection, host), compaction.reached(connection)
    if wanted is None or (after or 0) >= wanted:
        return True
    began = time.process_time()
    until = min(wanted, (after or 0) + PACE.size)
    for table in _TABLES:
        since = 0 if after is None else _touched(connection, host, table, after, until)
        if since is not None:
            since = max(since, _thinned_until(connection, host, table) + 1)
            connection.execute(f"DELETE FROM {table.name} WHERE host = ? AND {table.column} >= ?", [host, since])
            rows = _computed(connection, host, table, since, until)
            chosen = f"SELECT $host AS host, * FROM ({rows}) WHERE {table.column} >= $since"
            values = {"host": host, "since": since}
            connection.execute(f"INSERT INTO {table.name} BY NAME {chosen}", values)
    connection.execute("DELETE FROM hourly WHERE host = ?", [host])
    connection.execute("INSERT INTO hourly VALUES (?, ?, ?)", [host, VERSION, until])
    PACE.took(until - (after or 0), time.process_time() - began)
    return until >= wanted


def waits(connection: duckdb.DuckDBPyConnection, host: str, begin: int, end: int) -> list[tuple[int, int, int]]:
    """How soon containers followed pulls.

    Args:
        connection: the log, open with our views.
        host: whose.
        begin: the first hour since 1970 that counts.
        end: the last.

    Returns:
        (hour since 1970 in which a container followed a pull within an hour, seconds between, rounded up, how often).
    """
    fresh = _fresh_from(connection, host, _PULL_WAIT, begin)
    sql = "SELECT hour, seconds, pulls FROM pull_wait WHERE host = ? AND hour BETWEEN ? AND ? ORDER BY hour, seconds"
    found = connection.execute(sql, [host, begin, min(end, fresh - 1)]).fetchall()
    if fresh <= end:
        rows = _computed(connection, host, _PULL_WAIT, fresh)
        sql = f"SELECT hour, seconds, pulls FROM ({rows}) WHERE hour BETWEEN $from AND $until ORDER BY hour, seconds"
        found += connection.execute(sql, {"host": host, "from": fresh, "until": end}).fetchall()
    return found


def waits_shown(connection: duckdb.DuckDBPyConnection, host: str) -> list[tuple[int, int, int]]:
    """As `waits`, of all hours: sooner where all events are shown and nothing is folded.

    Args:
        connection: the log, open with our views.
        host: whose.
    """
    rows = f"WITH events AS (FROM event WHERE host = $host), {_WAITS.strip().removeprefix('WITH ')}"
    return connection.execute(f"{rows} ORDER BY hour, seconds", {"host": host}).fetchall()


def falls(
    connection: duckdb.DuckDBPyConnection,
    host: str,
    disk: str,
    span_s: float,
    within_s: float,
    times: tuple[float, float],
) -> list[float]:
    """How far free space fell within a time, the deepest of each span that was sampled, oldest first, bytes.

    Args:
        connection: the log, open with our views.
        host: whose.
        disk: the mount point of the file system; empty: that of the images.
        span_s: seconds of a span.
        within_s: the time, seconds.
        times: between what times a sample counts, UTC seconds; of a span that begins before them nothing does.
    """
    first = math.ceil(times[0] / span_s)
    begin = math.floor(first * span_s) // SLOT_S
    column = _WITHIN.get(within_s) if span_s % SLOT_S == 0 else None
    fresh = begin
    found: dict[int, float] = {}
    if column is not None:
        fresh = min(_fresh_from(connection, host, _FALL, begin), math.floor(times[1]) // SLOT_S)
        sql = f"""
            SELECT slot * {SLOT_S} // $span, max({column}) FROM free_space_fall
            WHERE host = $host AND disk = $disk AND slot BETWEEN $from AND $until GROUP BY ALL"""
        values = {"host": host, "disk": disk, "span": int(span_s), "from": begin, "until": fresh - 1}
        found = dict(connection.execute(sql, values).fetchall())
    asked = replace(_FALL, rows=_falls({within_s: "fall"}, span_s))
    back = math.ceil(within_s / SLOT_S)
    rows = _computed(connection, host, asked, fresh, back=back, before_s=times[1])
    sql = f"SELECT slot, fall FROM ({rows}) WHERE disk = $disk AND slot >= $first"
    values = {"host": host, "disk": disk, "first": max(first, int(fresh * SLOT_S // span_s))}
    for slot, fall in connection.execute(sql, values).fetchall():
        found[slot] = max(fall, found.get(slot, 0))
    return [float(found[slot]) for slot in sorted(found)]


def differences(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Where what is folded is not what the events come to: what; reads all of them.

    Args:
        connection: the log, open with our views.
    """
    found = []
    for host, until in connection.execute("SELECT host, seq FROM hourly WHERE version = ?", [VERSION]).fetchall():
        for table in _TABLES:
            since = _thinned_until(connection, host, table) + 1
            # What has been recorded later, such as a clock that was set back, has made the rows from there on obsolete.
            fresh = _fresh_from(connection, host, table, since)
            stored = f"SELECT * EXCLUDE (host) FROM {table.name} WHERE host = $host"
            events = f"SELECT * FROM ({_computed(connection, host, table, since, until)})"
            sql = f"""
                SELECT min({table.column}), count(*) FROM (
                    (({stored}) EXCEPT ({events})) UNION ALL (({events}) EXCEPT ({stored}))
                ) WHERE {table.column} >= $since AND {table.column} < $fresh"""
            first, count = connection.execute(sql, {"host": host, "since": since, "fresh": fresh}).fetchall()[0]
            if count:
                found.append(f"{count} folded rows of {table.name} since {table.column} {first} differ from the events")
    return found


def waiting_since(connection: duckdb.DuckDBPyConnection, host: str) -> int:
    """From when on rows have to be made from the events, UTC nanoseconds; very late: all are folded.

    Args:
        connection: the log, open with our views.
        host: whose.
    """
    return min(_fresh_from(connection, host, table, 0) * table.span_ns for table in _TABLES)


def _fresh_from(connection: duckdb.DuckDBPyConnection, host: str, table: _Table, begin: int) -> int:
    """From when on, not before `begin`, rows have to be made from the events, in spans since 1970."""
    after = reached(connection, host)
    since = 0 if after is None else _touched(connection, host, table, after)
    return 2**62 if since is None else max(since, begin, _thinned_until(connection, host, table) + 1)


def _touched(
    connection: duckdb.DuckDBPyConnection, host: str, table: _Table, after: int, until: int | None = None
) -> int | None:
    """The first span that events with such numbers may change; None: none."""
    before = "" if until is None else f" AND seq <= {until}"
    sql = f"""
        SELECT min(epoch_ns(time)) // {table.span_ns} FROM {table_of_events(connection)}
        WHERE host = ? AND seq > ?{before} AND kind IN ({table.kinds}, '{Kind.CLOCK_SET_BACK}')"""
    found: int | None = connection.execute(sql, [host, after]).fetchall()[0][0]
    return found


def _thinned_until(connection: duckdb.DuckDBPyConnection, host: str, table: _Table) -> int:
    """The last span with rows of which a compaction may have taken events; -1: there are none."""
    kept = _kept(connection)
    compacted = true_times(connection, LAST_NS, kept, kept)
    sql = f"""
        SELECT coalesce(max({table.column}), -1) FROM {table.name} WHERE host = $host AND {table.column} < (
            SELECT coalesce(max(epoch_ns(began)) // {HOUR_NS} + 1, 0) * {HOUR_NS // table.span_ns}
            FROM {compacted} WHERE host = $host AND kind = '{Kind.LOG_COMPACTED}')"""
    return int(connection.execute(sql, {"host": host}).fetchall()[0][0])


def _kept(connection: duckdb.DuckDBPyConnection) -> str:
    """SQL of the events that decisions need: all that say what became of the clock and the log are among them."""
    events, after = table_of_events(connection), compaction.reached(connection)
    return events if after is None else compaction.folded(events, after, LAST_NS)


def _computed(
    connection: duckdb.DuckDBPyConnection,
    host: str,
    table: _Table,
    since: int,
    until: int | None = None,
    *,
    back: int = 1,
    before_s: float | None = None,
) -> str:
    """SQL of the rows from a span on, and of some before, made from the events.

    Args:
        connection: the log, open.
        host: whose, also as the value `host` of the SQL.
        table: which rows.
        since: the first span that is made whole.
        until: the number of the last event that counts; None: all do.
        back: how many spans before it matter.
        before_s: the time of the last event that counts, UTC seconds; None: all do.
    """
    begin = max(since - back, 0)
    # What free space was shown last before is known from the rows of then.
    earlier = "SELECT NULL::VARCHAR AS disk, NULL::DOUBLE AS time, NULL::BIGINT AS seq, NULL::BIGINT AS free LIMIT 0"
    if table is not _PULL_WAIT and reached(connection, host) is not None:
        # Of a span that a compaction has thinned its row says more than the events that are left.
        begin = max(begin, min(since, _thinned_until(connection, host, table) + 1))
        earlier = f"""
            SELECT disk, max(slot) * {float(SLOT_S)} AS time, -1 AS seq, arg_max(free, slot) AS free
            FROM free_space_fall WHERE host = $host AND slot < {begin} GROUP BY disk"""
    elif table is not _PULL_WAIT:
        begin = max(begin - _DAY_SLOTS, 0)
    events = table_of_events(connection)
    chosen = f"""(FROM {events} WHERE time >= make_timestamp_ns({begin * table.span_ns}) AND kind IN ({table.kinds})
        {"" if until is None else f"AND seq <= {until}"})"""
    true = true_times(connection, LAST_NS, chosen, _kept(connection))
    until_time = "" if before_s is None else f"AND epoch_ns(time) / 1e9 <= {before_s!r}"
    return f"""
        WITH events AS (FROM {true} WHERE host = $host AND isfinite(time) {until_time}), earlier AS ({earlier}),
        {table.rows.strip().removeprefix("WITH ")}"""
