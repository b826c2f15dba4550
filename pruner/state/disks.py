"""An inventory as one of several disks sees it: what lies there, and what going would free there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from collector.engine.places import CONTAINERS, CONTENT, IMAGES
from collector.machine.disk import DiskSample, disk_of
from pruner.state.inventory import Container, Image, Inventory


def splits_images(disks: Sequence[DiskSample]) -> bool:
    """Whether the content store lies on another disk than the unpacked layers."""
    return any(CONTENT in disk.holds and IMAGES not in disk.holds for disk in disks)


def on_disk(inventory: Inventory, disk: DiskSample) -> Inventory:
    """What a decision about one disk looks at: only what frees bytes there may go for its sake.

    Images are decided on for the disk that they are unpacked on, and for the one that keeps their compressed
    content: on each counts what lies there (all of it, where the content may not be looked at). A container's log, its
    writable layer and a volume each count where they lie, too.
    """
    if len(inventory.disks) <= 1:
        return inventory
    has_images = IMAGES in disk.holds or CONTENT in disk.holds
    containers = [_on(disk, container) for container in inventory.containers]
    return replace(
        inventory,
        disk=disk,
        images=tuple(_image_on(disk, image) for image in inventory.images) if has_images else (),
        # Containers hold images in their place, whatever they free.
        containers=tuple(one for one in containers if has_images or one.bytes),
        volumes=tuple(one for one in inventory.volumes if disk_of(one.path, inventory.disks) == disk),
        leftovers=tuple(one for one in inventory.leftovers if disk_of(one.path, inventory.disks) == disk),
        build_cache=inventory.build_cache if IMAGES in disk.holds else replace(inventory.build_cache, records=()),
    )


def _image_on(disk: DiskSample, image: Image) -> Image:
    if not image.content or {IMAGES, CONTENT} <= set(disk.holds):
        return image
    sizes = ((chain, size, min(size, kept)) for (chain, size), kept in zip(image.layers, image.content, strict=True))
    unpacked = IMAGES in disk.holds
    return replace(image, layers=tuple((chain, size - kept if unpacked else kept) for chain, size, kept in sizes))


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
