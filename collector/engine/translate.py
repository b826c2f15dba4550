"""From what an engine says to events of the log: identity, verbs and intervals evened out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from collector.model.events import Event, Kind
from collector.model.observation import ListedContainer, full_id

_HEX_DIGITS = 64
_RECENT = 4096

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
# Attributes of a container event that are not labels.
_NOT_LABELS = frozenset({"image", "name", "exitCode", "execDuration", "signal", "containerExitCode", "podId"})


class Lookups(Protocol):
    """What the translator may ask the engine while an event is fresh."""

    def resolve(self, reference: str) -> str | None:
        """The image ID that a reference means now."""

    def image_of_container(self, container: str) -> str | None:
        """The image ID that a container was created from."""


@dataclass(frozen=True, slots=True)
class OpenContainer:
    """A container that exists, as far as witnessed."""

    image: str | None
    began_ns: int


class Translator:
    """Follows which image a name means and which containers exist, and turns raw events into ours.

    A container's `image` is whatever the client asked for (a tag, a digest, an ID): it is resolved
    at once, against the engine, because a tag may mean another image a moment later.

    Args:
        lookups: the engine.
    """

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._names: dict[str, str] = {}
        self.open: dict[str, OpenContainer] = {}
        self._recent: dict[tuple[int, str], None] = {}

    def learn(self, names: Mapping[str, str]) -> None:
        """Take what names mean from an inventory: reference or digest to image ID."""
        self._names = dict(names)

    def translate(self, raw: Mapping[str, Any]) -> list[Event]:
        """The events that one raw event of the engine stands for, none if it does not concern us."""
        kind_of = {"image": self._image_event, "container": self._container_event}.get(str(raw.get("Type")))
        actor = raw.get("Actor") or {}
        time_ns = int(raw.get("timeNano") or int(raw.get("time") or 0) * 10**9)
        if kind_of is None or not time_ns:
            return []
        action = str(raw.get("Action") or raw.get("status") or "")
        attributes = dict(actor.get("Attributes") or {})
        identity = f"{raw['Type']} {action} {actor.get('ID', '')} {attributes.get('name', '')}"
        if self._told_before(time_ns, identity):
            return []
        event = kind_of(time_ns, action, str(actor.get("ID") or ""), attributes, identity)
        return [event] if event else []

    def reconcile(self, listed: list[ListedContainer], now_ns: int) -> list[Event]:
        """What a listing of containers shows that events did not: marked as inferred."""
        events = []
        for row in listed:
            known = self.open.get(row.container)
            if known is None:
                self.open[row.container] = OpenContainer(row.image, row.created_ns)
                events.append(_inferred_creation(row))
            elif known.image is None:
                self.open[row.container] = OpenContainer(row.image, known.began_ns)
        existing = {row.container for row in listed}
        for container in [container for container in self.open if container not in existing]:
            gone = self.open.pop(container)
            events.append(
                Event(
                    now_ns,
                    Kind.CONTAINER_DESTROYED,
                    image=gone.image,
                    container=container,
                    began_ns=gone.began_ns,
                    attributes={"inferred": True},
                )
            )
        return events

    def _told_before(self, time_ns: int, identity: str) -> bool:
        """Whether this very event came already: engines replay after a reconnect."""
        if (time_ns, identity) in self._recent:
            return True
        self._recent[time_ns, identity] = None
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return False

    def _image_event(
        self, time_ns: int, action: str, actor: str, attributes: dict[str, str], identity: str
    ) -> Event | None:
        kind = IMAGE_VERBS.get(action)
        if kind is None:
            return None
        name = attributes.get("name")
        if not actor and name is not None and _is_id(name):
            actor = name  # Podman names what it has built so
        if kind in {Kind.IMAGE_PULLED, Kind.IMAGE_PUSHED}:
            # Docker names the reference as the actor; Podman the ID, or nothing.
            reference = name if not actor or _is_id(actor) else actor
            image = full_id(actor) if _is_id(actor) else self._named(reference)
            if image and reference and kind is Kind.IMAGE_PULLED:
                self._names[reference] = image
        else:
            image = full_id(actor) if _is_id(actor) else self._named(actor)
            reference = None if name is None or _is_id(name) else name
            if kind is Kind.IMAGE_TAGGED and image and reference:
                self._names[reference] = image
        return Event(time_ns, kind, image=image, reference=reference, identity=identity)

    def _container_event(
        self, time_ns: int, action: str, actor: str, attributes: dict[str, str], identity: str
    ) -> Event | None:
        if action == "commit":
            return _commit(time_ns, actor, attributes, identity)
        kind = CONTAINER_VERBS.get(action)
        if kind is None:
            return None
        asked = attributes.get("image")
        known = self.open.get(actor)
        first = known is None
        if known is None:
            image = self._image_of(actor, asked)
            known = OpenContainer(image, time_ns)
            if kind is not Kind.CONTAINER_DESTROYED:
                self.open[actor] = known
        elif kind is Kind.CONTAINER_CREATED:
            return None  # a listing was quicker; its inferred event stands
        facts: dict[str, Any] = {}
        if first:
            facts["labels"] = {key: value for key, value in attributes.items() if key not in _NOT_LABELS}
            facts["name"] = attributes.get("name")
        if exit_code := attributes.get("exitCode") or attributes.get("containerExitCode"):
            facts["exit_code"] = int(exit_code)
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

    def _image_of(self, container: str, asked: str | None) -> str | None:
        if asked and asked.startswith("sha256:") and _is_id(asked):
            return asked
        return self._lookups.image_of_container(container) or (self._named(asked) if asked else None)

    def _named(self, reference: str | None) -> str | None:
        if not reference:
            return None
        return self._lookups.resolve(reference) or self._names.get(reference)


def names_of(rows: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Every name to its image ID, from image IDs to their names."""
    return {name: image for image, names in rows.items() for name in names}


def _is_id(text: str) -> bool:
    digits = text.removeprefix("sha256:")
    return len(digits) == _HEX_DIGITS and all(digit in "0123456789abcdef" for digit in digits)


def _commit(time_ns: int, container: str, attributes: dict[str, str], identity: str) -> Event | None:
    image = attributes.get("imageID")
    if not image:
        return None
    return Event(
        time_ns,
        Kind.IMAGE_BUILT,
        image=full_id(image),
        reference=attributes.get("imageRef") or None,
        container=container,
        attributes={"by": "commit"},
        identity=identity,
    )


def _inferred_creation(row: ListedContainer) -> Event:
    return Event(
        row.created_ns,
        Kind.CONTAINER_CREATED,
        image=row.image,
        container=row.container,
        attributes={"labels": row.labels, "name": row.name, "inferred": True},
    )
