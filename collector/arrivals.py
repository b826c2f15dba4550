"""How images came lately, as far as events tell."""

from __future__ import annotations

import time
from collections.abc import Callable

from collector.events import Event, Kind
from collector.names import familiar
from collector.observation import ImageObservation

# Podman tells of an archive without saying which image comes from it, maybe long before it is there.
_LOADING_S = 600.0
# Podman tells of a pull a tenth of a second after it; an image may be seen before that.
_LATE_NS = 10**9
_COMES = frozenset(
    {
        Kind.IMAGE_PULLED,
        Kind.IMAGE_TAGGED,
        Kind.IMAGE_LOADED,
        Kind.IMAGE_IMPORTED,
        Kind.IMAGE_BUILT,
        Kind.IMAGE_UNTAGGED,
        Kind.IMAGE_PUSHED,
    }
)


class Arrivals:
    """What events told of images since the last inventory.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._announced: set[str] = set()
        self._pulled: set[str] = set()
        # Since an archive was last loaded: what an attempt to pull called an image.
        self._asked_for: set[str] = set()
        self._loaded: set[str] = set()
        self._loading_until = -1.0
        # Images that seemed to have come from an archive: when they were seen, and their names.
        self._doubtful: dict[str, tuple[int, frozenset[str]]] = {}
        # Images that a registry gave or was given since they were last looked at.
        self.exchanged: set[str] = set()
        # Images that a registry gave after all.
        self.given: set[str] = set()

    def take(self, event: Event) -> bool:
        """Take up an event; whether it tells that images have come or changed their names."""
        if event.kind not in _COMES:
            return False
        image = event.image or ""
        self._announced.add(image)
        if event.kind is Kind.IMAGE_PULLED:
            self._pulled.add(image)
            asked = familiar(event.reference or "")
            self._asked_for.add(asked)
            self.given.update(
                one
                for one, (seen_ns, names) in self._doubtful.items()
                if asked in names and event.time_ns <= seen_ns + _LATE_NS
            )
        if event.kind in {Kind.IMAGE_PULLED, Kind.IMAGE_PUSHED}:
            self.exchanged.add(image)
        if event.kind is Kind.IMAGE_LOADED:
            self._loaded.add(image)
            self._asked_for.clear()
            if not image:
                self._loading_until = self._clock() + _LOADING_S
        return True

    def announced(self, image: str) -> bool:
        """Whether an event told of the image."""
        return image in self._announced

    def pulled(self, image: str) -> bool:
        """Whether an event told that a registry gave the image."""
        return image in self._pulled

    def loaded(self, seen: ImageObservation) -> bool:
        """Whether an image that is new may have come from an archive: nobody has asked a registry for it since."""
        if not self._asked_for.isdisjoint(_names(seen)):
            return False
        return seen.image in self._loaded or self._clock() < self._loading_until

    def doubt(self, seen: ImageObservation, time_ns: int) -> None:
        """Take up that an image was taken for one from an archive: an event that comes late may tell otherwise.

        Args:
            seen: the image.
            time_ns: when it was seen, UTC nanoseconds.
        """
        self._doubtful[seen.image] = (time_ns, _names(seen))

    def clear(self) -> None:
        """An inventory has taken up all that came."""
        self._announced.clear()
        self._pulled.clear()
        self._loaded.clear()
        self._doubtful.clear()
        if self._clock() >= self._loading_until:
            # Nothing is taken for one from an archive before the next archive, which begins anew.
            self._asked_for.clear()


def _names(seen: ImageObservation) -> frozenset[str]:
    return frozenset(map(familiar, (*seen.references, *seen.digests)))
