"""Watches the engine while a prune is under way: what is used now must not go."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from collector.engine.protocol import Engine
from collector.engine.stream import Reader, StreamEnded
from collector.engine.translate import CONTAINER_VERBS, IMAGE_VERBS, VOLUME_VERBS, Translator
from collector.model.errors import EngineError
from collector.model.events import USES, Kind
from collector.model.jobs import ci_job
from collector.model.references import aliases, all_aliases, bare_id
from collector.model.untrusted import event_time_ns, mapping, strings, text
from pruner.state.inventory import Image

_LEAST_DIGITS = 4
_DISORDER_NS = 10**9
EVIDENCE = {kind: kind.traits.happened for kind in USES if kind.by_engine}


class EventWatch:
    """Follows the engine's events from its making on, whole.

    An engine remembers its last 256 events only, which a busy runner fills in seconds; a prune may
    take minutes. So the stream is drained all along, and the engine's memory is asked as well, right
    before each removal, for what may still be on its way through the stream.

    Events are matched by what they say, without asking the engine what it means: the time between
    the answer and the removal has to be short.

    Args:
        engine: the live engine.

    Raises:
        EngineError: there is no engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: list[RawUse] = []
        # IDs of the containers that were created since, and of those that were when `begin` was called.
        self._created: set[str] = set()
        # When each volume was last mounted or unmounted since, UTC nanoseconds.
        self._volumes: dict[str, int] = {}
        self._known: set[str] = set()
        self._last_ns = int(time.time() * 1e9)
        self._began_ns = self._last_ns
        self._reader = Reader(engine.stream(self._last_ns))

    def mark(self) -> None:
        """Be about to list the containers: see `has_new_containers`. Raises EngineError."""
        self._drain()
        self._known = set(self._created)

    def has_new_containers(self, listed: Iterable[str]) -> bool:
        """Whether, as far as asked, a container has been created since `begin` that a listing does not know.

        Args:
            listed: IDs of the containers that were listed after `begin`.
        """
        return not self._created - self._known <= set(listed)

    def use_of(self, image: Image, since: float, own: Collection[str] = ()) -> str | None:
        """What shows that an image has been used, in words; None if nothing does. See `uses_of`."""
        found = self.uses_of(image, since, own)
        return EVIDENCE[max(found, key=lambda use: use.time_ns).kind] if found else None

    def uses_of(self, image: Image, since: float, own: Collection[str] = ()) -> list[RawUse]:
        """What shows that an image has been used.

        Args:
            image: the image.
            since: uses before this time do not count, UTC seconds.
            own: IDs of containers that the prune itself removed.

        Raises:
            EngineError: the engine is lost, so that uses may go unseen.
        """
        self._drain()
        since_ns = int(since * 1e9)
        # What was before the stream began is still in the engine's memory, or this is asked too late.
        asked_ns = self._last_ns if since_ns >= self._began_ns else since_ns
        raws = self._engine.buffered_events(asked_ns, time.time_ns())
        self._note_volumes(raws)
        recent = list(filter(None, map(raw_use, raws)))
        self._created.update(use.actor for use in recent if use.kind is Kind.CONTAINER_CREATED)
        called = names_of(image)
        return [
            use
            for use in dict.fromkeys((*self._seen, *recent))
            if use.time_ns >= since_ns and use.actor not in own and not called.isdisjoint(use.called)
        ]

    def volume_was_used(self, name: str, since: float) -> bool:
        """Whether a volume has been mounted or unmounted since (UTC seconds), as far as the engine says.

        Raises:
            EngineError: the engine is lost, so that uses may go unseen.
        """
        self._drain()
        since_ns = int(since * 1e9)
        if not self._engine.keeps_events:
            self._note_volumes(self._engine.buffered_events(since_ns, time.time_ns()))
        return self._volumes.get(name, -1) >= since_ns

    def _note_volumes(self, raws: Iterable[Mapping[str, Any]]) -> None:
        for name, time_ns in volume_uses(raws).items():
            self._volumes[name] = max(self._volumes.get(name, 0), time_ns)

    def close(self) -> None:
        """Stop watching."""
        self._reader.close()

    def _drain(self) -> None:
        while chunk := self._reader.read(0.0):
            if isinstance(chunk, StreamEnded):
                raise EngineError(f"the engine's events have ended ({chunk.reason}): nothing more is removed")
            self._note_volumes(chunk)
            for use in filter(None, map(raw_use, chunk)):
                self._seen.append(use)
                if use.kind is Kind.CONTAINER_CREATED:
                    self._created.add(use.actor)
                # Engines do not keep strictly to the order of time.
                self._last_ns = max(self._last_ns, min(use.time_ns, time.time_ns()) - _DISORDER_NS)


@dataclass(frozen=True, slots=True)
class RawUse:
    """What one event of the engine says of a use.

    Attributes:
        time_ns: when, UTC nanoseconds.
        kind: which kind.
        actor: whose: a container's ID, or what the engine calls the image.
        called: all names that it gives the image.
        job: the CI job that the container belongs to; None: no job.
    """

    time_ns: int
    kind: Kind
    actor: str
    called: frozenset[str]
    job: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the log keeps it; the time in UTC seconds."""
        return {"time": self.time_ns / 1e9, "what": EVIDENCE[self.kind], "who": self.actor, "job": self.job}


def raw_use(raw: Mapping[str, Any]) -> RawUse | None:
    """The use that an event of the engine reports; None if it reports none."""
    actor = mapping(raw.get("Actor"))
    attributes = mapping(actor.get("Attributes"))
    who, action = text(actor.get("ID")), text(raw.get("Action") or raw.get("status"))
    kind = {"image": IMAGE_VERBS, "container": CONTAINER_VERBS}.get(text(raw.get("Type")), {}).get(action)
    if kind not in EVIDENCE:
        return None
    name = text(attributes.get("name"))
    said = filter(None, (who, name, text(attributes.get("image")), text(attributes.get("imageID"))))
    # Each may be an ID, also cut short, or a reference.
    called = frozenset(written for one in said for written in (*aliases(one), bare_id(one)))
    # One without a time that can be read has come just now.
    return RawUse(event_time_ns(raw) or time.time_ns(), kind, who or name, called, ci_job(strings(attributes), name))


def volume_uses(raws: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """When a container last mounted or unmounted each volume, UTC nanoseconds by name, as raw events show."""
    found: dict[str, int] = {}
    for raw in raws:
        if text(raw.get("Type")) == "volume" and text(raw.get("Action")) in VOLUME_VERBS:
            name, time_ns = text(mapping(raw.get("Actor")).get("ID")), event_time_ns(raw)
            if name and time_ns:
                found[name] = max(found.get(name, 0), time_ns)
    return found


def names_of(image: Image) -> frozenset[str]:
    """All that an event may call an image: its ID, also cut short, its references and digests."""
    digits = bare_id(image.image_id)
    short = {digits[:length] for length in range(_LEAST_DIGITS, len(digits) + 1)}
    return all_aliases((*image.references, *image.digests, *image.names)) | short


def recent_uses(engine: Engine, since: float, until: float) -> dict[str, tuple[float, str]]:
    """The newest use of each image that the engine itself still remembers (its last 256 events).

    Args:
        engine: the live engine.
        since: begin of the interval, UTC seconds.
        until: its end, UTC seconds.

    Returns:
        (time in UTC seconds, evidence) by image ID.

    Raises:
        EngineError: there is no engine.
    """
    translator = Translator(engine)
    return {
        event.image: (event.time_ns / 1e9, EVIDENCE[event.kind])
        for raw in engine.buffered_events(int(since * 1e9), int(until * 1e9))
        for event in translator.translate(raw)
        if event.kind in EVIDENCE and event.image is not None
    }
