"""What a trace's host knew of its images at any moment: the same for every policy, computed once.

This is `pruner.learning` over arrays. A host's knowledge is a function of the demand alone, not of
what a policy removed: only what is present, when it was pulled and which layers it shares are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.trace import Flags, Floats, Integers, Trace, Use
from pruner import learning
from pruner.learning import AGES, BUCKETS, CELLS, DAY, HABITS, HIGHEST_BIN, LOWEST_BIN, PHASES, STAGES
from pruner.policy import repository

_NEVER = np.inf
# Up to so many images all of them are forecast at once and kept, at most 64 MiB in all.
_MANY_IMAGES = 2048
_KEPT_FORECASTS = 4096


class Knowledge:
    """What the host of a trace had witnessed and learned by any moment.

    Args:
        trace: the history. Of one that was cut with `Trace.between`, all before the cut is known too.

    Attributes:
        owner: the image of each use, uses sorted by image, then time; shape (u,), as all that follow.
        time: when each began.
        demand: whether it needs its image to be there.
        end: the latest end of the image's uses so far.
        uses: how many containers and jobs of the image there were so far.
        begins: uses of image i are at ``begins[i]:begins[i + 1]``; shape (n + 1,).
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.count = len(trace.time)
        self.n = trace.images
        self._order = np.argsort(trace.image, kind="stable")
        self.owner = trace.image[self._order]
        self._key = self.owner * (self.count + 1) + self._order
        self.begins = np.searchsorted(self.owner, np.arange(self.n + 1))
        self.time = trace.time[self._order]
        kind = trace.kind[self._order]
        self.demand = (kind >= Use.CONTAINER) & (kind <= Use.JOB)
        self.end = self._running_end()
        counted = (kind == Use.CONTAINER) | (kind == Use.JOB)
        self.uses = self._running_count(counted)
        self._idle = self._idle_times()
        self._forecasts: dict[float, Floats] = {}

    def facts(self, now: float, present: Integers, pulled: Floats, holders: Integers) -> TraceFacts:
        """The facts of the images that are there.

        Args:
            now: the moment; what is used at this very moment counts as witnessed.
            present: the images that are there; shape (k,).
            pulled: when each was pulled, of all images; shape (n,).
            holders: how many images that are there hold each layer; shape (m,).
        """
        return TraceFacts(self, now, present, pulled, holders)

    def forecasts(self, now: float) -> Floats:
        """The forecasts for all images, kept: policies that are tried one after the other prune at the same ticks."""
        found = self._forecasts.get(now)
        if found is None:
            if len(self._forecasts) >= _KEPT_FORECASTS:
                self._forecasts.clear()
            used = np.flatnonzero(self.begins[:-1] < self.begins[1:])
            found = np.zeros(self.n)
            found[used] = TraceFacts(self, now, used, np.zeros(0), used)._forecast()  # noqa: SLF001 - a part of it
            self._forecasts[now] = found
        return found

    def latest(self, now: float, images: Integers) -> Integers:
        """Where the latest use of each image up to `now` stands; the image's first one if it had none yet."""
        witnessed = int(np.searchsorted(self.trace.time, now, side="right"))
        found = np.searchsorted(self._key, images * (self.count + 1) + witnessed) - 1
        return np.maximum(found, self.begins[images])

    @cached_property
    def first_seen(self) -> Floats:
        """When each image was first witnessed; shape (n,)."""
        seen = np.full(self.n, _NEVER)
        used = self.begins[:-1] < self.begins[1:]
        seen[used] = self.time[self.begins[:-1][used]]
        return seen

    @cached_property
    def superseded_since(self) -> Floats:
        """Since when each image has been superseded: in all its repositories; shape (n,)."""
        first_demand = np.full(self.n, _NEVER)
        np.minimum.at(first_demand, self.owner[self.demand], self.time[self.demand])
        return superseded_since([names or () for names in self.trace.names], first_demand)

    @cached_property
    def averages(self) -> tuple[Integers, Floats]:
        """Per use, so far: returns of the image, and the moving average of its idle times."""
        returned = self._idle > learning.SESSION
        count = self._running_count(returned)
        gaps = self._idle[returned]
        if not len(gaps):
            return count, np.zeros(self.count)
        owner = self.owner[returned]
        begin = np.searchsorted(owner, owner)
        here = np.arange(len(gaps))
        oldest = np.maximum(begin, here - learning.REMEMBERED_GAPS + 1)
        average = gaps[oldest]
        for back in range(learning.REMEMBERED_GAPS - 2, -1, -1):
            which = here - back
            later = which > oldest
            average[later] += learning.GAP_WEIGHT * (gaps[which[later]] - average[later])
        position = np.cumsum(returned) - 1
        return count, np.where(count > 0, average[np.maximum(position, 0)], 0.0)

    @cached_property
    def _days(self) -> int:
        return self.day(self.trace.end) + 1

    def day(self, now: float) -> int:
        """How many midnights (UTC) have passed since the one before the trace's origin."""
        return int((now + self.trace.origin_ns / 1e9) // DAY) - int(self.trace.origin_ns // int(DAY * 1e9))

    @cached_property
    def learned(self) -> tuple[Floats, Floats]:
        """Returns and exposure up to each midnight; shape (days, CELLS) each."""
        begin, end, cell, returned = self._pieces()
        midnight: Floats = np.arange(self._days, dtype=np.float64) * DAY - (self.trace.origin_ns / 1e9) % DAY
        # A piece counts as returned at its end, and its exposure grows from its beginning to its end.
        returns = _up_to(midnight, end[returned], cell[returned], np.ones(np.count_nonzero(returned)))
        exposure: Floats = (
            midnight[:, None] * (_up_to(midnight, begin, cell, np.ones(len(begin))))
            - _up_to(midnight, begin, cell, begin)
            - midnight[:, None] * _up_to(midnight, end, cell, np.ones(len(end)))
            + _up_to(midnight, end, cell, end)
        )
        return returns, np.maximum(exposure, 0.0)

    @cached_property
    def _tables(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns and exposure on each day; shape (days, AGES, BUCKETS, HABITS, STAGES)."""
        returns, exposure = self.learned
        shape = (-1, AGES, BUCKETS, HABITS, STAGES)
        return returns.reshape(shape), exposure.reshape(shape)

    @cached_property
    def hazards(self) -> NDArray[Any]:
        """`Learned.hazard` on each day; shape (days, AGES, BUCKETS, 2)."""
        returns, exposure = (
            np.stack((table[..., 0], table[..., 1:].sum(axis=-1)), axis=-1)
            for table in (table.sum(axis=3) for table in self._tables)
        )
        rates: NDArray[Any] = (returns + learning.PRIOR_RETURNS) / (exposure + learning.PRIOR_EXPOSURE)
        return rates

    @cached_property
    def rates(self) -> NDArray[Any]:
        """`Learned.rates` on each day; shape (days, AGES, HABITS, STAGES)."""
        returns, exposure = (table.sum(axis=2) for table in self._tables)
        typical = np.array([learning.typical_idle(age) for age in range(AGES)])
        by_stage = returns.sum(axis=2), exposure.sum(axis=2)
        of_age: Any = _shrunk(by_stage[0].sum(axis=-1), by_stage[1].sum(axis=-1), learning.TYPICAL_RATE / typical, 0)
        of_stage: Any = _shrunk(*by_stage, of_age[..., None], 1)
        rates: NDArray[Any] = _shrunk(returns, exposure, of_stage[..., None, :], 2)
        return rates

    @cached_property
    def beyond(self) -> NDArray[Any]:
        """What lies ahead at the beginning of each age, on each day; shape (days, AGES + 1, HABITS, STAGES)."""
        beyond = np.zeros((len(self.rates), AGES + 1, HABITS, STAGES))
        for age in range(AGES - 1, -1, -1):
            width = learning.width_of(age)
            beyond[:, age] = learning.ahead(self.rates[:, age], width, beyond[:, age + 1], np.exp)
        return beyond

    def _pieces(self) -> tuple[Floats, Floats, Integers, Flags]:
        """All idle times, cut where the situation changes: begin, end, situation, whether it ended in a use."""
        stop, returned = self._stops()
        kept = stop > self.end
        begin, stop, returned, seen = self.end[kept], stop[kept], returned[kept], self.time[kept]
        rest = np.minimum(_bits(self.uses[kept]), BUCKETS - 1) * HABITS + habits(self.averages[1][kept])
        flips = self.superseded_since[self.owner[kept]]
        pieces = []
        for age in range(AGES):
            low = np.maximum(seen, begin + (2.0 ** (age + LOWEST_BIN - 1) if age else 0.0))
            high = np.minimum(stop, begin + 2.0 ** (age + LOWEST_BIN)) if age < AGES - 1 else stop
            last = returned & (high == stop)
            for stage in range(STAGES):
                a = np.maximum(low, flips + PHASES[stage - 1]) if stage else low
                b = np.minimum(high, flips + PHASES[stage]) if stage < STAGES - 1 else high
                some = b > a
                cell = (age * BUCKETS * HABITS + rest) * STAGES + stage
                pieces.append((a[some], b[some], cell[some], (last & (b == stop))[some]))
        a, b, cell, last = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return a, b, cell, last

    def _stops(self) -> tuple[Floats, Flags]:
        """When the idle time after each use is over: at the image's next use, or not by the trace's end."""
        stop = np.append(self.time[1:], _NEVER)
        following = np.append(self.owner[1:] == self.owner[:-1], [False])
        stop[~following] = self.trace.end
        return np.minimum(stop, self.trace.end), following & np.append(self.demand[1:], [False])

    def _running_end(self) -> Floats:
        """Per use the latest end of the image's uses so far."""
        until = self.trace.until[self._order]
        rank = np.empty(self.count, dtype=np.int64)
        by_until = np.argsort(until, kind="stable")
        rank[by_until] = np.arange(self.count)
        highest = np.maximum.accumulate(self.owner * self.count + rank) - self.owner * self.count
        ends: Floats = until[by_until][highest]
        return ends

    def _running_count(self, counted: Flags) -> Integers:
        """Per use how many so far of the image's were counted."""
        total = np.concatenate(([0], np.cumsum(counted)))
        counts: Integers = total[1:] - total[self.begins[self.owner]]
        return counts

    def _idle_times(self) -> Floats:
        """Per demand for how long the image had been idle before; 0 if it was its first use or not idle.

        What an inventory found has an end before it was seen: nobody witnessed that idle time.
        """
        idle = np.zeros(self.count)
        witnessed = (self.owner[1:] == self.owner[:-1]) & (self.end[:-1] >= self.time[:-1])
        idle[1:][witnessed] = (self.time[1:] - self.end[:-1])[witnessed]
        idle[~self.demand] = 0.0
        return np.maximum(idle, 0.0)


@dataclass
class TraceFacts:
    """Facts of the present images, each computed when an order looks at it; see `pruner.orders.Facts`."""

    knowledge: Knowledge
    now: float
    present: Integers
    all_pulled: Floats
    holders: Integers

    @cached_property
    def _at(self) -> Integers:
        return self.knowledge.latest(self.now, self.present)

    @cached_property
    def last_use(self) -> Floats:  # noqa: D102 - see pruner.orders.Facts, here and below
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
        often = np.minimum(_bits(self.uses), BUCKETS - 1)
        hazards: Floats = self.knowledge.hazards[self._day, self._age, often, self.superseded]
        return hazards

    @cached_property
    def forecast(self) -> Floats:  # noqa: D102
        if self.knowledge.n > _MANY_IMAGES:
            return self._forecast()
        return self.knowledge.forecasts(self.now)[self.present]

    def _forecast(self) -> Floats:
        idle, knowledge, day, age = self.now - self.last_use, self.knowledge, self._day, self._age
        column = habits(self.gap), self._stage
        left = np.where(age < AGES - 1, np.maximum(np.exp2(age + LOWEST_BIN) - idle, 0.0), np.inf)
        beyond = knowledge.beyond[day, age + 1, *column]
        found: Floats = learning.ahead(knowledge.rates[day, age, *column], left, beyond, np.exp)
        return found

    @property
    def _day(self) -> int:
        return self.knowledge.day(self.now)

    @cached_property
    def _age(self) -> Integers:
        ages: Integers = np.clip(_bits(self.now - self.last_use), LOWEST_BIN, HIGHEST_BIN) - LOWEST_BIN
        return ages

    @cached_property
    def _stage(self) -> Integers:
        return np.searchsorted(PHASES, self.now - self.knowledge.superseded_since[self.present], side="right")


def habits(gap: Floats) -> Integers:
    """As `pruner.learning.habit`."""
    bins = np.clip(_bits(gap) - learning.LOWEST_HABIT, 0, HABITS - 2) + 1
    return np.where(gap > 0, bins, 0)


def _shrunk(returns: NDArray[Any], exposure: NDArray[Any], expected: Any, level: int) -> NDArray[Any]:
    """As `pruner.learning.shrunk`."""
    trust = learning.TRUST[level]
    rates: NDArray[Any] = (returns + trust) / (exposure + trust / expected)
    return rates


def superseded_since(names: list[tuple[str, ...]], first_demand: Floats) -> Floats:
    """Since when each image has been superseded: a later one was used, in each of its repositories.

    Args:
        names: every name of each image, images in the order of first sight; length n.
        first_demand: when each was first used; shape (n,).
    """
    newest: dict[str, float] = {}
    since = np.full(len(names), _NEVER)
    for i in range(len(names) - 1, -1, -1):
        repositories = {repository(name) for name in names[i]}
        if repositories:
            since[i] = max(newest.get(name, _NEVER) for name in repositories)
        for name in repositories:
            newest[name] = min(newest.get(name, _NEVER), float(first_demand[i]))
    return since


def knowledge_of(trace: Trace) -> Knowledge:
    """The knowledge of a trace's host; computed once for policies that are tried one after the other."""
    global _latest  # noqa: PLW0603 - a cache of one
    if _latest is None or _latest.trace is not trace:
        _latest = Knowledge(trace)
    return _latest


_latest: Knowledge | None = None


def _bits(value: NDArray[Any]) -> Integers:
    """The number of binary digits of the integer part, as `frexp`'s exponent (also below 1)."""
    exponents: Integers = np.frexp(value.astype(np.float64))[1].astype(np.int64)
    return exponents


def _up_to(midnight: Floats, time: Floats, cell: Integers, weight: Floats) -> Floats:
    """Sums of weights by situation, of what was before each midnight; shape (days, CELLS)."""
    day = np.searchsorted(midnight, time, side="left")
    sums = np.bincount(day * CELLS + cell, weights=weight, minlength=len(midnight) * CELLS)
    table: Floats = sums[: len(midnight) * CELLS].reshape(-1, CELLS).astype(np.float64, copy=False)
    for later in range(1, len(table)):  # the sums of `cumsum`, which goes down each column by itself and is slow
        table[later] += table[later - 1]
    return table
