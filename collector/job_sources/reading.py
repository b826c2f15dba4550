"""Reads a runner's log from where the last reading ended: the journal's export, and files that are rotated."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from collector.job_sources.runnerlog import MOST_LINE, SOURCE, Line, RunnerLog, parse_line
from collector.job_sources.source import Batch, JobSource
from collector.model.errors import UsageError
from collector.model.paths import open_foreign, real_path
from collector.model.untrusted import clean, past_ns, read_object, whole

JOURNAL = "gitlab-runner journal"
_HEAD = 1024
_MOST_LINES = 20_000
# Four bytes a character at most.
_MOST_LINE_BYTES = 4 * MOST_LINE
# A batch ends here, however few lines it has.
_MOST_BATCH_BYTES = 16 * 2**20


class JournalExport:
    """The journal's JSON export, or lines of any other format from a pipe.

    Args:
        position: what the mark of the last batch said.
        all_times: whether entries that lie before that one are taken, too; else they are passed over.
    """

    def __init__(self, position: str | None, *, all_times: bool = False) -> None:
        known = read_object(position or "{}") or {}
        self._before = 0 if all_times else past_ns(known.get("time_ns"), time.time_ns()) or 0
        self._reader = RunnerLog(known.get("jobs"))
        self.cursor = None if known.get("cursor") is None else str(known["cursor"])

    def read(self, lines: Iterable[str], assumed_ns: int) -> Batch:
        """What some lines say; those without a time get `assumed_ns` (UTC nanoseconds)."""
        entries = _entries(lines)
        new = [line for line in entries if line.cursor is None or (line.time_ns or 0) >= self._before]
        facts = tuple(fact for line in new for fact in self._reader.facts(line))
        last = next((line for line in reversed(entries) if line.cursor is not None), None)
        if last is None:
            return Batch(len(entries), facts, assumed_ns, None)
        self.cursor = last.cursor
        position = {"cursor": last.cursor, "time_ns": last.time_ns, "jobs": self._reader.state}
        return Batch(len(entries), facts, assumed_ns, (JOURNAL, json.dumps(position)))


class RunnerLogFile:
    """A runner's log file, which may be rotated or cut short between two looks.

    It stays open from one look to the next, so that the end of a file that was renamed or removed is read, too. The
    end of one that was rotated while nobody looked is read from the file beside it that begins alike.

    Args:
        path: the file.
        position: what the mark of the last batch said.
        first_bytes: how much of a file that was never read before is read at most, from its end; None: all.
    """

    def __init__(self, path: Path, position: str | None, first_bytes: int | None = None) -> None:
        known = read_object(position or "{}") or {}
        head = known.get("head")
        self.source = source_of(path)
        self._path = path
        self._reader = RunnerLog(known.get("jobs"))
        self._offset = whole(known.get("offset")) or 0
        self._head: Any = head if isinstance(head, list) and len(head) == len(("length", "digest")) else None
        self._first_bytes = first_bytes
        self._held: IO[bytes] | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def check(self) -> None:
        """See that there is a file that can be read. Raises OSError."""
        open_foreign(self._path).close()

    def read(self, most_lines: int) -> Generator[Batch]:
        """What has come since the last look, so many lines at a time. Raises OSError."""
        current = open_foreign(self._path)
        try:
            if not self._continues(current):
                previous = self._previous()
                if previous is not None:
                    yield from self._rest(previous, most_lines)
                    previous.close()
                self._begin(current)
            yield from self._rest(current, most_lines)
        finally:
            self.close()
            self._held = current

    def _continues(self, file: IO[bytes]) -> bool:
        """Whether this is the file that was read last, and all of that is still in it."""
        if self._head is None:
            return False
        length, digest = whole(self._head[0], 0, _HEAD) or 0, self._head[1]
        return self._offset <= os.fstat(file.fileno()).st_size and _digest(file, length) == digest

    def _previous(self) -> IO[bytes] | None:
        """The file that was read last, by whatever name it goes now; None: it cannot be found."""
        if self._head is None or not self._offset:
            return None
        if self._held is not None and self._continues(self._held):
            found, self._held = self._held, None
            return found
        for path in sorted(self._path.parent.glob(f"{glob.escape(self._path.name)}[.-]*")):
            try:
                file = open_foreign(path)
            except OSError:
                continue
            if self._continues(file):
                return file
            file.close()
        return None

    def _begin(self, file: IO[bytes]) -> None:
        first = self._head is None
        self._offset = 0
        if first and self._first_bytes is not None:
            self._offset = max(0, os.fstat(file.fileno()).st_size - self._first_bytes)
        if self._offset:
            file.seek(self._offset)
            # A line in the middle of which reading begins says nothing.
            self._offset += next((length for _, length, _ in bounded_lines(file)), 0)

    def _rest(self, file: IO[bytes], most_lines: int) -> Iterator[Batch]:
        self._head = _head(file)
        assumed_ns = os.fstat(file.fileno()).st_mtime_ns
        file.seek(self._offset)
        for batch, length in _batches(bounded_lines(file), most_lines):
            self._offset += length
            entries = _entries(raw.decode(errors="replace") for raw in batch)
            facts = tuple(fact for line in entries for fact in self._reader.facts(line))
            position = {"offset": self._offset, "head": self._head, "jobs": self._reader.state}
            yield Batch(len(entries), facts, assumed_ns, (self.source, json.dumps(position)))


class PipedLog(JobSource):
    """A runner's log from a pipe: any format, or the journal's JSON export.

    Entries of the journal that lie before the last one taken are passed over; its cursor is kept.

    Args:
        lines: the lines.
        assumed_ns: the time of lines that have none, UTC nanoseconds.
    """

    evidence = SOURCE
    key = JOURNAL

    def __init__(self, lines: Iterable[str], assumed_ns: int) -> None:
        self._lines = iter(lines)
        self._assumed_ns = assumed_ns

    def batches(self, position: str | None) -> Iterator[Batch]:
        """Some lines at a time."""
        export = JournalExport(position)
        while lines := list(islice(self._lines, _MOST_LINES)):
            yield export.read(lines, self._assumed_ns)


class StoredLog(JobSource):
    """A runner's log file from where the last reading ended; all of it, if it is another file by now.

    Lines without a time get the file's time of change, which is never too early.
    """

    evidence = SOURCE

    def __init__(self, path: Path) -> None:
        self.key = source_of(path)
        self._path = path

    def batches(self, position: str | None) -> Iterator[Batch]:
        """Some lines at a time. Raises UsageError: the file cannot be read."""
        file = RunnerLogFile(self._path, position)
        try:
            yield from file.read(_MOST_LINES)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read: {error.strerror or error}") from None
        finally:
            file.close()


def source_of(path: Path) -> str:
    """Under which name the position in a file is kept."""
    return clean(f"gitlab-runner log {real_path(path)}")


def bounded_lines(file: IO[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """The lines of a file, none longer than is read of one: each with its length in bytes, and whether it has ended.

    Of a longer line the beginning is kept, and the rest passed over.
    """
    while line := file.readline(_MOST_LINE_BYTES):
        length, ended = len(line), line.endswith(b"\n")
        while not ended and (more := file.readline(_MOST_LINE_BYTES)):
            length, ended = length + len(more), more.endswith(b"\n")
        yield line, length, ended


class Lines:
    """Whole lines out of chunks of bytes, none longer than is read of one."""

    def __init__(self) -> None:
        self._rest = b""
        self._passing_over = False

    def take(self, chunk: bytes) -> list[str]:
        """The lines that end in this chunk; what follows the last one waits for the next."""
        *ended, rest = chunk.split(b"\n")
        found = [self._rest + ended[0], *ended[1:]] if ended else []
        if found and self._passing_over:
            found[0] = b""
        self._passing_over &= not ended
        self._rest = rest if ended else self._rest + rest
        if len(self._rest) > _MOST_LINE_BYTES:
            self._rest, self._passing_over = b"", True
        return [line.decode(errors="replace") for line in found if line]


def _batches(lines: Iterable[tuple[bytes, int, bool]], most_lines: int) -> Iterator[tuple[list[bytes], int]]:
    """Ended lines, some at a time, each time with how many bytes they took in the file."""
    batch: list[bytes] = []
    taken = held = 0
    for line, length, ended in lines:
        if not ended:
            # It is still being written: half of a number is another number.
            break
        batch.append(line)
        taken, held = taken + length, held + len(line)
        if len(batch) >= most_lines or held >= _MOST_BATCH_BYTES:
            yield batch, taken
            batch, taken, held = [], 0, 0
    if batch:
        yield batch, taken


def _entries(lines: Iterable[str]) -> list[Line]:
    """The lines that hold anything, without times still to come: what has one would count as used until then."""
    found = [line for line in map(parse_line, lines) if line is not None]
    return [replace(line, time_ns=past_ns(line.time_ns, time.time_ns())) for line in found]


def _head(file: IO[bytes]) -> list[object]:
    """What distinguishes the file from its successor after a rotation: its first bytes."""
    length = min(_HEAD, os.fstat(file.fileno()).st_size)
    return [length, _digest(file, length)]


def _digest(file: IO[bytes], length: int) -> str:
    file.seek(0)
    return hashlib.sha256(file.read(length)).hexdigest()
