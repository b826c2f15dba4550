"""``threshold = "auto"``: as much free space as this host has needed until a prune has made room.

Where the collector wakes the pruner, that is what arrives within a minute; a prune that begins at a tick of
the timer only must leave what may be used up before the next. How far free space fell within that time is
taken from the host's own past: the deepest of three months, with a margin. Standard library only; the
analyzer keeps the same record along a simulated history.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from collector.eventlog import hourly
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import sql_list
from collector.model.events import MOMENTS, Kind
from collector.model.units import DAY_S
from pruner.policy.policy import AUTO, Policy, Space

MEMORY = 90 * DAY_S
"""How far the record of falls reaches back, seconds."""
ENOUGH = DAY_S
"""A shorter record says too little: until then `AUTO_DEFAULT_PER_CENT` of the disk holds, seconds."""
ARRIVAL = 60.0
"""From the pull that makes free space short to what the prune that it wakes has freed, seconds: the pull itself, the
wake, the prune. What arrives meanwhile must fit."""
QUANTILE = 1.0
"""The share of intervals whose fall is to be covered: the deepest fall on record counts."""
MARGIN = 1.25
"""What that fall is multiplied by: the next may be deeper than any before."""
LEAST_SHARE = 0.05
MOST_SHARE = 0.5
"""The threshold's limits, as shares of the disk."""

WORKING_DAYS = 30
"""How many days back the working set is looked for."""
FEWEST_DAYS = 3
"""Fewer days with uses say nothing of it."""
WORKING_QUANTILE = 0.75
"""The share of days whose images must fit beside the threshold: with less room for images each day pulls them again."""


def usual_bytes(daily: Sequence[float]) -> float | None:
    """Bytes of images that most days use, from those of each day; None: too few days."""
    if len(daily) < FEWEST_DAYS:
        return None
    return sorted(daily)[math.ceil(WORKING_QUANTILE * len(daily)) - 1]


def capped(threshold: float, total: float, room: float, working_set: float | None) -> float:
    """The threshold, lowered to what leaves room for the images that most days use.

    Where they are more than the whole disk holds, they are pulled again each day in any case, and a lower threshold
    would only fail more pulls: it stays as it is.

    Args:
        threshold: free space, bytes.
        total: bytes of the disk.
        room: bytes of it that other files leave.
        working_set: bytes of images that most days use; None: unknown.
    """
    if working_set is None:
        return threshold
    spare = room - working_set
    return min(threshold, max(LEAST_SHARE * total, spare)) if spare >= 0 else threshold


def reach_of(interval: float, *, early: bool) -> float:
    """Within how many seconds free space may fall before a prune has made room.

    Args:
        interval: seconds between ticks of the timer.
        early: whether the collector wakes the pruner as soon as free space is short.
    """
    return min(ARRIVAL, interval) if early else interval


class FreeSpaceDrops:
    """The record of falls of free space, the deepest of each interval, over the last `MEMORY` seconds.

    Args:
        interval: seconds of an interval.
        falls: how far free space fell in each so far, bytes, oldest first.

    Attributes:
        kept: how many intervals the record reaches back.
        enough: how many it takes to say anything.
    """

    def __init__(self, interval: float, falls: Iterable[float] = ()) -> None:
        self.kept = max(1, math.ceil(MEMORY / interval))
        self.enough = math.ceil(ENOUGH / interval)
        self._latest = deque((max(0.0, fall) for fall in falls), maxlen=self.kept)
        self._sorted = sorted(self._latest)

    def add(self, fall: float) -> None:
        """Record how far free space fell in one more interval, bytes."""
        if len(self._latest) == self.kept:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(max(0.0, fall))
        insort(self._sorted, max(0.0, fall))

    def threshold(self, total: float) -> float | None:
        """The free space, bytes, that a disk of `total` bytes needs at a tick; None: too little is known yet."""
        if len(self._latest) < self.enough:
            return None
        covered = self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]
        return min(max(covered * MARGIN, LEAST_SHARE * total), MOST_SHARE * total)


def resolved(
    policy: Policy,
    log: EventLog | None,
    total: float,
    now: float,
    file_system: str = "",
    *,
    room: float | None = None,
    early: bool = True,
) -> Policy:
    """The policy with an amount in place of ``auto``.

    Args:
        policy: the policy.
        log: where the disk's past is recorded; None or not there: unknown.
        total: bytes of the disk.
        now: the moment, UTC seconds: only what was sampled before counts.
        file_system: of which of several disks, by its mount point; empty: that of the images.
        room: bytes that other files leave of the disk; None: it is not asked what images need of it.
        early: whether the collector, which keeps the log, wakes the pruner as soon as free space is short.

    Raises:
        LogError: the log cannot be read.
    """
    if policy.threshold.unit != AUTO:
        return policy
    reach = reach_of(policy.interval, early=early)
    falls = read_falls(log, policy.interval, now, reach, file_system) if log is not None and log.exists() else []
    threshold = FreeSpaceDrops(policy.interval, falls).threshold(total)
    if threshold is None or log is None:
        return policy
    if room is not None and threshold > LEAST_SHARE * total:
        threshold = capped(threshold, total, room, usual_bytes(read_working_sets(log, now)))
    return replace(policy, threshold=Space(threshold, "B", str(policy.threshold)))


def read_working_sets(log: EventLog, now: float) -> list[float]:
    """Bytes of the images that were used in each of the last `WORKING_DAYS` days (UTC) with uses. Raises LogError."""
    today = int(now // DAY_S)
    parameters = {"host": log.host, "from": today - WORKING_DAYS, "until": today - 1}
    with log.reading(whole_since=(today - WORKING_DAYS) * DAY_S) as connection:
        return [float(size) for (size,) in connection.execute(_WORKING_SETS, parameters).fetchall()]


def read_falls(
    log: EventLog, interval: float, now: float, reach: float | None = None, file_system: str = ""
) -> list[float]:
    """How far free space fell within `reach` seconds, the deepest of each interval that was sampled, oldest first.

    Args:
        log: the event log.
        interval: seconds of an interval.
        now: the moment, UTC seconds: only what was sampled in `MEMORY` before it counts.
        reach: seconds; None: an interval.
        file_system: of which of several disks, by its mount point; empty: that of the images.

    Returns:
        Bytes; 0 where nothing fell.

    Raises:
        LogError: the log cannot be read.
    """
    reach = interval if reach is None else reach
    with log.reading(whole_since=ONLY_KEPT) as connection:
        return hourly.falls(connection, log.host, file_system, interval, reach, (now - MEMORY, now))


_USES = sql_list(
    (
        *(Kind.CONTAINER_CREATED, Kind.CONTAINER_DESTROYED),
        *(kind for kind in MOMENTS if kind.traits.evidence in {"pull", "job"}),
    )
)
_WORKING_SETS = f"""
WITH used AS (
    -- Each container, without asking which event ended which: a busy month has a million.
    SELECT DISTINCT epoch_ns(CASE WHEN kind = 'container_destroyed' THEN began ELSE time END) // 86400000000000 AS day,
        image
    FROM event WHERE host = $host AND image IS NOT NULL AND kind IN ({_USES}) AND day BETWEEN $from AND $until
), layer AS (
    SELECT image, coalesce(chain_id, diff_id) AS layer, bytes FROM image_layers WHERE host = $host
), held AS (SELECT day, layer, max(bytes) AS bytes FROM used JOIN layer USING (image) GROUP BY day, layer)
SELECT sum(bytes) FROM held GROUP BY day
"""
