"""From the event log to a trace, column by column: no Python object is made per event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import duckdb
import numpy as np
from numpy.typing import NDArray

from analyzer.trace.assemble import LoggedHistory, assemble
from analyzer.trace.hosts import choose_host
from analyzer.trace.trace import Integers, Trace
from analyzer.trace.uses import OPEN, SPAN_BITS, LoggedUses, Survey, survey
from collector.eventlog.log import EventLog
from collector.eventlog.retention import WHOLE_SINCE
from collector.eventlog.sql import BUILT_NS, STORED_NS, sql_case, sql_list, sql_names
from collector.model.events import LIVE, MOMENTS, Kind
from collector.model.traits import Use
from collector.queries.failures import Failures, read_failures
from collector.queries.pulls import read_pull_rate
from pruner.policy.min_age import Jobs, Pulls, decisive_hours
from pruner.policy.min_age import history as min_age_history
from pruner.policy.min_age import rows as age_rows

if TYPE_CHECKING:
    from analyzer.trace.holds import JobHolds

Columns = dict[str, NDArray[Any]]

_NAMING = ("container_created", "container_destroyed", "job_image_used", "image_pulled")
# What there is, by kind and span, in one pass; container starts are compared by an exclusive or.
_KINDS = """
    SELECT kind, time >> $bits AS span, min(time), max(time), count(*) - count(image), count(image),
        bit_xor(CASE WHEN image IS NOT NULL THEN time END), count(job)
    FROM (SELECT kind, epoch_ns(time) AS time, image, job FROM event WHERE host = $host) GROUP BY ALL
"""
# Containers by their end events, which also hold when they began. A scan leaves out what is not equal to a word, or is,
# at little cost; what it lets through is looked for in a list, row by row.
_USE_KINDS = {kind: kind.traits.use or Use.FOUND for kind in MOMENTS}
_USES = f"""
    SELECT coalesce(began, time) AS time, time AS until, image, CAST({int(Use.CONTAINER)} AS UTINYINT) AS kind
    FROM event WHERE host = $host AND image IS NOT NULL AND kind = '{Kind.CONTAINER_DESTROYED}'
    UNION ALL
    SELECT coalesce(began, time), time, image, CAST({sql_case("kind", _USE_KINDS)} AS UTINYINT) FROM event
    WHERE host = $host AND image IS NOT NULL AND kind <> '{Kind.CONTAINER_DESTROYED}'
        AND kind <> '{Kind.CONTAINER_CREATED}' AND kind IN ({sql_list(_USE_KINDS)})
    UNION ALL
    -- What a compaction left of old uses: between the longest idle times of its days an image counts as in use.
    SELECT began, ended, image, CAST({int(Use.CONTAINER)} AS UTINYINT) FROM thinned_use
    WHERE host = $host AND len(jobs) > 0
"""
# Containers without an end are few among millions. Where all have one, creations and the beginnings
# that stand beside the ends are the same times: only where they are not, first by spans and then by
# images and days, is looked at container by container.
_DOUBTFUL = """
    CREATE OR REPLACE TEMP TABLE doubtful AS
    SELECT image, epoch_ns(coalesce(began, time)) // 86400000000000 AS day FROM event
    WHERE host = $host AND image IS NOT NULL AND kind IN ('container_created', 'container_destroyed')
        AND epoch_ns(coalesce(began, time)) >> $bits IN (SELECT unnest($spans))
    GROUP BY ALL HAVING bit_xor(hash(coalesce(began, time))) != 0 OR 2 * count(began) != count(*)
"""
_CREATED = """
    CREATE OR REPLACE TEMP TABLE created AS
    SELECT seq, time, image, container FROM event SEMI JOIN doubtful
        ON event.image = doubtful.image AND epoch_ns(time) // 86400000000000 = day
    WHERE host = $host AND kind = 'container_created'
"""
_OPEN = """
    SELECT time, image FROM created WHERE container NOT IN (
        SELECT container FROM event WHERE host = $host AND kind = 'container_destroyed'
            AND container IN (SELECT container FROM created)
    ) ORDER BY seq
"""
# Only there a view asks for containers: by when an image was first used it may show where it came from.
_ON_CONTAINERD = """
    SELECT 1 FROM event
    WHERE host = ? AND kind = 'collector_started' AND attributes ->> '$.store' = 'containerd' LIMIT 1
"""
_OBSERVATIONS = "CREATE OR REPLACE TEMP TABLE observed AS FROM image_observations WHERE host = ?"
_OBSERVED = f"""
    SELECT image, epoch_ns(first_observed) AS time,
        local, origin = 'unknown' AS unsure,
        CASE WHEN built BETWEEN 0 AND epoch_ns(first_observed) + 60000000000 THEN built ELSE 0 END AS created,
        coalesce({STORED_NS}, 0) AS stored,
        coalesce(TRY_CAST(attributes ->> '$.size' AS BIGINT), -1) AS size,
        CAST(to_json({sql_names("attributes -> '$.references'")}) AS VARCHAR) AS refs
    FROM (SELECT *, {BUILT_NS} AS built FROM observed) ORDER BY image
"""
# Only of these it is known what else they need; few logs know of any.
_PROJECTS = "SELECT 1 FROM job WHERE host = ? AND ci = 'gitlab' AND project_id IS NOT NULL LIMIT 1"
# An allowlist may match any name an image ever had.
_NAMES = "SELECT image, list(DISTINCT name ORDER BY name) FROM image_references WHERE host = ? GROUP BY image"
_LAYERS = """
    WITH listed AS (
        SELECT image, json_transform(attributes -> '$.layers',
            '[{"chain_id": "VARCHAR", "diff_id": "VARCHAR", "bytes": "BIGINT"}]') AS layers FROM observed
    ), flat AS (
        SELECT image, unnest(layers) AS layer, generate_subscripts(layers, 1) AS position FROM listed
    ), named AS (
        SELECT image, position, coalesce(layer.chain_id, layer.diff_id) AS layer, coalesce(layer.bytes, 0) AS bytes
        FROM flat
    ), numbered AS (
        SELECT layer, row_number() OVER (ORDER BY layer) - 1 AS number, max(bytes) AS bytes FROM named GROUP BY layer
    )
    SELECT image, position, number AS layer, numbered.bytes FROM named JOIN numbered USING (layer)
"""
_DISK = """
    SELECT epoch_ns(time) AS time, coalesce(free_bytes, -1) AS free, coalesce(total_bytes, -1) AS total,
        coalesce(image_bytes, -1) AS held, coalesce(free_inodes, -1) AS free_inodes,
        coalesce(total_inodes, 0) AS total_inodes
    FROM disk WHERE host = ? ORDER BY disk.time
"""
# Events that gave a local image a name or took it away, and all else that had the same name.
_NAMING_OF_LOCAL = """
    WITH named AS MATERIALIZED (FROM image_references WHERE host = $host),
    name AS (SELECT DISTINCT name FROM named SEMI JOIN (FROM observed WHERE local) USING (image))
    SELECT epoch_ns(time), image, kind, name FROM (
        SELECT time, seq, image, kind, name FROM named SEMI JOIN name USING (name)
        UNION ALL
        SELECT time, seq, image, kind, '' FROM event SEMI JOIN (FROM observed WHERE local) USING (image)
        WHERE host = $host AND kind = 'image_deleted'
    ) ORDER BY time, seq
"""
_STORE = """
    SELECT coalesce(arg_max(attributes ->> '$.store', seq), '') FROM event WHERE host = ? AND kind = 'collector_started'
"""
_GAPS = "SELECT epoch_ns(began) AS began, epoch_ns(ended) AS ended FROM gaps WHERE host = ? ORDER BY gaps.began"


@dataclass(frozen=True, slots=True)
class DiskOverride:
    """A disk to assume in place of the recorded one: bytes in all, and bytes held by other files."""

    total: int | None = None
    other: int | None = None


def load_trace(log: EventLog, host: str | None = None, disk: DiskOverride | None = None) -> Trace:
    """The history of one host.

    Args:
        log: where it is recorded.
        host: which host's history; None if the log has only one.
        disk: the disk to assume in place of the recorded one.

    Raises:
        LogError: there is no such log or host, or it lacks what cannot be assumed (with what to do).
        UsageError: the assumed disk leaves no room for images.
    """
    with log.reading() as connection, ThreadPoolExecutor(1) as beside:
        host = choose_host(connection, host, log)
        ids = dict(connection.execute("SELECT image, image_id FROM image").fetchall())
        # The largest result is fetched and processed while the other queries run.
        fetched = beside.submit(_uses, _second(connection), host)
        looked = beside.submit(lambda: survey(fetched.result(), max(ids, default=-1) + 1))
        kinds = _Kinds(connection.execute(_KINDS, {"host": host, "bits": SPAN_BITS}).fetchall())
        shipped = log if isinstance(log, _Shipped) else None
        with shipped.without_containers(connection) if shipped else nullcontext():
            looks_at_all = connection.execute(_ON_CONTAINERD, [host]).fetchone() is not None
            if not looks_at_all:
                connection.execute(_OBSERVATIONS, [host])
            names = dict(connection.execute(_NAMES, [host]).fetchall())
            columns = {"disk": _columns(connection, _DISK, [host]), "gaps": _columns(connection, _GAPS, [host])}
            store = connection.execute(_STORE, [host]).fetchall()[0][0]
            whole_since = connection.execute(WHOLE_SINCE, [host]).fetchall()[0][0]
        if looks_at_all:
            connection.execute(_OBSERVATIONS, [host])
        columns |= {"observed": _columns(connection, _OBSERVED), "layers": _columns(connection, _LAYERS)}
        local = columns["observed"]["image"][columns["observed"]["local"].astype(np.bool_)]
        pulled = kinds.shows_pulls or whole_since is not None
        ages: tuple[Pulls, Jobs] = (), ()
        if kinds.shows_containers:
            decisive = decisive_hours(kinds.of_jobs, 1 << SPAN_BITS)
            ages = age_rows(connection, host, decisive, is_folded=not shipped, pulled=pulled)
        surveyed = looked.result()
        raw = LoggedHistory(
            host=host,
            origin=kinds.origin,
            end=kinds.end,
            unresolved=kinds.unresolved,
            uses=fetched.result(),
            more=_running(connection, host, kinds.doubtful(surveyed)),
            holds=_holds(connection, host, local, kinds.end),
            earliest=surveyed.earliest,
            names=names,
            ids=ids,
            ages=tuple(min_age_history(*ages)),
            failures=read_failures(connection, host) if kinds.shows_failures else Failures(),
            pull_rate=read_pull_rate(connection, host) if kinds.shows_jobs else None,
            naming=connection.execute(_NAMING_OF_LOCAL, {"host": host}).fetchall() if len(local) else [],
            store=store,
            whole_since=whole_since,
            **columns,
        )
    return assemble(raw, disk or DiskOverride())


@runtime_checkable
class _Shipped(Protocol):
    """A log in which nothing is folded, as `analyzer.trace.shipped.ShippedLog`: what reads such is loaded with them."""

    def without_containers(self, connection: duckdb.DuckDBPyConnection) -> AbstractContextManager[None]: ...


class _Kinds:
    """How many events of each kind there are in each span, and when."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        first = {kind: min(row[2] for row in rows if row[0] == kind) for kind in {row[0] for row in rows}}
        self.origin = min([first[kind] for kind in LIVE if kind in first] or first.values())
        self.end = max(row[3] for row in rows)
        self.unresolved = sum(row[4] for row in rows if row[0] in _NAMING)
        self.shows_containers = "container_created" in first
        self.shows_pulls = Kind.IMAGE_PULLED.value in first
        self.shows_jobs = Kind.JOB_STARTED.value in first and self.shows_pulls
        # Queries that would find nothing are left out: planning one takes longer than replaying a policy.
        self.shows_failures = not first.keys().isdisjoint((Kind.PULL_FAILED.value, Kind.JOB_FINISHED.value))
        created = [row for row in rows if row[0] == Kind.CONTAINER_CREATED]
        self._created = {row[1]: (row[5], row[6]) for row in created if row[5]}
        self.of_jobs = {row[1]: row[7] for row in created if row[7]}

    def doubtful(self, survey: Survey) -> list[int]:
        """The spans in which containers began that have no end."""
        spans = self._created.keys() | survey.began.keys()
        return sorted(span for span in spans if self._created.get(span) != survey.began.get(span))


def _columns(connection: duckdb.DuckDBPyConnection, sql: str, parameters: object = None) -> Columns:
    return cast("Columns", connection.execute(sql, parameters).fetchnumpy())


def _second(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A second connection that shows the same events: a new one has neither our database nor our views."""
    second = connection.cursor()
    # A log read from Parquet has tables only, which all connections show.
    for database, events in connection.execute(
        "SELECT current_database(), sql FROM duckdb_views() WHERE temporary AND view_name = 'event'"
    ).fetchall():
        second.execute(f'USE "{database.replace(chr(34), chr(34) * 2)}"; {events}')
    return second


def _uses(connection: duckdb.DuckDBPyConnection, host: str) -> LoggedUses:
    """All uses except those of containers without an end."""
    with connection:
        uses = _columns(connection, _USES, {"host": host})
    return LoggedUses(_nanoseconds(uses["time"]), _nanoseconds(uses["until"]), uses["image"], uses["kind"])


def _running(connection: duckdb.DuckDBPyConnection, host: str, spans: list[int]) -> LoggedUses:
    """The uses of containers without an end, if they began in these spans."""
    if not spans:
        return _no_uses()
    connection.execute(_DOUBTFUL, {"host": host, "bits": SPAN_BITS, "spans": spans})
    connection.execute(_CREATED, {"host": host})
    found = _columns(connection, _OPEN, {"host": host})
    count = len(found["time"])
    kinds = np.full(count, int(Use.CONTAINER), dtype=np.uint8)
    return LoggedUses(_nanoseconds(found["time"]), np.full(count, OPEN), found["image"], kinds)


def _holds(connection: duckdb.DuckDBPyConnection, host: str, local: NDArray[Any], end: int) -> JobHolds | None:
    """What jobs in flight held; None: the log knows of no project's jobs."""
    if not connection.execute(_PROJECTS, [host]).fetchone():
        return None
    from analyzer.trace.holds import read_holds

    return read_holds(connection, host, local, end)


def _no_uses() -> LoggedUses:
    times = np.empty(0, dtype=np.int64)
    return LoggedUses(times, times, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8))


def _nanoseconds(times: NDArray[Any]) -> Integers:
    found: Integers = np.asarray(times).astype("datetime64[ns]", copy=False).view(np.int64)
    return found
