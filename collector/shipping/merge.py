"""Merges many small parts of a store into one beside them: a reader opens one file sooner than a hundred.

What was merged stays where it is, for nothing is ever removed there: readers take a merged part in place of those that
it covers, and them when it is damaged or not there. It counts, as any part, once its manifest is there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import duckdb

from collector.eventlog.database import AUTOLOAD_OFF
from collector.eventlog.identity import KnownHost
from collector.shipping import parts
from collector.shipping.parts import Manifest, Name
from collector.shipping.store import MOST_OF_MANIFEST, Store

# About a month of parts, shipped once a day.
LEAST = 28
"""How many parts are worth merging."""
MOST = 500_000
"""So many sequence numbers a merged part has at most, so that some hundred megabytes of memory are enough for it."""
_EVENTS = "FROM read_parquet({files}, hive_partitioning = false)"
# A job's newest row is in the file that was shipped last.
_JOBS = """
    SELECT * EXCLUDE (number) FROM (
        SELECT *, file_index AS number FROM read_parquet({files}, hive_partitioning = false)
    ) QUALIFY number = max(number) OVER (PARTITION BY job) ORDER BY job
"""


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
        reached = max((one.last for one in names if one.is_merged), default=0)
        for run in _runs([one for one in names if not one.is_merged and one.first > reached]):
            _merge(store, host, run)


def _runs(names: Sequence[Name]) -> Iterator[list[Name]]:
    """Parts of whole batches that follow each other, as far as they are worth merging."""
    run: list[Name] = []
    for _, batch in groupby(names, key=lambda one: (one.first, one.last)):
        added = list(batch)
        if run and added[0].last - run[0].first >= MOST:
            if len(run) >= LEAST:
                yield run
            run = []
        run += added
    if len(run) >= LEAST:
        yield run


def _merge(store: Store, host: str, names: Sequence[Name]) -> None:
    """Write the merged part; not if any of its parts is missing or damaged, which is for readers to say."""
    manifests = [_manifest(store, host, name) for name in names]
    found = [manifest for manifest in manifests if manifest is not None]
    if len(found) < len(names) or not _is_whole(names, found):
        return
    name = Name(names[0].stream, names[0].first, names[-1].last, parts.MERGED)
    try:
        with tempfile.TemporaryDirectory(prefix="merge-") as folder:
            events = [(one.events(host), manifest.sha256) for one, manifest in zip(names, found, strict=True)]
            jobs = [(one.jobs(host), manifest.jobs_sha256) for one, manifest in zip(names, found, strict=True)]
            in_order = all(one.last < other.first for one, other in pairwise(found))
            merged = _joined(store, _EVENTS + ("" if in_order else " ORDER BY seq"), events, Path(folder))
            of_jobs = _joined(store, _JOBS, jobs, Path(folder))
    except (duckdb.Error, OSError, _DamagedError):
        # Readers do without. On a disk that is full, say, the next run merges.
        return
    if merged is None:
        return
    store.write(name.events(host), merged)
    if of_jobs is not None:
        store.write(name.jobs(host), of_jobs)
    manifest = replace(
        found[-1],
        days=tuple(sorted({day for one in found for day in one.days})),
        first=min(one.first for one in found),
        last=max(one.last for one in found),
        rows=sum(one.rows for one in found),
        sha256=hashlib.sha256(merged).hexdigest(),
        jobs_sha256=None if of_jobs is None else hashlib.sha256(of_jobs).hexdigest(),
        shipped_ns=min(one.shipped_ns for one in found),
        until_ns=max(one.shipped_ns for one in found),
    )
    store.write(name.manifest(host), manifest.to_bytes())


def _manifest(store: Store, host: str, name: Name) -> Manifest | None:
    data = store.read(name.manifest(host), MOST_OF_MANIFEST)
    try:
        return None if data is None else Manifest.from_bytes(data)
    except ValueError:
        return None


def _is_whole(names: Sequence[Name], found: Sequence[Manifest]) -> bool:
    """Whether each batch has all of its days, no number stands in two, and one program wrote them all."""
    reached = 0
    for (first, last), rows in groupby(zip(names, found, strict=True), key=lambda row: (row[0].first, row[0].last)):
        batch = list(rows)
        if first <= reached or {name.day for name, _ in batch} != set(batch[0][1].days):
            return False
        reached = last
    return len({one.schema_version for one in found}) == 1 and not any(one.becoming for one in found)


class _DamagedError(Exception):
    """A part is not what its manifest says."""


def _joined(store: Store, rows: str, files: Sequence[tuple[str, str | None]], folder: Path) -> bytes | None:
    """The rows of all these files, by name and checksum, as one; None: there are none."""
    copied: list[Path] = []
    for name, checksum in files:
        if checksum is None:
            continue
        data = store.read(name)
        if data is None or hashlib.sha256(data).hexdigest() != checksum:
            raise _DamagedError
        copied.append(folder / f"{len(copied)}.parquet")
        copied[-1].write_bytes(data)
    if not copied:
        return None
    made = folder / "merged.parquet"
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in (*copied, made))
    sources, target = listed.rpartition(", ")[::2]
    with duckdb.connect(config={**AUTOLOAD_OFF, "threads": 1}) as connection:
        select = rows.format(files=f"[{sources}]")
        connection.execute(f"COPY ({select}) TO {target} (FORMAT parquet, COMPRESSION zstd)")
    return made.read_bytes()
