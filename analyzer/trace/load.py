"""From the event log to a trace, column by column: no Python object is made per event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import duckdb
import numpy as np
from numpy.typing import NDArray

from analyzer.trace.hosts import choose_host
from analyzer.trace.naming import Naming, bearing, sights
from analyzer.trace.pull_space import pull_space
from analyzer.trace.trace import Flags, Floats, Integers, Trace
from analyzer.trace.uses import MONTH_BITS, NEVER, OPEN, LoggedUses, Survey, in_order, seconds, survey
from collector.eventlog.hourly import HOUR_NS
from collector.eventlog.log import EventLog
from collector.eventlog.retention import WHOLE_SINCE
from collector.eventlog.sql import sql_built_ns, sql_case, sql_list, sql_names, sql_stored_ns
from collector.model.defaults import PULL_RATE
from collector.model.errors import LogError, UsageError
from collector.model.events import LIVE, MOMENTS, Kind
from collector.model.traits import Use
from collector.model.units import format_bytes, format_count, format_duration, format_time
from collector.queries.coverage import Coverage
from collector.queries.failures import Failures, read_failures
from collector.queries.pulls import read_pull_rate
from pruner.policy.min_age import MOST_AGE
from pruner.policy.min_age import history as min_age_history
from pruner.policy.min_age import rows as age_rows

if TYPE_CHECKING:
    from analyzer.trace.holds import JobHolds

Columns = dict[str, NDArray[Any]]
_NONE = -1
# This long without a disk sample, and this many times the usual interval, is a hole in the log.
_UNSAMPLED_S = 3600.0
_UNSAMPLED = 12

_NAMING = ("container_created", "container_destroyed", "job_image_used", "image_pulled")
# What there is, by kind and month, in one pass; container starts are compared by an exclusive or.
_KINDS = """
    SELECT kind, epoch_ns(time) >> $bits AS month, epoch_ns(min(time)), epoch_ns(max(time)),
        count(*) - count(image), count(image), bit_xor(epoch_ns(time)) FILTER (image IS NOT NULL)
    FROM event WHERE host = $host GROUP BY ALL
"""
# Containers by their end events, which also hold when they began.
_USE_KINDS = {kind: kind.traits.use or Use.FOUND for kind in (Kind.CONTAINER_DESTROYED, *MOMENTS)}
_USES = f"""
    SELECT coalesce(began, time) AS time, time AS until, image,
        CAST({sql_case("kind", _USE_KINDS)} AS UTINYINT) AS kind
    FROM event WHERE host = $host AND image IS NOT NULL AND kind IN ({sql_list(_USE_KINDS)})
    UNION ALL
    -- What a compaction left of old uses: between the longest idle times of its days an image counts as in use.
    SELECT began, ended, image, CAST({int(Use.CONTAINER)} AS UTINYINT) FROM thinned_use
    WHERE host = $host AND len(jobs) > 0
"""
# Containers without an end are few among millions. Where all have one, creations and the beginnings
# that stand beside the ends are the same times: only where they are not, first by months and then by
# images and days, is looked at container by container.
_DOUBTFUL = """
    CREATE OR REPLACE TEMP TABLE doubtful AS
    SELECT image, epoch_ns(coalesce(began, time)) // 86400000000000 AS day FROM event
    WHERE host = $host AND image IS NOT NULL AND kind IN ('container_created', 'container_destroyed')
        AND epoch_ns(coalesce(began, time)) >> $bits IN (SELECT unnest($months))
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
        coalesce({sql_stored_ns("attributes")}, 0) AS stored,
        coalesce(TRY_CAST(attributes ->> '$.size' AS BIGINT), -1) AS size,
        CAST(to_json({sql_names("attributes -> '$.references'")}) AS VARCHAR) AS refs
    FROM (SELECT *, {sql_built_ns("attributes")} AS built FROM observed) ORDER BY image
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
        kinds = _Kinds(connection.execute(_KINDS, {"host": host, "bits": MONTH_BITS}).fetchall())
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
        ages = age_rows(connection, host, is_folded=not shipped, pulled=pulled) if kinds.shows_containers else ((), ())
        surveyed = looked.result()
        raw = _Raw(
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
    return _assemble(raw, disk or DiskOverride())


@runtime_checkable
class _Shipped(Protocol):
    """A log in which nothing is folded, as `analyzer.trace.shipped.ShippedLog`: what reads such is loaded with them."""

    def without_containers(self, connection: duckdb.DuckDBPyConnection) -> AbstractContextManager[None]: ...


class _Kinds:
    """How many events of each kind there are in each month, and when."""

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
        self._created = {row[1]: (row[5], row[6]) for row in rows if row[0] == "container_created" and row[5]}

    def doubtful(self, survey: Survey) -> list[int]:
        """The months in which containers began that have no end."""
        months = self._created.keys() | survey.began.keys()
        return sorted(month for month in months if self._created.get(month) != survey.began.get(month))


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


def _running(connection: duckdb.DuckDBPyConnection, host: str, months: list[int]) -> LoggedUses:
    """The uses of containers without an end, if they began in these months."""
    if not months:
        return _no_uses()
    connection.execute(_DOUBTFUL, {"host": host, "bits": MONTH_BITS, "months": months})
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


@dataclass(slots=True)
class _Raw:
    """What the log holds, unconverted: times in UTC nanoseconds, images by the log's own numbers."""

    host: str
    origin: int
    end: int
    unresolved: int
    uses: LoggedUses
    more: LoggedUses
    holds: JobHolds | None
    earliest: Integers
    observed: Columns
    layers: Columns
    disk: Columns
    gaps: Columns
    names: dict[int, list[str]]
    ids: dict[int, str]
    ages: tuple[tuple[int, float], ...]
    failures: Failures
    naming: list[Naming]
    store: str
    pull_rate: float | None
    whole_since: int | None

    def seconds(self, nanoseconds: NDArray[Any]) -> Floats:
        """Seconds after the origin."""
        return seconds(nanoseconds, self.origin)


def _assemble(raw: _Raw, override: DiskOverride) -> Trace:
    assumptions: list[str] = []
    if raw.unresolved:
        assumptions.append(
            f"{format_count(raw.unresolved, 'event')} without a known image left out: it was gone before an inventory"
        )
    if raw.whole_since is not None:
        assumptions.append(
            f"the history is complete from {format_time(raw.whole_since / 1e9)} on: before, an image counts as in use "
            "between the longest idle times of its days"
        )
    _add_findings(raw)
    _add_holds(raw, assumptions)
    number = _numbering(raw)
    n = int(number.max(initial=-1)) + 1
    if n == 0:
        raise LogError("the log holds no images: let the collector take an inventory, or import a job list")
    image_ids = tuple(raw.ids[int(i)] for i in np.argsort(number, kind="stable")[len(number) - n :])
    references, local, created = _image_facts(raw, number, n)
    if unsure := int(np.count_nonzero(raw.observed["unsure"])):
        assumptions.append(
            f"whether a registry has {format_count(unsure, 'image')} is not known: they count as local (local_images)"
        )
    names: list[tuple[str, ...]] = [()] * n
    for i, known in raw.names.items():
        if number[i] >= 0:
            names[number[i]] = tuple(known)
    first, layer, layer_bytes = _layers(raw, number, n, assumptions)
    _check_sizes(raw, number, first, assumptions)
    disk = _disk(raw, override, layer_bytes, assumptions)
    uses = in_order(raw.uses, raw.more, raw.origin, number)
    blind = np.stack((raw.seconds(raw.gaps["began"]), raw.seconds(raw.gaps["ended"])), axis=1)
    end = (raw.end - raw.origin) / 1e9
    covered = Coverage(0.0, end, tuple(map(tuple, blind.tolist())))
    if override.total is None:
        assumptions += _unsampled(disk["disk_time"], covered, raw.origin / 1e9)
    if len(blind):
        lost = covered.lost(0.0, end)
        assumptions.append(
            f"{format_count(len(blind), 'gap')} not observed, {format_duration(lost)} in all "
            f"({lost / max(end, 1.0):.1%} of the time): after it every image counts as just used (min_age)"
        )
    if raw.pull_rate is not None:
        assumptions.append(
            f"pulls are assumed to be as fast as this host's own: {format_bytes(raw.pull_rate)} per second"
        )
    return Trace(
        host=raw.host,
        origin_ns=raw.origin,
        end=end,
        image_ids=image_ids,
        references=references,
        names=tuple(names),
        local=local,
        created=created,
        first=first,
        layer=layer,
        layer_bytes=layer_bytes,
        **uses,
        **disk,
        blind=blind,
        assumptions=tuple(assumptions),
        min_ages=_min_ages(raw),
        failures=str(raw.failures),
        sight=sights(raw.earliest, created, number),
        bearing=bearing(raw.naming, number, n, raw.origin),
        pull_rate=raw.pull_rate or PULL_RATE,
        pull_space=pull_space(raw.store, first, layer, layer_bytes),
        guesses=_guesses(raw, number),
    )


def _min_ages(raw: _Raw) -> Floats:
    """The values of `min_age = "auto"`, and from when on each holds; the first one holds before the origin, too."""
    steps = [((hour * HOUR_NS - raw.origin) / 1e9, age) for hour, age in raw.ages]
    begun = [age for time, age in steps if time <= 0.0]
    return np.array([(-np.inf, begun[-1] if begun else MOST_AGE), *(step for step in steps if step[0] > 0.0)])


def _add_findings(raw: _Raw) -> None:
    """Add the images that an inventory saw before any use was observed.

    Their last use is not known: as in the pruner, the time the engine stored them counts, else their build time.
    """
    earliest, more = raw.earliest, raw.more
    np.minimum.at(earliest, more.image, more.time)
    seen = raw.observed["time"]
    unexplained = seen < earliest[raw.observed["image"]]
    found, seen = raw.observed["image"][unexplained], seen[unexplained]
    weak = np.where(raw.observed["stored"] > 0, raw.observed["stored"], raw.observed["created"])[unexplained]
    earliest[found] = seen
    raw.more = LoggedUses(
        np.concatenate((more.time, seen)),
        np.concatenate((more.until, np.minimum(weak, seen))),
        np.concatenate((more.image, found)),
        np.concatenate((more.kind, np.full(len(found), int(Use.FOUND), dtype=np.uint8))),
    )


def _add_holds(raw: _Raw, assumptions: list[str]) -> None:
    """Add the images that jobs in flight certainly held."""
    if raw.holds is None:
        return
    more, firm = raw.more, raw.holds.firm
    raw.more = LoggedUses(
        np.concatenate((more.time, firm["time"])),
        np.concatenate((more.until, firm["until"])),
        np.concatenate((more.image, firm["image"])),
        np.concatenate((more.kind, np.full(len(firm["image"]), int(Use.HOLD), dtype=np.uint8))),
    )
    assumptions += raw.holds.notes


def _guesses(raw: _Raw, number: Integers) -> Floats:
    """The images that jobs in flight are guessed to need; see `Trace.guesses`."""
    if raw.holds is None:
        return np.empty((0, 4))
    found = raw.holds.guesses
    times = raw.seconds(found["time"]), raw.seconds(found["until"])
    columns = np.stack((*times, number[found["image"]], found["rank"]), axis=1)
    return columns[columns[:, 2] >= 0]


def _numbering(raw: _Raw) -> Integers:
    """The trace's number of each of the log's images; -1 for those of other hosts.

    By first sight, then build time, then ID: as `pruner.state.inventory.number` does it.
    """
    count = len(raw.earliest)
    created = np.zeros(count, dtype=np.int64)
    created[raw.observed["image"]] = raw.observed["created"]
    ids = np.array([raw.ids.get(i, "") for i in range(count)])
    order = np.lexsort((ids, created, raw.earliest))
    number = np.full(count, _NONE, dtype=np.int64)
    seen = order[: int(np.count_nonzero(raw.earliest != NEVER))]
    number[seen] = np.arange(len(seen))
    return number


def _image_facts(raw: _Raw, number: Integers, n: int) -> tuple[tuple[tuple[str, ...], ...], Flags, Floats]:
    references: list[tuple[str, ...]] = [()] * n
    local = np.zeros(n, dtype=np.bool_)
    created = np.full(n, -raw.origin / 1e9)
    known = number[raw.observed["image"].astype(np.int64)]
    local[known] = raw.observed["local"].astype(np.bool_)
    created[known] = raw.seconds(raw.observed["created"])
    for i, text in zip(known, raw.observed["refs"], strict=True):
        references[i] = tuple(json.loads(text))
    return tuple(references), local, created


def _layers(raw: _Raw, number: Integers, n: int, assumptions: list[str]) -> tuple[Integers, Integers, Integers]:
    """The layers of each image; an image whose layers are unknown gets one of its whole size."""
    rank = np.lexsort((raw.layers["position"], raw.layers["image"]))
    owner = number[raw.layers["image"].astype(np.int64)][rank]
    layer = raw.layers["layer"].astype(np.int64)[rank]
    _, once = np.unique(np.stack((owner, layer)), axis=1, return_index=True)
    rank, owner, layer = rank[np.sort(once)], owner[np.sort(once)], layer[np.sort(once)]
    count = int(layer.max(initial=-1)) + 1
    layer_bytes = np.zeros(count, dtype=np.int64)
    layer_bytes[layer] = raw.layers["bytes"].astype(np.int64)[rank]
    whole = np.zeros(n, dtype=np.int64)
    whole[number[raw.observed["image"].astype(np.int64)]] = raw.observed["size"]
    bare = np.setdiff1d(np.flatnonzero(whole > 0), owner)
    if len(bare):
        assumptions.append(
            f"the layers of {format_count(len(bare), 'image')} are unknown: none is assumed to be shared"
        )
    owner = np.concatenate((owner, bare))
    layer = np.concatenate((layer, count + np.arange(len(bare))))
    by_owner = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[by_owner], np.arange(n + 1))
    return first, layer[by_owner], np.concatenate((layer_bytes, whole[bare]))


def _check_sizes(raw: _Raw, number: Integers, first: Integers, assumptions: list[str]) -> None:
    unknown = np.flatnonzero(first[1:] == first[:-1])
    if not len(unknown):
        return
    if len(unknown) == len(first) - 1:
        raise LogError("the log has no image's size: let the collector take an inventory of this host")
    is_unknown = np.zeros(len(first), dtype=np.bool_)
    is_unknown[unknown] = True
    demands = [(part, (part.kind >= Use.CONTAINER) & (part.kind <= Use.JOB)) for part in (raw.uses, raw.more)]
    uses = sum(int(np.count_nonzero(is_unknown[number[part.image]] & wanted)) for part, wanted in demands)
    of = format_count(sum(int(np.count_nonzero(wanted)) for _, wanted in demands), "use")
    assumptions.append(
        f"of {format_count(len(unknown), 'image')} ({uses:,} of {of}) no inventory saw the size: "
        "they count as 0 bytes, so bytes are at least what is shown"
    )


def _disk(raw: _Raw, override: DiskOverride, layer_bytes: Integers, assumptions: list[str]) -> Columns:
    """The disk states, the first of them at 0, and with them the inodes of each layer."""
    if not len(raw.disk["time"]) or override.total is not None:
        return _assumed_disk(raw, override, layer_bytes, assumptions)
    known = (raw.disk["free"] >= 0) & (raw.disk["total"] > 0)
    held = raw.disk["held"].astype(np.int64)
    if not np.any(known & (held >= 0)):
        raise LogError(
            "no disk sample says what the engine's images hold, so other usage is unknown: give --disk-size and --other"
        )
    kept = np.flatnonzero(known & (held >= 0))
    if len(kept) < len(held):
        assumptions.append(f"{len(held) - len(kept)} of {len(held)} disk samples are incomplete and left out")
    columns = {name: column[kept].astype(np.int64) for name, column in raw.disk.items()}
    other = columns["total"] - columns["free"] - columns["held"]
    if np.any(other < 0):
        assumptions.append("where images held more than was used of the disk, other usage is taken as 0")
    if override.other is not None:
        _check_room(int(columns["total"].max()), override.other)
        other[:] = override.other
    density = _inodes_per_byte(columns)
    held_inodes = (density * columns["held"]).astype(np.int64)
    time = raw.seconds(columns["time"])
    time[0] = 0.0
    return {
        "disk_time": np.maximum(time, 0.0),
        "disk_total": columns["total"],
        "disk_other": np.maximum(other, 0),
        "inode_total": columns["total_inodes"],
        "inode_other": np.maximum(columns["total_inodes"] - columns["free_inodes"] - held_inodes, 0),
        "layer_inodes": np.floor(density * layer_bytes),
    }


def _unsampled(times: Floats, covered: Coverage, origin: float) -> Iterator[str]:
    """Notes on long times without a disk sample that no gap explains: part of the log may be missing."""
    edges = np.append(times, max(times[-1], covered.last or 0.0))
    lengths = np.diff(edges)
    limit = max(_UNSAMPLED_S, _UNSAMPLED * float(np.median(lengths)))
    found = []
    for at in np.flatnonzero(lengths > limit):
        unexplained = float(lengths[at]) - covered.lost(float(edges[at]), float(edges[at + 1]))
        if unexplained > limit:
            found.append((unexplained, float(edges[at])))
    if not found:
        return
    longest, began = max(found)
    length = format_duration(longest)
    if len(found) > 1:
        length = f"{format_duration(sum(one for one, _ in found))} in {len(found)} stretches, the longest of {length}"
    yield (
        f"no disk sample for {length} from {format_time(origin + began)} on: other usage is taken as unchanged, and if "
        "a part of the log is missing (a day of an exported folder), so are its uses"
    )


def _inodes_per_byte(disk: Columns) -> float:
    """How many inodes a byte of an image takes, estimated as for all files of the disk; 0 without a limit."""
    limited = disk["total_inodes"] > 0
    used = (disk["total"] - disk["free"])[limited]
    if not np.any(used > 0):
        return 0.0
    return float(np.sum((disk["total_inodes"] - disk["free_inodes"])[limited]) / np.sum(used))


def _check_room(total: int, other: int) -> None:
    """Whether other usage leaves room for images on a disk; both in bytes. Raises UsageError."""
    if other >= total:
        raise UsageError(
            f"a disk of {format_bytes(total)} with {format_bytes(other)} of other usage leaves no room for images: "
            "give less --other, or more --disk-size"
        )


def _assumed_disk(raw: _Raw, override: DiskOverride, layer_bytes: Integers, assumptions: list[str]) -> Columns:
    if override.total is None:
        raise LogError(
            f"the log of host {raw.host} has no disk samples, so free space is unknown: "
            "let the collector sample the disk, or give --disk-size and --other"
        )
    other = override.other or 0
    _check_room(override.total, other)
    assumptions.append("the disk and its other usage are as given on the command line, throughout")
    one = np.ones(1, dtype=np.int64)
    return {
        "disk_time": np.zeros(1),
        "disk_total": one * override.total,
        "disk_other": one * other,
        "inode_total": one * 0,
        "inode_other": one * 0,
        "layer_inodes": np.zeros(len(layer_bytes)),
    }
