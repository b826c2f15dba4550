"""Lets one pruner, and one collector, at a time work on a log."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from collector.model.errors import HindsightError, LogError
from collector.model.paths import open_own


class InUseError(HindsightError):
    """Another process of the same kind works on the same log."""

    exit_status = 4


@contextlib.contextmanager
def exclusive(log_path: Path, program: str, *, required: bool = True) -> Iterator[None]:
    """Be the only process of a kind on a log.

    Args:
        log_path: the log.
        program: ``pruner`` or ``collector``.
        required: whether it matters more than the work: a full disk that has no room for the lock must be watched.

    Raises:
        InUseError: there is another; its process ID is named.
        LogError: the lock file cannot be made, and is required.
    """
    path = log_path.with_name(f"{log_path.name}.{program}-lock")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(open_own(path, os.O_RDWR | os.O_CREAT))
            # A file that stays open for writing would keep its file system from being mounted read-only.
            descriptor = open_own(path, os.O_RDONLY)
        except OSError as error:
            if required:
                raise LogError(f"lock {path} cannot be made: {error.strerror}") from None
        else:
            held.callback(os.close, descriptor)
            _take(descriptor, path, log_path, program)
        yield


def _take(descriptor: int, path: Path, log_path: Path, program: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        what = f"another {program} (process {owner}) is running on {log_path}"
        raise InUseError(f"{what}: wait for it to end") from None
    # Overwriting within the file's first block works on a full disk once the block is there.
    with contextlib.suppress(OSError):
        writing = open_own(path, os.O_WRONLY)
        try:
            os.pwrite(writing, f"{os.getpid():<31}\n".encode(), 0)
        finally:
            os.close(writing)
