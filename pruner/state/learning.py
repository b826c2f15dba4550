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
from typing import Any, NamedTuple

from collector.eventlog import experience
from collector.eventlog.experience import (
    BUCKETS,
    HABITS,
    HIGHEST_BIN,
    LOWEST_BIN,
    LOWEST_HABIT,
    PHASES,
)
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.units import DAY_S
from pruner.state.population import BY_AGE, BY_HABIT, BY_STAGE, BY_USE

AGES = HIGHEST_BIN - LOWEST_BIN + 1
STAGES = len(PHASES) + 1
CELLS = AGES * BUCKETS * HABITS * STAGES
TIMES = 9
"""Uses of an image, and recent ones of a repository, are binned by powers of two, from none to 128 and more."""
CHANCES = (0.011, 0.018, 0.029, 0.047, 0.076, 0.12, 0.18, 0.27, 0.38, 0.5, 0.62, 0.73, 0.82, 0.88, 0.92)
"""Chances of a return are binned by these, which are about evenly far apart in log odds."""

PRIOR_RETURNS = 0.05
PRIOR_EXPOSURE = DAY_S
"""What `Learned.hazard` starts from in each situation."""
DISCOUNT = 2 * DAY_S
"""How far ahead a return counts, seconds: one later by this counts 1/e of one now."""
TRUST = (2.0, 3.0, 3.0)
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


def times_bin(uses: int) -> int:
    """The bin of how often an image was used, or a repository recently (`recent_uses.RECENT_DAYS`)."""
    return min(uses.bit_length(), TIMES - 1)


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

    def beside(self, more: Learned) -> Learned:
        """What both counted together."""
        returns, exposure = (
            tuple(a + b for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in ((self.returns, more.returns), (self.exposure, more.exposure))
        )
        return Learned(returns, exposure)

    def hazard(self, idle: float, uses: int, superseded: bool) -> float:
        """Returns per second of idle time, by idle time, use count and whether superseded."""
        return self._hazards[age_bin(idle), min(uses.bit_length(), BUCKETS - 1), superseded]

    @cached_property
    def _hazards(self) -> dict[tuple[int, int, bool], float]:
        return {
            (age, often, superseded): self._hazard(age, often, superseded=superseded)
            for age in range(AGES)
            for often in range(BUCKETS)
            for superseded in (False, True)
        }

    def _hazard(self, age: int, often: int, *, superseded: bool) -> float:
        first = (age * BUCKETS + often) * HABITS * STAGES
        cells = [
            first + usual * STAGES + k
            for usual in range(HABITS)
            for k in (range(1, STAGES) if superseded else range(1))
        ]
        returned, at_risk = sum(self.returns[j] for j in cells), sum(self.exposure[j] for j in cells)
        return (returned + PRIOR_RETURNS) / (at_risk + PRIOR_EXPOSURE)

    def forecast(self, idle: float, uses: int, gap: float, superseded_for: float, recent: int) -> float:
        """The chance of a return, discounted by how far off it is, by idle time, usual idle time and stage.

        It is as much higher or lower as on other hosts of images with such a chance that are in that stage, were used
        so often, and whose repository was used so often recently.
        """
        age = age_bin(idle)
        column = habit(gap), stage(superseded_for)
        left = max(2.0 ** (age + LOWEST_BIN) - idle, 0.0) if age < AGES - 1 else math.inf
        chance = float(ahead(self.rates[age][column], left, self._beyond[age + 1][column], math.exp))
        relative = BY_USE[sum(chance >= least for least in CHANCES)][column[1]]
        return chance * relative[times_bin(uses)][times_bin(recent)] / 1000

    @cached_property
    def rates(self) -> list[dict[tuple[int, int], float]]:
        """Returns per second by age, then (habit, stage).

        Each is drawn towards the rate of the coarser situation, as much higher or lower as it is on other hosts
        (`pruner.state.population`).
        """
        found = []
        for age in range(AGES):
            returned = _by_column(self.returns, age)
            at_risk = _by_column(self.exposure, age)
            all_ages = shrunk(sum(returned.values()), sum(at_risk.values()), BY_AGE[age] / typical_idle(age), TRUST[0])
            of_stage = [
                shrunk(
                    sum(returned[h, k] for h in range(HABITS)),
                    sum(at_risk[h, k] for h in range(HABITS)),
                    all_ages * BY_STAGE[age][k],
                    TRUST[1],
                )
                for k in range(STAGES)
            ]
            found.append(
                {
                    (h, k): shrunk(returned[h, k], at_risk[h, k], of_stage[k] * BY_HABIT[age][h][k], TRUST[2])
                    for h, k in returned
                }
            )
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


class Habits(NamedTuple):
    """How one image has been used.

    Attributes:
        uses: containers and jobs that used it since the log began.
        returns: how many idle times of more than `SESSION` seconds ended in a use.
        gap: the moving average of the latest of them, seconds; 0 without any.
        superseded: since when a later image has been used in each of its repositories, UTC seconds; infinite: not.
        recent: containers and jobs that used its repository recently (`recent_uses.RECENT_DAYS`); of several the most.
    """

    uses: int = 0
    returns: int = 0
    gap: float = 0.0
    superseded: float = math.inf
    recent: int = 0


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
    with log.reading(whole_since=ONLY_KEPT) as connection:
        habits, situations = experience.read(connection, log.host, int(now * 1e9))
    returns, exposure = [0.0] * CELLS, [0.0] * CELLS
    for cell, count, nanoseconds in situations:
        returns[cell], exposure[cell] = float(count), nanoseconds / 1e9
    known = {
        image: Habits(uses, count, gap or 0.0, math.inf if since is None else since / 1e9, recent)
        for image, uses, count, gap, since, recent in habits
    }
    return Experience(known, Learned(tuple(returns), tuple(exposure)))
