"""What a log holds of each prune: its policy, its plan, and what became of the plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.errors import LogError
from collector.model.events import ITEM_ENDS
from collector.model.untrusted import mapping, read_object, text
from pruner.state.jobs_in_flight import Hold


@dataclass(frozen=True, slots=True)
class RecordedPrune:
    """A prune as the log has it; `removed` and `failed` are of images, by ID."""

    prune: str
    time_ns: int
    trigger: str
    policy: dict[str, Any]
    plan: dict[str, Any]
    removed: frozenset[str]
    failed: Mapping[str, str]


def host_that_pruned(log: EventLog) -> str:
    """The only host in the log that pruned. Raises LogError if there is none, or several."""
    hosts = [row[0] for row in log.query("SELECT DISTINCT host FROM event WHERE kind = 'prune_started' ORDER BY host")]
    if not hosts:
        raise LogError(f"event log {log.path} holds no prune yet: let `pruner run` remove something first")
    if len(hosts) > 1:
        raise LogError(
            f"event log {log.path} holds prunes of several hosts ({', '.join(hosts)}): choose one with --only-host"
        )
    return str(hosts[0])


def recorded_prunes(log: EventLog, host: str, last: int | None) -> list[RecordedPrune]:
    """The latest `last` prunes of a host, or all, oldest first. Raises LogError if there is none."""
    items: dict[str, dict[str, str | None]] = defaultdict(dict)
    for prune, image, error in log.query(_ITEMS, [host]):
        items[prune][image] = error
    rows = log.query(_STARTED, [host])
    if not rows:
        raise LogError(f"event log {log.path} holds no prune of host {host}")
    found = []
    for time_ns, recorded in rows[-last:] if last else rows:
        facts = read_object(recorded) or {}
        prune = text(facts.get("prune"))
        ends = items[prune]
        found.append(
            RecordedPrune(
                prune,
                time_ns,
                text(facts.get("trigger")),
                mapping(facts.get("policy")),
                mapping(facts.get("plan")),
                frozenset(image for image, error in ends.items() if error is None),
                {image: error for image, error in ends.items() if error is not None},
            )
        )
    return found


def is_readable(plan: Mapping[str, Any]) -> bool:
    """Whether a recorded plan holds what a replay needs, each of its type."""

    def has(row: object, needed: Mapping[str, type | tuple[type, ...]]) -> bool:
        return isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in needed.items())

    images, items = plan.get("images"), plan.get("items", [])
    if not (has(plan, _PLAN) and isinstance(images, list) and isinstance(items, list)):
        return False
    if not (all(has(row, _PLAN_IMAGE) for row in images) and all(has(row, _PLAN_ITEM) for row in items)):
        return False
    try:
        return all("hold" not in row or Hold.from_json(row["hold"]) for row in images)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


# What a replay needs of a recorded plan, of each of its images and of each other item.
_PLAN: Mapping[str, type | tuple[type, ...]] = dict.fromkeys(
    ("total_bytes", "free_bytes", "free_inodes", "threshold_bytes", "target_bytes"), (int, float)
)
_PLAN_IMAGE: Mapping[str, type | tuple[type, ...]] = {
    "image": str,
    "reason": str,
    "references": list,
    "last_use": (int, float),
    "evidence": str,
}
_PLAN_ITEM: Mapping[str, type | tuple[type, ...]] = {"item": str, "key": str, "reason": str, "frees": (int, float)}
_STARTED = """
SELECT epoch_ns(time), attributes FROM event WHERE kind = 'prune_started' AND host = ?
    AND coalesce(attributes ->> '$.round', '') <> '0' -- runs that could remove nothing are recorded without a plan
ORDER BY seq
"""
_ITEMS = f"""
SELECT attributes ->> '$.prune', image_id, CASE kind WHEN 'item_failed' THEN coalesce(attributes ->> '$.error', '') END
FROM event JOIN image USING (image)
WHERE kind IN ({sql_list(ITEM_ENDS)}) AND coalesce(attributes ->> '$.item', 'image') = 'image' AND host = ?
ORDER BY seq
"""
