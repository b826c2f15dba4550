"""Who waits for a log comes before work that takes it again and again.

Such work (a rewriting, a backlog that is folded) holds the log for a step at a time. Whoever finds it held says so by
a shared lock of the log's folder, and a step begins only where nobody has that lock: so nobody waits for a second one.
Locks of the log's own file are out of the question: DuckDB loses its own when any other descriptor of it is closed.
The system takes a lock away from whoever ends. Where a folder cannot be locked, all take their chances.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path

from collector.model.backoff import Backoff

# Whoever waits for the log looks whether it is free at least this often.
_LOOK_S = 0.2
_FIRST_S = 0.01
PATIENCE = 6
"""Nobody waits for work that gives way: where others hold the log again and again, it goes on so many times as long."""


def looks(path: Path, wait: float, *, gives_way: bool = False) -> Generator[None]:
    """Each moment to look whether a log is free; close it once it was.

    Args:
        path: the log.
        wait: how long to go on, seconds.
        gives_way: whether to leave the log to all others who wait, for so long, and then go on as they do for
            `PATIENCE` times as long.
    """
    began, delays = time.monotonic(), Backoff(_FIRST_S, _LOOK_S)
    folder: int | None = None
    most = wait * PATIENCE if gives_way else wait
    try:
        while True:
            if gives_way and folder is None:
                folder = _open(path.parent)
            waited = time.monotonic() - began
            # What has this lock keeps others from saying that they wait, so that none does while it takes the log.
            if not gives_way or _lock(folder, fcntl.LOCK_EX) or waited > wait:
                yield
            delay = delays.next()
            if waited + delay > most:
                return
            if folder is None:
                folder = _open(path.parent)
            _lock(folder, fcntl.LOCK_UN if gives_way else fcntl.LOCK_SH)
            time.sleep(delay)
    finally:
        if folder is not None:
            os.close(folder)


def _open(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # one may not look into every folder
        return None


def _lock(folder: int | None, how: int) -> bool:
    """Lock a folder, unless others' locks forbid it; whether they do not."""
    if folder is not None:
        try:
            fcntl.flock(folder, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # not every file system has locks
            return True
    return True
