"""What queries see of an open log: our own views, whatever the file holds, and times that can be true."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, cast

import duckdb

from collector.eventlog import compaction
from collector.eventlog.sql import sql_list, sql_text
from collector.eventlog.view_definitions import TEMPORARY_VIEWS
from collector.model.events import CONTAINERS, Kind
from collector.model.untrusted import LAST_NS

# Of most events: their details are read from far apart for each.
_PLAIN = f"kind IN ({sql_list((*CONTAINERS, Kind.IMAGE_PULLED, Kind.JOB_IMAGE_USED))})"
_PLAINLY = "seq, time, host, kind, image, container, began, job"
_MAKES_ONE = re.compile(r"(?=CREATE OR REPLACE TEMP (?:VIEW|MACRO|TABLE) (\w+))")
_TAKES_FROM = re.compile(r"\b(?:FROM|JOIN) (\w+)")


def _by_name(statements: str) -> dict[str, str]:
    """What makes each of some views and functions."""
    names_and_statements = _MAKES_ONE.split(statements)[1:]
    return dict(zip(names_and_statements[::2], names_and_statements[1::2], strict=True))


_VIEWS = _by_name(TEMPORARY_VIEWS)
# Names are read from the details of events, which takes long, and all that is kept for decisions holds them all.
_ONCE = _by_name("CREATE OR REPLACE TEMP TABLE known_names AS SELECT DISTINCT host, image, name FROM image_references")


class _OnDemand:
    """An open log on which each view is made when a statement first has its name in it.

    Most queries take few of them, and making them all costs more than opening the file. So is the table `known_names`,
    which has each name of an image once.

    Args:
        connection: the log, which shows its events as `event`.
        views: what makes each view.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, views: dict[str, str]) -> None:
        self._connection = connection
        self._waiting = views
        self._answers: dict[str, list[tuple[Any, ...]]] = {}

    def execute(self, sql: str, *parameters: Any) -> duckdb.DuckDBPyConnection:
        for name in self._waiting.keys() & set(re.findall(r"\w+", sql.lower())):
            self._make(name)
        return self._connection.execute(sql, *parameters)

    def _make(self, name: str) -> None:
        statement = self._waiting.pop(name, None)
        if statement is not None:
            for other in _TAKES_FROM.findall(statement):
                self._make(other)
            self._connection.execute(statement)

    def answer(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query for what stays as it is while the log is open."""
        if sql not in self._answers:
            self._answers[sql] = self._connection.execute(sql).fetchall()
        return self._answers[sql]

    def forget_answers(self) -> None:
        self._answers.clear()
        self._waiting |= _ONCE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def show_wholly(connection: duckdb.DuckDBPyConnection, images: Sequence[int], most: int | None = None) -> None:
    """Let a connection that sees of the past what decisions need see the events of some images, too.

    Of containers, pulls and uses by jobs only when they were and for which job. The temporary table `shown_wholly` says
    of each image from which number of an event on these are all seen.

    Args:
        connection: the log, as `EventLog.reading` shows it with `ONLY_KEPT`.
        images: the log's numbers of the images.
        most: of containers, pulls and uses by jobs only those among so many events of the log, up to the last of the
            image; None: all.
    """
    after, more = compaction.reached(connection), ""
    values = {"images": images, "after": after or 0, "most": (after or 0) if most is None else most}
    connection.execute(_SHOWN_WHOLLY, values)
    if after is not None:
        # Views look at the events again and again: a long log is to be looked through once, where it has to be.
        events = table_of_events(connection)
        first, last = connection.execute("SELECT min(since), coalesce(max(until), 0) FROM shown_wholly").fetchall()[0]
        chosen = compaction.not_kept(events, (first, last), ", ".join(map(str, images)), _PLAINLY)
        rows = (
            f"FROM ({chosen} AND {_PLAIN}) AS e SEMI JOIN shown_wholly AS s ON s.image = e.image AND s.since <= e.seq"
        )
        connection.execute(f"CREATE OR REPLACE TEMP TABLE plainly_shown AS {rows}")
        first, last = connection.execute(_SELDOM).fetchall()[0]
        rows = compaction.not_kept(events, (first, last), ", ".join(map(str, images)))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE seldom_shown AS {rows} AND NOT {_PLAIN}")
        more = f"FROM (FROM {events} LIMIT 0) UNION ALL BY NAME FROM plainly_shown UNION ALL BY NAME FROM seldom_shown"
    show(connection, LAST_NS, more=f"FROM ({more})" if more else "", again=True)


# An image of which nothing is kept has no events among those that are folded.
_SHOWN_WHOLLY = """
CREATE OR REPLACE TEMP TABLE shown_wholly AS
SELECT image, greatest(coalesce(until - $most, 0), 0) AS since, until FROM (SELECT unnest($images::INTEGER[]) AS image)
LEFT JOIN (SELECT image, least(max(seq), $after) AS until FROM compacted GROUP BY image) USING (image)
"""
# What is neither the first nor the latest of its sort lies between these: most images have no such event. When an
# inventory saw an image matters the first time and after each removal, all of which is kept.
_SELDOM = f"""
SELECT coalesce(min(first), 0), coalesce(max(last), 0) FROM (
    SELECT min(seq) AS first, max(seq) AS last FROM compacted SEMI JOIN shown_wholly USING (image)
    WHERE NOT {_PLAIN} AND kind NOT IN ({sql_list((Kind.IMAGE_OBSERVED, Kind.IMAGE_DELETED))})
    GROUP BY host, image, kind, reference HAVING count(*) > 1
)
"""


def show(
    connection: duckdb.DuckDBPyConnection,
    whole_since_ns: int | None = None,
    *,
    wholly: str | None = None,
    more: str = "",
    until_ns: int | None = None,
    all_after: int | None = None,
    as_recorded: bool = False,
    again: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Let a connection see a log's events, or of those before a time only what decisions need.

    Args:
        connection: the open log.
        whole_since_ns: from when on all are seen, UTC nanoseconds; None: all are.
        wholly: a temporary table of images whose events are all seen nevertheless.
        more: SQL of events that are seen nevertheless, of all that are not kept for decisions.
        until_ns: of what is not kept for decisions nothing is seen from this time on, UTC nanoseconds; None: all is.
        all_after: the number after which all are seen nevertheless, whatever time they carry; None: of the last that
            was looked at for decisions.
        as_recorded: show times as they were recorded.
        again: whether the connection has our views already, and is to see other events by them.

    Returns:
        The connection, with our views.
    """
    table = events = kept = table_of_events(connection)
    after = compaction.reached(connection)
    if after is not None:
        kept = compaction.folded(table, after, LAST_NS)
        if whole_since_ns is not None:
            since_ns = min(max(whole_since_ns, 0), LAST_NS)
            seen = after if all_after is None else min(all_after, after)
            if wholly is not None:
                of_images = compaction.not_kept(table, (0, seen), f"FROM {wholly}")
                more = f"{of_images} AND time < make_timestamp_ns({since_ns})"
            before = "" if until_ns is None else _before(connection, until_ns, kept)
            events = compaction.folded(table, seen, since_ns, more, before)
    if not as_recorded:
        # The latest of all a table knows without a scan, however much of it is not folded yet.
        events = true_times(connection, time.time_ns(), events, kept, table if whole_since_ns is None else kept)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW event AS FROM {events}")
    if again:
        return connection
    summed = "" if after is None or whole_since_ns is None else compaction.sums(table, after)
    return cast("duckdb.DuckDBPyConnection", _OnDemand(connection, _VIEWS | _by_name(summed) | _ONCE))


def _before(connection: duckdb.DuckDBPyConnection, until_ns: int, kept: str) -> str:
    """SQL of what happened before a time (UTC nanoseconds), and some more; `kept` as in `true_times`.

    What was recorded before the clock was set back happened by then, whatever time it carries.
    """
    ahead = (
        f" OR seq < {seq} AND host = {sql_text(host)} AND time >= make_timestamp_ns({set_ns})"
        for host, seq, set_ns in _answer(connection, _SET_BACKS.format(kept=kept))
        if set_ns < until_ns
    )
    return f"time < make_timestamp_ns({until_ns}){''.join(ahead)}"


def table_of_events(connection: duckdb.DuckDBPyConnection) -> str:
    """SQL of the table that holds all events of an open log as they were recorded."""
    (database,) = connection.execute("SELECT current_database()").fetchall()[0]
    return f'"{database.replace(chr(34), chr(34) * 2)}".main.event'


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """All rows of a query about events, asked once of a log that is open with our views: nobody adds any meanwhile."""
    return connection.answer(sql) if isinstance(connection, _OnDemand) else connection.execute(sql).fetchall()


def turn_to_another_log(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a connection that may have our views forget what it knows of the log that it had open before."""
    if isinstance(connection, _OnDemand):
        connection.forget_answers()


_SET_BACKS = f"SELECT host, seq, epoch_ns(time) FROM {{kept}} WHERE kind = '{Kind.CLOCK_SET_BACK}' ORDER BY seq DESC"


def true_times(
    connection: duckdb.DuckDBPyConnection, now_ns: int, events: str, kept: str, among: str | None = None
) -> str:
    """SQL of events no later than they can have been; the same where they all are.

    The order of events is that of their numbers. What was recorded before the clock was set back had happened by
    then, whatever time it carries; and nothing has happened later than now. The table keeps the times as recorded.

    Args:
        connection: the open log.
        now_ns: what time it is, UTC nanoseconds.
        events: SQL of the events as they were recorded.
        kept: SQL of some of these events: every one about the clock, and the latest, at least.
        among: SQL of events the latest of which is the latest of all; None: `kept`.
    """
    rows = _answer(connection, _SET_BACKS.format(kept=kept))
    latest = _answer(connection, f"SELECT epoch_ns(max(time)) FROM {among or kept}")[0][0]
    if latest is None or (latest <= now_ns and not rows):
        return events
    bounds = [f"make_timestamp_ns({now_ns})"]
    reached: dict[str, int] = {}
    for host, seq, set_ns in rows:
        if set_ns < reached.get(host, now_ns):
            reached[host] = set_ns
            before = f"seq < {seq} AND host = {sql_text(host)}"
            bounds.append(f"CASE WHEN {before} THEN make_timestamp_ns({set_ns}) ELSE time END")
    latest_possible = ", ".join(bounds)
    # DuckDB's `least` passes over NULL: what has no beginning must not get one.
    return (
        f"(SELECT * REPLACE (least(time, {latest_possible}) AS time,"
        f" CASE WHEN began IS NOT NULL THEN least(began, {latest_possible}) END AS began) FROM {events})"
    )
