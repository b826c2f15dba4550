"""The outcome of an interrupted prune, and how each item of a prune is recorded in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collector.engine.protocol import Engine
from collector.engine.translate import IMAGE_VERBS
from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.errors import EngineError
from collector.model.events import ITEM_ENDS, Event, Kind
from collector.model.observation import full_id
from collector.model.references import is_id
from collector.model.untrusted import event_time_ns, mapping, objects, read_object, size, text, texts
from pruner.planning.decision import Reason
from pruner.planning.plan import Removal
from pruner.planning.stages import ItemKind, ItemReason
from pruner.state.containers import read_build_cache

logger = logging.getLogger(__name__)

# As a plan names them.
_EVICTIONS = frozenset(reason.word for reason in Reason if reason.evicts)
_ITEM_KINDS = {kind.value: kind for kind in ItemKind}


@dataclass(frozen=True, slots=True)
class Present:
    """What the engine holds: images with their tags, container IDs, volume names, bytes of build cache if known.

    `deleted` is by which names each image left the engine, and when last, UTC nanoseconds, as far as the engine
    remembers; None is the whole image. It may be back.
    """

    images: dict[str, tuple[str, ...]]
    containers: set[str]
    volumes: set[str]
    build_cache: int | None
    deleted: dict[str, dict[str | None, int]]


@dataclass(frozen=True, slots=True)
class UnreportedItem:
    """An item that an interrupted prune had planned to remove and said nothing more of.

    Attributes:
        kind: what it is.
        key: what the engine calls it.
        name: what people call it.
        reason: why it was to go.
        frees: bytes that its removal was to free.
        bytes: what it held, if the plan says.
        references: an image's tags when it was planned.
        deleted: whether the collector observed the image's removal since.
        planned_ns: when that was, UTC nanoseconds.
    """

    kind: ItemKind
    key: str
    name: str
    reason: str
    frees: int
    bytes: int
    references: tuple[str, ...]
    deleted: bool
    planned_ns: int


def image_deletions(events: Iterable[dict[str, Any]]) -> dict[str, dict[str | None, int]]:
    """By which names each image left the engine, as in `Present.deleted`: as raw events of the engine say."""
    found: dict[str, dict[str | None, int]] = {}
    for raw in events:
        if raw.get("Type") == "image" and IMAGE_VERBS.get(text(raw.get("Action"))) is Kind.IMAGE_DELETED:
            actor = mapping(raw.get("Actor"))
            name = text(mapping(actor.get("Attributes")).get("name"))
            times = found.setdefault(full_id(text(actor.get("ID"))), {})
            deleted = None if not name or is_id(name) else name
            times[deleted] = max(times.get(deleted, 0), event_time_ns(raw))
    return found


def read_unfinished(log: EventLog, prune: str) -> list[UnreportedItem]:
    """What a prune had planned to remove without recording the outcome. Raises LogError."""
    plans = log.query(
        "SELECT CAST(attributes -> '$.plan' AS VARCHAR), epoch_ns(time) FROM event"
        " WHERE kind = 'prune_started' AND attributes ->> '$.prune' = ?",
        [prune],
    )
    known = set(
        log.query(
            "SELECT coalesce(attributes ->> '$.item', 'image'), coalesce(image_id, container, reference) FROM event"
            " LEFT JOIN image USING (image)"
            f" WHERE kind IN ({sql_list(ITEM_ENDS)}) AND attributes ->> '$.prune' = ?",
            [prune],
        )
    )
    unreported = []
    for made, began_ns in plans:
        deleted = {
            image
            for (image,) in log.query(
                "SELECT image_id FROM event JOIN image USING (image)"
                " WHERE kind = 'image_deleted' AND epoch_ns(time) >= ? AND host = ?",
                [began_ns, log.host],
            )
        }
        entries = _planned(read_object(made or "") or {}, deleted, int(began_ns))
        unreported += [entry for entry in entries if (entry.kind.value, entry.key) not in known]
    return unreported


def _planned(plan: dict[str, Any], deleted: set[str], planned_ns: int) -> Iterator[UnreportedItem]:
    """What a plan that the log holds would remove; of a row that cannot be read nothing is known."""
    for row in objects(plan.get("items")):
        kind = _ITEM_KINDS.get(text(row.get("item")))
        key, name, reason = (text(row.get(part)) for part in ("key", "name", "reason"))
        if kind is not None and key and reason == ItemReason.EXPIRED.value:
            frees = size(row.get("frees"))
            yield UnreportedItem(kind, key, name, reason, frees, size(row.get("bytes")), (), False, planned_ns)
    for row in objects(plan.get("images")):
        image, reason = text(row.get("image")), text(row.get("reason"))
        if image and reason in _EVICTIONS:
            references = tuple(texts(row.get("references")))
            name = references[0] if references else image
            yield UnreportedItem(
                *(ItemKind.IMAGE, image, name, reason, size(row.get("frees"))),
                *(0, references, image in deleted, planned_ns),
            )


def aftermath(prune: str, entry: UnreportedItem, present: Present) -> Event:
    """What became of an item, as far as the engine and the log show now."""
    gone = _is_gone(entry, present)
    more: dict[str, Any] = {"inferred": True} if gone else {"error": "the prune was interrupted before"}
    if lost := lost_names(entry, present):
        more = {"error": f"the prune was interrupted when it had removed {', '.join(lost)}", "untagged": list(lost)}
    return item_event(Kind.ITEM_REMOVED if gone else Kind.ITEM_FAILED, entry, prune, None, more)


def lost_names(entry: UnreportedItem, present: Present) -> tuple[str, ...]:
    """The names that a prune took from an image before it was interrupted; none of what is gone.

    Names go in their order, so what lacks others has lost them to somebody else.
    """
    if entry.kind is not ItemKind.IMAGE or _is_gone(entry, present):
        return ()
    left = present.images[entry.key]
    lost = tuple(name for name in entry.references if name not in left)
    return lost if lost == entry.references[: len(lost)] else ()


def _is_gone(entry: UnreportedItem, present: Present) -> bool:
    return {
        ItemKind.IMAGE: entry.key not in present.images or _left(entry, present),
        ItemKind.CONTAINER: entry.key not in present.containers,
        # Nothing shows that a log was emptied, and the next run looks at it again.
        ItemKind.LOG: False,
        ItemKind.VOLUME: entry.key not in present.volumes,
        ItemKind.BUILD_CACHE: present.build_cache is not None and present.build_cache < entry.bytes,
    }[entry.kind]


def _left(entry: UnreportedItem, present: Present) -> bool:
    """Whether an image that is there left the engine since it was planned, and came back."""
    names = {name for name, at_ns in present.deleted.get(entry.key, {}).items() if at_ns >= entry.planned_ns}
    # Podman says of each name that it takes from an image that the image was deleted, also while others are left.
    by_names = bool(entry.references) and names.issuperset(entry.references)
    return entry.deleted or None in names or by_names


def item_event(
    kind: Kind, entry: Removal | UnreportedItem, prune: str, freed: int | None, more: Mapping[str, Any]
) -> Event:
    """What is stored of an item of a prune; `freed` in bytes, None if unknown."""
    item, key = entry.kind, entry.key
    # A volume's name and the word for the build cache stand where an image's reference does.
    return Event(
        time.time_ns(),
        kind,
        image=key if item is ItemKind.IMAGE else None,
        container=key if item in {ItemKind.CONTAINER, ItemKind.LOG} else None,
        reference=key if item in {ItemKind.VOLUME, ItemKind.BUILD_CACHE} else entry.name,
        bytes=freed,
        attributes={
            "item": item.value,
            "name": entry.name,
            "prune": prune,
            "reason": entry.reason,
            **({"detail": entry.detail} if isinstance(entry, Removal) else {}),
            "predicted_bytes": entry.frees,
            "references": list(entry.references),
            **more,
        },
    )


def find_present(engine: Engine, entries: Sequence[UnreportedItem]) -> Present:
    """What the engine holds of some items' kinds; of the others nothing is asked. Raises EngineError."""
    asked = {entry.kind for entry in entries}.__contains__
    since_ns = min((entry.planned_ns for entry in entries), default=0)
    return Present(
        {row.image: row.references for row in engine.images()} if asked(ItemKind.IMAGE) else {},
        _container_ids(engine) if asked(ItemKind.CONTAINER) else set(),
        {str(row["Name"]) for row in engine.volumes()} if asked(ItemKind.VOLUME) else set(),
        _build_cache_bytes(engine) if asked(ItemKind.BUILD_CACHE) else None,
        image_deletions(engine.buffered_events(since_ns, time.time_ns())) if asked(ItemKind.IMAGE) else {},
    )


def _container_ids(engine: Engine) -> set[str]:
    return {row.container for rows in (engine.containers(), engine.external_containers()) for row in rows}


def _build_cache_bytes(engine: Engine) -> int | None:
    """What the build cache holds; None if the engine does not say."""
    try:
        return read_build_cache(engine.disk_usage()).bytes
    except EngineError as error:
        logger.warning("it is unknown how much of the build cache an interrupted prune removed: %s", error)
        return None
