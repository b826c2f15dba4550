"""What the containerd store keeps compressed beside each unpacked layer, read from its content store.

The engine's API has only the sum for an image, and layers compress to very different shares. The
content store is open to root alone; where it may not be read, the sum is spread over the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from collector.model.paths import read_bytes
from collector.model.untrusted import mapping, objects, read_object

_BLOBS = "io.containerd.content.v1.content/blobs"


def compressed_sizes(root: str, image: str, diff_ids: Sequence[str]) -> list[int] | None:
    """Bytes of each layer's compressed content, base first; None if it cannot be read.

    Args:
        root: the root of the containerd that keeps it.
        image: image ID: the digest of a manifest, or of an index of manifests.
        diff_ids: the root file system's layers, base first.
    """
    blobs = Path(root) / _BLOBS
    for manifest in _manifests(blobs, image):
        layers = objects(manifest.get("layers"))
        config = _read(blobs, mapping(manifest.get("config")).get("digest"))
        if config is None or mapping(config.get("rootfs")).get("diff_ids") != list(diff_ids):
            continue
        return [_size(blobs, layer) for layer in layers] if len(layers) == len(diff_ids) else None
    return None


def _manifests(blobs: Path, digest: str) -> Iterator[dict[str, Any]]:
    found = _read(blobs, digest)
    if found is None:
        return
    if "manifests" not in found:
        yield found
        return
    for entry in objects(found["manifests"]):
        inner = _read(blobs, entry.get("digest"))
        if inner is not None:
            yield inner


def _size(blobs: Path, layer: dict[str, Any]) -> int:
    """What the layer's content takes: nothing where it is not kept."""
    try:
        return _path(blobs, layer.get("digest")).stat().st_size
    except (OSError, ValueError):
        return 0


def _read(blobs: Path, digest: Any) -> dict[str, Any] | None:
    try:
        return read_object(read_bytes(_path(blobs, digest)))
    except (OSError, ValueError):
        return None


def _path(blobs: Path, digest: object) -> Path:
    algorithm, _, digits = str(digest).partition(":")
    if not (algorithm.isalnum() and digits.isalnum()):
        raise ValueError(f"'{digest}' is not a digest")
    return blobs / algorithm / digits
