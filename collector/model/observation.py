"""What a container engine says of what it holds, whichever engine it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from collector.model.origin import Origin
from collector.model.untrusted import MOST_SECONDS, amount, objects, read_object, size, text, texts

_SHA256 = "sha256:"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with bytes of an engine.

    Attributes:
        holds: what they are: images, content, containers, volumes or build cache.
        path: the folder.
        how: how it was found.
    """

    holds: str
    path: str
    how: str


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself.

    Attributes:
        data_root: the folder that its images fill.
        store: ``overlay2`` or another graphdriver, ``containerd`` or ``podman``: what an image ID
            and an image size mean differs between them.
        version: the engine's version.
        engine_id: the engine's own ID, which it keeps as long as its data; None: it has none (Podman).
        places: the folders that hold its bytes, images first.
        kernel: the release of the kernel that it runs on.
        machine: the name of the machine that it runs on.
    """

    data_root: str
    store: str
    version: str
    engine_id: str | None = None
    places: tuple[Place, ...] = ()
    kernel: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as the engine stores it: once for all images with the same chain below it."""

    diff_id: str
    chain_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ImageObservation:
    """An image as an inventory sees it.

    Attributes:
        references: ``name:tag`` each, sorted.
        digests: ``name@sha256:…`` each, sorted.
        created: build time as the engine says it (RFC 3339), None if it says none.
        stored: when the engine says the image came or was last tagged, UTC seconds; None if unknown.
        size: bytes on disk of all its layers (and of its compressed content, where that is kept).
        layers: base first.
        origin: where the image can be pulled again: from an engine what its records show, from a log what
            all observations together say.
    """

    image: str
    references: tuple[str, ...]
    digests: tuple[str, ...]
    created: str | None
    stored: float | None
    size: int
    layers: tuple[Layer, ...]
    origin: Origin = Origin.UNKNOWN

    @classmethod
    def from_log(cls, image: str, attributes: str | None, origin: str) -> ImageObservation:
        """The observation that the log holds: `attributes` as JSON, and what all observations say of the origin."""
        found = read_object(attributes or "{}") or {}
        created = found.get("created")
        return cls(
            image,
            tuple(texts(found.get("references"))),
            tuple(texts(found.get("digests"))),
            created if isinstance(created, str) else None,
            amount(found.get("stored"), MOST_SECONDS),
            size(found.get("size")),
            _layers_of(objects(found.get("layers"))),
            Origin(origin),
        )

    def attributes(self) -> dict[str, Any]:
        """The attributes of an `image_observed` event."""
        return {
            "references": list(self.references),
            "digests": list(self.digests),
            "created": self.created,
            "stored": self.stored,
            "size": self.size,
            "origin": self.origin.value,
            "layers": [
                {"diff_id": layer.diff_id, "chain_id": layer.chain_id, "bytes": layer.bytes} for layer in self.layers
            ],
        }


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A row of the engine's image list."""

    image: str
    references: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def signature(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What of the image can change without a change of its ID."""
        return (self.references, self.digests)


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A row of the engine's container list, in any state."""

    container: str
    image: str
    name: str
    state: str
    created_ns: int
    labels: dict[str, str]
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalContainer:
    """A container in the engine's storage that the engine does not manage, as Buildah and `podman build` make them.

    Attributes:
        container, image: its ID and that of its image.
        name: its name.
        changed: when it last changed, UTC seconds; when it was created, where its files may not be looked at.
        bytes: what it holds of the disk; 0 where its files may not be looked at.
        is_build: whether Buildah made it.
        mounted: whether it is mounted: a build works in it, or was killed. False also where nobody may look.
    """

    container: str
    image: str
    name: str
    changed: float
    bytes: int = 0
    is_build: bool = True
    mounted: bool = False


@dataclass(frozen=True, slots=True)
class CreatedFrom:
    """What a container was created from: its image's ID (None: unknown) and the names of its volumes."""

    image: str | None = None
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What an engine reports about its images.

    Attributes:
        layer_sizes: the bytes of each layer.
        by_manifest: an image ID is the digest of its manifest, not of its configuration.
        keeps_content: sizes count compressed content beside the unpacked layers.
        stored: when an image came.
        origin: which of its records show whether a registry has an image; None: none that may be read.
    """

    layer_sizes: bool
    by_manifest: bool
    keeps_content: bool
    stored: bool
    origin: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine says its other things hold, bytes; None where it does not say."""

    container_bytes: int | None
    volume_bytes: int | None
    build_cache_bytes: int | None


def _layers_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
    found = []
    for row in rows:
        try:
            found.append(_layer(row.get("diff_id"), row.get("chain_id"), row.get("bytes")))
        except TypeError:  # lists and objects, which no part of a layer is, cannot be looked up
            continue
    return tuple(filter(None, found))


# Images share most of their layers: each is read and kept once.
@lru_cache(maxsize=65536, typed=True)
def _layer(diff_id: object, chain_id: object, size_bytes: object) -> Layer | None:
    chain = text(chain_id)
    return Layer(text(diff_id), chain, size(size_bytes)) if chain else None


def full_id(image: str) -> str:
    """An image ID with its algorithm; Podman leaves that out."""
    return image if image.startswith(_SHA256) else _SHA256 + image


def pair_layers(diff_ids: Sequence[str], sizes: Sequence[int] | None, total: int, *, spread: bool) -> tuple[Layer, ...]:
    """Pair layers with sizes, base first.

    Args:
        diff_ids: the root file system's layers, base first.
        sizes: bytes of non-empty history entries, base first; None if unknown.
        total: bytes of the whole image.
        spread: whether what `total` has beyond the sizes is content kept for the layers too (the
            containerd store keeps them compressed beside the unpacked ones): each gets its share.
    """
    known = list(sizes or [])[: len(diff_ids)]
    # An empty layer leaves no size; which one it is cannot be known, and at the top it does no harm.
    padded = known + [0] * (len(diff_ids) - len(known))
    if diff_ids and sum(padded) == 0:
        padded[-1] = total
    if spread and (unpacked := sum(padded)) and total > unpacked:
        padded = [size * total // unpacked for size in padded]
    layers: list[Layer] = []
    chain = ""
    for diff_id, layer_bytes in zip(diff_ids, padded, strict=True):
        chain = chain_id(chain, diff_id)
        layers.append(Layer(diff_id, chain, layer_bytes))
    return tuple(layers)


def chain_id(parent: str, diff_id: str) -> str:
    """The name of a layer together with all below it (OCI image specification, "Layer ChainID")."""
    if not parent:
        return diff_id
    return _SHA256 + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()
