"""Whether a registry has an image, as its engine's own records show it.

An image that no registry has is lost when it is removed. A digest of a repository shows that a registry
has it only under Docker's graphdrivers, which get it by a pull or a push and in no other way:

- the containerd store gives every image with a tag a digest. Its metadata say of each manifest from
  which registry it came, or to which it was pushed;
- Podman gives every image one, too. Registries hold layers compressed, and the manifest of a pulled
  image says so; what is built, committed or imported has plain layers. An image from an OCI archive looks
  like a pulled one, and so does one from a Docker archive whose layers this host has pulled before, for
  Podman remembers how they were compressed.

Both records are open to root alone (rootless Podman's to its owner). An engine from API 1.53 on also
reports them to whoever may ask (`Identity`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from collector.engine.bolt import BoltError, read_in_children
from collector.model.origin import Origin
from collector.model.paths import read_bytes
from collector.model.references import bare_id
from collector.model.untrusted import mapping, objects, read_object

_METADATA = "io.containerd.metadata.v1.bolt/meta.db"
_SOURCE = b"containerd.io/distribution.source."


def by_digests(digests: Iterable[str]) -> Origin:
    """Of an image under a graphdriver, from its digests."""
    return Origin.REGISTRY if any(digests) else Origin.LOCAL


def by_identity(detail: Mapping[str, Any]) -> Origin:
    """Of an image as the engine's inspection shows it; UNKNOWN where it does not."""
    identity = mapping(detail.get("Identity"))
    if identity.get("Pull"):
        return Origin.REGISTRY
    return Origin.LOCAL if identity.get("Build") else Origin.UNKNOWN


def by_content(root: str, image: str) -> Origin:
    """Of an image in a containerd store, from the labels of its manifest; UNKNOWN where they cannot be read.

    Args:
        root: the root of the containerd that keeps it.
        image: image ID: the digest of a manifest, or of an index of manifests.
    """
    # Whatever the engine's namespace is called (under userns-remap it is not "moby"), what any of them pulled is in a
    # registry: the ID is a digest.
    rest = (b"content", b"blob", image.encode(), b"labels")
    try:
        found = read_in_children(Path(root) / _METADATA, (b"v1",), rest)
    except BoltError:
        return Origin.UNKNOWN
    if not found:
        return Origin.UNKNOWN
    is_pulled = any(label.startswith(_SOURCE) for labels in found for label in labels)
    return Origin.REGISTRY if is_pulled else Origin.LOCAL


def by_manifests(data_root: str, image: str) -> Origin:
    """Of an image of Podman, from the manifests that it keeps; UNKNOWN where they cannot be read.

    Args:
        data_root: the engine's data root.
        image: image ID.
    """
    digits = bare_id(image)
    if not digits.isalnum():
        return Origin.UNKNOWN
    try:
        folders = [folder / digits for folder in Path(data_root).glob("*-images")]
        files = [file for folder in folders if folder.is_dir() for file in folder.iterdir() if _is_manifest(file.name)]
        manifests = [read_object(read_bytes(file)) for file in files]
    except (OSError, ValueError):
        return Origin.UNKNOWN
    readable = [one for one in manifests if one is not None and isinstance(one.get("layers", []), list)]
    if any(map(_is_packed, readable)):
        return Origin.PACKED
    return Origin.LOCAL if readable and len(readable) == len(manifests) else Origin.UNKNOWN


def _is_manifest(name: str) -> bool:
    """Names that a file system might not take are kept as ``=`` and base64."""
    if name.startswith("="):
        try:
            name = base64.b64decode(name[1:], validate=True).decode()
        except (binascii.Error, ValueError):
            return False
    return name == "manifest" or name.startswith("manifest-sha")


def _is_packed(manifest: Mapping[str, Any]) -> bool:
    """Whether its layers are compressed, as registries hold them."""
    if "fsLayers" in manifest:
        return True  # of the first schema, which nothing makes any more
    layers = objects(manifest.get("layers"))
    packed = [str(layer.get("mediaType")).endswith(("gzip", "zstd")) for layer in layers]
    return bool(packed) and all(packed)
