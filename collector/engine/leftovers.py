"""What an engine left on its disk and no longer knows of, found by its own records; root alone may look."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from collector.engine.bolt import BoltError, read_in_children
from collector.engine.external import CONTAINER_RECORDS, LAYER_RECORDS, MOST_RECORD_BYTES
from collector.engine.folders import measured
from collector.engine.places import CONTAINERS, IMAGES, VOLUMES
from collector.engine.protocol import Engine
from collector.model.errors import UnansweredError
from collector.model.observation import EngineInfo
from collector.model.paths import read_bounded, read_bytes
from collector.model.untrusted import objects, text

_LAYER = re.compile(r"(?P<id>[0-9a-f]{64})(-init)?(?P<removing>-removing)?")
_ID = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]+")
_ANY = re.compile(r"(?!\.).+")
_SETTLED_S = 3600.0
_RECORDS = ("cache-id", "mount-id", "init-id")

LAYER, CONTAINER, VOLUME = "layer", "container", "volume"
_BY_HAND = "Docker has no command for them: stop it, remove these folders, and start it again"
REMEDIES = {
    ("overlay2", LAYER): f"{_BY_HAND} (a restart alone removes those that end in -removing)",
    ("overlay2", CONTAINER): _BY_HAND,
    ("containerd", LAYER): "containerd removes them by itself when the next image is removed",
    ("containerd", CONTAINER): _BY_HAND,
    ("podman", LAYER): (
        "`podman system prune --external` removes them; a Podman without that option (4.3) has no command for them:"
        " remove these folders while nothing of Podman runs"
    ),
    ("podman", CONTAINER): "remove these folders while nothing of Podman runs",
}
_VOLUME_REMEDY = "look into them before you remove these folders: the engine knows of no such volume"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that nothing in an engine's records refers to.

    Attributes:
        path: the folder.
        bytes: what it holds of the disk.
        what: what it was: ``layer``, ``container`` or ``volume``.
        remedy: how the engine, or else the operator, is rid of it.
    """

    path: str
    bytes: int
    what: str = LAYER
    remedy: str = REMEDIES["overlay2", LAYER]


def find_leftovers(engine: Engine) -> tuple[Leftover, ...]:
    """Folders of an engine that it no longer knows of, the largest first; none where we may not look.

    Engines make a folder before they record it, so those that changed within the last hour do not count.

    Raises:
        EngineError: there is no engine.
    """
    try:
        info = engine.info()
        found = [*_layers(info), *_others(engine, info)]
    except UnansweredError:
        return ()
    return tuple(sorted(found, key=lambda one: -one.bytes))


def _layers(info: EngineInfo) -> Iterator[Leftover]:
    images = next((Path(place.path) for place in info.places if place.holds == IMAGES), None)
    if images is None:
        return
    root, remedy = Path(info.data_root), REMEDIES.get((info.store, LAYER), "")
    if info.store == "containerd":
        snapshots = images / "snapshots"
        yield from _unknown(snapshots, _NUMBER, lambda: _snapshots(images / "metadata.db"), LAYER, remedy)
    elif info.store == "podman":
        layers = root / f"{images.name}-layers"
        yield from _unknown(images, _ID, lambda: _recorded_ids(layers, LAYER_RECORDS), LAYER, remedy)
    elif images.name == "overlay2":
        yield from _unknown(images, _LAYER, lambda: _of_overlay2(images, root), LAYER, remedy)


def _others(engine: Engine, info: EngineInfo) -> Iterator[Leftover]:
    places = {place.holds: Path(place.path) for place in info.places}
    store = info.store if info.store in {"containerd", "podman"} else "overlay2"
    if CONTAINERS in places:
        remedy = REMEDIES[store, CONTAINER]
        yield from _unknown(places[CONTAINERS], _ID, lambda: _containers(engine, places[CONTAINERS]), CONTAINER, remedy)
    if VOLUMES in places:
        yield from _unknown(places[VOLUMES], _ANY, lambda: _volumes(engine), VOLUME, _VOLUME_REMEDY)


def _containers(engine: Engine, folder: Path) -> set[str]:
    if engine.store == "podman":
        # Its folders are those of the storage, where also others' containers lie.
        return _recorded_ids(folder, CONTAINER_RECORDS)
    return {row.container for row in engine.containers()}


def _volumes(engine: Engine) -> set[str]:
    return {text(row.get("Name")) for row in engine.volumes()}


def _unknown(
    folder: Path, pattern: re.Pattern[str], known: Callable[[], Collection[str]], what: str, remedy: str
) -> Iterator[Leftover]:
    """The folders in a folder that match and that nobody knows; what is known is asked after they were listed."""
    try:
        found = [entry for entry in os.scandir(folder) if pattern.fullmatch(entry.name) and entry.is_dir()]
        names = known() if found else ()
    except (OSError, ValueError, RecursionError, BoltError):
        return
    for entry in found:
        if entry.name not in names and (
            entry.name.endswith("-removing") or time.time() - _changed(entry) >= _SETTLED_S
        ):
            yield Leftover(entry.path, measured(Path(entry.path))[0], what, remedy)


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return time.time()


def _of_overlay2(images: Path, root: Path) -> set[str]:
    """The names of layers' folders that Docker's records or its build cache name. Raises OSError."""
    known = set(_recorded(root / "image/overlay2/layerdb"))
    builds = _content(root / "buildkit/snapshots.db")
    names = (match for entry in os.scandir(images) if (match := _LAYER.fullmatch(entry.name)))
    return known | {match[0] for match in names if match["id"].encode() in builds}


def _recorded(layers: Path) -> Iterator[str]:
    for folder in (layers / "sha256", layers / "mounts"):
        for entry in os.scandir(folder) if folder.exists() else ():
            for record in _RECORDS:
                try:
                    yield read_bounded(Path(entry.path) / record, "ascii").strip()
                except (OSError, UnicodeDecodeError):
                    continue


def _content(path: Path) -> bytes:
    return read_bytes(path, MOST_RECORD_BYTES) if path.exists() else b""


def _recorded_ids(folder: Path, names: tuple[str, ...]) -> set[str]:
    """The IDs in some records of Podman's storage. Raises OSError or ValueError: what is recorded is unknown."""
    paths = [path for path in (folder / name for name in names) if path.exists()]
    if not paths:
        raise FileNotFoundError(folder)
    return {text(row.get("id")) for path in paths for row in objects(json.loads(read_bytes(path, MOST_RECORD_BYTES)))}


def _snapshots(path: Path) -> set[str]:
    """The numbers of the snapshots that containerd knows. Raises BoltError."""
    found = read_in_children(path, (b"v1", b"snapshots"), ())
    return {str(_uvarint(values[b"id"])) for values in found if b"id" in values}


def _uvarint(raw: bytes) -> int:
    """A number as Go's encoding/binary writes it."""
    return sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(raw))
