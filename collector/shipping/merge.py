"""Merges many small parts of a store into one beside them: a reader opens one file sooner than a hundred.

What was merged stays where it is until its removal is asked for, see `shipping.leftovers`: readers take a merged part
in place of those that it covers, and them when it is damaged or not there. It counts, as any part, once its manifest
is there. Merged parts are merged again in the same way, so that a year is not a dozen files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from collector.eventlog.database import AUTOLOAD_OFF
from collector.eventlog.identity import KnownHost
from collector.eventlog.sql import sql_text
from collector.shipping import parts
from collector.shipping.parts import Manifest, Name
from collector.shipping.store import MOST_OF_MANIFEST, Store, UnreadableError

# About a month of parts, shipped once a day.
LEAST = 28
"""How many parts are worth merging."""
LEAST_MERGED = 6
"""How many merged parts are worth merging again: of a year, each event is so written some three times more."""
MOST = 500_000
"""So many sequence numbers a merged part has at most."""
_EVENTS = "FROM read_parquet({files}, hive_partitioning = false)"
_SORTED = f"{_EVENTS} ORDER BY seq"
# As `parts.MERGED_ORDER` of files in order: written apart and joined, they need no memory to be sorted in.
_APART = (f"{_EVENTS} WHERE {parts.OF_OTHERS}", f"{_EVENTS} WHERE NOT {parts.OF_OTHERS}")
# A job's newest row is in the file that was shipped last.
_JOBS = f"""
    {_EVENTS} SEMI JOIN (SELECT job, max(file_index) AS file_index {_EVENTS} GROUP BY job) AS newest
    USING (job, file_index)
"""
# Rows are held in memory until there are so many: four times as many, as by default, take another 60 MB.
_COPY = "COPY ({rows}) TO {target} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 30720)"


_Row: TypeAlias = tuple[Name, Manifest]


def merge_old(store: Store, host: str, known: KnownHost) -> None:
    """Merge what is worth it of a host's parts. Killed in between, it is done again under the same names.

    Args:
        store: where the parts are.
        host: what the store calls the host.
        known: the host.

    Raises:
        StoreError: the store cannot be used.
    """
    own = [
        one for one in parts.listed(store.names(parts.manifests_of(host))) if one.stream.id == parts.stream_id(known)
    ]
    for _, stream in groupby(own, key=lambda one: one.stream):
        names = list(stream)
        for chosen, least in ((_unmerged, LEAST), (parts.widest, LEAST_MERGED)):
            for run in _runs(chosen(names), least):
                # On a disk that is full, say, the next run merges.
                with suppress(OSError), tempfile.TemporaryDirectory(prefix="merge-") as folder:
                    for rows in _sound_runs(store, host, run, least, Path(folder)):
                        names += _merge(store, host, rows, Path(folder))


def _unmerged(names: Sequence[Name]) -> list[Name]:
    """The parts behind all that was merged."""
    reached = max((one.last for one in names if one.is_merged), default=0)
    return [one for one in names if not one.is_merged and one.first > reached]


def _runs(names: Sequence[Name], least: int) -> Iterator[list[Name]]:
    """Parts of whole batches that follow each other, as far as they are worth merging."""
    run: list[Name] = []
    reached = 0
    for (first, last), batch in groupby(names, key=_batch):
        if first <= reached:
            continue  # readers set it aside
        # What lies in a gap would count no longer if a merged part went across.
        if run and (first > reached + 1 or last - run[0].first >= MOST):
            if len(run) >= least:
                yield run
            run = []
        run += batch
        reached = last
    if len(run) >= least:
        yield run


def _batch(name: Name) -> tuple[int, int]:
    return name.first, name.last


def _sound_runs(store: Store, host: str, names: Sequence[Name], least: int, folder: Path) -> Iterator[list[_Row]]:
    """What of a run can be merged, copied to a folder: whole batches without damage, of one schema version.

    The last of these will grow, and waits until it is worth it; the others never will.
    """
    batches = [
        [(name, sound_manifest(store, host, name, folder)) for name in batch] for _, batch in groupby(names, key=_batch)
    ]
    alike = [(version, list(found)) for version, found in groupby(batches, key=_version)]
    for number, (version, found) in enumerate(alike, 1):
        rows = [(name, manifest) for batch in found for name, manifest in batch if manifest is not None]
        if version is not None and len(rows) >= (least if number == len(alike) else min(2, least)):
            yield rows


def _version(batch: Sequence[tuple[Name, Manifest | None]]) -> int | None:
    """The schema version of a batch; None: one of its parts is damaged or not there, which is for readers to say."""
    found = [manifest for _, manifest in batch if manifest is not None]
    if len(found) < len(batch):
        return None
    is_whole = batch[0][0].is_merged or {name.day for name, _ in batch} == set(found[0].days)
    versions = {one.schema_version for one in found}
    return versions.pop() if is_whole and len(versions) == 1 else None


def _merge(store: Store, host: str, rows: Sequence[_Row], folder: Path) -> list[Name]:
    """Write the merged part of what was copied to a folder; its name, if it was written."""
    names, found = [name for name, _ in rows], [manifest for _, manifest in rows]
    name = Name(names[0].stream, names[0].first, names[-1].last, parts.MERGED)
    events = [_copy(folder, one.events(host)) for one in names]
    jobs = [_copy(folder, one.jobs(host)) for one, manifest in rows if manifest.jobs_sha256 is not None]
    try:
        merged = _joined(_EVENTS, _apart(_in_order(events, found)))
        of_jobs = _joined(_JOBS, jobs)
    except (duckdb.Error, OSError):
        # Readers do without.
        return []
    if merged is None:
        return []
    store.write(name.events(host), merged)
    if of_jobs is not None:
        store.write(name.jobs(host), of_jobs)
    manifest = replace(
        found[-1],
        days=tuple(sorted({day for one in found for day in one.days})),
        first=min(one.first for one in found),
        last=max(one.last for one in found),
        rows=sum(one.rows for one in found),
        sha256=parts.checksum(merged),
        jobs_sha256=None if of_jobs is None else parts.checksum(of_jobs),
        shipped_ns=min(one.shipped_ns for one in found),
        until_ns=max(one.last_shipped_ns for one in found),
        merged_ns=time.time_ns(),
    )
    store.write(name.manifest(host), manifest.to_bytes())
    return [name]


def read_manifest(store: Store, host: str, name: Name) -> Manifest | None:
    """A part's manifest; None: there is none that can be read. Raises StoreError."""
    try:
        return Manifest.from_bytes(store.read(name.manifest(host), MOST_OF_MANIFEST) or b"")
    except (UnreadableError, ValueError):
        return None


def sound_manifest(store: Store, host: str, name: Name, folder: Path | None = None) -> Manifest | None:
    """A part's manifest, if its files are there as it says and are not being written again.

    Args:
        store: where it is.
        host: what the store calls the host.
        name: which part.
        folder: where to copy its files to; None: nowhere.

    Raises:
        StoreError: the store cannot be used.
        OSError: the folder has no room.
    """
    manifest = read_manifest(store, host, name)
    if manifest is None or manifest.becoming:
        return None
    files = [(name.events(host), manifest.sha256)]
    files += [] if manifest.jobs_sha256 is None else [(name.jobs(host), manifest.jobs_sha256)]
    for file, checksum in files:
        try:
            data = store.read(file) or b""
        except UnreadableError:
            return None
        if parts.checksum(data) != checksum:
            return None
        if folder is not None:
            _copy(folder, file).write_bytes(data)
    return manifest


def _copy(folder: Path, file: str) -> Path:
    """Where a file's copy is."""
    return folder / file.replace("/", "+")


def _in_order(files: Sequence[Path], found: Sequence[Manifest]) -> list[Path]:
    """Files of events that follow each other by number: days of a batch that overlap are sorted into one."""
    made: list[Path] = []
    overlapping: list[Path] = []
    reached = 0
    for manifest, file in sorted(zip(found, files, strict=True), key=lambda row: row[0].first):
        if overlapping and manifest.first > reached:
            made.append(_sorted(overlapping))
            overlapping = []
        overlapping.append(file)
        reached = max(reached, manifest.last)
    return [*made, _sorted(overlapping)]


def _sorted(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        files[0].write_bytes(_joined(_SORTED, files) or b"")
    return files[0]


def _apart(files: Sequence[Path]) -> list[Path]:
    """Files of events, which are in order, as one of events of containers and one of the others before it."""
    made = [files[0].with_name(f"apart-{number}.parquet") for number in range(len(_APART))]
    for file, rows in zip(made, _APART, strict=True):
        file.write_bytes(_joined(rows, files) or b"")
    return made


def _joined(rows: str, files: Sequence[Path]) -> bytes | None:
    """The rows of all these files as one; None: there are none."""
    if not files:
        return None
    made = files[0].with_name("merged.parquet")
    sources, target = ", ".join(map(sql_text, files)), sql_text(made)
    # What does not fit goes to disk.
    bounded: dict[str, Any] = {"threads": 1, "memory_limit": "128MB", "temp_directory": str(made.parent)}
    with duckdb.connect(config={**AUTOLOAD_OFF, **bounded}) as connection:
        connection.execute(_COPY.format(rows=rows.format(files=f"[{sources}]"), target=target))
    return made.read_bytes()
