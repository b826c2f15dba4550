"""What prunes removed, why, how much that freed, and what was pulled again afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list, sql_names
from collector.machine.prune_runs import Fruitless, read_runs
from collector.model.errors import UsageError
from collector.model.events import COUNTED, ITEM_ENDS, Kind, with_effect
from collector.model.references import meant
from collector.model.traits import Effect
from collector.model.units import format_bytes, format_count, format_duration, parse_duration
from collector.model.untrusted import objects, read_json, read_object, text
from pruner.planning.decision import Reason


@dataclass(frozen=True, slots=True)
class PastRemoval:
    """One removal, and its regret. Times are UTC seconds, sizes bytes.

    Attributes:
        time: when it was removed.
        prune: the prune that did.
        trigger: what started that prune.
        item: image, container, volume or build_cache.
        name: what people call it.
        references: an image's tags then.
        image_id: an image's ID, else None.
        reason: why it went, as the policy's decision has it.
        detail: the reason in words, with its figures.
        predicted: bytes that the plan expected to free.
        freed: bytes that it freed on the file system; None: not measured (recorded after an interruption).
        returned_at: when it was pulled, loaded, imported or built again; None: it was not.
        returned_by: which of these it was.
        returned_bytes: layers that came back with it, bytes: those that the removal had freed; else 0.
        later_uses: containers and jobs that used it afterwards, until it was removed once more.
        missed_at: when a job first asked for an image that existed only on the host; None: none did.
        concurrent_uses: uses of an image in the very moment of its removal, which the engine reported too late.
    """

    time: float
    prune: str
    trigger: str
    item: str
    name: str
    references: tuple[str, ...]
    image_id: str | None
    reason: str
    detail: str
    predicted: int
    freed: int | None
    returned_at: float | None
    returned_by: str | None
    returned_bytes: int
    later_uses: int
    missed_at: float | None = None
    concurrent_uses: tuple[dict[str, Any], ...] = ()

    @property
    def returned_after(self) -> float | None:
        """Seconds from the removal until it was pulled again."""
        return None if self.returned_at is None else self.returned_at - self.time

    def to_json(self) -> dict[str, Any]:
        """As printed for machines."""
        return {**asdict(self), "returned_after": self.returned_after}


def read(log: EventLog, since: float | None = None, name: str | None = None) -> list[PastRemoval]:
    """Removals, the oldest first.

    Args:
        log: the event log.
        since: those from then on, UTC seconds; None: all.
        name: those of this reference, repository, glob, ID or beginning of an ID; None: all.

    Raises:
        LogError: the log cannot be read.
    """
    rows: list[list[Any]] = [
        [*row[:5], tuple(row[5]), *row[6:-1], tuple(_named_uses(row[-1]))]
        for row in log.query(_REMOVALS, [since or 0.0])
    ]
    found = [PastRemoval(*row) for row in rows]
    if name is None:
        return found
    called: dict[str, set[str]] = {}
    for image_id, known in log.query(_NAMES):
        called.setdefault(image_id, set()).update(known)
    for one in found:
        if one.image_id is not None:
            called.setdefault(one.image_id, set()).update({*one.references, one.name} - {one.image_id})
    chosen = set(meant(name, {one.image_id: called[one.image_id] for one in found if one.image_id is not None}))
    return [one for one in found if (one.image_id in chosen if one.image_id else fnmatchcase(one.name, name))]


def fruitless(log: EventLog, since: float | None = None) -> list[Fruitless]:
    """Runs that removed nothing though space was short, the oldest first; those that the same rules stopped together.

    Args:
        log: the event log.
        since: those that ended from then on, UTC seconds; None: all.

    Raises:
        LogError: the log cannot be read.
    """
    ends: list[tuple[float, Fruitless | None]] = []
    for moment, removed, error, recorded in log.query(_ENDS):
        stated = read_object(recorded) or {}
        if error and not stated.get("held_back"):
            stated["error"] = error
        if not removed and stated.get("outcome") != "target reached":
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                ends.append((moment, Fruitless.from_json({"since": moment, "until": moment, "runs": 1, **stated})))
            if not stated.get("over"):
                continue
        ends.append((moment, None))
    ends += [(one.until, one) for one in read_runs(log.path).waiting.values()]
    found: list[Fruitless] = []
    row: dict[object, int] = {}
    for _, end in sorted(ends, key=lambda end: end[0]):
        if end is None:
            row.clear()
            continue
        rules = end.error or frozenset(str(one.get("rule")) for one in end.held_back)
        if rules in row and end.since - found[row[rules]].until < _APART_S:
            found[row[rules]] = found[row[rules]].and_then(end)
        else:
            row[rules] = len(found)
            found.append(end)
    return [one for one in found if one.until >= (since or 0.0)]


def since_when(text: str, now: float | None = None) -> float:
    """UTC seconds of what a user writes: ``7d`` ago, a date or a time (UTC if it names no zone).

    Raises:
        UsageError: it is neither.
    """
    try:
        return (time.time() if now is None else now) - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since: '{text}' is neither a duration (7d) nor a time (2026-11-24, 2026-11-24T08:00)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def totals(found: Sequence[PastRemoval]) -> dict[str, Any]:
    """Sums over removals; sizes in bytes."""
    images = [one for one in found if one.item == "image"]
    again = [one for one in images if one.returned_at is not None]
    return {
        "removals": len(found),
        "freed_bytes": sum(one.freed if one.freed is not None else one.predicted for one in found),
        "images": len(images),
        "images_back_again": len(again),
        "bytes_back_again": sum(one.returned_bytes for one in again),
        "unrecoverable_misses": sum(one.missed_at is not None for one in images),
        "soonest_again_seconds": min(
            (one.returned_after for one in again if one.returned_after is not None), default=None
        ),
    }


def history_summary(found: Sequence[PastRemoval]) -> str:
    """All in one line."""
    sums = totals(found)
    if not found:
        return "nothing was removed"
    line = f"{format_count(sums['removals'], 'removal')} freed {format_bytes(sums['freed_bytes'])}"
    if not sums["images"]:
        return line
    if concurrent_uses := sum(bool(one.concurrent_uses) for one in found):
        line = f"{line}, {concurrent_uses} of them while somebody used the image"
    if missed := sums["unrecoverable_misses"]:
        line = f"{line}; images that existed only on this host and were ASKED FOR AGAIN: {missed}"
    line = f"{line}; of {format_count(sums['images'], 'image')} {sums['images_back_again'] or 'none'} came back"
    if not sums["images_back_again"]:
        return line
    soonest = format_duration(sums["soonest_again_seconds"])
    return f"{line} ({format_bytes(sums['bytes_back_again'])}), the first {soonest} later"


def _named_uses(recorded: str) -> list[dict[str, Any]]:
    try:
        return [use for use in objects(read_json(recorded)) if text(use.get("what"))]
    except ValueError:
        return []


# Fruitless runs that lie further apart than they are recorded are not in a row: those between had nothing to do.
_APART_S = 2 * 3600.0
_ENDS = f"""
WITH item AS (
    SELECT attributes ->> '$.prune' AS prune, count(*) FILTER (kind = 'item_removed') AS removed,
        arg_max(attributes ->> '$.error', seq) AS error
    FROM event WHERE kind IN ({sql_list(ITEM_ENDS)}) GROUP BY prune
)
SELECT epoch_ns(time) / 1e9, coalesce(removed, 0), error, CAST(attributes AS VARCHAR)
FROM event LEFT JOIN item ON prune = attributes ->> '$.prune'
WHERE kind = 'prune_finished' AND coalesce(attributes ->> '$.outcome', '') <> 'interrupted'
ORDER BY seq
"""
_NAMES = "SELECT image_id, list(DISTINCT name) FROM image_references GROUP BY image_id"
# A removal's story ends where the same image is removed once more: what comes later is that removal's.
_REMOVALS = f"""
WITH removal AS (
    SELECT seq, host, time, image, reference, container, bytes, attributes,
        coalesce(attributes ->> '$.item', 'image') AS item, attributes ->> '$.prune' AS prune,
        lead(time) OVER (PARTITION BY host, coalesce(image, -seq) ORDER BY seq) AS next_time
    FROM event WHERE kind = 'item_removed'
), back AS (
    SELECT r.seq, min(e.time) AS again, arg_min(e.kind, e.time) AS kind
    FROM removal AS r JOIN event AS e ON e.host = r.host AND e.image = r.image AND e.time > r.time
        AND (r.next_time IS NULL OR e.time < r.next_time)
        AND e.kind IN ({sql_list(with_effect(Effect.COMES))})
    WHERE r.item = 'image' GROUP BY r.seq
), used AS (
    SELECT r.seq, count(DISTINCT coalesce(e.container, CAST(e.seq AS VARCHAR))) AS uses
    FROM removal AS r JOIN event AS e ON e.host = r.host AND e.image = r.image AND e.time > r.time
        AND (r.next_time IS NULL OR e.time < r.next_time)
        AND e.kind IN ('{Kind.CONTAINER_CREATED}', {sql_list(COUNTED)})
    WHERE r.item = 'image' GROUP BY r.seq
), missed AS (
    SELECT r.seq, min(p.time) AS missed FROM removal AS r JOIN failed_pulls AS p ON p.host = r.host AND p.time > r.time
        AND (r.next_time IS NULL OR p.time < r.next_time)
        AND list_contains(TRY_CAST(r.attributes -> '$.references' AS VARCHAR[]), p.reference)
    WHERE r.attributes ->> '$.reason' = '{Reason.EVICT_LOCAL.word}' GROUP BY r.seq
), started AS (
    SELECT host, attributes ->> '$.prune' AS prune, any_value(attributes ->> '$.trigger') AS trigger
    FROM event WHERE kind = 'prune_started' GROUP BY ALL
)
SELECT epoch_ns(r.time) / 1e9, r.prune, coalesce(nullif(s.trigger, ''), 'unknown'), r.item,
    coalesce(nullif(coalesce(r.reference, r.container), ''), image_id, '?'),
    {sql_names("r.attributes -> '$.references'")}, image_id,
    coalesce(nullif(r.attributes ->> '$.reason', ''), 'unknown') AS reason,
    coalesce(nullif(r.attributes ->> '$.detail', ''), reason),
    coalesce(TRY_CAST(r.attributes ->> '$.predicted_bytes' AS BIGINT), 0) AS predicted, r.bytes,
    epoch_ns(b.again) / 1e9, replace(b.kind, 'image_', ''), if(b.again IS NULL, 0, predicted), coalesce(u.uses, 0),
    epoch_ns(m.missed) / 1e9, coalesce(TRY_CAST(r.attributes -> '$.concurrent_uses' AS VARCHAR), '[]')
FROM removal AS r LEFT JOIN image USING (image) LEFT JOIN back AS b USING (seq) LEFT JOIN used AS u USING (seq)
    LEFT JOIN missed AS m USING (seq)
    LEFT JOIN started AS s ON s.host = r.host AND s.prune = r.prune
WHERE epoch_ns(r.time) / 1e9 >= ?
ORDER BY r.seq
"""
