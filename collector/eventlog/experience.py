"""How the images of a host have been used, folded day by day: what `pruner.state.learning` learns from.

Up to some midnight each image has one row (its habits), the sums of each situation it was in, and the containers that
existed then; later events are added to that. When something about an image's past turns up later (a use reported late,
a name that ties it to other images), that image is folded from all of its events again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import duckdb

from collector.eventlog import compaction, recent_uses, visits
from collector.eventlog.pace import Pace
from collector.eventlog.sql import sql_list
from collector.eventlog.views import show
from collector.model.events import LIVE
from collector.model.untrusted import LAST_NS

logger = logging.getLogger(__name__)

DAY_NS = recent_uses.DAY_NS
SESSION = 3600.0
"""Uses closer together than this, in seconds, belong to one visit: its end begins an idle time."""
REMEMBERED_GAPS = 16
"""How many of the latest idle times the moving average looks back on."""
GAP_WEIGHT = 0.25
"""The weight of the latest idle time in the moving average."""
LOWEST_BIN = 11
HIGHEST_BIN = 24
"""Idle times are binned by powers of two, from half an hour (2^11 s) to a hundred days (2^23 s)."""
BUCKETS = 6
"""Use counts are binned by powers of two, from none to 16 and more."""
LOWEST_HABIT = 12
HABITS = 10
"""Usual idle times: none yet, then by powers of two from an hour (2^12 s) to more than ten days (2^20 s)."""
PHASES = (0.0, 86400.0, 7 * 86400.0)
"""Since when an image has been superseded: not at all, then from each of these seconds on."""

# Job sources report the last hours of a day after its end.
_LATE_NS = 2 * 3600 * 10**9
# Appends catch up with an old log, and none of them may take long.
PACE = Pace(1, 200_000, 50_000)
"""A fold takes the days of so many events, or one day."""
# It costs more than the folding for compaction, so it is done less often.
_FOLDS = 3
# A fold up to a midnight also reads events this long after it: what had begun by then may have ended soon after.
_AFTER_NS = DAY_NS


@dataclass(frozen=True, slots=True)
class Folded:
    """How far uses are folded: up to a midnight (UTC nanoseconds), the last event known then, and the log's start.

    The tables that hold it have a prefix where a compaction made them.
    """

    until: int = 0
    seq: int = -1
    origin: int | None = None
    prefix: str = ""


def read(
    connection: duckdb.DuckDBPyConnection, host: str, now_ns: int, *, afresh: bool = False
) -> tuple[list[Any], list[Any]]:
    """What is learned from a host's log: each image's habits, and the sums of each situation up to the last midnight.

    Args:
        connection: the log, open with our views.
        host: the host.
        now_ns: later events do not count, UTC nanoseconds.
        afresh: whether to read all events, even those already folded.

    Returns:
        (image ID, uses, returns, usual idle time in seconds or None, time it was superseded in UTC nanoseconds or None,
        uses of its most used repository in the last `recent_uses.RECENT_DAYS` days up to the last midnight),
        and (number of the situation, returns, idle time in nanoseconds).
    """
    midnight = now_ns // DAY_NS * DAY_NS
    state = _state_by(connection, host, midnight, afresh=afresh)
    repositories = visits.REPOSITORIES if afresh else visits.REPOSITORIES_KNOWN
    counted = recent_uses.CountedUses() if afresh else _counted(connection, host, state)
    origin = _fold(connection, host, state, now_ns, midnight, repositories=repositories)
    # What is read next fills as much memory as these have.
    connection.execute("DROP TABLE observed; DROP TABLE used; DROP TABLE entry; DROP TABLE latest")
    recent_uses.make_recent(connection, host, counted, midnight, origin)
    sums = connection.execute(_SUMS, {"host": host, "from": state.until}).fetchall()
    return connection.execute(_HABITS).fetchall(), sums


def doubted(connection: duckdb.DuckDBPyConnection, host: str, now_ns: int) -> list[int]:
    """The images about whose past something new is known that is not folded yet: all of their events are needed.

    Args:
        connection: the log, open with our views.
        host: the host.
        now_ns: later events do not count, UTC nanoseconds.
    """
    midnight = now_ns // DAY_NS * DAY_NS
    state = _state_by(connection, host, midnight)
    _enter(connection, host, state, now_ns, midnight, repositories=visits.REPOSITORIES_KNOWN)
    return [image for (image,) in connection.execute("FROM again").fetchall()]


def _state_by(connection: duckdb.DuckDBPyConnection, host: str, midnight: int, *, afresh: bool = False) -> Folded:
    """How far uses are folded; nothing is if that is beyond `midnight`, UTC nanoseconds."""
    state = _state(connection, host, ("base_",) if afresh else ("", "base_"))
    if state.until > midnight and not state.prefix:
        state = _state(connection, host, ("base_",))
    return Folded(origin=state.origin) if state.until > midnight else state


def advance(connection: duckdb.DuckDBPyConnection, host: str, wanted: int = 0) -> int:
    """Fold the events since the last fold, once there are enough of them, one piece per call.

    Args:
        connection: the log, open for writing, as the last step of an append's transaction.
        host: the host.
        wanted: fold up to this time, however few the events are, UTC nanoseconds.

    Returns:
        Up to when all is folded, UTC nanoseconds.
    """
    # What other rules folded is folded again at once: until then every decision reads all events.
    sql = "SELECT coalesce(max(until), 0) FROM experience WHERE host = ? AND version = ?"
    reached = connection.execute(sql, [host, VERSION]).fetchall()[0][0]
    enough = _FOLDS * compaction.FOLD_EVERY
    waiting, first_ns, last_ns, newest = connection.execute(_WAITING, {"from": reached, "most": enough}).fetchall()[0]
    is_enough = waiting >= enough or reached < wanted
    complete = _midnight(min(last_ns, time.time_ns()))
    if not is_enough or complete <= reached:
        _count_missing(connection, host, reached)
        return int(reached)
    began = time.process_time()
    connection = show(connection, LAST_NS)
    state = _state(connection, host)
    counted = _counted(connection, host, state)
    until = min(_next(connection, host, max(state.until, first_ns // DAY_NS * DAY_NS), complete), complete)
    if until <= state.until:
        return int(state.until)
    origin = _fold(connection, host, state, until - 1, until, until + _AFTER_NS)
    steps = _STORE + (_FROM_BASE if state.prefix else "") + _REPLACE
    for statement in filter(str.strip, steps.split(";")):
        values = {"host": host, "until": until, "remembered": REMEMBERED_GAPS}
        connection.execute(statement, {name: value for name, value in values.items() if f"${name}" in statement})
    connection.execute("INSERT INTO experience VALUES (?, ?, ?, ?, ?)", [host, VERSION, until, newest, origin])
    recent_uses.fold(connection, host, counted, recent_uses.CountedUses(until, newest), origin)
    PACE.took(PACE.size - (until == complete), time.process_time() - began)
    return int(until)


def _count_missing(connection: duckdb.DuckDBPyConnection, host: str, reached: int) -> None:
    """Count the recent uses of a log whose uses an older version folded."""
    if reached and not recent_uses.is_counted(connection, host):
        state = _state(show(connection, LAST_NS), host)
        if state.until and not state.prefix:
            until = recent_uses.CountedUses(state.until, state.seq)
            recent_uses.fold(connection, host, recent_uses.CountedUses(), until, state.origin)


def _counted(connection: duckdb.DuckDBPyConnection, host: str, state: Folded) -> recent_uses.CountedUses:
    """Which recent uses are counted beside what is folded."""
    if not state.until or state.prefix:
        return recent_uses.CountedUses()
    return recent_uses.counted(connection, host, state.until, state.seq)


def _midnight(at_ns: int) -> int:
    """The last midnight whose day is complete at a time, both UTC nanoseconds."""
    return (at_ns - _LATE_NS) // DAY_NS * DAY_NS


def _next(connection: duckdb.DuckDBPyConnection, host: str, begin: int, end: int) -> int:
    """The end of the day by which there are enough events for one fold since a midnight, both UTC nanoseconds."""
    span = DAY_NS
    while begin + span < end:
        show(connection, begin, until_ns=begin + span, again=True)
        found = connection.execute(_NEXT, {"host": host, "from": begin, "most": PACE.size}).fetchall()[0][0]
        if found is not None:
            return int(found)
        span *= 4
    show(connection, begin, until_ns=end, again=True)
    found = connection.execute(_NEXT, {"host": host, "from": begin, "most": PACE.size}).fetchall()[0][0]
    return end if found is None else int(found)


def differences(connection: duckdb.DuckDBPyConnection, now_ns: int) -> list[str]:
    """Where what is folded gives other habits than all events do; see `read`."""
    found = []
    for (host,) in connection.execute("SELECT host FROM experience ORDER BY host").fetchall():
        (habits, sums), (all_habits, all_sums) = (
            map(sorted, read(connection, host, now_ns, afresh=afresh)) for afresh in (False, True)
        )
        found += [
            f"the folded habits of image {row[0]} differ from its events"
            for row in habits
            if row not in set(all_habits)
        ]
        if len(habits) != len(all_habits) or sums != all_sums:
            found.append("the folded situations differ from the events")
    return found


def _state(connection: duckdb.DuckDBPyConnection, host: str, sources: tuple[str, ...] = ("", "base_")) -> Folded:
    """How far uses are folded, and when the log began; nothing counts as folded if it began at another time.

    Args:
        connection: the log.
        host: the host.
        sources: prefixes of the tables to look at: those that appends keep, those that a compaction made.
    """
    show(connection, LAST_NS, again=True)
    origin = _origin(connection, host)
    state = Folded(origin=origin)
    for source in sources:
        if not source and compaction.reached(connection) is None:
            continue
        sql = f"SELECT until, seq, origin, '{source}' FROM {source}experience WHERE host = ? AND version = ?"
        found = [Folded(*row) for row in connection.execute(sql, [host, VERSION]).fetchall()]
        if found and origin == found[0].origin:
            state = found[0]
            break
    for table in ("habit", "open_use", "situation"):
        connection.execute(f"CREATE OR REPLACE TEMP VIEW folded_{table} AS FROM {state.prefix}{table}")
    if not state.until and connection.execute("SELECT 1 FROM base_experience WHERE host = ?", [host]).fetchall():
        logger.warning(
            "how images were used before the last compaction is estimated: another version of the program folded it"
        )
    return state


def _origin(connection: duckdb.DuckDBPyConnection, host: str) -> int | None:
    found: int | None = connection.execute(_ORIGIN, [host]).fetchall()[0][0]
    return found


def _fold(
    connection: duckdb.DuckDBPyConnection,
    host: str,
    state: Folded,
    now_ns: int,
    midnight: int,
    until_ns: int | None = None,
    repositories: str = visits.REPOSITORIES,
) -> int | None:
    """Make the temporary tables of habits and situations; returns when the log began, UTC nanoseconds."""
    values = _enter(connection, host, state, now_ns, midnight, until_ns, repositories)
    for sql in (visits.VISITS, visits.GAPS, visits.USUAL, visits.PIECES):
        _run(connection, sql, values)
    return state.origin


def _enter(
    connection: duckdb.DuckDBPyConnection,
    host: str,
    state: Folded,
    now_ns: int,
    midnight: int,
    until_ns: int | None = None,
    repositories: str = visits.REPOSITORIES,
) -> dict[str, Any]:
    """Make the temporary tables of uses and of images to fold again; returns the values that the SQL refers to."""
    connection.execute("CREATE OR REPLACE TEMP TABLE again (image INTEGER)")
    values: dict[str, Any] = {"host": host, "from": state.until, "seq": state.seq, "now": now_ns, "midnight": midnight}
    values |= {"session": int(SESSION * 1e9), "remembered": REMEMBERED_GAPS - 1, "weight": GAP_WEIGHT} | _SCALES
    values["origin"] = state.origin or 0
    is_doubted = True
    wholly: str | None = None
    while is_doubted:
        # What was reported late may have been looked at for other decisions, and not be kept for these.
        show(connection, state.until, wholly=wholly, until_ns=until_ns, all_after=state.seq, again=True)
        for sql in (visits.KNOWN, visits.OBSERVED, repositories, visits.USED, visits.ENTRIES, visits.SUPERSEDED):
            _run(connection, sql, values)
        is_doubted = state.until > 0 and bool(_run(connection, visits.DOUBTED, values))
        if is_doubted:
            connection.execute("INSERT INTO again FROM doubted")
            # Only now: to look for the events of no image takes as long as for those of some.
            wholly = "again"
    return values


def _run(connection: duckdb.DuckDBPyConnection, sql: str, values: dict[str, Any]) -> int:
    """Make a temporary table with the values that its SQL refers to; returns how many rows it has."""
    connection.execute(sql, {name: value for name, value in values.items() if f"${name}" in sql})
    return int(connection.execute(f"SELECT count(*) FROM {sql.split()[5]}").fetchall()[0][0])


_ORIGIN = f"""
SELECT epoch_ns(coalesce(min(time) FILTER (kind IN ({sql_list(LIVE)})), min(time))) FROM event WHERE host = ?
"""
_WAITING = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM event WHERE time >= make_timestamp_ns($from) LIMIT $most)),
    coalesce(epoch_ns(min(time)), 0), coalesce(epoch_ns(max(time)), 0), max(seq) FROM event
"""
# The end of the day by which there are this many events, in whatever order they were recorded.
_NEXT = f"""
WITH day AS (
    SELECT epoch_ns(time) // {DAY_NS} AS day, count(*) AS events FROM event
    WHERE host = $host AND time >= make_timestamp_ns($from) GROUP BY day
), reached AS (SELECT day, sum(events) OVER (ORDER BY day) AS events FROM day)
SELECT (min(day) FILTER (events >= $most) + 1) * {DAY_NS} FROM reached
"""
_HABITS = """
SELECT image_id, h.uses, returns, usual, since, coalesce(recent.uses, 0)
FROM (
    SELECT image, max(uses) AS uses, max(returns) AS returns, arg_max(usual, returns) AS usual
    FROM visit LEFT JOIN usual USING (image, returns) GROUP BY image
) AS h JOIN image USING (image) LEFT JOIN superseded USING (image) LEFT JOIN recent USING (image)
"""
_ALL_PIECES = """
FROM piece UNION ALL BY NAME
SELECT image, cell, returns, exposure FROM folded_situation ANTI JOIN again USING (image)
WHERE host = $host AND $from > 0
"""
_SUMS = f"SELECT cell, CAST(sum(returns) AS BIGINT), sum(exposure) FROM ({_ALL_PIECES}) GROUP BY cell"
_SCALES = {
    "lowest": LOWEST_BIN,
    "highest": HIGHEST_BIN,
    "buckets": BUCKETS,
    "lowest_habit": LOWEST_HABIT,
    "habits": HABITS,
    "phases": [int(phase) * 10**9 for phase in PHASES],
}
# What has not ended by the midnight is open, whenever it did afterwards.
_STORE = """
CREATE OR REPLACE TEMP TABLE habits AS
SELECT $host AS host, image, began, coalesce(e.ended, 0) AS ended, uses, returns, coalesce(gaps, []) AS gaps, first,
    demanded, used_first, found, since
FROM (SELECT image, max(began) AS began, max(uses) AS uses, max(returns) AS returns FROM visit GROUP BY image)
LEFT JOIN (
    SELECT image, max(ended) AS ended FROM (
        SELECT image, ended FROM entry WHERE NOT is_known
        UNION ALL SELECT image, ended FROM known UNION ALL SELECT image, ended FROM used WHERE went_on
    ) WHERE ended < $until GROUP BY image
) AS e USING (image)
LEFT JOIN (
    SELECT image, list(gap ORDER BY returns) AS gaps FROM (
        FROM latest QUALIFY row_number() OVER (PARTITION BY image ORDER BY returns DESC) <= $remembered
    ) GROUP BY image
) USING (image)
LEFT JOIN (
    SELECT image, min(first) AS first, min(demanded) AS demanded, min(used_first) AS used_first, max(found) AS found
    FROM (
        SELECT image, seen AS first, CASE WHEN kind BETWEEN 2 AND 4 THEN began END AS demanded,
            CASE WHEN is_use THEN seen END AS used_first, CASE WHEN NOT is_use THEN ended END AS found
        FROM entry WHERE NOT is_known
        UNION ALL SELECT image, first, demanded, used_first, found FROM known
    ) GROUP BY image
) USING (image)
LEFT JOIN superseded USING (image);
CREATE OR REPLACE TEMP TABLE open_uses AS
SELECT $host AS host, image, container FROM entry WHERE container IS NOT NULL AND ended >= $until
UNION
SELECT $host, image, container FROM folded_open_use AS o SEMI JOIN known USING (image)
WHERE host = $host AND NOT EXISTS (
    FROM used WHERE used.image = o.image AND used.container = o.container AND used.ended < $until);
"""
# Of many sums few change: the others stay where they are.
_REPLACE = """
DELETE FROM habit WHERE host = $host; INSERT INTO habit BY NAME FROM habits;
DELETE FROM open_use WHERE host = $host; INSERT INTO open_use BY NAME FROM open_uses;
DELETE FROM situation WHERE host = $host AND image NOT IN (SELECT image FROM known);
UPDATE situation SET returns = situation.returns + piece.returns, exposure = situation.exposure + piece.exposure
FROM piece WHERE situation.host = $host AND situation.image = piece.image AND situation.cell = piece.cell;
INSERT INTO situation BY NAME SELECT $host AS host, * FROM piece AS p WHERE NOT EXISTS (
    FROM situation AS s WHERE s.host = $host AND s.image = p.image AND s.cell = p.cell);
DELETE FROM experience WHERE host = $host;
"""
_FROM_BASE = """
DELETE FROM situation WHERE host = $host;
INSERT INTO situation BY NAME FROM base_situation WHERE host = $host;
"""
VERSION = hashlib.sha256(
    repr(
        (
            visits.OBSERVED,
            visits.REPOSITORIES,
            visits.USED,
            visits.ENTRIES,
            visits.SUPERSEDED,
            visits.VISITS,
            visits.GAPS,
            visits.USUAL,
            visits.PIECES,
            _STORE,
            _SCALES,
        )
    ).encode()
).hexdigest()[:16]
"""Identifies these rules: what was folded by other rules is folded again."""
