"""Samples of the disk that the engine's images fill."""

from __future__ import annotations

import os
from dataclasses import dataclass

from collector.errors import EngineError


@dataclass(frozen=True, slots=True)
class DiskSample:
    """One file system at one moment, as `df` shows it to ordinary users.

    Attributes:
        path: a folder on it.
        total_bytes, free_bytes: what there is and what is available without privilege.
        total_inodes, free_inodes: the same for inodes; 0 where the file system makes them as needed.
    """

    path: str
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int

    def attributes(self) -> dict[str, int | str]:
        """What a `disk_sampled` event holds besides its free bytes."""
        return {
            "path": self.path,
            "total_bytes": self.total_bytes,
            "total_inodes": self.total_inodes,
            "free_inodes": self.free_inodes,
        }


def sample_disk(path: str) -> DiskSample:
    """Sample the file system that holds `path`.

    Raises:
        EngineError: the path is not on this host (an engine elsewhere) or may not be entered.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise EngineError(
            f"the engine's data root {path} cannot be measured: {error.strerror}; "
            "the collector and pruner must run on the engine's own host"
        ) from None
    return DiskSample(
        path,
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files,
        found.f_favail,
    )
