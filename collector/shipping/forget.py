"""Removes from a store what a log is to forget: the parts that hold it are written again without it.

A part's manifest first names the checksums that its files are about to have beside those that they have, so that the
part counts at every moment, and an interrupted removal is finished by the next one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import duckdb

from collector.eventlog.database import AUTOLOAD_OFF, alone
from collector.eventlog.forget import NAMELESS
from collector.eventlog.identity import KnownHost, known_hosts
from collector.eventlog.log import EventLog
from collector.eventlog.rewrite import Change
from collector.eventlog.sql import sql_text
from collector.eventlog.view_definitions import sql_names_in
from collector.shipping import parts
from collector.shipping.leftovers import remove_unnamed
from collector.shipping.parts import Manifest, Name
from collector.shipping.ship import LOCK
from collector.shipping.store import MOST_OF_MANIFEST, Store, StoreError

Rule = Callable[[duckdb.DuckDBPyConnection], Change]
"""Makes the change of a stream's parts; `every_job` holds all jobs of the stream there, and `every_image` its images.

Of an image there is a row for each of its names, and one without a name; of names that no known image has, one without
an image.
"""

_PIECE = "CREATE OR REPLACE TEMP TABLE piece AS SELECT *, image_id AS image FROM read_parquet({file})"
_PIECE_JOB = "CREATE OR REPLACE TEMP TABLE piece_job AS FROM {rows}"
_JOB = "job, job_id, project, project_id"
_NO_JOBS = "(SELECT NULL::INTEGER AS job, NULL::VARCHAR AS job_id, NULL::VARCHAR AS project, '' AS project_id LIMIT 0)"


def forget_shipped(log: EventLog, store: Store, rule: Rule, *, dry_run: bool = False) -> int:
    """Write the parts of a log's hosts again that hold what is to be forgotten; how many there are.

    Args:
        log: the log.
        store: where it was shipped to.
        rule: what becomes of their rows.
        dry_run: only count.

    Raises:
        LogError: the log cannot be read, or is being shipped.
        StoreError: the store cannot be used, holds nothing of the log, or a part is damaged; what was written by then
            counts, and the next call goes on from it.
    """
    with log.reading(as_recorded=True) as connection:
        hosts = known_hosts(connection)
    count, is_known = 0, False
    with alone(log.path, LOCK, "shipped"), tempfile.TemporaryDirectory(prefix="forget-") as folder:
        for known, name in [(host, name) for host in hosts for name in _names(store, host)]:
            if not dry_run:
                remove_unnamed(store, name, known)
            listed = parts.listed(store.names(parts.manifests_of(name)))
            is_known = is_known or bool(listed)
            for _, stream in groupby(listed, key=lambda one: one.stream):
                count += _Stream(store, name, list(stream), Path(folder)).forget(rule, dry_run=dry_run)
    if not is_known:
        raise StoreError(f"{store.name} holds nothing of this log: name the place that `collector ship` writes to")
    return count


def _names(store: Store, host: KnownHost) -> list[str]:
    """What the store may call a host. Credentials may be for its own folders alone."""
    try:
        owner = parts.owner_from(store.read(parts.owner_of(host.key), MOST_OF_MANIFEST) or b"")
    except ValueError:
        owner = None
    own = owner is not None and owner.id == host.id
    return [host.key] if own else [host.key, parts.distinct_name(host)]


class _Stream:
    """The parts of one stream of a host."""

    def __init__(self, store: Store, host: str, names: list[Name], folder: Path) -> None:
        self._store, self._host, self._names = store, host, names
        self._files = (folder / "event.parquet", folder / "job.parquet")

    def forget(self, rule: Rule, *, dry_run: bool) -> int:
        """Write its parts again that change; how many they are."""
        with duckdb.connect(config={**AUTOLOAD_OFF}) as connection:
            run = connection.execute
            run(f"CREATE TEMP TABLE every_job AS FROM {_NO_JOBS}")
            run("CREATE TEMP TABLE every_image (image_id VARCHAR, name VARCHAR)")
            for name in self._names:
                self._take(connection, name)
                run(f"INSERT INTO every_job BY NAME SELECT {_JOB} FROM piece_job")
                named = f"({sql_names_in('piece')}) WHERE image IS NOT NULL"
                run(f"INSERT INTO every_image SELECT DISTINCT image, name FROM {named}")
                run(f"INSERT INTO every_image SELECT NULL, reference FROM ({NAMELESS.format(events='piece')})")
                run("INSERT INTO every_image SELECT DISTINCT image, NULL FROM piece WHERE image IS NOT NULL")
            change = rule(connection)
            change.prepare(connection)
            return sum(self._forget_part(connection, change, name, dry_run=dry_run) for name in self._names)

    def _take(self, connection: duckdb.DuckDBPyConnection, name: Name) -> tuple[Manifest, bool]:
        """Have a part's rows as `piece` and `piece_job`; its manifest, and whether it has jobs. Raises StoreError."""
        places = (name.events(self._host), name.jobs(self._host))
        found = self._store.read(name.manifest(self._host), MOST_OF_MANIFEST)
        before = [self._store.read(place) for place in places]
        try:
            manifest = Manifest.from_bytes(found or b"")
        except ValueError:
            manifest = None
        if manifest is None or not self._is_whole(manifest, before):
            raise StoreError(
                f"{name.manifest(self._host)} in {self._store.name} or its files are damaged, and what they hold "
                "cannot be forgotten: remove them by hand, then try again"
            )
        for file, data in zip(self._files, before, strict=True):
            file.write_bytes(data or b"")
        connection.execute(_PIECE.format(file=sql_text(self._files[0])))
        connection.execute(_PIECE_JOB.format(rows=_NO_JOBS if before[1] is None else _parquet(self._files[1])))
        return manifest, before[1] is not None

    def _forget_part(self, connection: duckdb.DuckDBPyConnection, change: Change, name: Name, *, dry_run: bool) -> bool:
        run = connection.execute
        manifest, has_jobs = self._take(connection, name)
        events, jobs = f"SELECT * EXCLUDE (image) FROM ({change.event})", f"FROM ({change.job})"
        is_same = not run(f"(SELECT * EXCLUDE (image) FROM piece) EXCEPT ALL ({events}) LIMIT 1").fetchall()
        is_same = is_same and not run(f"(FROM piece_job) EXCEPT ALL ({jobs}) LIMIT 1").fetchall()
        if is_same and not manifest.becoming:
            return False
        if dry_run:
            return True
        order = parts.MERGED_ORDER if name.is_merged else "seq"
        after = [self._written(connection, f"{events} ORDER BY {order}", 0)]
        after += [self._written(connection, f"{jobs} ORDER BY job", 1)] if has_jobs else []
        sums = list(map(parts.checksum, after))
        announced = replace(manifest, becoming=(*manifest.becoming, *sums))
        self._store.write(name.manifest(self._host), announced.to_bytes())
        for place, data in zip((name.events(self._host), name.jobs(self._host)), after, strict=False):
            self._store.write(place, data)
        rows = run(f"SELECT count(*) FROM ({events})").fetchall()[0][0]
        done = replace(manifest, rows=rows, sha256=sums[0], jobs_sha256=(*sums, None)[1], becoming=())
        self._store.write(name.manifest(self._host), done.to_bytes())
        return True

    @staticmethod
    def _is_whole(manifest: Manifest, files: list[bytes | None]) -> bool:
        wanted = ((manifest.sha256, *manifest.becoming), (manifest.jobs_sha256, *manifest.becoming))
        return all(
            (None if data is None else parts.checksum(data)) in sums for data, sums in zip(files, wanted, strict=True)
        )

    def _written(self, connection: duckdb.DuckDBPyConnection, rows: str, which: int) -> bytes:
        file = self._files[which]
        connection.execute(f"COPY ({rows}) TO {sql_text(file)} (FORMAT parquet, COMPRESSION zstd)")
        return file.read_bytes()


def _parquet(file: Path) -> str:
    return f"read_parquet({sql_text(file)})"
