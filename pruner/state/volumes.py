"""Reads the volumes that are decided on: what sort each is, what it holds, and when it was last of use."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.engine.protocol import Engine
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.jobs import SLOT, slot_of
from collector.model.observation import ListedContainer
from collector.model.times import parse_rfc3339
from collector.model.untrusted import mapping, objects, past_seconds, size, strings, text, whole
from pruner.state.event_watch import volume_uses
from pruner.state.inventory import Volume

_TYPE = "com.gitlab.gitlab-runner.type"
_ANONYMOUS = "com.docker.volume.anonymous"
_HEX_NAME = re.compile(r"[0-9a-f]{64}")
_CACHE_VOLUME = re.compile(r"runner-.+-cache-[0-9a-f]{32}(-protected)?")
# Engines take no stamp of zero for one.
_EVER_NS = 10**9
_BUILDER_VOLUME = re.compile(r"buildx_buildkit_.+_state")


@dataclass(frozen=True, slots=True)
class VolumeUses:
    """What the log shows of the use of volumes, UTC seconds each.

    Attributes:
        slots: when a job last ran in each of the runners' slots.
        references: when a container last referred to each volume.
    """

    slots: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)


def read_volumes(
    engine: Engine,
    listed: Sequence[ListedContainer],
    usage: Mapping[str, Any],
    logged: VolumeUses,
    orphaned: Iterable[str] = (),
    kept_by: Callable[[Mapping[str, str]], str] = lambda _: "",
) -> tuple[Volume, ...]:
    """All volumes by name, with the latest sign of their use: Docker lists them in another order each time.

    A volume was of use at least as long as a container referred to it: the log and the engine's own
    memory show when that ended.

    Args:
        engine: the live engine.
        listed: all containers.
        usage: what the engine says that things hold.
        logged: what the log shows of their use.
        orphaned: names of volumes whose containers this very run removed.
        kept_by: which label keeps what has these labels; empty: none.

    Raises:
        EngineError: there is no engine.
    """
    holders = Counter(name for row in listed for name in row.volumes)
    reported = {text(row.get("Name")): mapping(row.get("UsageData")) for row in objects(usage.get("Volumes"))}
    # Podman has no such events.
    recent = {} if engine.keeps_events else volume_uses(engine.buffered_events(_EVER_NS, time.time_ns()))
    orphans = frozenset(orphaned)
    found = []
    for row in sorted(engine.volumes(), key=lambda row: text(row["Name"])):
        name = text(row["Name"])
        data = reported.get(name, {})
        created = created_at(row)
        last_use, evidence = max(
            (created, "created"),
            (_changed(row.get("Mountpoint")), "its folder changed"),
            (logged.slots.get(slot_of(name) or "", 0.0), "a job of its slot ran"),
            (logged.references.get(name, 0.0), "a container referred to it"),
            (recent.get(name, 0) / 1e9, "a container used it"),
        )
        found.append(
            Volume(
                name=name,
                sort=sort_of(name, strings(row.get("Labels"))),
                created=created,
                last_use=last_use,
                evidence=evidence,
                bytes=size(data.get("Size")),
                containers=max(holders[name], whole(data.get("RefCount")) or 0),
                here=row.get("Driver") == "local" and not row.get("Options"),
                path=text(row.get("Mountpoint")),
                orphaned=name in orphans,
                kept_by=kept_by(strings(row.get("Labels"))),
            )
        )
    return tuple(found)


def created_at(volume: Mapping[str, Any]) -> float:
    """When a volume was created, as the engine says, UTC seconds; 0 if it does not."""
    return past_seconds(parse_rfc3339(text(volume.get("CreatedAt"))), time.time()) or 0.0


def sort_of(name: str, labels: Mapping[str, str]) -> str:
    """Whether a volume is ``anonymous``, a ``cache`` of GitLab Runner, a buildx ``builder``'s state, or ``named``.

    Engines mark anonymous volumes since 23.0; before, only a name of 64 digits marks them.
    """
    if labels.get(_TYPE) == "cache" or _CACHE_VOLUME.fullmatch(name):
        return "cache"
    if _BUILDER_VOLUME.fullmatch(name):
        return "builder"
    return "anonymous" if _ANONYMOUS in labels or _HEX_NAME.fullmatch(name) else "named"


def last_slots(log: EventLog) -> dict[str, float]:
    """When a job last ran in each of the runners' slots, UTC seconds, as the log shows. Raises LogError.

    A cache volume belongs to one slot of one project, and every job there mounts it.
    """
    rows = log.query(
        "SELECT regexp_extract(attributes ->> '$.name', ?) AS slot, epoch_ns(max(time)) / 1e9 FROM event"
        " WHERE host = ? AND kind IN ('container_created', 'container_destroyed')"
        " AND attributes ->> '$.name' LIKE 'runner-%' GROUP BY slot",
        [SLOT.pattern, log.host],
        whole_since=ONLY_KEPT,
    )
    return {slot: last for slot, last in rows if slot}


def last_references(log: EventLog) -> dict[str, float]:
    """When a container last referred to each volume, UTC seconds, as the log shows. Raises LogError.

    That is the latest event of any container of which the log names the volume: mostly its removal.
    """
    return dict(log.query(_REFERENCES, {"host": log.host}, whole_since=ONLY_KEPT))


_REFERENCES = """
WITH named AS (
    SELECT DISTINCT container, unnest(TRY_CAST((attributes -> '$.volumes') AS VARCHAR[])) AS volume FROM event
    WHERE host = $host AND container IS NOT NULL AND contains(attributes::VARCHAR, '"volumes"')
        AND (attributes -> '$.volumes') IS NOT NULL
)
SELECT volume, epoch_ns(max(time)) / 1e9 FROM named JOIN event USING (container)
WHERE host = $host AND volume IS NOT NULL GROUP BY volume
"""


def _changed(path: Any) -> float:
    """When a volume's topmost folder changed; 0 where it may not be looked at."""
    try:
        return Path(str(path)).stat().st_mtime
    except (OSError, ValueError):
        return 0.0
