"""Keeps out whoever would append to a log, while another file takes its place; readers go on."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from collector.eventlog.database import wal_path
from collector.eventlog.file import LogFile
from collector.eventlog.turns import PATIENCE, looks
from collector.model.errors import LogBusyError

_LOCK = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)


@contextmanager
def keeping_out_others(log: LogFile, path: Path) -> Iterator[float]:
    """Keep out whoever appends, with nothing left in the write-ahead log; since when, monotonic seconds.

    Args:
        log: the log.
        path: its file: not a link to it.

    Raises:
        LogBusyError: others hold it for too long.
    """
    # Whoever came by a link has it beside that.
    logs = {wal_path(path), wal_path(log.path)}
    for _ in range(PATIENCE):
        with closing(looks(path, log.wait, gives_way=True)) as moments:
            descriptor = next((one for _ in moments if (one := _locked(path)) is not None), None)
        if descriptor is None:
            break
        try:
            if not any(wal.exists() and wal.stat().st_size for wal in logs):
                for wal in logs:
                    wal.unlink(missing_ok=True)
                yield time.monotonic()
                return
        finally:
            os.close(descriptor)
        log.settle()
    raise held_too_long(path)


def held_too_long(path: Path) -> LogBusyError:
    """What to raise where others hold a log."""
    return LogBusyError(f"event log {path} is held by another process: nothing was changed; try again")


def _locked(path: Path) -> int | None:
    """A descriptor of a log that keeps out whoever appends; None: somebody does, or the file was replaced."""
    # This lock is the descriptor's own: DuckDB, which closes others of this file, does not release it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if _try_lock(descriptor) and os.fstat(descriptor).st_ino == path.stat().st_ino:
        return descriptor
    os.close(descriptor)
    return None


def _try_lock(descriptor: int) -> bool:
    """Lock a file for reading, as DuckDB does; whether that could be done at once."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        return False
    return True


def sync(path: Path) -> None:
    """Have the disk confirm a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
