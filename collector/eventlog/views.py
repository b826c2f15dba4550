"""What queries see of an open log: our own views, whatever the file holds, and times that can be true."""

from __future__ import annotations

import time
from collections.abc import Sequence

import duckdb

from collector.eventlog import compaction
from collector.eventlog.schema import TEMPORARY_VIEWS, table_of_events, true_times
from collector.model.untrusted import LAST_NS


def show_wholly(connection: duckdb.DuckDBPyConnection, images: Sequence[int]) -> None:
    """Let a connection that sees of the past what decisions need see all events of some images, too.

    Args:
        connection: the log, as `EventLog.reading` shows it with `ONLY_KEPT`.
        images: the log's numbers of the images.
    """
    connection.execute("CREATE OR REPLACE TEMP TABLE shown_wholly AS SELECT unnest(?::INTEGER[]) AS image", [images])
    show(connection, LAST_NS, wholly="shown_wholly", again=True)


def show(
    connection: duckdb.DuckDBPyConnection,
    whole_since_ns: int | None = None,
    *,
    wholly: str | None = None,
    until_ns: int | None = None,
    as_recorded: bool = False,
    again: bool = False,
) -> None:
    """Let a connection see a log's events, or of those before a time only what decisions need.

    Args:
        connection: the open log.
        whole_since_ns: from when on all are seen, UTC nanoseconds; None: all are.
        wholly: a temporary table of images whose events are all seen nevertheless.
        until_ns: of what is not kept for decisions nothing is seen from this time on, UTC nanoseconds; None: all is.
        as_recorded: show times as they were recorded.
        again: whether the connection has our views already, and is to see other events by them.
    """
    table = events = kept = table_of_events(connection)
    after = compaction.reached(connection)
    if after is not None:
        kept = compaction.folded(table, after, LAST_NS)
        if whole_since_ns is not None:
            events = compaction.folded(table, after, min(max(whole_since_ns, 0), LAST_NS), wholly, until_ns)
    if not as_recorded:
        events = true_times(connection, time.time_ns(), events, kept)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW event AS FROM {events}")
    if again:
        return
    connection.execute(TEMPORARY_VIEWS)
    if after is not None and whole_since_ns is not None:
        connection.execute(compaction.sums(table, after))
