"""Who comes first to a log that many want: nobody waits for more than one step of work that takes it again and again.

Whoever finds the log held takes a ticket, and lets those with an earlier one go first. Work in steps (a rewriting, a
backlog that is folded) comes again for each step, and lets all go first who came before that; those who come later wait
for this one step. Readers, which read at the same time, only wait for those who have to be alone.

All this for a second at most: whoever has not come by then is kept out by somebody else, who does not let go. So work
ends, too, where others use the log without a pause.

A ticket is a lock of one byte of the log's folder, whose place is the time: the system takes it away from whoever ends.
Locks of the log's own file are out of the question: DuckDB loses its own when any other descriptor of it is closed.
Where a folder cannot be locked, all take their chances.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Generator
from pathlib import Path

from collector.model.backoff import Backoff

# Whoever waits for the log looks whether it is free at least this often, seconds.
_LOOK_S = 0.1
_FIRST_S = 0.01
_COURTESY_S = 1.0
"""How long others may go first, seconds."""
PATIENCE = 6
"""Nobody waits for work that gives way: where others hold the log again and again, it goes on so many times as long."""
# Tickets of those who have to be alone begin here, far beyond all times in nanoseconds.
_ALONE = 1 << 61
_LOCK = "hhqqi4x"


def looks(path: Path, wait: float, *, alone: bool = False, gives_way: bool = False) -> Generator[None]:
    """Each moment to look whether a log is free; close it once it was.

    Args:
        path: the log.
        wait: how long to go on, seconds.
        alone: whether nobody may read it meanwhile.
        gives_way: whether this is a step of work: it goes on for `PATIENCE` times as long, and lets all go first who
            were there before it; others only those who had not waited for long.
    """
    began, delays = time.monotonic_ns(), Backoff(_FIRST_S, _LOOK_S)
    most = wait * PATIENCE if gives_way else wait
    folder = _open(path.parent)
    try:
        while True:
            waited = (time.monotonic_ns() - began) / 1e9
            since = 0 if gives_way else began + int((waited - _COURTESY_S) * 1e9)
            if waited >= _COURTESY_S or not _is_behind(folder, (max(since, 0), began), alone=alone):
                yield
            delay = delays.next()
            if waited + delay > most:
                return
            _lock(folder, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, (_ALONE if alone else 0) + began, 1)
            time.sleep(delay)
    finally:
        if folder is not None:
            os.close(folder)


def _open(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # one may not look into every folder
        return None


def _is_behind(folder: int | None, times: tuple[int, int], *, alone: bool) -> bool:
    """Whether somebody waits who came between two times, monotonic nanoseconds, and cannot share the log."""
    since, until = times
    return any(
        _lock(folder, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, place + since, until - since) not in (None, fcntl.F_UNLCK)
        for place in ((0, _ALONE) if alone else (_ALONE,))
    )


def _lock(folder: int | None, command: int, kind: int, first: int, count: int) -> int | None:
    """Lock some bytes of a folder, or ask what keeps one from it: the kind of lock; None: it cannot be locked."""
    if folder is None:
        return None
    try:
        found = fcntl.fcntl(folder, command, struct.pack(_LOCK, kind, os.SEEK_SET, first, count, 0))
    except OSError:  # not every file system has locks
        return None
    return int(struct.unpack(_LOCK, found)[0])
