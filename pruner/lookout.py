"""Watches the engine while a prune is under way: what is used now must not go."""

from __future__ import annotations

import time
from collections.abc import Collection

from collector.engine import Engine
from collector.errors import EngineError
from collector.events import Event, Kind
from collector.reader import Reader, StreamEnded
from collector.translate import Translator

EVIDENCE = {
    Kind.IMAGE_PULLED: "pulled",
    Kind.IMAGE_TAGGED: "tagged",
    Kind.IMAGE_LOADED: "loaded",
    Kind.IMAGE_IMPORTED: "imported",
    Kind.IMAGE_BUILT: "built",
    Kind.CONTAINER_CREATED: "container created",
    Kind.CONTAINER_STARTED: "container started",
    Kind.CONTAINER_DIED: "container died",
    Kind.CONTAINER_DESTROYED: "container removed",
}


class Lookout:
    """Follows the engine's events from its making on, whole.

    An engine remembers its last 256 events only, which a busy runner fills in seconds; a prune may
    take minutes. So the stream is drained all along, and the engine's memory is asked besides, right
    before each removal, for what may still be on its way through the stream.

    Args:
        engine: the live engine.

    Raises:
        EngineError: there is no engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._began = time.time()
        self._reader = Reader(engine.stream(int(self._began * 1e9)), engine.host)
        self._translator = Translator(engine)
        self._seen: list[Event] = []

    def use_of(self, image: str, since: float, own: Collection[str] = ()) -> str | None:
        """What shows that an image has been used, in words; None if nothing does.

        Args:
            image: image ID.
            since: uses before this time do not count, UTC seconds.
            own: IDs of containers that the prune itself removed.

        Raises:
            EngineError: the engine is lost, so that uses may go unseen.
        """
        self._drain()
        recent = recent_events(self._engine, since, time.time())
        found = [
            event
            for event in (*self._seen, *recent)
            if event.image == image and event.time_ns >= since * 1e9 and event.container not in own
        ]
        return EVIDENCE[max(found, key=lambda event: event.time_ns).kind] if found else None

    def close(self) -> None:
        """Stop watching."""
        self._reader.close()

    def _drain(self) -> None:
        while chunk := self._reader.read(0.0):
            if isinstance(chunk, StreamEnded):
                raise EngineError(f"the engine's events end ({chunk.reason}): nothing more is removed")
            for raw in chunk:
                self._seen += [event for event in self._translator.translate(raw) if event.kind in EVIDENCE]


def recent_events(engine: Engine, since: float, until: float) -> list[Event]:
    """Events that show a use and that the engine itself still remembers (its last 256 events), oldest first.

    Args:
        engine: the live engine.
        since: begin of the interval, UTC seconds.
        until: its end, UTC seconds.

    Raises:
        EngineError: there is no engine.
    """
    translator = Translator(engine)
    return [
        event
        for raw in engine.buffered_events(int(since * 1e9), int(until * 1e9))
        for event in translator.translate(raw)
        if event.kind in EVIDENCE and event.image is not None
    ]


def recent_uses(engine: Engine, since: float, until: float) -> dict[str, tuple[float, str]]:
    """As `recent_events`, the newest use of each image: (time in UTC seconds, evidence) by image ID."""
    return {
        event.image: (event.time_ns / 1e9, EVIDENCE[event.kind])
        for event in recent_events(engine, since, until)
        if event.image is not None
    }
