"""What a host's own past says of its images: how soon images in such a situation were used again.

An idle time begins when the last use of an image ends. A situation is (idle time so far on a
logarithmic scale, uses so far on a logarithmic scale, superseded or not); in each, returns are
counted and the idle time at risk is summed. The past is everything before the last midnight UTC, so
that what was learned changes once a day. Standard library only: `analyzer.facts` does the same over
arrays, and a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from collector.log import EventLog

DAY = 86400.0
SESSION = 3600.0
"""Uses closer together than this, in seconds, belong to one visit: its end begins an idle time."""
REMEMBERED_GAPS = 16
"""How many of the latest idle times the moving average looks back on."""
GAP_WEIGHT = 0.25
"""The weight of the latest idle time in the moving average."""

LOWEST_BIN = 6
HIGHEST_BIN = 25
"""Idle times are told apart by powers of two, from less than a minute (2^6 s) to more than half a year (2^24 s)."""
BINS = HIGHEST_BIN - LOWEST_BIN + 1
BUCKETS = 6
CELLS = BINS * BUCKETS * 2

PRIOR_RETURNS = 0.05
PRIOR_EXPOSURE = DAY


def situation(idle: float, uses: int, superseded: int) -> int:
    """The number of the situation that an image is in.

    Args:
        idle: seconds since its last use ended.
        uses: containers and jobs that used it so far.
        superseded: 1 if a newer image of its repository has been used, else 0.
    """
    age = min(max(math.frexp(idle)[1], LOWEST_BIN), HIGHEST_BIN) - LOWEST_BIN
    often = min(uses.bit_length(), BUCKETS - 1)
    return (age * BUCKETS + often) * 2 + superseded


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned up to some midnight; per situation, length `CELLS` each.

    Attributes:
        returns: idle times that ended in a use.
        exposure: idle time, seconds.
    """

    returns: tuple[float, ...] = (0.0,) * CELLS
    exposure: tuple[float, ...] = (0.0,) * CELLS

    def rate(self, idle: float, uses: int, superseded: int) -> float:
        """Returns per second of idle time, of images in this situation."""
        cell = situation(idle, uses, superseded)
        return (self.returns[cell] + PRIOR_RETURNS) / (self.exposure[cell] + PRIOR_EXPOSURE)


def moving_average(gaps: Sequence[float]) -> float:
    """The exponentially weighted moving average of the latest idle times (oldest first); 0 without any."""
    latest = gaps[-REMEMBERED_GAPS:]
    if not latest:
        return 0.0
    average = latest[0]
    for gap in latest[1:]:
        average += GAP_WEIGHT * (gap - average)
    return average


@dataclass(frozen=True, slots=True)
class Habits:
    """How one image has been used.

    Attributes:
        uses: containers and jobs that used it since the log began.
        gaps: its latest idle times of more than `SESSION` seconds, oldest first, seconds.
        returns: how many such idle times ended in a use.
        superseded: whether a later image has been used, in each of its repositories.
    """

    uses: int = 0
    gaps: tuple[float, ...] = ()
    returns: int = 0
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Experience:
    """All that a host's log teaches: habits by image ID, and what was learned up to the last midnight."""

    habits: dict[str, Habits] = field(default_factory=dict)
    learned: Learned = field(default_factory=Learned)


def read_experience(log: EventLog, now: float) -> Experience:
    """Learn from the log of this host.

    Args:
        log: the event log.
        now: the time of the decision, UTC seconds.

    Raises:
        LogError: the log cannot be read.
    """
    returns, exposure = [0.0] * CELLS, [0.0] * CELLS
    with log.reading() as connection:
        connection.execute(_ENTRIES, {"host": log.host, "now": int(now * 1e9)})
        connection.execute(_SUPERSEDED, {"host": log.host})
        connection.execute(_IDLE_TIMES)
        habits = {
            image: Habits(uses, tuple(gaps or ()), count, since is not None and since <= now * 1e9)
            for image, uses, gaps, count, since in connection.execute(
                _HABITS, {"session": int(SESSION * 1e9), "remembered": REMEMBERED_GAPS}
            ).fetchall()
        }
        midnight = int(now // DAY * DAY) * 10**9
        for cell, count, nanoseconds in connection.execute(_SITUATIONS, _SCALES | {"midnight": midnight}).fetchall():
            returns[cell], exposure[cell] = float(count), nanoseconds / 1e9
    return Experience(habits, Learned(tuple(returns), tuple(exposure)))


# Uses as intervals; what began before the log did was there when it began, and what an inventory
# found before any use was last used when the engine stored it, else when it was built.
_ENTRIES = """
CREATE TEMP TABLE entry AS
WITH origin AS (
    SELECT epoch_ns(coalesce(min(time) FILTER (kind IN ('collector_started', 'disk_sampled', 'image_observed')),
        min(time))) AS origin
    FROM event WHERE host = $host
), used AS (
    SELECT image, epoch_ns(began) AS began, coalesce(epoch_ns(ended), 9e18::BIGINT) AS ended, evidence
    FROM uses WHERE host = $host AND image IS NOT NULL AND epoch_ns(began) <= $now
), found AS (
    SELECT image, epoch_ns(first_observed) AS began,
        coalesce(CAST(CAST(attributes ->> '$.stored' AS DOUBLE) * 1e9 AS BIGINT),
            epoch_ns(TRY_CAST(attributes ->> '$.created' AS TIMESTAMP)), 0) AS built
    FROM image_observations WHERE host = $host AND epoch_ns(first_observed) <= $now
), every AS (
    SELECT image, greatest(began, origin) AS began, began AS seen, ended,
        CASE WHEN began < origin THEN 'found' ELSE evidence END AS evidence
    FROM used, origin
    UNION ALL
    SELECT image, began, began, least(built, began), 'found' FROM found ANTI JOIN
        (SELECT image, min(began) AS first FROM used GROUP BY image) AS u
        ON u.image = found.image AND u.first <= found.began
)
SELECT *, CASE evidence WHEN 'found' THEN 0 WHEN 'container' THEN 2 WHEN 'pull' THEN 3 WHEN 'job' THEN 4
    WHEN 'tag' THEN 5 ELSE 1 END AS kind FROM every
"""
_SUPERSEDED = """
CREATE TEMP TABLE superseded AS
WITH sight AS (
    SELECT image, min(seen) AS first, min(began) FILTER (kind BETWEEN 2 AND 4) AS demanded FROM entry GROUP BY image
), numbered AS (
    SELECT image, demanded, row_number() OVER (ORDER BY first, coalesce(epoch_us(created), 0), image_id) AS number
    FROM sight JOIN image USING (image)
    LEFT JOIN (SELECT image, created FROM images WHERE host = $host) AS i USING (image)
), named AS (
    SELECT image, unnest(CAST(attributes -> '$.references' AS VARCHAR[])
        || CAST(attributes -> '$.digests' AS VARCHAR[])) AS name
    FROM event WHERE kind = 'image_observed' AND host = $host
    UNION ALL
    SELECT image, reference FROM event WHERE kind LIKE 'image_%' AND reference IS NOT NULL AND host = $host
), repository AS (
    SELECT DISTINCT image, regexp_replace(split_part(name, '@', 1), '^(.+):[^/:]*$', '\\1') AS repository FROM named
), later AS (
    SELECT image, min(demanded) OVER (
        PARTITION BY repository ORDER BY number ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS since
    FROM numbered JOIN repository USING (image)
)
SELECT image, CASE WHEN bool_and(since IS NOT NULL) THEN max(since) END AS since FROM later GROUP BY image
"""
_IDLE_TIMES = """
CREATE TEMP TABLE idle AS
SELECT image, began, max(ended) OVER so_far AS ended, count(*) FILTER (kind IN (2, 4)) OVER so_far AS uses,
    lead(began) OVER each AS next, lead(kind) OVER each BETWEEN 2 AND 4 AS demanded
FROM entry WINDOW each AS (PARTITION BY image ORDER BY began, kind),
    so_far AS (PARTITION BY image ORDER BY began, kind ROWS UNBOUNDED PRECEDING)
"""
# What an inventory found has an end before it was seen: nobody witnessed that idle time.
_HABITS = """
SELECT image_id, max(uses),
    list((next - ended) / 1e9 ORDER BY began) FILTER (demanded AND next - ended > $session AND ended >= began)
        [-$remembered:],
    count(*) FILTER (demanded AND next - ended > $session AND ended >= began),
    any_value(since)
FROM idle JOIN image USING (image) LEFT JOIN superseded USING (image) GROUP BY image_id
"""
_SITUATIONS = """
WITH piece AS (
    SELECT age, least(CAST(floor(log2(greatest(uses, 0.5))) AS INTEGER) + 1, $buckets - 1) AS often, flag,
        greatest(began, ended + CASE WHEN age > $lowest THEN power(2, age - 1)::BIGINT * 1000000000 ELSE 0 END,
            CASE WHEN flag = 1 THEN coalesce(since, 9e18::BIGINT) ELSE 0 END) AS start,
        least(coalesce(next, $midnight), $midnight,
            CASE WHEN age < $highest THEN ended + power(2, age)::BIGINT * 1000000000 ELSE $midnight END,
            CASE WHEN flag = 0 THEN coalesce(since, $midnight) ELSE $midnight END) AS stop,
        next, demanded
    FROM idle LEFT JOIN superseded USING (image), range($lowest, $highest + 1) AS ages(age), range(2) AS flags(flag)
    WHERE ended < $midnight
)
SELECT ((age - $lowest) * $buckets + often) * 2 + flag AS cell,
    count(*) FILTER (demanded AND stop = next), sum(stop - start)
FROM piece WHERE stop > start GROUP BY cell
"""
_SCALES = {"lowest": LOWEST_BIN, "highest": HIGHEST_BIN, "buckets": BUCKETS}
