"""Where events wait that cannot be appended now.

The file is allocated beforehand, so that it can be written when the disk is full: lines of JSON,
then zero bytes up to the allocated end.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from collector.eventlog.database import memory_spool_path, spool_path
from collector.model.errors import LogBusyError, LogError, SpoolUnusableError
from collector.model.events import Event
from collector.model.paths import allocate, open_own, replace_file

DEFAULT_SIZE = 4 * 2**20
_MODE = 0o640
# Whoever holds the spool waits for the log itself at most.
_LOCK_S = 2.0
_RETRY_S = 0.02
# The first byte of a file whose lines the log holds already: a kill while they are erased leaves parts of them behind.
_EMPTIED = b"\x18"


class Spool:
    """A file of waiting events, shared by all processes that append to one log.

    Args:
        path: the file.
        size: what to allocate beforehand, bytes; it grows beyond that while there is space.
        most: how far it grows, bytes; None: as far as there is space.
    """

    def __init__(self, path: Path, size: int = DEFAULT_SIZE, most: int | None = None) -> None:
        self.path = path
        self.size = size
        self._most = most
        # Whether the whole file was looked at, not only its first byte: damage and a kill may leave lines behind zeros.
        self._looked_at_all = False

    def reserve(self) -> None:
        """Allocate the file, if it is not allocated yet.

        Raises:
            LogError: there is not enough space, or no permission.
        """
        with self._locked(write=True) as descriptor:
            if os.fstat(descriptor).st_size < self.size:
                _allocate(descriptor, self.size, self.path)

    def write(self, events: Sequence[Event]) -> None:
        """Add events behind those that wait already, and have the disk confirm them.

        Raises:
            LogError: no space or permission; then none of the events is in the spool. What is not allocated
                beforehand is tried all the same: there may be space for these events, if not for many.
        """
        data = b"".join(json.dumps(event.to_json(), separators=(",", ":")).encode() + b"\n" for event in events)
        with self._locked(write=True) as descriptor:
            used = _used(descriptor)
            end = len(used)
            # A line that was cut off must not take the next one along.
            data = data if not used or used.endswith(b"\n") else b"\n" + data
            if self._most is not None and end + len(data) > self._most:
                raise LogError(f"spool {self.path} is full: it holds {self._most} bytes at most")
            before = os.fstat(descriptor).st_size
            if before < self.size:
                with suppress(LogError):
                    _allocate(descriptor, self.size, self.path)
            try:
                _write_all(descriptor, data, end)
                os.fsync(descriptor)
            except OSError as error:
                _erase(descriptor, end, len(data))
                os.ftruncate(descriptor, max(before, end))
                raise LogError(f"spool {self.path} cannot be written: {error.strerror}") from None

    @contextmanager
    def draining(self) -> Iterator[list[Event | None]]:
        """The waiting events in order, None for each line that cannot be read; emptied unless the body raises.

        Unreadable lines are kept aside, with all others, in a file beside the spool.

        Raises:
            SpoolUnusableError: it cannot be opened.
            LogBusyError: another process holds the spool.
            LogError: the spool may not be read or written.
        """
        if not self._holds_lines():
            yield []
            return
        with self._locked(write=True) as descriptor:
            data = _used(descriptor)
            events = [_parse(line) for line in data.splitlines()]
            yield events
            if None in events:
                self._keep_aside(data)
            _empty(descriptor)

    def waiting(self) -> int:
        """How many lines wait. Raises LogError as `draining` does."""
        if not self._holds_lines():
            return 0
        with self._locked(write=False) as descriptor:
            return len(_used(descriptor).splitlines())

    def _holds_lines(self) -> bool:
        """Whether anything waits: lines stand at the beginning, so after the first look one byte is enough to know."""
        try:
            descriptor = open_own(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SpoolUnusableError(f"spool {self.path} cannot be opened: {error.strerror}") from None
        try:
            found = os.pread(descriptor, 1, 0) if self._looked_at_all else _used(descriptor)
        except OSError as error:
            raise LogError(f"spool {self.path} cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)
        self._looked_at_all = True
        return found not in {b"", b"\0", _EMPTIED}

    def _keep_aside(self, data: bytes) -> None:
        copy = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        try:
            replace_file(copy, data, _MODE)
        except OSError as error:
            raise LogError(f"damaged spool {self.path} cannot be copied to {copy}: {error.strerror}") from None

    @contextmanager
    def _locked(self, *, write: bool) -> Iterator[int]:
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_own(self.path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, _MODE)
        except OSError as error:
            raise SpoolUnusableError(f"spool {self.path} cannot be opened: {error.strerror}") from None
        try:
            self._lock(descriptor, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
            if write and os.pread(descriptor, 1, 0) == _EMPTIED:
                _empty(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, kind: int) -> None:
        """Lock the file, but never wait forever: its holder may have been stopped."""
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LogBusyError(f"spool {self.path} is held by another process (`fuser` names it)") from None
                time.sleep(_RETRY_S)
            else:
                return


def _allocate(descriptor: int, size: int, path: Path) -> None:
    try:
        allocate(descriptor, size)
    except OSError as error:
        raise LogError(f"no {size} bytes can be reserved for the spool {path}: {error.strerror}") from None


def _used(descriptor: int) -> bytes:
    found = os.pread(descriptor, os.fstat(descriptor).st_size, 0).rstrip(b"\0")
    return b"" if found.startswith(_EMPTIED) else found


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _erase(descriptor: int, start: int, length: int) -> None:
    """Zero a part of the file that already exists: overwriting allocates nothing."""
    _write_all(descriptor, b"\0" * (min(start + length, os.fstat(descriptor).st_size) - start), start)
    os.fsync(descriptor)


def _empty(descriptor: int) -> None:
    """Zero all lines, so that whatever ends us half-way does not pass for lines that cannot be read."""
    try:
        _write_all(descriptor, _EMPTIED, 0)
        os.fsync(descriptor)
        _erase(descriptor, 1, os.fstat(descriptor).st_size)
        _erase(descriptor, 0, 1)
    except OSError as error:
        raise LogError(f"the spool cannot be emptied: {error.strerror}") from None


def _parse(line: bytes) -> Event | None:
    try:
        return Event.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def waiting_for(log_path: Path) -> int:
    """How many lines wait for a log, on its disk and in memory. Raises LogError as `Spool.waiting`."""
    paths = [spool_path(log_path)]
    if is_private((memory := memory_spool_path(log_path)).parent):
        paths.append(memory)
    return sum(Spool(path).waiting() for path in paths)


def is_private(folder: Path) -> bool:
    """Whether it is a folder that no one else can have laid anything into."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
