"""How images arrived recently, according to events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from collector.model.events import Event, Kind, with_effect
from collector.model.observation import ImageObservation
from collector.model.origin import Origin
from collector.model.references import all_aliases, familiar
from collector.model.traits import Effect

# Podman may report an archive or a pull long before the image is there, and an archive without saying which one.
_COMING_S = 600.0
# Podman reports a pull or an archive a tenth of a second after it; the image may be seen before that.
_LATE_NS = 10**9
# Such an event comes at least as soon as that.
_DOUBT_S = 60.0
_COMES = frozenset(with_effect(Effect.COMES, Effect.RENAMED))


@dataclass(frozen=True, slots=True)
class _Doubt:
    """An image without an event of its pull so far: when it was seen (UTC), and until when such an event may come."""

    seen_ns: int
    until: float
    names: frozenset[str]
    origin: Origin


class Arrivals:
    """What events reported about images since the last inventory.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._announced: set[str] = set()
        self._pulled: set[str] = set()
        # Since an archive was last loaded: what an attempt to pull called an image, and when.
        self._asked_for: dict[str, float] = {}
        self._loaded: set[str] = set()
        self._loading_until = -1.0
        # Images without an event of their pull so far: when they were seen, and their names.
        self._doubtful: dict[str, _Doubt] = {}
        # Images that a registry gave or was given since they were last looked at.
        self._exchanged: set[str] = set()
        # How some of them have come after all.
        self._settled: dict[str, Origin] = {}

    def take(self, event: Event) -> bool:
        """Process an event; whether it means that images have arrived or changed their names."""
        if event.kind not in _COMES:
            return False
        image = event.image or ""
        self._announced.add(image)
        if event.kind is Kind.IMAGE_PULLED:
            self._pulled.add(image)
            asked = familiar(event.reference or "")
            self._asked_for[asked] = self._clock()
            self._settle(event, Origin.REGISTRY, lambda doubt: asked in doubt.names)
        if event.kind in {Kind.IMAGE_PULLED, Kind.IMAGE_PUSHED}:
            self._exchanged.add(image)
        if event.kind is Kind.IMAGE_LOADED:
            self._loaded.add(image)
            self._asked_for.clear()
            if not image:
                self._loading_until = self._clock() + _COMING_S
                self._settle(event, Origin.LOCAL, lambda doubt: doubt.origin is Origin.UNKNOWN)
        return True

    def announced(self, image: str) -> bool:
        """Whether an event mentioned the image."""
        return image in self._announced

    def pulled(self, image: str) -> bool:
        """Whether an event reported that the image was pulled."""
        return image in self._pulled

    def origin(self, seen: ImageObservation, time_ns: int) -> Origin:
        """How an image arrived that has a registry's marks: from one, from an archive, or not known (yet).

        Args:
            seen: the image.
            time_ns: when it was seen, UTC nanoseconds.
        """
        names = all_aliases((*seen.references, *seen.digests))
        if not names.isdisjoint(self._asked_for):
            return Origin.REGISTRY
        from_archive = seen.image in self._loaded or self._clock() < self._loading_until
        found = Origin.LOCAL if from_archive else Origin.UNKNOWN
        self._doubtful[seen.image] = _Doubt(time_ns, self._clock() + _DOUBT_S, names, found)
        return found

    def drain_updates(self) -> tuple[set[str], dict[str, Origin]]:
        """Since this was last asked: images that a registry gave or was given; how others have come after all."""
        exchanged, self._exchanged = self._exchanged, set()
        settled, self._settled = self._settled, {}
        return exchanged, settled

    def is_pending(self, image: str) -> bool:
        """Whether a late event may still show how an image arrived."""
        return image in self._doubtful and self._clock() < self._doubtful[image].until

    def _settle(self, event: Event, origin: Origin, concerns: Callable[[_Doubt], bool]) -> None:
        """An event shows how images arrived that were seen before the event was."""
        for image, doubt in self._doubtful.items():
            if event.time_ns <= doubt.seen_ns + _LATE_NS and concerns(doubt):
                self._doubtful[image] = replace(doubt, origin=origin)
                self._settled[image] = origin

    def clear(self) -> None:
        """An inventory has processed all that came."""
        self._announced.clear()
        self._pulled.clear()
        self._loaded.clear()
        self._doubtful = {image: doubt for image, doubt in self._doubtful.items() if self.is_pending(image)}
        now = self._clock()
        self._asked_for = {name: since for name, since in self._asked_for.items() if now - since < _COMING_S}
