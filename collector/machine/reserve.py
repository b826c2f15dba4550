"""Space kept back for the day on which the disk is completely full.

A container engine writes before it removes: Docker its table of tags, containerd its database.
Without a block left it refuses to remove anything, so a file on its own file system holds some, and
another one beside the log where that is elsewhere. The pruner gives both back for as long as it works.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from collector.model import environment
from collector.model.paths import allocate, open_own

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 4 * 2**20
# What such a folder is called below the engine's own.
FOLDER = "docker-hindsight"
NAME = "docker-hindsight.reserve"
_MODE = 0o640
# Space is only taken back where there is so many times as much.
EASE = 4


class Reserve:
    """A file that holds space.

    Args:
        path: the file.
        size: bytes to hold.
    """

    def __init__(self, path: Path, size: int = DEFAULT_SIZE) -> None:
        self.path = path
        self.size = size

    def keep(self, least: float = 0.0) -> bool:
        """Hold the space, if there is plenty and as many bytes stay free; whether it is held."""
        try:
            if self._held() >= self.size:
                return True
            if self._free() < max(EASE * self.size, least + self.size):
                return False
            descriptor = open_own(self.path, os.O_WRONLY | os.O_CREAT, _MODE)
            try:
                allocate(descriptor, self.size)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("no space is reserved at %s: %s", self.path, error.strerror)
            return False
        return True

    def give(self) -> bool:
        """Give the space back, if there is next to none; whether that was done."""
        try:
            if self._free() >= self.size or not self.path.exists():
                return False
            self.path.unlink()
            # The file system may free blocks only when it next commits.
            os.sync()
        except OSError as error:
            logger.warning("the reserve at %s cannot be released: %s", self.path, error.strerror)
            return False
        return True

    def _held(self) -> int:
        """Bytes of the file, which a link would only pretend to hold."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def _free(self) -> int:
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize


def reserves(log_path: Path, folders: Iterable[str] = ()) -> tuple[Reserve, ...]:
    """The reserves of a host: one beside the log, and one on each other file system of the engine's.

    Args:
        log_path: the event log; its folder is made if it is missing.
        folders: a folder on each file system that holds the engine's data. A user who cannot write there has no
            reserve there, unless the unit names a folder (see `environment.RESERVE`).

    Raises:
        OSError: the log's folder cannot be made.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    found = {log_path.parent.stat().st_dev: Reserve(log_path.with_name(log_path.name + ".reserve"))}
    for folder in (*filter(None, os.environ.get(environment.RESERVE, "").split(":")), *folders):
        try:
            device = Path(folder).stat().st_dev
        except OSError:
            continue
        if device not in found and os.access(folder, os.W_OK | os.X_OK):
            found[device] = Reserve(Path(folder) / NAME)
    return tuple(found.values())
