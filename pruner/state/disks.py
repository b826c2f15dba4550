"""An inventory as one of several disks sees it: what lies there, and what going would free there."""

from __future__ import annotations

from dataclasses import replace

from collector.machine.disk import DiskSample, disk_of
from pruner.state.inventory import Container, Inventory

IMAGES, CONTENT, CONTAINERS = "images", "content", "containers"


def on_disk(inventory: Inventory, disk: DiskSample) -> Inventory:
    """What a decision about one disk looks at: only what frees bytes there may go for its sake.

    Images are decided on for the disk that they are unpacked on, and for the one that keeps their compressed
    content; a container's log, its writable layer and a volume each count where they lie.
    """
    if len(inventory.disks) <= 1:
        return inventory
    has_images = IMAGES in disk.holds or CONTENT in disk.holds
    containers = [_on(disk, container) for container in inventory.containers]
    return replace(
        inventory,
        disk=disk,
        images=inventory.images if has_images else (),
        # Containers hold images in their place, whatever they free.
        containers=tuple(one for one in containers if has_images or one.bytes),
        volumes=tuple(one for one in inventory.volumes if disk_of(one.path, inventory.disks) == disk),
        leftovers=tuple(one for one in inventory.leftovers if disk_of(one.path, inventory.disks) == disk),
        build_cache=inventory.build_cache if IMAGES in disk.holds else replace(inventory.build_cache, records=()),
    )


def _on(disk: DiskSample, container: Container) -> Container:
    layer = container.bytes - container.log_bytes if IMAGES in disk.holds else 0
    logged = container.log_bytes if CONTAINERS in disk.holds else 0
    return replace(container, bytes=layer + logged, log_bytes=logged)


def without(inventory: Inventory, gone: frozenset[str]) -> Inventory:
    """The inventory once some things have gone, by their keys: image and container IDs, names of volumes."""
    return replace(
        inventory,
        images=tuple(one for one in inventory.images if one.image_id not in gone),
        containers=tuple(one for one in inventory.containers if one.container_id not in gone),
        volumes=tuple(one for one in inventory.volumes if one.name not in gone),
    )
