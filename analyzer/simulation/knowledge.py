"""What a trace's host knew about its images at any moment: the same for every policy, computed once.

This is `pruner.state.learning` over arrays. A host's knowledge is a function of the demand alone, not of
what a policy removed: only what is present, when it was pulled and which layers it shares are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.kernel import index as kernel
from analyzer.kernel.moments import Forecasting, Learning
from analyzer.kernel.recent import RecentUses
from analyzer.simulation.facts import PastFacts, TraceFacts, bits, exp, habits, superseded_since
from analyzer.simulation.learned import Counted, Tables, of_fleet, rates_of, up_to
from analyzer.trace.trace import Flags, Floats, Integers, Trace
from collector.eventlog import experience
from collector.eventlog.experience import BUCKETS, HABITS, LOWEST_BIN, PHASES
from collector.model.references import repository
from collector.model.traits import Use
from pruner.policy import headroom
from pruner.policy.orders import ORDERS
from pruner.state import learning
from pruner.state.learning import AGES, CELLS, STAGES

_NEVER = np.inf
_DAY_MS = 86_400_000


class Knowledge:
    """What the host of a trace had observed and learned by any moment.

    What is learned is counted in whole milliseconds, so that no sum depends on its order.

    Args:
        trace: the history. Of one that was cut with `Trace.between`, all before the cut is known too.
        rates: the file of a fleet's rates that a policy names, which counts in addition; empty: none.

    Attributes:
        trace: the history.
        rates_file: that file.
        count: the number of uses (u).
        n: the number of images.
    """

    def __init__(self, trace: Trace, rates: str = "") -> None:
        self.trace = trace
        self.rates_file = rates
        self.count = len(trace.time)
        self.n = trace.images
        self._offset_ms = trace.origin_ns // 10**6 % _DAY_MS
        # For the latest day only: moments follow each other.
        self._hazards: dict[int, NDArray[Any]] = {}
        self._rates: dict[int, tuple[Floats, Floats]] = {}
        self._fleet = of_fleet(rates) if rates else None

    @cached_property
    def _order(self) -> Integers:
        return np.argsort(self.trace.image, kind="stable")

    @cached_property
    def owner(self) -> Integers:
        """The image of each use, uses sorted by image, then time; shape (u,), as all that follow."""
        return self.trace.image[self._order].astype(np.int64)

    @cached_property
    def time(self) -> Floats:
        """When each began."""
        return self.trace.time[self._order]

    @cached_property
    def demand(self) -> Flags:
        """Whether it needs its image to be there."""
        return self.trace.demanded[self._order]

    @cached_property
    def end(self) -> Floats:
        """The latest end of the image's uses so far."""
        until = self.trace.until[self._order]
        rank = np.empty(self.count, dtype=np.int64)
        by_until = np.argsort(until, kind="stable")
        rank[by_until] = np.arange(self.count)
        highest = np.maximum.accumulate(self.owner * self.count + rank) - self.owner * self.count
        ends: Floats = until[by_until][highest]
        return ends

    @cached_property
    def uses(self) -> Integers:
        """How many containers and jobs of the image there were so far."""
        kind = self.trace.kind[self._order]
        return self._running_count((kind == Use.CONTAINER) | (kind == Use.JOB))

    @cached_property
    def begins(self) -> Integers:
        """Uses of image i are at ``begins[i]:begins[i + 1]``; shape (n + 1,)."""
        return np.searchsorted(self.owner, np.arange(self.n + 1))

    @cached_property
    def _key(self) -> Integers:
        return self.owner * (self.count + 1) + self._order

    def facts(self, now: float, present: Integers, pulled: Floats, holders: Integers) -> TraceFacts:
        """The facts of the images that are there.

        Args:
            now: the moment; what is used at this very moment counts as observed.
            present: the images that are there; shape (k,).
            pulled: when each was pulled, of all images; shape (n,).
            holders: how many images that are there hold each layer; shape (m,).
        """
        return TraceFacts(self, now, present, pulled, holders)

    def keys(self, order: str, now: float, images: Integers) -> NDArray[Any]:
        """Keys by an order that looks at none of what a policy did; of images that are used by then."""
        keys: NDArray[Any] = ORDERS[order](PastFacts(self, now, images))
        return keys

    def latest(self, now: float, images: Integers) -> Integers:
        """The index of each image's latest use up to `now`; of its first one if it had none yet."""
        observed = int(np.searchsorted(self.trace.time, now, side="right"))
        found = np.searchsorted(self._key, images * (self.count + 1) + observed) - 1
        return np.maximum(found, self.begins[images])

    @cached_property
    def next_demands(self) -> Floats:
        """For each use, when its image is demanded next: what no host can know."""
        where = np.flatnonzero(self.demand)
        found = np.searchsorted(where, np.arange(self.count))
        times = np.full(self.count, math.inf)
        some = found < len(where)
        at = where[found[some]]
        same = self.owner[at] == self.owner[some]
        times[np.flatnonzero(some)[same]] = self.time[at[same]]
        return times

    @cached_property
    def first_seen(self) -> Floats:
        """When each image was first observed; shape (n,)."""
        seen = np.full(self.n, _NEVER)
        used = self.begins[:-1] < self.begins[1:]
        seen[used] = self.time[self.begins[:-1][used]]
        return seen

    @cached_property
    def superseded_since(self) -> Floats:
        """Since when each image has been superseded: in all its repositories; shape (n,)."""
        return superseded_since(self.repositories, self._first_demands())

    @cached_property
    def repositories(self) -> list[frozenset[str]]:
        """The repositories of each image; length n."""
        return [frozenset(map(repository, names or ())) for names in self.trace.names]

    @cached_property
    def bearing(self) -> Sequence[Sequence[tuple[str, float, float]]]:
        """See `Trace.bearing`, written out; length n."""
        return self.trace.bearing or [[(name, -math.inf, math.inf) for name in names] for names in self.repositories]

    @cached_property
    def sight(self) -> Integers:
        """See `Trace.sight`, written out; shape (n,)."""
        return self.trace.sight if len(self.trace.sight) else np.arange(self.n)

    @cached_property
    def working_sets(self) -> Floats:
        """Bytes of images that most days use, as known from each midnight (UTC) on; shape (k, 2) of (time, bytes).

        Minus infinity while too little is known, as at first.
        """
        trace = self.trace
        demand = trace.demanded & (trace.time <= trace.end)
        day = np.floor((trace.time[demand] * 1000.0 + self._offset_ms) / _DAY_MS).astype(np.int64)
        used = np.unique(day * self.n + trace.image[demand])
        daily: dict[int, int] = {}
        for number in np.unique(used // self.n).tolist():
            images = used[used // self.n == number] % self.n
            layers = np.concatenate([trace.layer[trace.first[i] : trace.first[i + 1]] for i in images.tolist()])
            daily[number] = int(trace.layer_bytes[np.unique(layers)].sum())
        steps = [(-math.inf, -math.inf)]
        for today in range(min(daily, default=0) + 1, self._days + 1):
            past = [daily[number] for number in range(today - headroom.WORKING_DAYS, today) if number in daily]
            usual = headroom.usual_bytes(past)
            steps.append(((today * _DAY_MS - self._offset_ms) / 1000.0, -math.inf if usual is None else float(usual)))
        return np.array(steps)

    def _first_demands(self) -> Floats:
        """When each image was first needed; shape (n,)."""
        if kernel.available(self.trace):
            return kernel.first_demands(self.trace)
        first = np.full(self.n, _NEVER)
        demand = self.trace.demanded
        np.minimum.at(first, self.trace.image[demand], self.trace.time[demand])
        return first

    @cached_property
    def averages(self) -> tuple[Integers, Floats]:
        """Per use, so far: returns of the image, and the moving average of its idle times."""
        idle = self._idle_times()
        returned = idle > experience.SESSION
        count = self._running_count(returned)
        gaps = idle[returned]
        if not len(gaps):
            return count, np.zeros(self.count)
        owner = self.owner[returned]
        begin = np.searchsorted(owner, owner)
        here = np.arange(len(gaps))
        oldest = np.maximum(begin, here - experience.REMEMBERED_GAPS + 1)
        average = gaps[oldest]
        for back in range(experience.REMEMBERED_GAPS - 2, -1, -1):
            which = here - back
            later = which > oldest
            average[later] += experience.GAP_WEIGHT * (gaps[which[later]] - average[later])
        position = np.cumsum(returned) - 1
        return count, np.where(count > 0, average[np.maximum(position, 0)], 0.0)

    @cached_property
    def _days(self) -> int:
        return self.day(self.trace.end) + 1

    def day(self, now: float) -> int:
        """The number of midnights (UTC) since the one before the trace's origin."""
        return int((round(now * 1000.0) + self._offset_ms) // _DAY_MS)

    @cached_property
    def learned(self) -> tuple[Floats, Floats]:
        """Returns and exposure in seconds up to each midnight, as `Learned` has them; shape (days, CELLS) each."""
        returns, exposure = self._counted(CELLS, lambda cell: cell)
        return returns.astype(np.float64), exposure / 1000.0

    def _counted(self, width: int, situation: Callable[[Integers], Integers]) -> tuple[Integers, Integers]:
        """Returns, and exposure in milliseconds, up to each midnight; shape (days, width) each."""
        begin, end, cell, returned = self._pieces()
        a, b = (np.rint(time * 1000.0).astype(np.int64) for time in (begin, end))
        number = situation(cell)
        midnight = np.arange(self._days) * _DAY_MS - self._offset_ms
        one = np.ones_like(number)
        # A piece counts as returned at its end, and its exposure grows from its beginning to its end.
        returns = up_to(midnight, b[returned], number[returned], one[returned], width)
        exposure = (
            midnight[:, None] * up_to(midnight, a, number, one, width)
            - up_to(midnight, a, number, a, width)
            - midnight[:, None] * up_to(midnight, b, number, one, width)
            + up_to(midnight, b, number, b, width)
        )
        return returns, exposure

    @cached_property
    def by_habit(self) -> Tables:
        """What was learned by age, habit and stage."""
        if kernel.available(self.trace):
            return self._learning(by_habit=True)
        inner = HABITS * STAGES
        return Counted(*self._counted(AGES * inner, lambda cell: cell // inner // BUCKETS * inner + cell % inner))

    @cached_property
    def _by_count(self) -> Tables:
        """What was learned by age, use count, and whether superseded."""
        if kernel.available(self.trace):
            return self._learning(by_habit=False)
        return Counted(
            *self._counted(
                AGES * BUCKETS * 2, lambda cell: cell // (HABITS * STAGES) * 2 + (cell % STAGES > 0).astype(np.int64)
            )
        )

    def _learning(self, *, by_habit: bool) -> Learning:
        index = kernel.index_of(self.trace)
        return Learning(
            index.trace, index.following, self.superseded_since, self._days, self._offset_ms, by_habit=by_habit
        )

    def hazards(self, day: int) -> NDArray[Any]:
        """`Learned.hazard` on a day; shape (AGES, BUCKETS, 2)."""
        found = self._hazards.get(day)
        if found is None:
            returns, exposure = (table.reshape(AGES, BUCKETS, 2) for table in self._by_count.day(day))
            if self._fleet is not None:
                more = [table.sum(axis=2) for table in self._fleet]
                more = [np.stack((table[..., 0], table[..., 1:].sum(axis=-1)), axis=-1) for table in more]
                returns, exposure = returns + more[0], exposure + more[1] * 1000.0
            found = (returns + learning.PRIOR_RETURNS) / (exposure / 1000.0 + learning.PRIOR_EXPOSURE)
            self._hazards = {day: found}
        return found

    def rates(self, day: int) -> tuple[Floats, Floats]:
        """`Learned.rates` on a day, and what lies beyond each age.

        Shapes (AGES, HABITS, STAGES) and (AGES + 1, HABITS, STAGES).
        """
        found = self._rates.get(day)
        if found is None:
            returns, exposure = (table.reshape(AGES, HABITS, STAGES) for table in self.by_habit.day(day))
            if self._fleet is not None:
                returns = returns + self._fleet[0].sum(axis=1)
                exposure = exposure + self._fleet[1].sum(axis=1) * 1000.0
            rates = rates_of(returns, exposure)
            beyond = np.zeros((AGES + 1, HABITS, STAGES))
            for age in range(AGES - 1, -1, -1):
                beyond[age] = learning.ahead(rates[age], learning.width_of(age), beyond[age + 1], exp)
            found = rates, beyond
            self._rates = {day: found}
        return found

    @cached_property
    def forecasting(self) -> Forecasting:
        """The arrays from which the compiled replay makes forecasts; only where it is available."""
        return Forecasting(self._learning(by_habit=True), self.superseded_since, self._offset_ms, self.recent)

    @cached_property
    def recent(self) -> RecentUses:
        """How often each repository was used recently."""
        compiled = kernel.available(self.trace)
        return RecentUses(self.trace, self.repositories, self._offset_ms, self._days, compiled=compiled)

    def _pieces(self) -> tuple[Floats, Floats, Integers, Flags]:
        """All idle times, cut where the situation changes: begin, end, situation, whether it ended in a use."""
        stop, returned = self._stops()
        kept = stop > self.end
        begin, stop, returned, seen = self.end[kept], stop[kept], returned[kept], self.time[kept]
        rest = np.minimum(bits(self.uses[kept]), BUCKETS - 1) * HABITS + habits(self.averages[1][kept])
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
        """When the idle time after each use ends: at the image's next use, or not before the trace ends."""
        stop = np.append(self.time[1:], _NEVER)
        following = np.append(self.owner[1:] == self.owner[:-1], [False])
        stop[~following] = self.trace.end
        return np.minimum(stop, self.trace.end), following & np.append(self.demand[1:], [False])

    def _running_count(self, counted: Flags) -> Integers:
        """For each use, how many of the image's uses were counted so far."""
        total = np.concatenate(([0], np.cumsum(counted)))
        counts: Integers = total[1:] - total[self.begins[self.owner]]
        return counts

    def _idle_times(self) -> Floats:
        """For each demand, how long the image had been idle before; 0 at its first use or if it was not idle.

        An image that an inventory found was last used before it was seen: that idle time was not observed.
        """
        idle = np.zeros(self.count)
        observed = (self.owner[1:] == self.owner[:-1]) & (self.end[:-1] >= self.time[:-1])
        idle[1:][observed] = (self.time[1:] - self.end[:-1])[observed]
        idle[~self.demand] = 0.0
        return np.maximum(idle, 0.0)


def knowledge_of(trace: Trace, rates: str = "") -> Knowledge:
    """The knowledge of a trace's host; computed once for all policies that are tried on it.

    Args:
        trace: the history.
        rates: as of `Knowledge`.
    """
    with _lock:
        for known in _latest:
            if known.trace is trace and known.rates_file == rates:
                return known
        made = Knowledge(trace, rates)
        _latest.insert(0, made)
        del _latest[_KEPT:]
        return made


# Several hosts may be replayed at once, by threads.
_latest: list[Knowledge] = []
_lock = Lock()
_KEPT = 2
