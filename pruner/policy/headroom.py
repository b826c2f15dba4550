"""``threshold = "auto"``: as much free space as this host has needed from one tick of the timer to the next.

A prune can only begin at a tick, so what must be free at each is what may be used up before the next.
How far free space fell within one interval is taken from the host's own past: the deepest of a month,
with a margin. Standard library only; the analyzer keeps the same record along a simulated history.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from collector.eventlog.log import EventLog
from pruner.policy.policy import AUTO, Policy, Space

DAY = 86400.0
MEMORY = 30 * DAY
"""How far the record of falls reaches back, seconds."""
ENOUGH = DAY
"""A shorter record says too little: until then `AUTO_DEFAULT_PER_CENT` of the disk holds, seconds."""
QUANTILE = 1.0
"""The share of intervals whose fall is to be covered: the deepest fall on record counts."""
MARGIN = 1.25
"""What that fall is multiplied by: the next may be deeper than any before."""
LEAST_SHARE = 0.05
MOST_SHARE = 0.5
"""The threshold's limits, as shares of the disk."""


class FreeSpaceDrops:
    """The record of falls of free space within one interval each, over the last `MEMORY` seconds.

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
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        for fall in falls:
            self.add(fall)

    def add(self, fall: float) -> None:
        """Record how far free space fell in one more interval, bytes."""
        if len(self._latest) == self.kept:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(max(0.0, fall))
        insort(self._sorted, max(0.0, fall))

    def threshold(self, total: float) -> float | None:
        """The free space, bytes, that a disk of `total` bytes needs at a tick; None: too little is known yet."""
        if len(self._latest) < self.enough:
            return None
        covered = self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]
        return min(max(covered * MARGIN, LEAST_SHARE * total), MOST_SHARE * total)


def resolved(policy: Policy, log: EventLog | None, total: float, now: float) -> Policy:
    """The policy with an amount in place of ``auto``.

    Args:
        policy: the policy.
        log: where the disk's past is recorded; None or not there: unknown.
        total: bytes of the disk.
        now: the moment, UTC seconds: only what was sampled before counts.

    Raises:
        LogError: the log cannot be read.
    """
    if policy.threshold.unit != AUTO:
        return policy
    falls = read_falls(log, policy.interval, now) if log is not None and log.exists() else []
    threshold = FreeSpaceDrops(policy.interval, falls).threshold(total)
    if threshold is None:
        return policy
    return replace(policy, threshold=Space(threshold, "B", str(policy.threshold)))


def read_falls(log: EventLog, interval: float, now: float) -> list[float]:
    """How far free space fell within each interval that was sampled, bytes, oldest first. Raises LogError."""
    parameters = {"host": log.host, "interval": interval, "from": now - MEMORY, "until": now}
    with log.reading() as connection:
        return [float(fall) for (fall,) in connection.execute(_FALLS, parameters).fetchall()]


# A prune between two samples hides what it freed: a fall is counted from the highest point on.
_FALLS = """
WITH sample AS (
    SELECT epoch_ns(time) / 1e9 AS time, free_bytes FROM disk
    WHERE host = $host AND free_bytes IS NOT NULL AND epoch_ns(time) / 1e9 BETWEEN $from AND $until
), fall AS (
    SELECT time, greatest(lag(free_bytes) OVER (ORDER BY time), max(free_bytes) OVER (
        ORDER BY time RANGE BETWEEN $interval PRECEDING AND CURRENT ROW)) - free_bytes AS fall FROM sample
)
SELECT greatest(max(fall), 0) FROM fall GROUP BY floor(time / $interval) ORDER BY floor(time / $interval)
"""
