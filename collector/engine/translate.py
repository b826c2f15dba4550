"""From what an engine says to events of the log: identity, verbs and intervals normalised."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from collector.model.events import Event, Kind
from collector.model.jobs import JOB_LABELS
from collector.model.observation import CreatedFrom, ListedContainer, full_id
from collector.model.references import familiar, is_id
from collector.model.untrusted import clean, cut, event_time_ns, labels, mapping, read_json, text, whole

logger = logging.getLogger(__name__)

_RECENT = 4096
_MOST_RAW = 8192
_EXIT_CODES = (-(2**31), 2**32 - 1)  # Linux has 0 to 255, Windows 32 bits

# Podman's verbs stand beside Docker's. `commit` is a container event that names the new image.
CONTAINER_VERBS = {
    "create": Kind.CONTAINER_CREATED,
    "start": Kind.CONTAINER_STARTED,
    "die": Kind.CONTAINER_DIED,
    "died": Kind.CONTAINER_DIED,
    "destroy": Kind.CONTAINER_DESTROYED,
    "remove": Kind.CONTAINER_DESTROYED,
}
IMAGE_VERBS = {
    "pull": Kind.IMAGE_PULLED,
    "tag": Kind.IMAGE_TAGGED,
    "untag": Kind.IMAGE_UNTAGGED,
    "delete": Kind.IMAGE_DELETED,
    "remove": Kind.IMAGE_DELETED,
    "load": Kind.IMAGE_LOADED,
    "loadfromarchive": Kind.IMAGE_LOADED,
    "import": Kind.IMAGE_IMPORTED,
    "create": Kind.IMAGE_BUILT,
    "build": Kind.IMAGE_BUILT,
    "push": Kind.IMAGE_PUSHED,
}
# Docker says when a container begins and ceases to use a volume; the event's actor is the volume.
VOLUME_VERBS = frozenset({"mount", "unmount"})
# What an engine says itself of every container event, over a label of the same name; all else that an event
# of a creation carries are labels. Of other events a label hides what the engine says: Docker lets it.
_ENGINE_SAYS = frozenset({"image", "name"})
HIDEABLE = frozenset({"exitCode", "imageID", "imageRef"})
_VERBS = {"image": frozenset(IMAGE_VERBS), "container": frozenset({*CONTAINER_VERBS, "commit"})}
# The key under which the reader hands on a line of the stream that is not an event, with what is wrong with it.
UNREADABLE = "unreadable"
_MOST_REPORTED = 20


class Lookups(Protocol):
    """What the translator may ask the engine while an event is fresh."""

    def resolve(self, reference: str) -> str | None:
        """The image ID that a reference means now."""

    def created_from(self, container: str) -> CreatedFrom:
        """What a container was created from."""


@dataclass(frozen=True, slots=True)
class OpenContainer:
    """A container that exists, as far as observed.

    Attributes:
        image: the image ID that it was created from.
        began_ns: when it was created, UTC nanoseconds.
        hidden: what the engine says of it and its labels hide.
        volumes: names of the volumes that it refers to, if known.
        unreported: whether the log does not name those volumes yet.
    """

    image: str | None
    began_ns: int
    hidden: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    unreported: bool = False

    def with_volumes(self, names: Iterable[str]) -> OpenContainer:
        """The container with these volumes as well."""
        new = frozenset(names) - self.volumes
        return replace(self, volumes=self.volumes | new, unreported=True) if new else self


class Translator:
    """Follows which image a name means and which containers exist, and turns raw events into ours.

    A container's `image` is whatever the client asked for (a tag, a digest, an ID): it is resolved
    at once, against the engine, because a tag may mean another image a moment later.

    Args:
        lookups: the engine.

    Attributes:
        open: containers that exist.
        closed: containers that a listing found gone. What comes late of them is recorded, but opens or closes them
            no second time.
    """

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._names: dict[str, str] = {}
        self.open: dict[str, OpenContainer] = {}
        self._recent: dict[tuple[int, str], None] = {}
        self.closed: dict[str, OpenContainer] = {}
        self._reported: set[str] = set()

    def learn(self, names: Mapping[str, str]) -> None:
        """Take what names mean from an inventory: reference or digest to image ID."""
        self._names = dict(names)

    def translate(self, raw: Mapping[str, Any]) -> list[Event]:
        """The events that one raw event of the engine stands for, none if it does not concern us.

        One that cannot be read comes back as it is, as an event of the kind `EVENT_UNREADABLE`.
        """
        try:
            if unreadable := raw.get(UNREADABLE):
                raise ValueError(str(unreadable))  # noqa: TRY301 - one way for all that cannot be read
            return self._translate(raw)
        except Exception as error:  # noqa: BLE001 - an event of any shape must not end who watches for all others
            return [self._unreadable(raw, error)]

    def _translate(self, raw: Mapping[str, Any]) -> list[Event]:
        kind = text(raw.get("Type"))
        if kind == "volume":
            self._note_volume(raw)
        if not is_recorded(raw):
            return []
        kind_of = {"image": self._image_event, "container": self._container_event}[kind]
        actor = mapping(raw.get("Actor"))
        action = _action(raw)
        time_ns = event_time_ns(raw)
        if not time_ns:
            raise ValueError("no time")
        attributes = {str(key): value for key, value in mapping(actor.get("Attributes")).items()}
        who = text(actor.get("ID"))
        identity = f"{kind} {action} {who} {text(attributes.get('name'))}"
        if self._came_before(time_ns, identity):
            return []
        event = kind_of(time_ns, action, who, attributes, identity)
        return [event] if event else []

    def _unreadable(self, raw: Mapping[str, Any], error: Exception) -> Event:
        """An event as the engine reported it; one of a kind is logged once."""
        reason = f"{type(error).__name__}: {cut(clean(str(error)), 200)}"
        if len(self._reported) < _MOST_REPORTED and reason not in self._reported:
            self._reported.add(reason)
            logger.warning("an event of the engine cannot be read and is stored as it is (%s)", reason)
        said = clean(json.dumps(dict(raw), default=str, sort_keys=True))
        return Event(
            event_time_ns(raw) or time.time_ns(),
            Kind.EVENT_UNREADABLE,
            attributes={"raw": cut(said, _MOST_RAW), "error": reason},
            identity=f"unreadable {said}",
        )

    def reconcile(self, listed: list[ListedContainer], now_ns: int) -> list[Event]:
        """What a listing of containers shows that events did not: marked as inferred."""
        events = []
        for row in listed:
            known = self.open.get(row.container)
            self.closed.pop(row.container, None)
            hidden = HIDEABLE.intersection(row.labels)
            if known is None:
                self.open[row.container] = OpenContainer(row.image, row.created_ns, hidden, frozenset(row.volumes))
                events.append(_inferred_creation(row))
            else:
                seen = replace(known, image=known.image or row.image, hidden=hidden)
                self.open[row.container] = seen.with_volumes(row.volumes)
        existing = {row.container for row in listed}
        for container in [container for container in self.open if container not in existing]:
            gone = self.open.pop(container)
            _remember(self.closed, container, gone)
            events.append(
                Event(
                    now_ns,
                    Kind.CONTAINER_DESTROYED,
                    image=gone.image,
                    container=container,
                    began_ns=gone.began_ns,
                    attributes={"inferred": True, **_named_volumes(gone)},
                )
            )
        return events

    def _note_volume(self, raw: Mapping[str, Any]) -> None:
        """Which container a volume was mounted for: the container's own next event names it in the log."""
        actor = mapping(raw.get("Actor"))
        container, volume = text(mapping(actor.get("Attributes")).get("container")), text(actor.get("ID"))
        known = self.open.get(container)
        if known is not None and volume and text(raw.get("Action")) in VOLUME_VERBS:
            self.open[container] = known.with_volumes([volume])

    def _came_before(self, time_ns: int, identity: str) -> bool:
        """Whether this very event came already: engines replay after a reconnect."""
        if (time_ns, identity) in self._recent:
            return True
        _remember(self._recent, (time_ns, identity))
        return False

    def _image_event(
        self, time_ns: int, action: str, actor: str, attributes: dict[str, Any], identity: str
    ) -> Event | None:
        kind = IMAGE_VERBS[action]
        name = text(attributes.get("name")) or None
        if not actor and name is not None and is_id(name):
            actor = name  # Podman names what it has built so
        if kind in {Kind.IMAGE_PULLED, Kind.IMAGE_PUSHED}:
            # Docker names the reference as the actor; Podman the ID, or nothing.
            reference = name if not actor or is_id(actor) else actor
            image = full_id(actor) if is_id(actor) else self._named(reference)
            if image and reference and kind is Kind.IMAGE_PULLED:
                self._names[reference] = image
        else:
            image = full_id(actor) if is_id(actor) else self._named(actor)
            reference = None if name is None or is_id(name) else name
            if kind is Kind.IMAGE_TAGGED and image and reference:
                self._names[reference] = image
            if image and reference and kind in {Kind.IMAGE_UNTAGGED, Kind.IMAGE_DELETED}:
                left = self._forget_name(image, reference)
                if left and kind is Kind.IMAGE_DELETED:
                    return None  # Podman says so of each name that it takes from an image
        return Event(time_ns, kind, image=image, reference=reference, identity=identity)

    def _forget_name(self, image: str, gone: str) -> bool:
        """Forget a name that was taken from an image; whether it has others."""
        names = [name for name, named in self._names.items() if named == image and "@" not in name]
        others = [name for name in names if familiar(name) != familiar(gone)]
        for name in set(names) - set(others):
            del self._names[name]
        return bool(others)

    def _container_event(
        self, time_ns: int, action: str, actor: str, attributes: dict[str, Any], identity: str
    ) -> Event | None:
        closed = self.closed.get(actor)
        known = self.open.get(actor, closed)
        if action == "commit":
            # Whose labels are not known may have any.
            return _commit(time_ns, actor, attributes, identity, HIDEABLE if known is None else known.hidden)
        kind = CONTAINER_VERBS[action]
        if known is not None and (
            kind is Kind.CONTAINER_CREATED or (known is closed and kind is Kind.CONTAINER_DESTROYED)
        ):
            return None  # a listing was quicker; its inferred event stands
        asked = text(attributes.get("image")) or None
        first = known is None
        if known is None:
            creation = kind is Kind.CONTAINER_CREATED
            hidden = HIDEABLE.intersection(attributes) if creation else frozenset()
            known = self._opened(actor, asked, OpenContainer(None, time_ns, hidden))
            if kind is not Kind.CONTAINER_DESTROYED:
                self.open[actor] = known
        facts: dict[str, Any] = {}
        if first:
            facts = _creation_facts(attributes)
        exit_code = _exit_code(attributes, known.hidden) if kind is Kind.CONTAINER_DIED else None
        if exit_code is not None:
            facts["exit_code"] = exit_code
        facts |= _named_volumes(known)
        if known.unreported and actor in self.open:
            self.open[actor] = replace(known, unreported=False)
        began = None
        if kind is Kind.CONTAINER_DESTROYED:
            began = None if first else known.began_ns
            self.open.pop(actor, None)
        return Event(
            time_ns,
            kind,
            image=known.image,
            reference=asked if first else None,
            container=actor,
            began_ns=began,
            attributes=facts,
            identity=identity,
        )

    def _opened(self, container: str, asked: str | None, known: OpenContainer) -> OpenContainer:
        """A container seen for the first time, with what the engine says about it if it has to be asked."""
        if asked and asked.startswith("sha256:") and is_id(asked):
            return replace(known, image=asked)
        found = self._lookups.created_from(container)
        image = found.image or (self._named(asked) if asked else None)
        return replace(known, image=image).with_volumes(found.volumes)

    def _named(self, reference: str | None) -> str | None:
        if not reference:
            return None
        return self._lookups.resolve(reference) or self._names.get(reference)


def is_recorded(raw: Mapping[str, Any]) -> bool:
    """Whether the log has a kind for such an event of the engine."""
    return _action(raw) in _VERBS.get(text(raw.get("Type")), ())


def _action(raw: Mapping[str, Any]) -> str:
    return text(raw.get("Action") or raw.get("status"))


def read_events(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events of an engine's lines of JSON; what is not one is handed on under `UNREADABLE`."""
    found = []
    for line in lines:
        if not line.strip():
            continue
        try:
            event = read_json(line)
        except ValueError as error:
            event = None
            wrong = str(error)
        else:
            wrong = "not a JSON object"
        reported = {UNREADABLE: wrong, "line": line[:_MOST_RAW].decode(errors="replace"), "bytes": len(line)}
        found.append(event if isinstance(event, dict) else reported)
    return found


def names_of(rows: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Every name to its image ID, from image IDs to their names."""
    return {name: image for image, names in rows.items() for name in names}


def _creation_facts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The labels and the name of a container."""
    known = {key: value for key, value in attributes.items() if key not in _ENGINE_SAYS}
    return {**kept_labels(known), "name": text(attributes.get("name")) or None}


def kept_labels(reported: Mapping[str, str]) -> dict[str, Any]:
    """Labels as the log keeps them, and how many there are where some are left out."""
    kept = labels(dict(reported), (*JOB_LABELS, *sorted(HIDEABLE)))
    return {"labels": kept, **({"labels_in_all": len(reported)} if len(reported) > len(kept) else {})}


def _exit_code(attributes: Mapping[str, Any], hidden: frozenset[str]) -> int | None:
    """How a container ended, as the engine says it; None where a label hides that."""
    if "exitCode" in hidden:
        return None
    # Podman's own word, of which it lets no label be the source; Docker always says the other.
    return whole(attributes.get("exitCode", attributes.get("containerExitCode")), *_EXIT_CODES)


def _commit(
    time_ns: int, container: str, attributes: Mapping[str, Any], identity: str, hidden: frozenset[str]
) -> Event:
    """A commit; which image it made is left to the next listing where labels may hide it."""
    image = "" if "imageID" in hidden else text(attributes.get("imageID"))
    reference = "" if "imageRef" in hidden else text(attributes.get("imageRef"))
    return Event(
        time_ns,
        Kind.IMAGE_BUILT,
        image=full_id(image) if image and is_id(image) else None,
        reference=reference or None,
        container=container,
        attributes={"by": "commit"},
        identity=identity,
    )


def _remember(recent: dict[Any, Any], key: object, value: object = None) -> None:
    """Add to what is remembered, and forget the oldest of many."""
    recent[key] = value
    if len(recent) > _RECENT:
        del recent[next(iter(recent))]


def _inferred_creation(row: ListedContainer) -> Event:
    return Event(
        row.created_ns,
        Kind.CONTAINER_CREATED,
        image=row.image,
        container=row.container,
        attributes={**kept_labels(row.labels), "name": row.name, "inferred": True}
        | ({"volumes": sorted(row.volumes)} if row.volumes else {}),
    )


def _named_volumes(known: OpenContainer) -> dict[str, Any]:
    """The attribute that names a container's volumes, once."""
    return {"volumes": sorted(known.volumes)} if known.unreported else {}
