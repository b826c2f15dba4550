"""What Podman's storage says about containers that Podman does not manage: those of builds, mostly."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.engine.folders import measured
from collector.model.observation import ExternalContainer, full_id
from collector.model.paths import read_bytes
from collector.model.times import parse_rfc3339
from collector.model.units import short_id
from collector.model.untrusted import objects, past_seconds, text, texts

# The state of such containers in Podman's own listing, and the command that it shows for those of Buildah.
_STATE, _BUILDAH = "storage", "buildah"
# Podman 5 keeps what need not outlive a crash, as what builds make, in the second.
CONTAINER_RECORDS = ("containers.json", "volatile-containers.json")
LAYER_RECORDS = ("layers.json", "volatile-layers.json")
# Of a host with as many images as any: each layer and container takes some hundred bytes.
MOST_RECORD_BYTES = 2**28
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Storage:
    """Where Podman keeps layers and containers, as it says itself.

    Attributes:
        root: the folder of its data.
        run: the folder of what a reboot ends.
        driver: the storage driver.
    """

    root: Path
    run: Path
    driver: str


def external_containers(rows: object, find_storage: Callable[[], Storage]) -> list[ExternalContainer]:
    """The external ones of Podman's own container list; their size and last change where we may look.

    Args:
        rows: the list, as Podman gives it with ``external=true``.
        find_storage: says where to look, which costs Podman more than the list; it is asked only if there are any.
    """
    wanted = [row for row in objects(rows) if _ID.fullmatch(text(row.get("Id"))) and row.get("State") == _STATE]
    if not wanted:
        return []
    storage = find_storage()
    layers, mounted = _layers(storage), _mounted(storage)
    return [_external(row, layers.get(text(row["Id"]), ""), mounted, storage) for row in wanted]


def _external(row: Mapping[str, Any], layer: str, mounted: frozenset[str], storage: Storage) -> ExternalContainer:
    container, now = text(row["Id"]), time.time()
    created = past_seconds(parse_rfc3339(text(row.get("Created"))), now) or now
    written = measured(storage.root / storage.driver / layer / "diff") if _ID.fullmatch(layer) else (0, 0.0)
    described = measured(storage.root / f"{storage.driver}-containers" / container)
    return ExternalContainer(
        container=container,
        image=full_id(text(row.get("ImageID"))),
        name=(*texts(row.get("Names")), short_id(container))[0],
        changed=max(created, min(max(written[1], described[1]), now)),
        bytes=written[0] + described[0],
        is_build=_BUILDAH in texts(row.get("Command")),
        mounted=layer in mounted,
    )


def _layers(storage: Storage) -> dict[str, str]:
    """The layer that each container writes to."""
    folder = storage.root / f"{storage.driver}-containers"
    return {
        text(row.get("id")): text(row.get("layer")) for name in CONTAINER_RECORDS for row in _records(folder / name)
    }


def _mounted(storage: Storage) -> frozenset[str]:
    """The layers that are mounted."""
    rows = _records(storage.run / f"{storage.driver}-layers" / "mountpoints.json")
    return frozenset(text(row.get("id")) for row in rows)


def _records(path: Path) -> list[Mapping[str, Any]]:
    """The records in a file of Podman's storage; none where it is not there or cannot be read."""
    try:
        return list(objects(json.loads(read_bytes(path, MOST_RECORD_BYTES))))
    except (OSError, ValueError, RecursionError):
        return []
