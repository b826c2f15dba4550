"""What fills the disk: all that the engine knows of, and what is nobody's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from collector.engine.leftovers import Leftover
from collector.model.units import format_bytes, format_count, format_duration, short_id
from pruner.state.inventory import Inventory

# A container's log over this is named.
_LONG_LOG = 50 * 10**6
_NAMED = 5
# A build that has written nothing for so long may have been killed, seconds.
_SILENT_BUILD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What one kind of thing holds of the disk, bytes."""

    what: str
    bytes: int


def holdings(inventory: Inventory) -> tuple[Holding, ...]:
    """What fills the engine's file system, kind by kind; the last is what none of the others explains.

    Layers count once. What other programs keep on the same file system is unaccounted, too.
    """
    disk = inventory.disk
    layers = {chain: size for image in inventory.images for chain, size in image.layers}
    logs = sum(one.log_bytes for one in inventory.containers)
    known = (
        Holding("images", sum(layers.values())),
        Holding("containers", max(0, sum(one.bytes for one in inventory.containers) - logs)),
        Holding("container logs", logs),
        Holding("volumes", sum(one.bytes for one in inventory.volumes if one.here)),
        Holding("build cache", inventory.build_cache.bytes),
        Holding("leftovers", sum(one.bytes for one in inventory.leftovers)),
    )
    # Blocks that a file system keeps for root are neither free nor anybody's.
    used = disk.used_bytes or disk.total_bytes - disk.free_bytes
    return (*known, Holding("unaccounted", max(0, used - sum(one.bytes for one in known))))


def to_json(inventory: Inventory) -> dict[str, Any]:
    """The same for machines, by name, with what else is named."""
    return {
        "bytes": {one.what.replace(" ", "_"): one.bytes for one in holdings(inventory)},
        "leftovers": [{"what": one.what, "path": one.path, "bytes": one.bytes} for one in inventory.leftovers],
        "long_logs": [
            {"container": one.container_id, "name": one.name, "bytes": one.log_bytes}
            for one in inventory.containers
            if one.log_bytes >= _LONG_LOG
        ],
    }


def described(inventory: Inventory) -> Iterator[str]:
    """What fills the disk: all in one line, then long logs, dead containers, builds that may be dead, leftovers."""
    parts = [f"{one.what} {format_bytes(one.bytes)}" for one in holdings(inventory) if one.bytes]
    yield f"the disk holds: {', '.join(parts)}"
    logs = sorted((one for one in inventory.containers if one.log_bytes >= _LONG_LOG), key=lambda one: -one.log_bytes)
    for one in logs[:_NAMED]:
        yield (
            f"long log: {format_bytes(one.log_bytes)} of container {one.name} ({short_id(one.container_id)}): limit it"
            " with the logging driver's max-size, or empty it with"
            f" `truncate -s 0 \"$(docker inspect -f '{{{{.LogPath}}}}' {short_id(one.container_id)})\"`"
        )
    for one in [one for one in inventory.containers if one.state == "dead"][:_NAMED]:
        short = short_id(one.container_id)
        yield f"dead container {one.name} ({short}): `docker rm {short}` tries again"
    silent = [one for one in inventory.containers if one.mounted and one.stopped_at <= inventory.now - _SILENT_BUILD_S]
    for one in sorted(silent, key=lambda one: one.stopped_at)[:_NAMED]:
        yield (
            f"container {one.name} of a build ({short_id(one.container_id)}, {format_bytes(one.bytes)}), unchanged for"
            f" {format_duration(inventory.now - one.stopped_at)}, keeps itself and its image: {one.held_by}"
        )
    for (what, remedy), group in _by_kind(inventory.leftovers).items():
        total = format_bytes(sum(one.bytes for one in group))
        shown = ", ".join(one.path for one in group[:_NAMED])
        more = f" and {len(group) - _NAMED:,} more" if len(group) > _NAMED else ""
        yield f"{format_count(len(group), f'orphaned {what}')} ({total}): {shown}{more}; {remedy}"


def _by_kind(leftovers: Iterable[Leftover]) -> dict[tuple[str, str], list[Leftover]]:
    found: dict[tuple[str, str], list[Leftover]] = {}
    for one in leftovers:
        found.setdefault((one.what, one.remedy), []).append(one)
    return found
