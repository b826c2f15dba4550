"""The images of one engine: what listings show in addition to events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from collector.daemon.arrivals import Arrivals
from collector.daemon.presence import Presence
from collector.engine.protocol import Engine
from collector.eventlog.log import EventLog
from collector.machine.clock import Clock
from collector.model.events import Event, Kind
from collector.model.observation import ImageObservation, ListedImage
from collector.model.origin import Origin, agreed

# Podman reports a pull before it lists the image; and an image that is no longer listed, though no
# event reported its deletion within this time, is hidden: untagged, but others were built from it.
_SECOND_LOOK_S = 2.0
# After a change images are listed again, at once unless that was done a moment ago, and for 5 % of the engine's time
# at most: the containerd store takes some 10 ms of an image.
_LISTING_LEAST_S = 1.0
_LISTING_PAUSE = 20


class ImageWatch:
    """Which images the engine holds, and since when: lists them where events show a change, and when asked to.

    Args:
        engine: the engine.
        clock: what time it is.
        record: takes the event for each difference, in order and at once.
        progress: is called between questions to the engine, which may take long.
    """

    def __init__(
        self, engine: Engine, clock: Clock, record: Callable[[Event], None], progress: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._record = record
        self._progress = progress
        self._arrivals = Arrivals()
        # What `Engine.silent_changes` returned before the latest listing.
        self._silent_changes: tuple[object, ...] = ()
        self._listing_due = False
        self._next_listing = -math.inf
        self._next_second_look = math.inf
        self.presence = Presence()
        # Whether what is there was there before anything was observed.
        self.is_first = False
        # Whether the engine's events are followed now, so that all that happens is observed.
        self.following = False

    def restore(self, log: EventLog) -> None:
        """Restore what the log says was there. Raises LogError."""
        self.presence.restore(log)

    def start_over(self) -> None:
        """Forget all that is known: it is to be recorded again."""
        self.presence = Presence()

    def take(self, event: Event) -> None:
        """Process what an event says about images."""
        if event.kind is Kind.IMAGE_DELETED and event.image:
            self.presence.forget(event.image)
        self._listing_due |= self._arrivals.take(event)

    @property
    def next(self) -> float:
        """When images are to be listed because of events, monotonic seconds."""
        return min(self._next_second_look, self._next_listing if self._listing_due else math.inf)

    def attend(self, now: float) -> None:
        """List images if that is due at `now` (monotonic seconds). Raises EngineError."""
        if self._listing_due and now >= self._next_listing:
            self._listing_due = False
            self._observe_changed(self._list())
            self._next_second_look = now + _SECOND_LOOK_S
        if now >= self._next_second_look:
            self._next_second_look = math.inf
            self.compare()

    def look_if_changed(self) -> None:
        """Compare all images if the engine shows a change without an event. Raises EngineError."""
        if self._silent_changes != self._engine.silent_changes():
            self.compare()

    def compare(self, *, thoroughly: bool = False) -> None:
        """Record which images came, went or changed their names.

        Args:
            thoroughly: ask again for the origin of all images of which it is not known that a registry has them.

        Raises:
            EngineError: the engine is lost; what was recorded before stays.
        """
        self._silent_changes = self._engine.silent_changes()
        listed = self._list()
        self._observe_changed(listed, thoroughly=thoroughly)
        for event in self.presence.vanished(listed, self._clock.now()):
            self._record(event)

    def taken(self) -> None:
        """An inventory of all there is has been taken."""
        self._arrivals.clear()
        self.is_first = False

    def _list(self) -> list[ListedImage]:
        """All images; an engine that takes long for them is asked the less often."""
        began = time.monotonic()
        listed = self._engine.images()
        ended = time.monotonic()
        self._next_listing = ended + max(_LISTING_LEAST_S, _LISTING_PAUSE * (ended - began))
        return listed

    def _observe_changed(self, listed: list[ListedImage], *, thoroughly: bool = False) -> None:
        """Record which of the images came or changed their names, and what is new of their origins."""
        found = []
        for row in self.presence.changed(listed):
            self._progress()
            if (seen := self._engine.observe(row)) is not None:
                found.append(seen)
        # Where both came since the last look, what was built upon comes before what was built.
        for seen in sorted(found, key=lambda seen: (len(seen.layers), seen.created or "")):
            known = self.is_first or seen.image in self.presence or self._arrivals.announced(seen.image)
            now_ns = self._clock.now()
            if not self._arrivals.pulled(seen.image):
                for event in self.presence.bases(seen, now_ns):
                    self._record(event)
            settled = self.presence.resolved_origin(seen, self._came(seen, now_ns))
            self._record(self.presence.observed(settled, now_ns, inferred=not known))
        self._ask_again(listed, thoroughly=thoroughly)

    def _came(self, seen: ImageObservation, now_ns: int) -> Origin | None:
        """How an image has come that has a registry's marks; None: it was there, or has none."""
        if seen.origin is not Origin.PACKED or not self.presence.has_come(seen):
            return None
        came = self._arrivals.origin(seen, now_ns)
        # What came while nothing was observed was most likely pulled.
        return Origin.REGISTRY if came is Origin.UNKNOWN and not self.following else came

    def _ask_again(self, listed: list[ListedImage], *, thoroughly: bool) -> None:
        """Record where images can be pulled again, if that is now known, or a pull or push may have changed it."""
        exchanged, late = self._arrivals.drain_updates()
        if not self._engine.hides_origin:
            return
        for row in listed:
            if row.image in late:
                self._observe_again(row, late[row.image])
                continue
            known = self.presence.origin(row.image)
            was_exchanged = row.image in exchanged and not self._engine.reports_failures
            if known in {None, Origin.REGISTRY} or not (thoroughly or was_exchanged):
                continue
            if self._arrivals.is_pending(row.image):
                continue
            self._progress()
            reported = self._engine.origin(row)
            # What is said to have been pulled and has no trace of it was another image of that name.
            if agreed(known, reported) is not known or (was_exchanged and reported is Origin.LOCAL):
                self._observe_again(row)

    def _observe_again(self, row: ListedImage, origin: Origin | None = None) -> None:
        """Record an image whose origin has become known."""
        if (seen := self._engine.observe(row)) is not None:
            settled = self.presence.resolved_origin(seen) if origin is None else replace(seen, origin=origin)
            self._record(self.presence.observed(settled, self._clock.now()))
