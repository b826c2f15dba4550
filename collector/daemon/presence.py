"""Which images the engine holds, as far as observed, and what they take on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.events import Event, Kind
from collector.model.observation import ImageObservation, ListedImage
from collector.model.origin import Origin, agreed
from collector.model.references import digest_of
from collector.model.times import parse_rfc3339_ns

# An image whose build is older than this when it is first seen was not built just now.
_JUST_BUILT_NS = 3600 * 10**9
# Of images with the same layers nothing shows which of them another was built on: so many count as its base, those that
# were there first. Else whoever builds one that differs in its labels only, again and again, floods the log.
_MOST_BASES = 16


class Presence:
    """Compares inventories with what is known and says the difference in events.

    An image is observed (written with its layers) when it is new or its names have changed.
    """

    def __init__(self) -> None:
        self._signatures: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._layers: dict[str, tuple[tuple[str, int], ...]] = {}
        self._origins: dict[str, Origin] = {}
        # The images by their uppermost layer, so that what a new image begins with is looked up, not searched; those
        # that were there first come first.
        self._images_by_top: dict[str, dict[str, None]] = {}

    def restore(self, log: EventLog) -> None:
        """Restore what the log says was there. Raises LogError."""
        for row in log.query(_PRESENT, [log.host], whole_since=ONLY_KEPT):
            seen = ImageObservation.from_log(*row)
            self._signatures[seen.image] = (seen.references, seen.digests)
            self._origins[seen.image] = seen.origin
            self._set_layers(seen.image, ((layer.chain_id, layer.bytes) for layer in seen.layers))

    def changed(self, listed: Iterable[ListedImage]) -> list[ListedImage]:
        """The listed images that are new or have other names."""
        return [row for row in listed if self._signatures.get(row.image) != row.signature]

    def origin(self, image: str) -> Origin | None:
        """Where an image can be pulled from again, if known; None: the image is not known."""
        return self._origins.get(image)

    def has_come(self, seen: ImageObservation) -> bool:
        """Whether an image is new, or has a manifest that has come by a further pull or archive."""
        _, digests = self._signatures.get(seen.image, ((), ()))
        return seen.image not in self._origins or not _manifests(seen.digests) <= _manifests(digests)

    def resolved_origin(self, seen: ImageObservation, came: Origin | None = None) -> ImageObservation:
        """The observation with what is to be stored of its origin.

        Args:
            seen: what the engine says.
            came: how an image that has a registry's marks arrived, according to events; None: it was there.
        """
        if seen.origin is not Origin.PACKED:
            return seen
        return replace(seen, origin=came or agreed(self._origins.get(seen.image), seen.origin))

    def observed(self, seen: ImageObservation, time_ns: int, *, inferred: bool = False) -> Event:
        """Process one observation; the event that records it.

        Args:
            seen: the observation.
            time_ns: when it was made, UTC nanoseconds.
            inferred: whether only this inventory shows that the image arrived: there was no event.
        """
        self._signatures[seen.image] = (seen.references, seen.digests)
        self._origins[seen.image] = agreed(self._origins.get(seen.image), seen.origin)
        self._set_layers(seen.image, ((layer.chain_id, layer.bytes) for layer in seen.layers))
        return Event(
            time_ns,
            Kind.IMAGE_OBSERVED,
            image=seen.image,
            reference=seen.references[0] if seen.references else None,
            bytes=seen.size,
            attributes={**seen.attributes(), **({"inferred": True} if inferred else {})},
        )

    def bases(self, seen: ImageObservation, now_ns: int) -> list[Event]:
        """What a new image was built on: the images with the most layers that it begins with, at most `_MOST_BASES`.

        BuildKit reports no `FROM`: only the layers show it.

        Args:
            seen: an observation that `observed` has not processed yet, of an image that no registry gave.
            now_ns: when it was made, UTC nanoseconds.
        """
        created_ns = parse_rfc3339_ns(seen.created) or 0
        if seen.image in self._signatures or not 0 <= now_ns - created_ns <= _JUST_BUILT_NS:
            return []
        # Each layer's identifier stands for all below it, too: the uppermost one that ends an image is the deepest.
        tops = (self._images_by_top.get(layer.chain_id) for layer in reversed(seen.layers))
        deepest = islice(next((images for images in tops if images), {}), _MOST_BASES)
        return [
            Event(
                now_ns,
                Kind.BASE_USED,
                image=image,
                attributes={"by": seen.image, "evidence": "from_prefix"},
                identity=f"base {image} of {seen.image}",
            )
            for image in sorted(deepest)
        ]

    def vanished(self, listed: Iterable[ListedImage], now_ns: int) -> list[Event]:
        """What is known but no longer listed has gone unobserved: marked as inferred."""
        existing = {row.image for row in listed}
        gone = [image for image in self._signatures if image not in existing]
        for image in gone:
            self.forget(image)
        return [Event(now_ns, Kind.IMAGE_DELETED, image=image, attributes={"inferred": True}) for image in gone]

    def forget(self, image: str) -> None:
        """Process the deletion of an image."""
        self._signatures.pop(image, None)
        self._set_layers(image, ())
        self._origins.pop(image, None)

    def _set_layers(self, image: str, layers: Iterable[tuple[str, int]]) -> None:
        """Keep an image's layers, and the look-up by the uppermost, in step; without layers it is in neither."""
        kept = tuple(layers)
        before, after = (found[-1][0] if found else None for found in (self._layers.pop(image, ()), kept))
        if before is not None and before != after:
            del self._images_by_top[before][image]
            if not self._images_by_top[before]:
                del self._images_by_top[before]
        if after is not None:
            self._layers[image] = kept
            self._images_by_top.setdefault(after, {})[image] = None

    def __contains__(self, image: str) -> bool:
        return image in self._signatures

    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of every image present."""
        return {image: (*references, *digests) for image, (references, digests) in self._signatures.items()}

    def shares(self) -> tuple[int, int]:
        """Bytes of layers that one image holds alone, and of those that several share, each counted once."""
        holders = Counter(chain for layers in self._layers.values() for chain, _ in layers)
        sizes = {chain: size for layers in self._layers.values() for chain, size in layers}
        own = sum(size for chain, size in sizes.items() if holders[chain] == 1)
        return own, sum(sizes.values()) - own

    @property
    def image_bytes(self) -> int:
        """Bytes of all layers held, each counted once."""
        return sum({chain: size for layers in self._layers.values() for chain, size in layers}.values())

    def __len__(self) -> int:
        return len(self._signatures)


def _manifests(digests: Iterable[str]) -> frozenset[str]:
    """The digests without the repositories' names."""
    return frozenset(map(digest_of, digests))


_PRESENT = """
SELECT image_id, o.attributes::VARCHAR, o.origin
FROM image_observations AS o SEMI JOIN present_images USING (host, image) JOIN image USING (image)
WHERE host = ? ORDER BY o.first_observed, o.image
"""
