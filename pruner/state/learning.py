"""What a host's own past says of its images: how soon images in such a situation were used again.

An idle time begins when the last use of an image ends. A situation is made of how long it has
lasted, how often the image was used, how long its idle times usually are, and for how long a later
image has taken its place; the first three on logarithmic scales. In each, returns are counted and
the idle time at risk is summed. The past is everything before the last midnight UTC, so that what
was learned changes once a day. Standard library only: `analyzer.simulation.knowledge` does the same over arrays,
and a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_built_ns, sql_case, sql_list, sql_stored_ns
from collector.model.events import EVIDENCE_USE, LIVE, Use

HOUR = 3600.0
DAY = 86400.0
SESSION = HOUR
"""Uses closer together than this, in seconds, belong to one visit: its end begins an idle time."""
REMEMBERED_GAPS = 16
"""How many of the latest idle times the moving average looks back on."""
GAP_WEIGHT = 0.25
"""The weight of the latest idle time in the moving average."""

LOWEST_BIN = 11
HIGHEST_BIN = 24
"""Idle times are binned by powers of two, from half an hour (2^11 s) to a hundred days (2^23 s)."""
AGES = HIGHEST_BIN - LOWEST_BIN + 1
BUCKETS = 6
"""Use counts are binned by powers of two, from none to 16 and more."""
LOWEST_HABIT = 12
HABITS = 10
"""Usual idle times: none yet, then by powers of two from an hour (2^12 s) to more than ten days (2^20 s)."""
PHASES = (0.0, DAY, 7 * DAY)
"""Since when an image has been superseded: not at all, then from each of these seconds on."""
STAGES = len(PHASES) + 1
CELLS = AGES * BUCKETS * HABITS * STAGES

PRIOR_RETURNS = 0.05
PRIOR_EXPOSURE = DAY
"""What `Learned.hazard` starts from in each situation."""
DISCOUNT = 2 * DAY
"""How far ahead a return counts, seconds: one later by this counts 1/e of one now."""
TYPICAL_RATE = 0.3
"""Returns per idle time so far, where nothing is known: the longer an image was idle, the later it returns."""
TRUST = (0.5, 1.0, 1.0)
"""Returns that the expectation from coarser situations is worth against what was counted, at each level."""


def age_bin(idle: float) -> int:
    """The bin of an idle time in seconds."""
    return min(max(math.frexp(idle)[1], LOWEST_BIN), HIGHEST_BIN) - LOWEST_BIN


def habit(gap: float) -> int:
    """The bin of a usual idle time in seconds; 0 for none."""
    return 0 if gap <= 0 else min(max(math.frexp(gap)[1] - LOWEST_HABIT, 0), HABITS - 2) + 1


def stage(superseded_for: float) -> int:
    """The bin of the time since an image was superseded, seconds; negative: it is not."""
    return sum(superseded_for >= begin for begin in PHASES)


def situation(idle: float, uses: int, gap: float, superseded_for: float) -> int:
    """The number of the situation that an image is in.

    Args:
        idle: seconds since its last use ended.
        uses: containers and jobs that used it so far.
        gap: the moving average of its idle times, seconds; 0 without any.
        superseded_for: seconds since a later image has taken its place; negative: none has.
    """
    often = min(uses.bit_length(), BUCKETS - 1)
    return ((age_bin(idle) * BUCKETS + often) * HABITS + habit(gap)) * STAGES + stage(superseded_for)


def typical_idle(age: int) -> float:
    """An idle time in the middle of a bin, seconds."""
    return 2.0 ** (age + LOWEST_BIN - 0.5) if age else 2.0 ** (LOWEST_BIN - 1)


def shrunk(returns: float, exposure: float, expected: float, trust: float) -> float:
    """A rate from counts, drawn towards what is expected where little was counted (Gamma prior)."""
    return (returns + trust) / (exposure + trust / expected)


@dataclass(frozen=True)
class Learned:
    """What was learned up to some midnight; per situation, length `CELLS` each.

    Attributes:
        returns: idle times that ended in a use.
        exposure: idle time, seconds.
    """

    returns: Sequence[float] = (0.0,) * CELLS
    exposure: Sequence[float] = (0.0,) * CELLS

    def hazard(self, idle: float, uses: int, superseded: bool) -> float:
        """Returns per second of idle time, by idle time, use count and whether superseded."""
        often = min(uses.bit_length(), BUCKETS - 1)
        first = (age_bin(idle) * BUCKETS + often) * HABITS * STAGES
        cells = [
            first + usual * STAGES + k
            for usual in range(HABITS)
            for k in (range(1, STAGES) if superseded else range(1))
        ]
        returned, at_risk = sum(self.returns[j] for j in cells), sum(self.exposure[j] for j in cells)
        return (returned + PRIOR_RETURNS) / (at_risk + PRIOR_EXPOSURE)

    def forecast(self, idle: float, gap: float, superseded_for: float) -> float:
        """The chance of a return, discounted by how far off it is, by idle time, usual idle time and stage."""
        age = age_bin(idle)
        column = habit(gap), stage(superseded_for)
        left = max(2.0 ** (age + LOWEST_BIN) - idle, 0.0) if age < AGES - 1 else math.inf
        return float(ahead(self.rates[age][column], left, self._beyond[age + 1][column], math.exp))

    @cached_property
    def rates(self) -> list[dict[tuple[int, int], float]]:
        """Returns per second by age, then (habit, stage): each drawn towards the rate of coarser situations."""
        found = []
        for age in range(AGES):
            returned = _by_column(self.returns, age)
            at_risk = _by_column(self.exposure, age)
            all_ages = shrunk(sum(returned.values()), sum(at_risk.values()), TYPICAL_RATE / typical_idle(age), TRUST[0])
            of_stage = [
                shrunk(
                    sum(returned[h, k] for h in range(HABITS)),
                    sum(at_risk[h, k] for h in range(HABITS)),
                    all_ages,
                    TRUST[1],
                )
                for k in range(STAGES)
            ]
            found.append({(h, k): shrunk(returned[h, k], at_risk[h, k], of_stage[k], TRUST[2]) for h, k in returned})
        return found

    @cached_property
    def _beyond(self) -> list[dict[tuple[int, int], float]]:
        """What lies ahead at the beginning of each age."""
        beyond = [dict.fromkeys(self.rates[0], 0.0)]
        for age in range(AGES - 1, -1, -1):
            width = width_of(age)
            beyond.append(
                {column: ahead(rate, width, beyond[-1][column], math.exp) for column, rate in self.rates[age].items()}
            )
        return beyond[::-1]


def width_of(age: int) -> float:
    """How long a bin of idle times lasts, seconds."""
    if age == AGES - 1:
        return math.inf
    return 2.0 ** (age + LOWEST_BIN - 1) if age else 2.0**LOWEST_BIN


def ahead(rate: Any, left: Any, beyond: Any, exp: Callable[[Any], Any]) -> Any:
    """The discounted chance of a return at this rate within the seconds left, or beyond them."""
    total = rate + 1 / DISCOUNT
    passes = exp(-total * left)
    return rate / total * (1 - passes) + passes * beyond


def _by_column(values: Sequence[float], age: int) -> dict[tuple[int, int], float]:
    """Sums over use counts, by (habit, stage)."""
    first = age * BUCKETS * HABITS * STAGES
    return {
        (h, k): sum(values[first + (often * HABITS + h) * STAGES + k] for often in range(BUCKETS))
        for h in range(HABITS)
        for k in range(STAGES)
    }


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
        returns: how many idle times of more than `SESSION` seconds ended in a use.
        gap: the moving average of the latest of them, seconds; 0 without any.
        superseded: since when a later image has been used in each of its repositories, UTC seconds; infinite: not.
    """

    uses: int = 0
    returns: int = 0
    gap: float = 0.0
    superseded: float = math.inf


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
        connection.execute(_VISITS, {"session": int(SESSION * 1e9)})
        connection.execute(_GAPS, {"remembered": REMEMBERED_GAPS - 1, "weight": GAP_WEIGHT})
        habits = {
            image: Habits(uses, count, gap or 0.0, math.inf if since is None else since / 1e9)
            for image, uses, count, gap, since in connection.execute(_HABITS).fetchall()
        }
        midnight = int(now // DAY * DAY) * 10**9
        for cell, count, nanoseconds in connection.execute(_SITUATIONS, _SCALES | {"midnight": midnight}).fetchall():
            returns[cell], exposure[cell] = float(count), nanoseconds / 1e9
    return Experience(habits, Learned(tuple(returns), tuple(exposure)))


# Uses as intervals; what began before the log did was there when it began, and what an inventory
# found before any use was last used when the engine stored it, else when it was built.
_ENTRIES = f"""
CREATE TEMP TABLE entry AS
WITH origin AS (
    SELECT epoch_ns(coalesce(min(time) FILTER (kind IN ({sql_list(LIVE)})),
        min(time))) AS origin
    FROM event WHERE host = $host
), used AS (
    SELECT image, epoch_ns(began) AS began, coalesce(epoch_ns(ended), 9e18::BIGINT) AS ended, evidence
    FROM uses WHERE host = $host AND image IS NOT NULL AND epoch_ns(began) <= $now
), found AS (
    SELECT image, epoch_ns(first_observed) AS began,
        coalesce({sql_stored_ns("attributes")}, {sql_built_ns("attributes")}, 0) AS built
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
SELECT *, {sql_case("evidence", {"found": Use.FOUND, **EVIDENCE_USE})} AS kind FROM every
"""
_SUPERSEDED = """
CREATE TEMP TABLE superseded AS
WITH sight AS (
    SELECT image, min(seen) AS first, min(began) FILTER (kind BETWEEN 2 AND 4) AS demanded FROM entry GROUP BY image
), numbered AS (
    SELECT image, demanded, row_number() OVER (ORDER BY first, coalesce(epoch_us(created), 0), image_id) AS number
    FROM sight JOIN image USING (image)
    LEFT JOIN (SELECT image, created FROM images WHERE host = $host) AS i USING (image)
), repository AS (
    SELECT DISTINCT image, repository_of(name) AS repository
    FROM (SELECT DISTINCT image, name FROM image_references WHERE host = $host)
), later AS (
    SELECT image, min(demanded) OVER (
        PARTITION BY repository ORDER BY number ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS since
    FROM numbered JOIN repository USING (image)
)
SELECT image, CASE WHEN bool_and(since IS NOT NULL) THEN max(since) END AS since FROM later GROUP BY image
"""
# What an inventory found has an end before it was seen: nobody observed that idle time.
_VISITS = """
CREATE TEMP TABLE visit AS
WITH ended AS (
    SELECT image, began, kind, max(ended) OVER so_far AS ended, count(*) FILTER (kind IN (2, 4)) OVER so_far AS uses
    FROM entry WINDOW so_far AS (PARTITION BY image ORDER BY began, kind ROWS UNBOUNDED PRECEDING)
), gap AS (
    SELECT *, kind BETWEEN 2 AND 4 AND lag(ended) OVER each >= lag(began) OVER each
            AND began - lag(ended) OVER each > $session AS returned,
        began - lag(ended) OVER each AS gap,
        lead(began) OVER each AS next, lead(kind) OVER each BETWEEN 2 AND 4 AS demanded
    FROM ended WINDOW each AS (PARTITION BY image ORDER BY began, kind)
)
SELECT *, count(*) FILTER (returned) OVER (PARTITION BY image ORDER BY began, kind ROWS UNBOUNDED PRECEDING) AS returns
FROM gap
"""
_GAPS = """
CREATE TEMP TABLE usual AS
WITH latest AS (
    SELECT image, returns, list(gap / 1e9) OVER (
        PARTITION BY image ORDER BY returns ROWS BETWEEN $remembered PRECEDING AND CURRENT ROW) AS gaps
    FROM visit WHERE returned
)
SELECT image, returns, list_reduce(gaps, lambda average, gap: average + $weight * (gap - average)) AS usual FROM latest
"""
_HABITS = """
SELECT image_id, max(uses), max(returns), arg_max(usual, returns), any_value(since)
FROM visit JOIN image USING (image) LEFT JOIN usual USING (image, returns) LEFT JOIN superseded USING (image)
GROUP BY image_id
"""
_SITUATIONS = """
WITH idle AS (
    SELECT image, began, ended, uses, usual, since, demanded, next, least(coalesce(next, $midnight), $midnight) AS last
    FROM visit LEFT JOIN usual USING (image, returns) LEFT JOIN superseded USING (image)
    WHERE ended < least(coalesce(next, $midnight), $midnight)
), piece AS (
    SELECT age, least(CAST(floor(log2(greatest(uses, 0.5))) AS INTEGER) + 1, $buckets - 1) AS often,
        CASE WHEN usual IS NULL THEN 0
            ELSE least(greatest(CAST(floor(log2(usual)) AS INTEGER) + 1 - $lowest_habit, 0), $habits - 2) + 1
            END AS habit,
        stage,
        greatest(began, ended + CASE WHEN age > $lowest THEN power(2, age - 1)::BIGINT * 1000000000 ELSE 0 END,
            CASE WHEN stage > 0 THEN coalesce(since + ($phases)[stage], 9e18::BIGINT) ELSE 0 END) AS start,
        least(last,
            CASE WHEN age < $highest THEN ended + power(2, age)::BIGINT * 1000000000 ELSE $midnight END,
            CASE WHEN stage < len($phases) THEN coalesce(since + ($phases)[stage + 1], $midnight)
                ELSE $midnight END) AS stop,
        next, demanded
    FROM idle, range($lowest, $highest + 1) AS ages(age), range(len($phases) + 1) AS stages(stage)
    WHERE age = $lowest OR ended + power(2, age - 1)::BIGINT * 1000000000 < last
)
SELECT ((age - $lowest) * $buckets + often) * $habits * (len($phases) + 1) + habit * (len($phases) + 1) + stage AS cell,
    count(*) FILTER (demanded AND stop = next), sum(stop - start)
FROM piece WHERE stop > start GROUP BY cell
"""
_SCALES = {
    "lowest": LOWEST_BIN,
    "highest": HIGHEST_BIN,
    "buckets": BUCKETS,
    "lowest_habit": LOWEST_HABIT,
    "habits": HABITS,
    "phases": [int(phase) * 10**9 for phase in PHASES],
}
