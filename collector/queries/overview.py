"""A host at a glance: free space, what prunes removed and what came back, and what the log has missed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.machine.next_removals import NextRemovals, read_next_removals
from collector.machine.wake import read_levels
from collector.model.events import with_effect
from collector.model.traits import Effect
from collector.model.units import format_count, format_duration
from collector.queries.coverage import known_host
from collector.queries.status import Status, status, unwatched_text

MOST_PRUNES = 6
_LATE_S = 7200.0


@dataclass(frozen=True, slots=True)
class PastPrune:
    """One prune, and its regret. Times are UTC seconds, sizes bytes.

    Attributes:
        time: when it began.
        trigger: what started it.
        removed: how many things it removed.
        freed: what that freed; None: nobody measured.
        outcome: how it ended.
        returned: how many of the images came back afterwards.
        returned_bytes: what their removal had been expected to free.
    """

    time: float
    trigger: str
    removed: int
    freed: int | None
    outcome: str
    returned: int
    returned_bytes: int


@dataclass(frozen=True, slots=True)
class Overview:
    """A host at one moment.

    Attributes:
        now: UTC seconds.
        status: the state of its log.
        threshold: free space under which pruning starts, bytes; None: no pruner has said.
        next: what would go next; None: no pruner has said.
        prunes: the latest that removed something, newest first.
        warnings: what an operator should know, a sentence each.
    """

    now: float
    status: Status
    threshold: int | None
    next: NextRemovals | None
    prunes: tuple[PastPrune, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What a page shows of it."""
        found = self.status
        return {
            "host": found.host,
            "now": self.now,
            "free_bytes": found.free_bytes,
            "total_bytes": found.total_bytes,
            "threshold_bytes": self.threshold,
            "holds": found.holds,
            "free_history": found.free_history,
            "coverage_7_days": found.coverage_7_days,
            "first_event": found.first_event,
            "events": found.events,
            "images": found.images,
            "next": None if self.next is None else asdict(self.next),
            "prunes": [asdict(prune) for prune in self.prunes],
            "warnings": list(self.warnings),
        }


def overview(log: EventLog, now: float | None = None) -> Overview:
    """What there is to say of this host, or the only one in a log. Raises LogError."""
    now = time.time() if now is None else now
    found = status(log, now)
    with log.reading() as connection:
        host = known_host(connection, log.host)
        rows = connection.execute(_PRUNES, {"host": host, "count": MOST_PRUNES}).fetchall()
    levels = read_levels(log.path, found.data_root) if found.data_root else None
    coming = read_next_removals(log.path)
    threshold = None if levels is None else levels[0]
    prunes = tuple(PastPrune(*row) for row in rows)
    return Overview(now, found, threshold, coming, prunes, tuple(_warnings(found, threshold, coming, now)))


def _warnings(found: Status, threshold: int | None, coming: NextRemovals | None, now: float) -> list[str]:
    said = []
    if found.unwatched_seconds is not None:
        said.append(f"{unwatched_text(found.unwatched_seconds)}: {found.next_step}")
    if found.standstill is not None:
        runs = format_count(found.standstill.runs, "prune run")
        since = format_duration(max(0.0, now - found.standstill.since))
        said.append(f"for {since} {runs} removed nothing: {found.standstill.reasons}")
    if threshold is not None and found.free_bytes is not None and found.free_bytes < threshold:
        said.append("free space is under the threshold: the pruner is due")
    if threshold is None and found.standstill is None:
        said.append("no pruner has run here: nothing is removed; `pruner plan` shows what one would do")
    elif coming is not None and now - coming.time > _LATE_S:
        said.append(f"the pruner last ran {format_duration(now - coming.time)} ago: is its timer on?")
    if found.misses_uses(now) and found.unwatched_seconds is None:
        said.append(f"only {found.coverage_7_days:.0%} of the last 7 days were observed")
    said += [f"a damaged log was set aside: {path}" for path in found.damaged_logs]
    return said


_PRUNES = f"""
WITH latest AS (
    SELECT * FROM prunes WHERE host = $host AND removed > 0 AND started IS NOT NULL ORDER BY started DESC LIMIT $count
), gone AS (
    SELECT e.image, e.time, e.attributes ->> '$.prune' AS prune,
        TRY_CAST(e.attributes ->> '$.predicted_bytes' AS BIGINT) AS bytes
    FROM event AS e WHERE e.host = $host AND e.kind = 'item_removed' AND e.image IS NOT NULL
        AND e.attributes ->> '$.prune' IN (SELECT prune FROM latest)
), back AS (
    SELECT prune, gone.image, any_value(gone.bytes) AS bytes FROM gone JOIN event AS e
        ON e.host = $host AND e.image = gone.image AND e.time > gone.time
        AND e.kind IN ({sql_list(with_effect(Effect.COMES))})
    GROUP BY prune, gone.image
), regret AS (SELECT prune, count(*) AS images, coalesce(sum(bytes), 0) AS bytes FROM back GROUP BY prune)
SELECT epoch_ns(started) / 1e9, coalesce(trigger, 'unknown'), removed, freed_bytes, coalesce(outcome, 'unfinished'),
    coalesce(images, 0), CAST(coalesce(bytes, 0) AS BIGINT)
FROM latest LEFT JOIN regret USING (prune) ORDER BY started DESC
"""
