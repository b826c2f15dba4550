"""Lets one pruner at a time work on a log."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from collector.model.errors import HindsightError, LogError
from collector.model.paths import open_own


class PrunerBusyError(HindsightError):
    """Another pruner works on the same log."""

    exit_status = 4


@contextlib.contextmanager
def exclusive(log_path: Path) -> Iterator[None]:
    """Be the only pruner of a log.

    Raises:
        PrunerBusyError: there is another; its process ID is named.
        LogError: the lock file cannot be made.
    """
    path = log_path.with_name(log_path.name + ".pruner-lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise LogError(f"lock {path} cannot be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise PrunerBusyError(f"another pruner (process {owner}) is running on {log_path}: let it end") from None
        # Overwriting within the file's first block works on a full disk once the block is there.
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, f"{os.getpid():<31}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
