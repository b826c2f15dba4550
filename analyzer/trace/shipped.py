"""Histories that `collector ship` brought together, read as if each host's were one log.

What does not fit is set aside with a line, and the rest counts: a part that is damaged or not there, one of another
machine that has the same name, and what a clone went on to write.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path, PosixPath

import duckdb

from analyzer.trace.kept_database import in_memory
from analyzer.trace.part_tables import Part, fill
from collector.eventlog import identity
from collector.eventlog.log import EventLog
from collector.eventlog.schema import SCHEMA_VERSION
from collector.eventlog.views import table_of_events
from collector.model.errors import LogError
from collector.model.units import format_count
from collector.shipping import parts
from collector.shipping.parts import Manifest, Name, Stream
from collector.shipping.store import MOST, MOST_OF_MANIFEST, S3, Folder, Store, UnreadableError

# Most of what one waits for at an object store is its answer.
_AT_ONCE = 8
# A store that changes meanwhile is listed so often.
_LISTINGS = 3


def is_shipped(folder: Path) -> bool:
    """Whether a folder is one that `collector ship` writes to."""
    return (folder / parts.MANIFESTS).is_dir()


def shipped_hosts(store: Store) -> list[str]:
    """The hosts whose logs were shipped to a store. Raises StoreError."""
    return sorted(host for folder in store.folders(parts.MANIFESTS) if (host := parts.host_of(folder)))


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
            with tempfile.TemporaryDirectory(prefix="shipped-") as folder, in_memory() as made:
                self._has_others_apart = are_true = fill(
                    made.filling, self._parts(Path(folder)), self._name, may_stay=self.in_place
                )
                made.shown = self._prepared(
                    made.shown, as_recorded=as_recorded or are_true, whole_since=None, again=made.is_shown
                )
                yield made.shown
        except duckdb.Error as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            fault = f" in {self._store.name} cannot be read: {reason}"
            raise PartsError.about(self._name, "parts", fault, quoted=True) from None

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

    def _parts(self, folder: Path) -> list[Part]:
        """The parts that count, by stream in the order in which they began, each checked."""
        names = self._listed()
        for _ in range(_LISTINGS):
            counted = self._counted(names, folder)
            # What is not there may have been merged meanwhile.
            before, names = names, self._listed() if self.notes else names
            if names == before:
                break
        if not counted:
            raise LogError.about(self._name, f"{self._store.name} holds no part", " that can be read", quoted=True)
        return counted

    def _listed(self) -> list[Name]:
        return parts.listed(self._store.names(parts.manifests_of(self._name)))

    def _counted(self, names: list[Name], folder: Path) -> list[Part]:
        """The parts that count of those with these names."""
        self.notes = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            merged: dict[Name, Part] = {}
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

    def _merged(self, name: Name, folder: Path) -> Part | None:
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
        return Part(name, manifest, found[0], found[1])

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

    def _fetched(self, name: Name, manifest: Manifest, folder: Path) -> Part | None:
        events = self._file(name.events(self._name), (manifest.sha256, *manifest.becoming), folder)
        if events is None:
            self._set_aside(name, "its events are damaged or not there")
            return None
        if manifest.jobs_sha256 is None:
            return Part(name, manifest, events, None)
        jobs = self._file(name.jobs(self._name), (manifest.jobs_sha256, *manifest.becoming), folder)
        if jobs is None:
            self.notes.append(f"{name.jobs(self._name)} is damaged or not there: its jobs are unknown")
        return Part(name, manifest, events, jobs)

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
