"""What decisions need of the past, folded as events are appended: few rows, however long the log grows.

Nearly every question about the past is for the first or the latest event of its sort: the latest use of an image, the
first mention of a name. The table `compacted` holds these events up to a number, copies of what `event` holds; all
views say the same of them, with the events after that number, as of all events. Sums have tables of their own.

The events stay the truth: whatever is missing is taken from them a piece at a time, and what another version of these
rules made, or what the clock's being set back has put in doubt, is made again.
"""

from __future__ import annotations

import hashlib
import time

import duckdb

from collector.eventlog.pace import Pace
from collector.eventlog.schema import HOURLY, PROJECTIONS
from collector.eventlog.sql import sql_list, sql_text
from collector.model.events import ARRIVALS, CONTAINERS, COUNTED, Kind, with_effect
from collector.model.jobs import SLOT
from collector.model.traits import Effect
from collector.model.untrusted import LAST_NS

FOLD_EVERY = 20_000
"""So many events wait before they are folded."""
# The latest are left alone: what belongs together has come by then, in whatever order the engine said it.
_HELD_BACK = 1_000
# An old log is caught up by appends, none of which is to take long.
PACE = Pace(FOLD_EVERY, 5 * FOLD_EVERY)
"""So many events a fold takes at most."""

_WHOLE = sql_list(
    (
        *(Kind.GAP, Kind.CLOCK_SET_BACK, Kind.HOST_CHANGED, Kind.COLLECTOR_STARTED, Kind.COLLECTOR_STOPPED),
        *(Kind.DATA_FORGOTTEN, Kind.LOG_COMPACTED),
        *with_effect(Effect.GOES),
    )
)
_CONTAINERS = sql_list(CONTAINERS)
_COUNTED = sql_list(COUNTED)
_ARRIVALS = sql_list(ARRIVALS)

# Which service a container was of, or which slot of a runner it ran in; what else distinguishes events of a kind.
_PART = f"""CASE
    WHEN kind = 'image_observed' THEN md5(concat_ws(' ', attributes -> '$.references', attributes -> '$.digests',
        attributes ->> '$.origin', attributes ->> '$.local'))
    WHEN kind IN ('container_created', 'container_destroyed') AND attributes IS NOT NULL THEN CASE
        WHEN contains(attributes::VARCHAR, '"com.docker.') THEN coalesce(
            'service ' || (attributes ->> '$.labels."com.docker.swarm.service.name"'),
            'service ' || (attributes ->> '$.labels."com.docker.compose.project"') || '/'
                || (attributes ->> '$.labels."com.docker.compose.service"'))
        WHEN contains(attributes::VARCHAR, '"runner-')
            THEN 'slot ' || nullif(regexp_extract(attributes ->> '$.name', '{SLOT.pattern}'), '')
        END
    WHEN kind = 'disk_sampled' THEN concat_ws(' ', attributes ->> '$.main', attributes ->> '$.file_system')
    WHEN kind IN ('prune_started', 'prune_finished') THEN attributes ->> '$.prune'
    END"""
_NEW = f"""
SELECT seq, host, kind, image, reference, container, epoch_ns(time) AS at_ns,
    contains(attributes::VARCHAR, '"volumes"') AS names_volumes,
    coalesce(contains(attributes::VARCHAR, '"inferred":true'), false) AS inferred, {_PART} AS part
FROM event WHERE seq > $after AND seq <= $until
"""
_KNOWN = """
SELECT seq, host, kind, image, reference, container, epoch_ns(time) AS at_ns,
    contains(attributes::VARCHAR, '"volumes"') AS names_volumes,
    coalesce(contains(attributes::VARCHAR, '"inferred":true'), false) AS inferred, part
FROM compacted
"""
# `place` orders by time, then by number.
_SOURCE = "CREATE OR REPLACE TEMP TABLE source AS SELECT *, {time} * (1::HUGEINT << 40) + seq AS place FROM ({rows})"
_ENDS = "unnest([min(place) % (1::HUGEINT << 40), max(place) % (1::HUGEINT << 40)])"
# Each rule says which events of a sort are kept; what a rule drops once it would drop ever after, so that it is the
# same in how many steps events are folded.
_RULES = (
    # What is rare, and what shows when nothing was observed.
    f"SELECT seq FROM source WHERE kind IN ({_WHOLE})",
    # Of a host the first and the latest of each kind, by time and by number.
    f"SELECT {_ENDS} FROM source GROUP BY host, kind, inferred, CASE WHEN kind = 'disk_sampled' THEN part END",
    "SELECT max(seq) FROM source GROUP BY host, kind, inferred",
    # Of an image the first and the latest use by containers, also by service; all else by name.
    f"""SELECT {_ENDS} FROM source WHERE kind IN ({_CONTAINERS}) AND image IS NOT NULL
    GROUP BY host, image, CASE WHEN starts_with(part, 'service') THEN part END""",
    f"""SELECT {_ENDS} FROM source WHERE kind NOT IN ({_CONTAINERS}) AND image IS NOT NULL
    GROUP BY host, kind, image, reference, part, inferred""",
    f"""SELECT max(seq) FROM source WHERE kind NOT IN ({_CONTAINERS}) AND image IS NOT NULL
    GROUP BY host, kind, image, reference, part, inferred""",
    # When a job was last seen in each slot.
    """SELECT max(place) % (1::HUGEINT << 40) FROM source WHERE starts_with(part, 'slot') GROUP BY host, part""",
    # Of each container that exists its first sign, and what names its volumes.
    f"""SELECT unnest(list_append(coalesce(list(seq) FILTER (names_volumes), []), min(seq))) FROM source AS s
    WHERE kind IN ({_CONTAINERS}) AND container IS NOT NULL AND NOT EXISTS (
        FROM source AS d WHERE d.kind = 'container_destroyed' AND d.container = s.container AND d.host = s.host)
    GROUP BY host, container, image""",
    # The first sample after each time that was not observed.
    """SELECT min(place) FILTER (kind = 'disk_sampled') % (1::HUGEINT << 40) FROM (
        SELECT host, kind, place, count(*) FILTER (kind <> 'disk_sampled') OVER (
            PARTITION BY host ORDER BY at_ns, kind <> 'disk_sampled', seq ROWS UNBOUNDED PRECEDING) AS stretch
        FROM source WHERE kind IN ('disk_sampled', 'gap', 'collector_started')
    ) GROUP BY host, stretch""",
    # How each image came back after each of its removals.
    f"""SELECT min(place) FILTER (kind <> 'image_deleted') % (1::HUGEINT << 40) FROM (
        SELECT host, image, kind, place, count(*) FILTER (kind = 'image_deleted') OVER (
            PARTITION BY host, image ORDER BY place ROWS UNBOUNDED PRECEDING) AS stretch
        FROM source WHERE image IS NOT NULL AND kind IN ('image_deleted', {_ARRIVALS})
    ) GROUP BY host, image, stretch""",
    # Prunes that have not ended.
    """SELECT min(seq) FROM source WHERE kind IN ('prune_started', 'prune_finished') AND part IS NOT NULL
    GROUP BY host, part HAVING NOT bool_or(kind = 'prune_finished')""",
)
_CHOSEN = f"""
CREATE OR REPLACE TEMP TABLE chosen AS
WITH kept AS (SELECT DISTINCT CAST(seq AS BIGINT) AS seq FROM ({" UNION ALL ".join(_RULES)}) AS k(seq)
    WHERE seq IS NOT NULL),
-- A container that has gone must not look as if it were there, nor a prune that has ended as if it went on.
gone AS (
    SELECT s.seq FROM source AS s SEMI JOIN (SELECT host, container FROM source SEMI JOIN kept USING (seq)) AS c
        ON s.host = c.host AND s.container = c.container
    WHERE s.kind = 'container_destroyed'
    UNION ALL
    SELECT s.seq FROM source AS s SEMI JOIN (
        SELECT host, part FROM source SEMI JOIN kept USING (seq) WHERE kind = 'prune_started'
    ) AS p ON s.host = p.host AND s.part = p.part WHERE s.kind = 'prune_finished'
)
FROM kept UNION FROM gone
"""
# A container counts as a use of its image when it is first heard of.
_USED = f"""
SELECT host, image, sum(uses)::BIGINT AS uses FROM (
    SELECT host, image, count(DISTINCT container) AS uses FROM {{new}} AS n
    WHERE kind IN ({_CONTAINERS}) AND NOT EXISTS (
        FROM compacted AS c WHERE c.container = n.container AND c.host = n.host AND c.image = n.image
            AND c.kind IN ({_CONTAINERS}))
    GROUP BY host, image
    UNION ALL
    SELECT host, image, count(*) FROM {{new}} WHERE kind IN ({_COUNTED}) GROUP BY host, image
) WHERE image IS NOT NULL GROUP BY host, image
"""
_ADD_USES = f"""
CREATE OR REPLACE TEMP TABLE counted AS
SELECT host, image, sum(uses)::BIGINT AS uses FROM (
    FROM image_count UNION ALL BY NAME ({_USED.format(new="(FROM source WHERE seq > $after)")})
) GROUP BY host, image;
"""
_ADD_KINDS = """
CREATE OR REPLACE TEMP TABLE counted AS
SELECT host, kind, sum(events)::BIGINT AS events FROM (
    FROM kind_count UNION ALL BY NAME SELECT host, kind, count(*) AS events FROM source WHERE seq > $after
    GROUP BY host, kind
) GROUP BY host, kind;
"""
# How far set-backs of the clock have been taken into account stands beside how far events are folded.
_CLOCK = "clock"
_SET_BACK = f"SELECT max(seq) FROM event WHERE seq > ? AND seq <= ? AND kind = '{Kind.CLOCK_SET_BACK}'"
_REPLACE = "DELETE FROM {table}; INSERT INTO {table} BY NAME FROM counted;"
_STORE = f"""
DELETE FROM compacted WHERE seq NOT IN (FROM chosen);
INSERT INTO compacted BY NAME
    SELECT event.*, {_PART} AS part FROM event SEMI JOIN chosen USING (seq) WHERE seq > $after AND seq <= $until;
"""
VERSION = hashlib.sha256(f"{_NEW}{_KNOWN}{_SOURCE}{_CHOSEN}{_ADD_USES}{_ADD_KINDS}".encode()).hexdigest()[:16]
"""What distinguishes these rules from others: what others made is made again."""
TABLES = ("compacted", "image_count", "kind_count")
"""What each fold replaces."""
FORGET = "".join(f"DELETE FROM {table};" for table in sorted(PROJECTIONS.difference(HOURLY)))
"""SQL that takes all away that is folded; it is made again by the next appends."""


def reached(connection: duckdb.DuckDBPyConnection) -> int | None:
    """The number of the last event that is folded; None: nothing is that these rules made."""
    found = connection.execute("SELECT max(seq) FROM projection WHERE version = ?", [VERSION]).fetchall()[0][0]
    return None if found is None else int(found)


def fold(connection: duckdb.DuckDBPyConnection, pace: Pace | None = None) -> int:
    """Process what has been appended since the last time, once enough has; the number at which it is again.

    Args:
        connection: the log, open for writing, in the transaction of an append.
        pace: how many at most; None: as many as others can wait for.
    """
    pace = pace or PACE
    after = reached(connection)
    newest = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
    if newest - (after or 0) < FOLD_EVERY:
        return (after or 0) + FOLD_EVERY
    began, most = time.process_time(), pace.size
    until = min(newest - min(_HELD_BACK, FOLD_EVERY // 2), (after or 0) + most)
    clock = connection.execute("SELECT max(seq) FROM projection WHERE version = ?", [_CLOCK]).fetchall()[0][0] or 0
    # What was folded before the clock was set back may carry impossible times, and so may what is folded now.
    set_back = connection.execute(_SET_BACK, [max(after or 0, clock), newest]).fetchall()[0][0]
    if after is None or set_back is not None:
        connection.execute(FORGET)
        after, clock, until = 0, set_back or clock, min(until, most)
    steps = {"after": after, "until": until, "clock": max(clock, until)}
    _gather(connection, f"{_NEW} UNION ALL BY NAME {_KNOWN}", steps)
    connection.execute(_CHOSEN)
    for table, sql in (("image_count", _ADD_USES), ("kind_count", _ADD_KINDS)):
        connection.execute(sql, {"after": after})
        connection.execute(_REPLACE.format(table=table))
    for statement in filter(str.strip, _STORE.split(";")):
        connection.execute(statement, steps if "$" in statement else {})
    connection.execute("DELETE FROM projection")
    connection.execute("INSERT INTO projection VALUES (?, ?), (?, ?)", [VERSION, until, _CLOCK, clock])
    pace.took(until - after, time.process_time() - began)
    return int(until) + FOLD_EVERY


def _gather(connection: duckdb.DuckDBPyConnection, rows: str, steps: dict[str, int]) -> None:
    """The events that are chosen from, each at the time at which it can have happened at the latest."""
    sql = "SELECT host, seq, epoch_ns(time) FROM event WHERE kind = ? AND seq <= ? ORDER BY seq"
    bounds = connection.execute(sql, [Kind.CLOCK_SET_BACK.value, steps.pop("clock")]).fetchall()
    times = ["at_ns"]
    for host, seq, set_ns in bounds:
        times.append(f"CASE WHEN seq < {seq} AND host = {sql_text(host)} THEN {set_ns} ELSE at_ns END")
    rows = f"SELECT * REPLACE (least({', '.join(times)}) AS at_ns) FROM ({rows})"
    connection.execute(_SOURCE.format(time="at_ns", rows=rows), steps)


def folded(table: str, after: int, whole_since: int, more: str = "", before: str = "") -> str:
    """SQL of the events that views are to see: all after a number and a time, of those before what is kept.

    Args:
        table: the table of events, qualified.
        after: the number up to which events are folded, or a smaller one; all after it are seen.
        whole_since: the time from which on all are wanted, UTC nanoseconds.
        more: SQL of further events; empty: none.
        before: SQL of which of those since then are wanted; empty: all.
    """
    more = more and f"UNION ALL {more}"
    if whole_since >= LAST_NS:
        # To plan for what can't be there would take as long as to read what is.
        return f"""(SELECT * EXCLUDE (part) FROM compacted WHERE seq <= {after}
            UNION ALL SELECT * FROM {table} WHERE seq > {after} {more})"""
    since = f"make_timestamp_ns({whole_since})"
    before = before and f" AND ({before})"
    return f"""(
        SELECT * EXCLUDE (part) FROM compacted WHERE time < {since} AND seq <= {after}
        UNION ALL SELECT * FROM {table} WHERE time >= {since}{before}
        UNION ALL SELECT * FROM {table} WHERE seq > {after} AND time < {since} {more})"""


def not_kept(table: str, numbers: tuple[int, int], images: str, columns: str = "*") -> str:
    """SQL of the events of some images that are folded and not kept.

    Args:
        table: the table of events, qualified.
        numbers: of the first and the last event that is looked at; this one is folded.
        images: SQL of the images.
        columns: what of them.
    """
    return f"""
        SELECT {columns} FROM {table} WHERE seq BETWEEN {numbers[0]} AND {numbers[1]} AND image IN ({images})
            AND seq NOT IN (SELECT seq FROM compacted)"""


def sums(table: str, after: int) -> str:
    """SQL of views of what is summed up, as `collector.eventlog.schema` has them for all events."""
    new = f"(FROM {table} WHERE seq > {after})"
    return f"""
        CREATE OR REPLACE TEMP VIEW image_uses AS
            SELECT host, image, sum(uses)::BIGINT AS uses
            FROM (FROM image_count UNION ALL BY NAME ({_USED.format(new=new)})
                UNION ALL BY NAME SELECT host, image, len(jobs) AS uses FROM thinned_use) GROUP BY host, image
            HAVING sum(uses) > 0;
        CREATE OR REPLACE TEMP VIEW kind_counts AS
            SELECT host, kind, sum(events)::BIGINT AS events FROM (
                FROM kind_count UNION ALL BY NAME SELECT host, kind, count(*) AS events FROM {new} GROUP BY host, kind
            ) GROUP BY host, kind;
    """


def differences(connection: duckdb.DuckDBPyConnection) -> list[tuple[int | None, str]]:
    """Where what is folded is not what the events come to: (number of an event or None, what); reads all of them.

    Args:
        connection: the log, showing its events as recorded.
    """
    until = reached(connection)
    if until is None or connection.execute("SELECT max(seq) FROM event").fetchall()[0][0] is None:
        return []
    clock = connection.execute("SELECT max(seq) FROM projection").fetchall()[0][0]
    _gather(connection, _NEW, {"after": 0, "until": until, "clock": clock})
    connection.execute(_CHOSEN)
    rows: list[tuple[int | None, str]] = []
    for sql, what in _DIFFERENCES:
        rows += [(seq, f"{what}{more}") for seq, more in connection.execute(sql).fetchall()]
    return rows


_DIFFERENCES = (
    ("SELECT seq, '' FROM chosen ANTI JOIN compacted USING (seq)", "is missing among what is kept for decisions"),
    ("SELECT seq, '' FROM compacted ANTI JOIN chosen USING (seq)", "is kept for decisions and need not be"),
    (
        f"""SELECT seq, '' FROM (
            FROM compacted EXCEPT SELECT event.*, {_PART} AS part FROM event SEMI JOIN compacted USING (seq))""",
        "is kept for decisions and differs from what was recorded",
    ),
    (
        f"""SELECT NULL, image || ': ' || coalesce(f.uses, 0) || ' and not ' || coalesce(t.uses, 0)
        FROM image_count AS f FULL JOIN (
            SELECT host, image, count(DISTINCT container) + count(*) FILTER (kind IN ({_COUNTED})) AS uses FROM source
            WHERE image IS NOT NULL AND kind IN ({_CONTAINERS}, {_COUNTED}) GROUP BY host, image
        ) AS t USING (host, image) WHERE coalesce(f.uses, 0) <> coalesce(t.uses, 0)""",
        "the uses counted of image number ",
    ),
    (
        """SELECT NULL, kind || ': ' || coalesce(f.events, 0) || ' and not ' || coalesce(t.events, 0)
        FROM kind_count AS f FULL JOIN (SELECT host, kind, count(*) AS events FROM source GROUP BY host, kind) AS t
        USING (host, kind) WHERE coalesce(f.events, 0) <> coalesce(t.events, 0)""",
        "the events counted of kind ",
    ),
)
