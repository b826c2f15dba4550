"""Whether this process itself runs in a container: its machine ID and its paths are then not the host's."""

from __future__ import annotations

import re
from pathlib import Path

_SIGNS = (Path("/.dockerenv"), Path("/run/.containerenv"))
# A machine whose disk was made of an image has such a sign, too, but a file system of its own.
_LAYERED = re.compile(r"^\S+ \S+ \S+ \S+ / .* - (overlay|fuse\S*|aufs|btrfs|zfs) ", re.MULTILINE)


def in_container() -> bool:
    """Whether a container's files are around this process."""
    if not any(sign.exists() for sign in _SIGNS):
        return False
    try:
        return bool(_LAYERED.search(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return True
