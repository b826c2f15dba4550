"""Histories that `collector ship` brought together, read as if each host's were one log.

What does not fit is set aside with a line, and the rest counts: a part that is damaged or not there, one of another
machine that has the same name, and what a clone went on to write.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PosixPath
from typing import Any

import duckdb

from collector.eventlog import identity
from collector.eventlog.database import AUTOLOAD_OFF
from collector.eventlog.log import EventLog
from collector.eventlog.migration import upgrade
from collector.eventlog.schema import MIGRATIONS, SCHEMA_VERSION, STORED_KEY, TABLES_VERSION
from collector.eventlog.sql import sql_text
from collector.eventlog.views import table_of_events
from collector.model.errors import LogError
from collector.model.events import Kind
from collector.model.units import format_count
from collector.shipping import parts
from collector.shipping.parts import Manifest, Name, Stream
from collector.shipping.store import MOST, MOST_OF_MANIFEST, S3, Folder, Store, UnreadableError

# Most of what one waits for at an object store is its answer.
_AT_ONCE = 8
# A store that changes meanwhile is listed so often.
_LISTINGS = 3
# More files than that are opened once and copied, rather than opened by each query.
_MOST_IN_PLACE = 48


_kept = threading.local()
_number = itertools.count()
# So many bytes of memory are asked for once and then kept for the next host: to get them from the system each time
# takes as long as to read a host's year.
_KEPT = "256MB"
# And it would keep a little more after each: so many hosts later a new one begins with as little as the first.
_HOSTS = 24


def _engine() -> duckdb.DuckDBPyConnection:
    """This thread's DuckDB, which outlasts a host."""
    if not hasattr(_kept, "engine"):
        # A thread more costs a small file more time than it saves.
        config: dict[str, Any] = {**AUTOLOAD_OFF, "threads": 1}
        try:
            _kept.engine = duckdb.connect(config={**config, "block_allocator_memory": _KEPT})
        except duckdb.Error:  # an older DuckDB has no such setting
            _kept.engine = duckdb.connect(config=config)
    engine: duckdb.DuckDBPyConnection = _kept.engine
    return engine


@contextmanager
def _in_memory() -> Iterator[_Database]:
    """An empty database in memory."""
    # To make the views takes as long as to replay ten policies. They find tables by name: those of a host before serve.
    kept, _kept.shown = getattr(_kept, "shown", None), None
    name, shown = kept or (f"log{next(_number)}", None)
    engine = _engine()
    with engine.cursor() as filling:
        filling.execute(f"ATTACH ':memory:' AS {name}; USE {name}")
        made = _Database(filling, shown or engine.cursor(), is_shown=shown is not None)
        made.shown.execute(f"USE {name}")
        try:
            yield made
        finally:
            made.shown.execute("USE memory")
            filling.execute(f"USE memory; DETACH {name}")
    if getattr(_kept, "engine", None) is engine:
        _kept.shown = name, made.shown
        _kept.hosts = getattr(_kept, "hosts", 0) + 1
        if _kept.hosts == _HOSTS:
            let_memory_go()


def let_memory_go() -> None:
    """Give back what this thread keeps for the next host."""
    _kept.__dict__.clear()


@dataclass(slots=True)
class _Database:
    """A database in memory.

    Attributes:
        filling: a connection that shows its tables.
        shown: one on which our views stand before them.
        is_shown: whether it has these views already.
    """

    filling: duckdb.DuckDBPyConnection
    shown: duckdb.DuckDBPyConnection
    is_shown: bool


def is_shipped(folder: Path) -> bool:
    """Whether a folder is one that `collector ship` writes to."""
    return (folder / parts.MANIFESTS).is_dir()


def shipped_hosts(store: Store) -> list[str]:
    """The hosts whose logs were shipped to a store. Raises StoreError."""
    return sorted(host for folder in store.folders(parts.MANIFESTS) if (host := parts.host_of(folder)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that counts, and where its files are on this machine."""

    name: Name
    manifest: Manifest
    events: str
    jobs: str | None


class _Place(PosixPath):
    """A folder or URL as messages name a log; a path alone loses a slash of the URL."""

    def __str__(self) -> str:
        return super().__str__().replace("s3:/", S3, 1) if self.parts[:1] == ("s3:",) else super().__str__()


class PartsError(LogError):
    """A part that was there, and whole, cannot be read."""


class ShippedLog(EventLog):
    """One host's shipped log: same tables, same views.

    Args:
        store: where the parts are.
        host: whose log, by its name there.

    Attributes:
        notes: after it was read: what was set aside, in words.
        in_place: whether queries may read the parts themselves in place of tables in memory: only what they ask for is
            read then, which is little for a replay.
    """

    def __init__(self, store: Store, host: str) -> None:
        super().__init__(_Place(store.name), host)
        self.notes: list[str] = []
        self._store = store
        self._name = host
        self.in_place = False
        # Whether the events that are not of containers are in a table of their own.
        self._has_others_apart = False

    def exists(self) -> bool:
        """Whether there is something to read: there was when its name was listed."""
        return True

    @contextmanager
    def reading(
        self,
        reachable: Path | None = None,  # noqa: ARG002 - it is in memory, and may reach all
        *,
        as_recorded: bool = False,
        whole_since: float | None = None,  # noqa: ARG002 - it is whole
        memory: str | None = None,  # noqa: ARG002 - what it takes it has already
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the log's tables and views, in memory.

        Raises:
            LogError: no part counts, or one was written by a newer program.
            PartsError: one of those that count cannot be read.
            StoreError: the store cannot be used.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="shipped-") as folder, _in_memory() as made:
                self._has_others_apart = are_true = self._fill(made.filling, self._parts(Path(folder)))
                made.shown = self._prepared(
                    made.shown, as_recorded=as_recorded or are_true, whole_since=None, again=made.is_shown
                )
                yield made.shown
        except duckdb.Error as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise PartsError(f"parts of host '{self._name}' in {self._store.name} cannot be read: {reason}") from None

    @contextmanager
    def without_containers(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Let queries on a connection from `reading` see no events of containers, if that saves time."""
        if not self._has_others_apart:
            yield
            return
        event = table_of_events(connection)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW event AS FROM {event.removesuffix('event')}few_events")
        try:
            yield
        finally:
            connection.execute(f"CREATE OR REPLACE TEMP VIEW event AS FROM {event}")

    def _parts(self, folder: Path) -> list[_Part]:
        """The parts that count, by stream in the order in which they began, each checked."""
        names = self._listed()
        for _ in range(_LISTINGS):
            counted = self._counted(names, folder)
            # What is not there may have been merged meanwhile.
            before, names = names, self._listed() if self.notes else names
            if names == before:
                break
        if not counted:
            raise LogError(f"{self._store.name} holds no part of host '{self._name}' that can be read")
        return counted

    def _listed(self) -> list[Name]:
        return parts.listed(self._store.names(parts.manifests_of(self._name)))

    def _counted(self, names: list[Name], folder: Path) -> list[_Part]:
        """The parts that count of those with these names."""
        self.notes = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            merged: dict[Name, _Part] = {}
            left = names
            while tried := parts.widest(left):  # narrower ones only where these are damaged
                found_there = pool.map(lambda one: self._merged(one, folder), tried)
                merged |= {part.name: part for part in found_there if part is not None}
                left = [one for one in left if one not in tried and not any(other.covers(one) for other in merged)]
            days = [one for one in names if not one.is_merged and not any(other.covers(one) for other in merged)]
            found: list[tuple[Name, Manifest | str]] = [(part.name, part.manifest) for part in merged.values()]
            known = self._ordered([*found, *zip(days, pool.map(self._manifest, days), strict=True)])
            fetched = list(pool.map(lambda one: merged.get(one[0]) or self._fetched(one[0], one[1], folder), known))
        # Several are read at once, in no order.
        self.notes.sort()
        return [part for part in fetched if part is not None]

    def _manifest(self, name: Name) -> Manifest | str:
        """A manifest, or what is wrong with it."""
        data = self._read(name.manifest(self._name), MOST_OF_MANIFEST)
        try:
            return "it is gone" if data is None else Manifest.from_bytes(data)
        except ValueError as error:
            return str(error)

    def _merged(self, name: Name, folder: Path) -> _Part | None:
        """A merged part; None: it is damaged, and the parts that it covers count."""
        manifest = self._manifest(name)
        if isinstance(manifest, str):
            self._set_aside(name, f"{manifest}; the parts that it holds are read instead")
            return None
        jobs = name.jobs(self._name) if manifest.jobs_sha256 is not None else None
        files = [(name.events(self._name), manifest.sha256), (jobs, manifest.jobs_sha256)]
        found = [place and self._file(place, (checksum or "", *manifest.becoming), folder) for place, checksum in files]
        if found[0] is None or (found[1] is None) != (jobs is None):
            self._set_aside(name, "a file of it is damaged or not there; the parts that it holds are read instead")
            return None
        return _Part(name, manifest, found[0], found[1])

    def _ordered(self, found: Iterable[tuple[Name, Manifest | str]]) -> list[tuple[Name, Manifest]]:
        """Parts of this host alone, in the order in which they were recorded."""
        owner = self._owner()
        if owner is not None:
            self._refuse_copy(owner)
        kept: dict[Stream, list[tuple[Name, Manifest]]] = {}
        for name, manifest in found:
            if isinstance(manifest, str):
                self._set_aside(name, manifest)
            elif manifest.schema_version > SCHEMA_VERSION:
                raise LogError(
                    f"{name.manifest(self._name)} in {self._store.name} has schema version {manifest.schema_version}, "
                    f"this program knows {SCHEMA_VERSION}: install the newer docker-hindsight that wrote it"
                )
            elif owner is not None and not parts.is_same_host(owner, manifest.host):
                self._set_aside(name, "it is of another machine with the same name, or of a clone")
            else:
                kept.setdefault(name.stream, []).append((name, manifest))
        return [one for stream in self._without_clones(kept) for one in self._in_sequence(kept[stream])]

    def _owner(self) -> identity.KnownHost | None:
        data = self._read(parts.owner_of(self._name), MOST_OF_MANIFEST)
        try:
            return None if data is None else parts.owner_from(data)
        except ValueError as error:
            self.notes.append(f"{parts.owner_of(self._name)}: {error}, so parts of clones are not recognised")
            return None

    def _refuse_copy(self, owner: identity.KnownHost) -> None:
        """Raise LogError if these are the parts of a host whose own are there, too: nothing counts twice."""
        own = (owner.key, parts.distinct_name(owner))
        if self._name in own:
            return
        for name in own:
            data = self._read(parts.owner_of(name), MOST_OF_MANIFEST)
            with suppress(ValueError):
                if data is not None and parts.owner_from(data).id == owner.id:
                    copy = parts.partition(self._name)
                    raise LogError(f"'{copy}' is a copy of host '{name}' in {self._store.name}: remove */{copy} there")

    def _without_clones(self, found: dict[Stream, list[tuple[Name, Manifest]]]) -> list[Stream]:
        """The streams in the order in which they began; a new log ends the one before."""
        begun = {stream: min(manifest.shipped_ns for _, manifest in rows) for stream, rows in found.items()}
        ended = {stream: max(manifest.last_shipped_ns for _, manifest in rows) for stream, rows in found.items()}
        kept: list[Stream] = []
        for stream in sorted(found, key=lambda one: (begun[one], one)):
            if kept and ended[kept[-1]] > begun[stream]:
                self.notes.append(
                    f"{format_count(len(found[stream]), 'part')} of {self._name} ({stream}) set aside: two machines "
                    "ship as this host; on the clone run `collector adopt`, or move its log away"
                )
            else:
                kept.append(stream)
        return kept

    def _in_sequence(self, found: list[tuple[Name, Manifest]]) -> list[tuple[Name, Manifest]]:
        """One stream's parts by number: each number once, and a line for numbers that are missing."""
        kept: list[tuple[Name, Manifest]] = []
        reached = 0
        batches = groupby(sorted(found, key=lambda one: one[0]), key=lambda one: (one[0].first, one[0].last))
        for (first, last), rows in batches:
            if first <= reached:
                for name, _ in rows:
                    self._set_aside(name, f"another part has numbers up to {reached:,} already")
                continue
            if first > reached + 1 and kept:
                self.notes.append(f"{self._name}: numbers {reached + 1:,} to {first - 1:,} are missing from the store")
            reached = last
            kept += rows
        return kept

    def _fetched(self, name: Name, manifest: Manifest, folder: Path) -> _Part | None:
        events = self._file(name.events(self._name), (manifest.sha256, *manifest.becoming), folder)
        if events is None:
            self._set_aside(name, "its events are damaged or not there")
            return None
        if manifest.jobs_sha256 is None:
            return _Part(name, manifest, events, None)
        jobs = self._file(name.jobs(self._name), (manifest.jobs_sha256, *manifest.becoming), folder)
        if jobs is None:
            self.notes.append(f"{name.jobs(self._name)} is damaged or not there: its jobs are unknown")
        return _Part(name, manifest, events, jobs)

    def _file(self, name: str, checksums: Collection[str], folder: Path) -> str | None:
        """A file with one of these checksums, on this machine; None: there is none."""
        data = self._read(name)
        if data is None or hashlib.sha256(data).hexdigest() not in checksums:
            return None
        if isinstance(self._store, Folder):
            return f"{self._store.path}/{name}"
        copied = folder / name.replace("/", "+")
        copied.write_bytes(data)
        return str(copied)

    def _read(self, name: str, most: int = MOST) -> bytes | None:
        """A file's contents; one that cannot be read is damaged, which ends nothing else. Raises StoreError."""
        try:
            return self._store.read(name, most)
        except UnreadableError as error:
            self.notes.append(str(error))
            return b""

    def _set_aside(self, name: Name, reason: str) -> None:
        self.notes.append(f"{name.manifest(self._name)} set aside: {reason}")

    def _fill(self, connection: duckdb.DuckDBPyConnection, found: list[_Part]) -> bool:
        """Make the log's tables as they were when each part was written, and bring them to this program's schema.

        Returns:
            Whether all times are known to be true as they were recorded.
        """
        in_place = self.in_place and _can_stay(found)
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        reached = 0
        for _, parts_of_stream in groupby(found, key=lambda part: part.name.stream):
            of_stream = list(parts_of_stream)
            offsets = _offsets(connection) if reached else (0, 0)
            for version, rows in groupby(of_stream, key=lambda part: part.manifest.schema_version):
                for statements in MIGRATIONS[reached:version]:
                    connection.execute(statements)
                reached = max(reached, version)
                if not in_place:
                    _insert_events(connection, list(rows), self._name, offsets)
            if not in_place:
                _insert_jobs(connection, of_stream, self._name, offsets)
        connection.execute("INSERT INTO schema_version (version) VALUES (?)", [reached])
        upgrade(connection, reached)
        if in_place:
            _show_in_place(connection, found, self._name)
        known = found[-1].manifest.host
        connection.execute("DELETE FROM host")
        identity.store(connection, identity.KnownHost(self._name, known.id, known.identity))
        return in_place and _are_true(connection, found)


def _can_stay(found: list[_Part]) -> bool:
    """Whether parts are as tables would be: all of one log, in order, and of columns that are still the same."""
    return (
        len(found) <= _MOST_IN_PLACE
        and len({part.name.stream for part in found}) == 1
        and all(one.manifest.last < other.manifest.first for one, other in pairwise(found))
        and all(part.manifest.schema_version >= TABLES_VERSION for part in found)
    )


def _show_in_place(connection: duckdb.DuckDBPyConnection, found: list[_Part], host: str) -> None:
    """Let parts of one log take the place of the tables of events and jobs."""
    name = sql_text(host)
    events = _scan([part.events for part in found])
    _insert_images(connection, events)
    # Each query that names events binds this again, so there is nothing in it to be expanded.
    stored = {"key": f"key & {STORED_KEY}", "host": name}
    columns = connection.execute("DESCRIBE event").fetchall()
    listed = ", ".join(f"CAST({stored.get(column, column)} AS {kind}) AS {column}" for column, kind, *_ in columns)
    rows = f"SELECT {listed} FROM {events} LEFT JOIN image USING (image_id) WHERE {{where}}"
    connection.execute(f"INSERT INTO event {rows.format(where=parts.OF_OTHERS)}")
    connection.execute("ALTER TABLE event RENAME TO few_events")
    connection.execute(f"CREATE VIEW event AS FROM few_events UNION ALL {rows.format(where=parts.OF_CONTAINERS)}")
    if files := [part.jobs for part in found if part.jobs is not None]:
        scan = _scan(files, alike=len({part.manifest.schema_version for part in found}) == 1)
        _show_jobs(connection, scan, name, has_several=len(files) > 1)


def _show_jobs(connection: duckdb.DuckDBPyConnection, scan: str, host: str, *, has_several: bool) -> None:
    """Let the newest row of each job take the place of the table of jobs."""
    newest = ""
    if has_several:
        # Few jobs have several rows: leaving older ones out is faster for each query than finding the newest of all.
        connection.execute(
            f"CREATE TABLE old_job AS WITH found AS MATERIALIZED (SELECT job, file_index FROM {scan})"
            " SELECT job, file_index FROM found JOIN (SELECT job, max(file_index) AS newest FROM found GROUP BY job"
            " HAVING count(*) > 1) USING (job) WHERE file_index < newest"
        )
        newest = " ANTI JOIN old_job USING (job, file_index)"
    connection.execute(f"DROP TABLE job; CREATE VIEW job AS SELECT * REPLACE ({host} AS host) FROM {scan}{newest}")


def _are_true(connection: duckdb.DuckDBPyConnection, found: list[_Part]) -> bool:
    """Whether no time of parts that are shown in place needs `collector.eventlog.views.true_times`.

    What that looks through all events for is here known from the parts' statistics.
    """
    latest = connection.execute(f"SELECT epoch_ns(max(time)) FROM {_scan([part.events for part in found])}").fetchone()
    corrected = connection.execute("SELECT 1 FROM few_events WHERE kind = ? LIMIT 1", [Kind.CLOCK_SET_BACK]).fetchone()
    return corrected is None and (latest is None or latest[0] is None or latest[0] <= time.time_ns())


def _offsets(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """From which numbers on events and jobs of the next stream are counted."""
    (row,) = connection.execute(
        "SELECT (SELECT coalesce(max(seq), 0) FROM event), (SELECT coalesce(max(job) + 1, 0) FROM job)"
    ).fetchall()
    return int(row[0]), int(row[1])


def _insert_events(
    connection: duckdb.DuckDBPyConnection,
    found: list[_Part],
    host: str,
    offsets: tuple[int, int],
) -> None:
    """Insert the events of parts of one schema version, whatever host they name."""
    columns = _columns_of_events(connection)
    # Read twice rather than kept in between: image IDs alone are read in no time.
    scan = _scan([part.events for part in found])
    _insert_images(connection, scan)
    # A new log may repeat what was shipped of the one before it.
    new = f" WHERE NOT EXISTS (FROM event WHERE (event.time, event.key) = (e.time, e.key) AND seq <= {offsets[0]})"
    in_order = all(one.manifest.last < other.manifest.first for one, other in pairwise(found))
    in_order = in_order and not any(one.name.is_merged for one in found)
    job = f", job + {offsets[1]} AS job" if "job" in columns else ""
    rest = f"{new if offsets[0] else ''}{'' if in_order else ' ORDER BY seq'}"
    connection.execute(
        f"INSERT INTO event BY NAME SELECT e.* EXCLUDE (image_id) REPLACE (seq + {offsets[0]} AS seq{job}),"
        f" $host AS host, image.image FROM ({_stored(columns, scan)}) AS e LEFT JOIN image USING (image_id){rest}",
        {"host": host},
    )


def _columns_of_events(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Those that parts have, too, in the same form."""
    return [name for name, *_ in connection.execute("DESCRIBE event").fetchall() if name not in {"host", "image"}]


def _stored(columns: Iterable[str], scan: str) -> str:
    """SQL of events as they are stored today; image IDs stand in place of numbers."""
    return f"SELECT {', '.join(columns)}, image_id FROM (SELECT * REPLACE (key & {STORED_KEY} AS key) FROM {scan})"


def _insert_images(connection: duckdb.DuckDBPyConnection, scan: str) -> None:
    """Number the images of some events that have no number yet."""
    connection.execute(
        "INSERT INTO image SELECT row_number() OVER (ORDER BY image_id) + (SELECT coalesce(max(image), -1) FROM image),"
        f" image_id FROM (SELECT DISTINCT image_id FROM {scan})"
        " WHERE image_id IS NOT NULL AND image_id NOT IN (SELECT image_id FROM image)"
    )


def _insert_jobs(
    connection: duckdb.DuckDBPyConnection, found: list[_Part], host: str, offsets: tuple[int, int]
) -> None:
    if jobs := _newest_jobs(found, "$host", offsets[1]):
        connection.execute(f"INSERT INTO job BY NAME {jobs}", {"host": host})


def _newest_jobs(found: list[_Part], host: str, offset: int) -> str:
    """SQL of the newest row of each job: parts are in the order in which they were shipped; empty: there are none."""
    files = [part.jobs for part in found if part.jobs is not None]
    if not files:
        return ""
    scan = _scan(files, alike=len({part.manifest.schema_version for part in found}) == 1)
    newest = (
        f" SEMI JOIN (SELECT job, max(file_index) AS file_index FROM {scan} GROUP BY job) AS newest"
        " USING (job, file_index)"
    )
    shown = f"SELECT * REPLACE (job + {offset} AS job, {host} AS host) FROM {scan}"
    return f"{shown}{newest if len(files) > 1 else ''}"


def _scan(files: list[str], *, alike: bool = True) -> str:
    """SQL of files; where they have the same columns, none is opened twice."""
    listed = ", ".join(map(sql_text, files))
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = {not alike})"
