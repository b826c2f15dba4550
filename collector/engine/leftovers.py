"""What Docker left on its disk and no longer knows of, found by its own records; root alone may look."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collector.engine.folders import measured

_LAYER = re.compile(r"(?P<id>[0-9a-f]{64})(-init)?(?P<removing>-removing)?")
_SETTLED_S = 3600.0
_RECORDS = ("cache-id", "mount-id", "init-id")
REMEDY = (
    "Docker has no command for them: stop it, remove these folders, and start it again"
    " (a restart alone removes those that end in -removing)"
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder of a layer that no image, container or build cache refers to, and its bytes."""

    path: str
    bytes: int


def orphaned_layers(data_root: str) -> tuple[Leftover, ...]:
    """Folders of overlay2 that nothing in Docker's records refers to, the largest first; none where we may not look.

    Docker makes the folder of a layer before it records it, so those of the last hour do not count.

    Args:
        data_root: where the engine keeps its data.
    """
    root = Path(data_root)
    try:
        folders = [entry for entry in os.scandir(root / "overlay2") if _LAYER.fullmatch(entry.name)]
        known = set(_recorded(root / "image/overlay2/layerdb"))
        builds = _content(root / "buildkit/snapshots.db")
    except OSError:
        return ()
    found = []
    for entry in folders:
        match = _LAYER.fullmatch(entry.name)
        plain = entry.name.removesuffix("-removing")
        if match is None or (plain in known and not match["removing"]) or match["id"].encode() in builds:
            continue
        if not match["removing"] and time.time() - _changed(entry) < _SETTLED_S:
            continue
        found.append(Leftover(entry.path, measured(Path(entry.path))[0]))
    return tuple(sorted(found, key=lambda one: -one.bytes))


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return time.time()


def _recorded(layers: Path) -> Iterator[str]:
    for folder in (layers / "sha256", layers / "mounts"):
        for entry in os.scandir(folder) if folder.exists() else ():
            for record in _RECORDS:
                try:
                    yield (Path(entry.path) / record).read_text(encoding="ascii").strip()
                except (OSError, UnicodeDecodeError):
                    continue


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
