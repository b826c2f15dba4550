"""The facts by which orders rank a trace's images at a moment, over arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyzer.trace.trace import Floats, Integers
from collector.eventlog import experience
from collector.eventlog.experience import BUCKETS, HABITS, HIGHEST_BIN, LOWEST_BIN, PHASES
from pruner.state import learning
from pruner.state.learning import AGES
from pruner.state.population import BY_USE

if TYPE_CHECKING:
    from analyzer.simulation.knowledge import Knowledge

_NEVER = np.inf
_BY_USE = np.array(BY_USE)


@dataclass
class TraceFacts:
    """Facts about present images, each computed when an order asks for it; see `pruner.policy.orders.Facts`."""

    knowledge: Knowledge
    now: float
    present: Integers
    all_pulled: Floats
    holders: Integers

    @cached_property
    def _at(self) -> Integers:
        return self.knowledge.latest(self.now, self.present)

    @cached_property
    def last_use(self) -> Floats:  # noqa: D102 - see pruner.policy.orders.Facts, here and below
        return np.minimum(self.knowledge.end[self._at], self.now)

    @cached_property
    def pulled(self) -> Floats:  # noqa: D102
        return self.all_pulled[self.present]

    @cached_property
    def created(self) -> Floats:  # noqa: D102
        return self.knowledge.trace.created[self.present]

    @cached_property
    def first_seen(self) -> Floats:  # noqa: D102
        return self.knowledge.first_seen[self.present]

    @cached_property
    def uses(self) -> Integers:  # noqa: D102
        return self.knowledge.uses[self._at]

    @cached_property
    def returns(self) -> Integers:  # noqa: D102
        return self.knowledge.averages[0][self._at]

    @cached_property
    def gap(self) -> Floats:  # noqa: D102
        return self.knowledge.averages[1][self._at]

    @cached_property
    def bytes(self) -> Integers:  # noqa: D102
        return self.knowledge.trace.image_bytes[self.present]

    @cached_property
    def own_bytes(self) -> Integers:  # noqa: D102
        trace = self.knowledge.trace
        alone = trace.layer_bytes * (self.holders == 1)
        sums = np.concatenate(([0], np.cumsum(alone[trace.layer])))
        return sums[trace.first[self.present + 1]] - sums[trace.first[self.present]]

    @cached_property
    def superseded(self) -> NDArray[Any]:  # noqa: D102
        return (self.knowledge.superseded_since[self.present] <= self.now).astype(np.int64)

    @cached_property
    def hazard(self) -> Floats:  # noqa: D102
        often = np.minimum(bits(self.uses), BUCKETS - 1)
        hazards: Floats = self.knowledge.hazards(self._day)[self._age, often, self.superseded]
        return hazards

    @cached_property
    def forecast(self) -> Floats:  # noqa: D102
        found: Floats = self.chance * _BY_USE[self.usage(self.chance)] / 1000
        return found

    @cached_property
    def chance(self) -> Floats:
        """The forecast before it is corrected by `BY_USE`."""
        idle, age = self.now - self.last_use, self._age
        column = habits(self.gap), self._stage
        left = np.where(age < AGES - 1, np.maximum(np.exp2(age + LOWEST_BIN) - idle, 0.0), np.inf)
        rates, beyond = self.knowledge.rates(self._day)
        chance: Floats = learning.ahead(rates[age, *column], left, beyond[age + 1, *column], exp)
        return chance

    def usage(self, chance: Floats) -> tuple[Integers, ...]:
        """Where images stand in `BY_USE`: chance, stage, use count, recent uses of the repository."""
        recent = self.knowledge.recent.of_images(self.present, self._day)
        often = times_bins(self.uses)
        return np.searchsorted(learning.CHANCES, chance, side="right"), self._stage, often, recent

    @property
    def _day(self) -> int:
        return self.knowledge.day(self.now)

    @cached_property
    def _age(self) -> Integers:
        ages: Integers = np.clip(bits(self.now - self.last_use), LOWEST_BIN, HIGHEST_BIN) - LOWEST_BIN
        return ages

    @cached_property
    def _stage(self) -> Integers:
        return np.searchsorted(PHASES, self.now - self.knowledge.superseded_since[self.present], side="right")


class PastFacts(TraceFacts):
    """Facts about images that do not depend on what a policy did to them."""

    def __init__(self, knowledge: Knowledge, now: float, present: Integers) -> None:
        super().__init__(knowledge, now, present, np.empty(0), np.empty(0, dtype=np.int64))


def habits(gap: Floats) -> Integers:
    """As `pruner.state.learning.habit`."""
    bins = np.clip(bits(gap) - experience.LOWEST_HABIT, 0, HABITS - 2) + 1
    return np.where(gap > 0, bins, 0)


def times_bins(uses: Integers) -> Integers:
    """As `pruner.state.learning.times_bin`."""
    return np.minimum(bits(uses), learning.TIMES - 1)


def superseded_since(repositories: list[frozenset[str]], first_demand: Floats) -> Floats:
    """Since when each image has been superseded: a later one was used, in each of its repositories.

    Args:
        repositories: those of each image, images in the order of first sight; length n.
        first_demand: when each was first used; shape (n,).
    """
    newest: dict[str, float] = {}
    since = np.full(len(repositories), _NEVER)
    for i in range(len(repositories) - 1, -1, -1):
        if repositories[i]:
            since[i] = max(newest.get(name, _NEVER) for name in repositories[i])
        for name in repositories[i]:
            newest[name] = min(newest.get(name, _NEVER), float(first_demand[i]))
    return since


def bits(value: NDArray[Any]) -> Integers:
    """The number of binary digits of the integer part, as `frexp`'s exponent (also below 1)."""
    exponents: Integers = np.frexp(value.astype(np.float64))[1].astype(np.int64)
    return exponents


# The exponential of the C library, as the compiled replay has it: numpy's own differs in the last bit.
exp = np.vectorize(math.exp, otypes=[np.float64])
