"""Space kept back for the day on which the disk is full to the last block.

A container engine writes before it removes: Docker its table of tags, containerd its database.
Without a block left it refuses to remove anything, so a file beside the log holds some, which the
pruner gives back for as long as it works.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 4 * 2**20
_MODE = 0o640
# Space is only taken back where there is so many times as much.
_EASE = 4


class Reserve:
    """A file that holds space.

    Args:
        log_path: the event log, beside which it is.
        size: bytes to hold.
    """

    def __init__(self, log_path: Path, size: int = DEFAULT_SIZE) -> None:
        self.path = log_path.with_name(log_path.name + ".reserve")
        self.size = size

    def keep(self) -> bool:
        """Hold the space, if there is plenty; whether it is held."""
        try:
            if self.path.exists() and self.path.stat().st_size >= self.size:
                return True
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._free() < _EASE * self.size:
                return False
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, _MODE)
            try:
                os.posix_fallocate(descriptor, 0, self.size)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("no space is kept back at %s: %s", self.path, error.strerror)
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
            logger.warning("the space kept back at %s cannot be given: %s", self.path, error.strerror)
            return False
        return True

    def _free(self) -> int:
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize
