"""Turn a job list into a log: a policy can be tried before any runner is instrumented.

What the lists do not contain is assumed and marked so in the log: an image was built and first seen
when its first job began, the disk holds nothing but images and a constant amount of other files.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, BinaryIO, cast

from collector.eventlog.compaction import FOLD_EVERY
from collector.eventlog.log import EventLog
from collector.eventlog.retention import whole_since_ns
from collector.model.errors import LogError, UsageError
from collector.model.events import Event, JsonObject, Kind
from collector.model.jobs import GITLAB
from collector.model.observation import ImageObservation, pair_layers
from collector.model.origin import Origin
from collector.model.paths import open_foreign
from collector.model.references import repository
from collector.model.units import format_time
from collector.model.untrusted import AHEAD_S, MOST_BYTES, clean, cut

Progress = Callable[[int, int], None]

JOB_COLUMNS = ("start", "seconds", "pipeline", "job", "image")
LAYER_COLUMNS = ("image", "position", "diff_id", "bytes")
# So many events are appended at once to a log that others may use, and so many to a new one: as DuckDB keeps in a piece
# of a table, so that none is written twice and leaves its first place free.
_BATCH, _BATCH_OF_NEW = 20_000, 122_880
_ID = 16
_NS = 10**9
_MOST_LAYERS = 10_000
_MOST_DIGITS = 100
# What a list holds at most: some hundred times a year of a large project, and what fits into memory.
_MOST_ROWS = 20_000_000
_MOST_LINE = 65536
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class _Job:
    line: int
    start_ns: int
    end_ns: int
    pipeline: str
    name: str
    image: str


def import_jobs(
    jobs_csv: Path,
    layers_csv: Path,
    log: EventLog,
    disk_bytes: int,
    other_bytes: int,
    progress: Progress | None = None,
) -> int:
    """Append the events that running the jobs would have caused; return how many were new.

    Importing the same files again adds nothing.

    Args:
        jobs_csv: one job a line: start and seconds (Unix time, UTC), pipeline, job, image reference;
            plain or gzip-compressed.
        layers_csv: one layer a line: image reference, position (base is 0), diff_id, bytes.
        log: where to append.
        disk_bytes: the size of the disk to assume, bytes.
        other_bytes: what other files hold of it, bytes.
        progress: called with the events done and the events in all, after each batch.

    Raises:
        UsageError: a file is not what it should be (with its name and line), or the sizes contradict.
        LogError: the log cannot be appended to, or a compaction has thinned it where the jobs are.
    """
    if not 0 <= other_bytes < disk_bytes:
        raise UsageError(f"a disk of {disk_bytes} bytes with {other_bytes} bytes of other files has no room for images")
    layers = _read_layers(layers_csv)
    jobs = _read_jobs(jobs_csv, layers, layers_csv)
    events = _events(jobs, layers, disk_bytes, other_bytes)
    since_ns = whole_since_ns(log) if log.exists() else None
    if since_ns is not None and events[0].time_ns < since_ns:
        # What became sums is no longer known by its events, so it would count twice.
        raise LogError(
            f"event log {log.path} was compacted: jobs from before {format_time(since_ns / _NS)} may be in its sums "
            "already and would count twice: import into another log"
        )
    new, size = 0, _BATCH if log.exists() else _BATCH_OF_NEW
    for first in range(0, len(events), size):
        batch = events[first : first + size]
        new += log.append(batch)
        if progress:
            progress(first + len(batch), len(events))
    if new > FOLD_EVERY:
        # No later append may come to do it.
        log.fold(min(events[-1].time_ns, time.time_ns()))
    return new


def image_id(reference: str) -> str:
    """The image ID that an imported reference gets: there is no engine to ask."""
    return "sha256:" + hashlib.sha256(reference.encode()).hexdigest()


def _events(
    jobs: Sequence[_Job], layers: Mapping[str, list[tuple[str, int]]], disk_bytes: int, other_bytes: int
) -> list[Event]:
    """All events in time order."""
    start_ns = min(job.start_ns for job in jobs)
    end_ns = max(job.end_ns for job in jobs)
    events = [_disk_sampled(start_ns, disk_bytes, other_bytes), _disk_sampled(end_ns, disk_bytes, other_bytes)]
    seen: set[str] = set()
    for job in sorted(jobs, key=lambda job: job.start_ns):
        if job.image not in seen:
            seen.add(job.image)
            events.append(_image_observed(job.start_ns, job.image, layers[job.image]))
        events.extend(_container(job))
    events.sort(key=lambda event: event.time_ns)
    return events


def _container(job: _Job) -> Iterator[Event]:
    # It depends on nothing but the job: a list may grow, and its import may be cut short and done again.
    digest = hashlib.sha256(f"{job.line} {job.start_ns} {job.name} {job.image}".encode()).hexdigest()
    # No engine gave it an ID, so it gets a short one; the identity keeps the long one, by which older logs know it.
    container = digest[:_ID]
    image = image_id(job.image)
    labels = {
        f"{GITLAB}job.id": str(job.line - 1),
        f"{GITLAB}pipeline.id": job.pipeline,
        f"{GITLAB}type": "build",
        f"{GITLAB}managed": "true",
    }
    attributes: JsonObject = {"labels": labels, "job": job.name}
    for kind, time_ns, began_ns, facts in (
        (Kind.CONTAINER_CREATED, job.start_ns, None, attributes),
        (Kind.CONTAINER_DESTROYED, job.end_ns, job.start_ns, {}),
    ):
        identity = f"{kind}\0{image}\0{job.image}\0{digest}"
        yield Event(time_ns, kind, image, job.image, container, None, began_ns, facts, identity)


def _image_observed(time_ns: int, reference: str, layers: Sequence[tuple[str, int]]) -> Event:
    digest = hashlib.sha256(f"manifest {reference}".encode()).hexdigest()
    seen = ImageObservation(
        image_id(reference),
        (reference,),
        (f"{repository(reference)}@sha256:{digest}",),
        created=datetime.fromtimestamp(time_ns // _NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        stored=None,
        size=sum(size for _, size in layers),
        layers=pair_layers([diff_id for diff_id, _ in layers], [size for _, size in layers], 0, spread=False),
        origin=Origin.REGISTRY,
    )
    return Event(time_ns, Kind.IMAGE_OBSERVED, seen.image, reference, attributes={**seen.attributes(), "assumed": True})


def _disk_sampled(time_ns: int, disk_bytes: int, other_bytes: int) -> Event:
    attributes: JsonObject = {"total_bytes": disk_bytes, "image_bytes": 0, "assumed": True}
    return Event(time_ns, Kind.DISK_SAMPLED, bytes=disk_bytes - other_bytes, attributes=attributes)


def _read_layers(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Of each image the diff ID and bytes of its layers, base first."""
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for line, row in _rows(path, LAYER_COLUMNS):
        place = f"{path}, line {line}"
        position = int(_number(place, "position", row["position"], _MOST_LAYERS, whole=True))
        size = int(_number(place, "bytes", row["bytes"], MOST_BYTES, whole=True))
        of_image = found.setdefault(_text(place, "image", row["image"]), {})
        if position in of_image:
            raise UsageError(f"{place}: image {row['image']} has two layers at position {position}: remove one")
        of_image[position] = (_text(place, "diff_id", row["diff_id"]), size)
    for image, of_image in found.items():
        if sum(size for _, size in of_image.values()) > MOST_BYTES:
            raise UsageError(f"{path}: the layers of image {image} have more than 2^60 bytes in all: correct them")
        if sorted(of_image) != list(range(len(of_image))):
            raise UsageError(
                f"{path}: image {image} lacks a layer: its positions must be 0 to {len(of_image) - 1} without a hole"
            )
    return {image: [of_image[k] for k in range(len(of_image))] for image, of_image in found.items()}


def _read_jobs(path: Path, images: Mapping[str, object], layers_csv: Path) -> list[_Job]:
    jobs: list[_Job] = []
    latest = int(time.time()) + AHEAD_S
    for line, row in _rows(path, JOB_COLUMNS):
        place = f"{path}, line {line}"
        if row["image"] not in images:
            raise UsageError(f"{place}: image '{row['image']}' has no layers in {layers_csv}: add them there")
        start = _number(place, "start", row["start"], latest)
        seconds = _number(place, "seconds", row["seconds"], latest - int(start))
        start_ns = int(start * _NS)
        jobs.append(_Job(line, start_ns, start_ns + int(seconds * _NS), row["pipeline"], row["job"], row["image"]))
    return jobs


def _number(place: str, column: str, text: str, most: int, *, whole: bool = False) -> Decimal:
    """A number from 0 to `most`."""
    shown = cut(text, _MOST_DIGITS)
    try:
        number = Decimal(text[: _MOST_DIGITS + 1])
    except InvalidOperation:
        raise UsageError(f"{place}: {column} is '{shown}', not a number: correct it") from None
    # The range comes first: of a number with ten million digits nothing else can be asked.
    in_range = len(text) <= _MOST_DIGITS and number.is_finite() and 0 <= number <= most
    if in_range and not (whole and number != number.to_integral_value()):
        return number
    if whole:
        raise UsageError(f"{place}: {column} is {shown}: it must be a whole number from 0 to {most}")
    if number.is_finite() and number > most:
        hint = "it must be in seconds, starts since 1970 UTC, and no job may end after now"
        raise UsageError(f"{place}: {column} is {shown}: {hint}")
    raise UsageError(f"{place}: {column} is {shown}: it must be a number of 0 or more")


def _bounded(lines: IO[str]) -> Iterator[str]:
    """The lines of a file. Raises csv.Error where one is too long: what was compressed may have no end."""
    while line := lines.readline(_MOST_LINE):
        if len(line) == _MOST_LINE:
            raise csv.Error(f"a line has more than {_MOST_LINE:,} characters")
        yield clean(line)


def _text(place: str, column: str, text: str) -> str:
    if not text:
        raise UsageError(f"{place}: {column} is empty: fill it in")
    return text


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with its line number; all wanted columns are there and hold text."""
    empty = True
    with _reading(path) as lines:
        reader = csv.DictReader(lines)
        names = reader.fieldnames or ()
        missing = [column for column in columns if column not in names]
        if missing:
            raise UsageError(
                f"{path}, line 1: column {', '.join(missing)} missing: the first line must name {','.join(columns)}"
            )
        if twice := [column for column in columns if names.count(column) > 1]:
            raise UsageError(f"{path}, line 1: column {', '.join(twice)} appears twice: rename one")
        for number, row in enumerate(reader):
            empty = False
            if number >= _MOST_ROWS:
                raise UsageError(f"{path} has more than {_MOST_ROWS:,} lines: split it")
            if any(row[column] is None for column in columns):
                raise UsageError(f"{path}, line {reader.line_num}: fewer than {len(columns)} values: complete the line")
            yield reader.line_num, row
    if empty:
        raise UsageError(f"{path} holds no rows below its first line: nothing to import")


@contextmanager
def _reading(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file, decompressed where needed; faults become `UsageError`."""
    try:
        with open_foreign(path) as file:
            compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            data = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if compressed else file
            # Spreadsheets put a byte order mark first.
            with io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as lines:
                yield _bounded(lines)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: save it as CSV in UTF-8, plain or gzip-compressed") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UsageError(f"{path} is a damaged gzip file: copy it again") from None
    except csv.Error as error:
        raise UsageError(f"{path} is not CSV: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
