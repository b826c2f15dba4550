"""A plan in words: what goes, and where that leads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from collector.model.units import format_bytes, format_count
from pruner.planning.plan import Plan, Removal
from pruner.planning.stages import ItemKind

_COUNTED = (
    (ItemKind.CONTAINER, "container"),
    (ItemKind.LOG, "container log"),
    (ItemKind.VOLUME, "volume"),
    (ItemKind.IMAGE, "image"),
)


def summary(made: Plan) -> str:
    """The plan in one line."""
    disk = made.inventory.disk
    where = f" on {disk.mount} ({', '.join(disk.holds)})" if disk.holds else ""
    state = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free{where}"
    if not made.needed:
        return f"{state}, threshold {format_bytes(made.levels.threshold[0])}: nothing to do"
    if not made.removals:
        return f"{state}, {_under(made)}: nothing may be removed, so the target of {_target(made)} IS NOT REACHED"
    after = format_bytes(disk.free_bytes + made.frees)
    verb = "reaches" if made.reaches_target else "DOES NOT REACH"
    return (
        f"{state}, {_under(made)}: removing {counted(made.removals)} "
        f"frees {format_bytes(made.frees)}, leaves {after} free, "
        f"and {verb} the target of {_target(made)}"
    )


def _target(made: Plan) -> str:
    return format_bytes(made.levels.target[0])


def _under(made: Plan) -> str:
    disk, level = made.inventory.disk, made.levels.threshold
    if disk.free_bytes >= level[0]:
        return f"{disk.free_inodes:,} inodes free, under the threshold of {level[1]:,.0f}"
    return f"under the threshold of {format_bytes(level[0])}"


def counted(removals: Sequence[Removal]) -> str:
    """How many of which kind, in words: ``2 containers, 1 image``; images always."""
    counts = Counter(removal.kind for removal in removals)
    parts = [format_count(counts[kind], word) for kind, word in _COUNTED if counts[kind] or kind is ItemKind.IMAGE]
    return ", ".join([*parts, *["build cache"] * (ItemKind.BUILD_CACHE in counts)])
