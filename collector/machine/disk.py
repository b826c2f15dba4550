"""Samples of the disk that the engine's images fill."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from collector.model.errors import EngineError


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

    Engines close their data root, and sometimes folders above it, to all but root. An unprivileged
    process may still measure the file system at any place where it can reach it.

    Raises:
        EngineError: the path is not on this host (an engine elsewhere), or its file system can be
            reached nowhere.
    """
    try:
        found = _statvfs(path)
    except OSError as error:
        raise EngineError(
            f"the engine's data root {path} cannot be measured: {error.strerror}; "
            "the collector and pruner must run on the engine's own host, and as a user who can reach the disk"
        ) from None
    return DiskSample(
        path,
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files,
        found.f_favail,
    )


def _statvfs(path: str) -> os.statvfs_result:
    try:
        return os.statvfs(path)
    except PermissionError:
        mounts = list(_mounts())
        device = _visible_at(path, mounts).device
        for mount in reversed(mounts):
            # A mount point that another mount hides would show the other's file system.
            if mount.device == device and _visible_at(mount.point, mounts) is mount:
                with contextlib.suppress(OSError):
                    return os.statvfs(mount.point)
        raise


@dataclass(frozen=True, slots=True, eq=False)
class _Mount:
    point: str
    device: str


def _visible_at(path: str, mounts: list[_Mount]) -> _Mount:
    """The mount that holds a path: the innermost, and of several over each other the last."""
    holding = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point))


def _mounts() -> Iterator[_Mount]:
    """The mounts that this process sees, in the order in which they were made (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        yield _Mount(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]), fields[2])


_ESCAPED = re.compile(r"\\([0-7]{3})")
