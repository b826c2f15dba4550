"""What folders hold on the disk."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 512  # what st_blocks counts, whatever the file system's own blocks are


def measured(folder: Path) -> tuple[int, float]:
    """What a folder's files take on the disk, bytes, and when anything in it last changed, UTC seconds.

    What is unpacked from an archive has the archive's times, so those of changes count. What cannot be read
    counts nothing; without anything that can be read the time is 0.
    """
    held, changed = 0, 0.0
    for path, _, names in os.walk(folder, onerror=lambda _: None):
        for name in (*names, ""):
            try:
                found = os.lstat(os.path.join(path, name))  # noqa: PTH118 - twice as fast
            except OSError:
                continue
            held, changed = held + found.st_blocks * _BLOCK, max(changed, found.st_ctime)
    return held, changed
