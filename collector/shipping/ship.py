"""Ships what is new in a log: what a store lacks is written there, batch by batch, and each batch by day.

How far a store has come is read from its manifests: nothing is kept here that could be lost or contradict them.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb

from collector.eventlog.database import alone
from collector.eventlog.identity import KnownHost, known_hosts, this_machine
from collector.eventlog.log import EventLog
from collector.eventlog.schema import SCHEMA_VERSION, STORED_KEY
from collector.eventlog.settings import incomplete_until
from collector.eventlog.sql import sql_text
from collector.model.errors import LogError, LogFullError
from collector.model.events import Kind
from collector.shipping import parts
from collector.shipping.leftovers import remove_replaced
from collector.shipping.merge import merge_old, read_manifest
from collector.shipping.parts import Manifest, Name, Stream
from collector.shipping.store import Store, StoreError

# So many events at once: the log is held for a second at most, and the part takes some megabytes.
BATCH = 50_000
LOCK = ".ship"
_MOST_NS = 2**63 - 1


@dataclass(slots=True)
class Shipped:
    """What was shipped of one host.

    Attributes:
        host: what the store calls it.
        events: how many.
        parts: in how many parts.
        bytes: of the files.
        last: the last sequence number that the store holds now.
        notes: remarks on it, in words.
    """

    host: str
    events: int = 0
    parts: int = 0
    bytes: int = 0
    last: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a host's next batch begins: after `last` of a stream; `redo` says which batch has to be written again.

    `after_ns` is when the latest part of any stream was shipped. What is shipped next is later, whatever the clock
    says: readers see by it whether a new log took over, or two machines ship at once.
    """

    after_ns: int
    stream: Stream
    last: int = 0
    redo: int | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """A part, ready to be written to the store."""

    name: Name
    events: bytes
    jobs: bytes | None
    manifest: Manifest


def ship(log: EventLog, store: Store, batch: int = BATCH, remove_merged_after_s: float | None = None) -> list[Shipped]:
    """Ship what is new of all hosts of a log.

    Args:
        log: the log.
        store: where to.
        batch: how many events at once.
        remove_merged_after_s: remove parts for which there has been a merged one for so long, seconds; None: keep them.

    Raises:
        LogError: the log cannot be read, or is another machine's.
        StoreError: the store cannot be used; what is there by then counts, and the next call goes on from it.
    """
    hosts = _hosts(log)
    with alone(log.path, LOCK, "shipped"):
        return [_ship_host(log, store, known, batch, remove_merged_after_s) for known in hosts]


def _hosts(log: EventLog) -> list[KnownHost]:
    """The hosts of a log, all of which may be shipped from here. Raises LogError."""
    with log.reading(as_recorded=True) as connection:
        hosts = known_hosts(connection)
    if not hosts:
        raise LogError(f"event log {log.path} holds no events yet: let the collector run for a while")
    here = this_machine()
    for one in hosts:
        if one.identity.is_same_machine(here) is False:
            raise LogError(
                f"the event log {log.path} is that of host '{one.identity.name}' on another machine: ship it from "
                "there, or run `collector adopt` to continue it here"
            )
    return hosts


def _ship_host(log: EventLog, store: Store, host: KnownHost, batch: int, remove_after_s: float | None) -> Shipped:
    name = _named(log, store, host)
    found = Shipped(name)
    merge_old(store, name, host)
    place = _place(log, store, host, name, found)
    while True:
        batch_parts, last = _cut(log, host, name, place, batch)
        if not batch_parts:
            found.last = place.last
            break
        for part in batch_parts:
            store.write(part.name.events(name), part.events)
            if part.jobs is not None:
                store.write(part.name.jobs(name), part.jobs)
        # Last of all: from here on readers see it.
        for part in batch_parts:
            store.write(part.name.manifest(name), part.manifest.to_bytes())
            found.events += part.manifest.rows
            found.parts += 1
            found.bytes += len(part.events) + len(part.jobs or b"")
        place = _Place(place.after_ns, place.stream, last)
    if remove_after_s is not None:
        try:
            remove_replaced(store, name, host, remove_after_s)
        except StoreError as error:
            # What is new is there all the same.
            found.notes.append(str(error))
    return found


def _named(log: EventLog, store: Store, host: KnownHost) -> str:
    """What a host is called in the store: by its key, unless another host is called so there already."""
    for name in (host.key, parts.distinct_name(host)):
        try:
            owner = parts.owner_from(store.claim(parts.owner_of(name), parts.owner_bytes(host)))
        except ValueError:
            raise StoreError(
                f"{parts.owner_of(name)} in {store.name} cannot be read: remove it, and the next run writes it again"
            ) from None
        if owner.id == host.id or (parts.is_same_host(owner, host) and not _adopted(log, host, owner)):
            return name
    raise StoreError(f"{store.name} has the histories of other hosts under the names of '{host.key}'")


def _adopted(log: EventLog, host: KnownHost, other: KnownHost) -> bool:
    """Whether a host went on with a copy of another's log: who adopts it is another host from then on."""
    found = log.query(
        "SELECT 1 FROM event WHERE host = ? AND kind = ? AND attributes ->> '$.adopted' = ? LIMIT 1",
        [host.key, Kind.HOST_CHANGED.value, other.id],
    )
    return bool(found)


def _place(log: EventLog, store: Store, host: KnownHost, name: str, found: Shipped) -> _Place:
    """How far the store has come with this log."""
    listed = parts.listed(store.names(parts.manifests_of(name)))
    # Parts that were merged may be there in part, while they are removed.
    merged = [one for one in listed if one.is_merged and read_manifest(store, name, one) is not None]
    known = [*merged, *(one for one in listed if not one.is_merged and not any(whole.covers(one) for whole in merged))]
    own = parts.stream_id(host)
    latest = {one.stream: one for one in sorted(known, key=lambda one: (one.last, one.first))}
    manifests = {stream: read_manifest(store, name, one) for stream, one in latest.items()}
    after_ns = max((one.last_shipped_ns for one in manifests.values() if one is not None), default=0)
    streams = sorted((stream for stream in latest if stream.id == own), reverse=True)
    for stream in streams:
        newest, manifest = latest[stream], manifests[stream]
        if manifest is None:
            found.notes.append(f"{newest.manifest(name)} is damaged: what it covers is shipped again")
            continue
        if _goes_on(log, host, newest.last, manifest.anchor):
            batch = (stream, newest.first, newest.last)
            days = {one.day for one in known if (one.stream, one.first, one.last) == batch}
            if newest.is_merged or days >= set(manifest.days):
                return _Place(after_ns, stream, newest.last)
            return _Place(after_ns, stream, newest.first - 1, newest.last)
    if streams:
        found.notes.append(
            f"the log of '{host.identity.name}' does not continue where the last part ended: all of it is shipped "
            "again, and readers count each event once (was the log damaged, or is another machine a clone of this one?)"
        )
    return _Place(after_ns, Stream(own, max((stream.number for stream in streams), default=0) + 1))


def _goes_on(log: EventLog, host: KnownHost, last: int, anchor: tuple[int, int]) -> bool:
    """Whether the log is the one whose event of this number was shipped last. It may have been cut off before."""
    rows = log.query(
        f"SELECT seq, epoch_ns(time), key & {STORED_KEY} FROM event WHERE host = ? AND seq >= ? ORDER BY seq LIMIT 1",
        [host.key, last],
        as_recorded=True,
    )
    if not rows:
        return False
    if rows[0][0] == last:
        return tuple(rows[0][1:]) == (anchor[0], anchor[1] & STORED_KEY)
    lowest = log.query("SELECT min(seq) FROM event WHERE host = ?", [host.key])[0][0]
    with log.reading() as connection:
        # The event itself may have been removed on purpose.
        return bool(lowest > last or last <= incomplete_until(connection))


def _cut(log: EventLog, host: KnownHost, name: str, place: _Place, batch: int) -> tuple[list[_Part], int]:
    """The next batch as parts, and its last sequence number; no parts: there is nothing new."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ship-") as folder,
            log.reading(Path(folder), as_recorded=True) as open_log,
        ):
            last = place.redo or _last(open_log, host, place.last, batch)
            if last is None:
                return [], place.last
            scope = {"host": host.key, "first": place.last + 1, "last": last}
            days = [
                str(day)
                for (day,) in open_log.execute(
                    "SELECT DISTINCT strftime(time, '%Y-%m-%d') FROM event"
                    " WHERE host = $host AND seq BETWEEN $first AND $last ORDER BY 1",
                    scope,
                ).fetchall()
            ]
            anchor = open_log.execute(
                "SELECT epoch_ns(time), key FROM event WHERE host = ? AND seq = ?", [host.key, last]
            ).fetchall()
            shipped_ns = min(max(time.time_ns(), place.after_ns + 1), _MOST_NS)
            manifest = Manifest(
                SCHEMA_VERSION, host, tuple(days), 0, 0, 0, "", None, anchor[0] if anchor else (0, 0), shipped_ns
            )
            cut = [
                _part(open_log, Path(folder), Name(place.stream, place.last + 1, last, day), scope, name, manifest)
                for day in days
            ]
            return cut, last
    except LogFullError:
        raise LogFullError(f"no space left in {tempfile.gettempdir()} for a batch of events: free some") from None
    except OSError as error:
        raise LogError(f"{tempfile.gettempdir()} cannot be used: {error.strerror or error}") from None


def _last(connection: duckdb.DuckDBPyConnection, host: KnownHost, after: int, batch: int) -> int | None:
    (last,) = connection.execute(
        "SELECT max(seq) FROM (SELECT seq FROM event WHERE host = ? AND seq > ? ORDER BY seq LIMIT ?)",
        [host.key, after, batch],
    ).fetchall()[0]
    return None if last is None else int(last)


def _part(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    name: Name,
    scope: dict[str, Any],
    host: str,
    manifest: Manifest,
) -> _Part:
    values = {**scope, "day": name.day, "name": host}
    events = _written(connection, parts.EVENT_ROWS, values, folder / "event.parquet")
    first, last, rows, jobs = connection.execute(
        "SELECT min(seq), max(seq), count(*), count(job) FROM event"
        " WHERE host = $host AND seq BETWEEN $first AND $last AND strftime(time, '%Y-%m-%d') = $day",
        {**scope, "day": name.day},
    ).fetchall()[0]
    of_jobs = _written(connection, parts.JOB_ROWS, values, folder / "job.parquet") if jobs else None
    manifest = replace(
        manifest,
        first=int(first),
        last=int(last),
        rows=int(rows),
        sha256=parts.checksum(events),
        jobs_sha256=None if of_jobs is None else parts.checksum(of_jobs),
    )
    return _Part(name, events, of_jobs, manifest)


def _written(connection: duckdb.DuckDBPyConnection, rows: str, values: dict[str, Any], file: Path) -> bytes:
    """Rows as a file of Parquet, in memory: a batch takes some megabytes."""
    connection.execute(f"COPY ({rows}) TO {sql_text(file)} (FORMAT parquet, COMPRESSION zstd)", values)
    data = file.read_bytes()
    file.unlink()
    return data
