"""What a trace's host knew about its images at any moment: the same for every policy, computed once.

This is `pruner.state.learning` over arrays. A host's knowledge is a function of the demand alone, not of
what a policy removed: only what is present, when it was pulled and which layers it shares are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analyzer.kernel import index as kernel
from analyzer.kernel.moments import Forecasting, Learning
from analyzer.kernel.recent import RecentUses
from analyzer.trace.trace import Flags, Floats, Integers, Trace
from collector.eventlog import experience
from collector.eventlog.experience import BUCKETS, HABITS, HIGHEST_BIN, LOWEST_BIN, PHASES
from collector.model.errors import UsageError
from collector.model.references import repository
from collector.model.traits import Use
from pruner.policy import headroom
from pruner.policy.orders import ORDERS
from pruner.state import learning
from pruner.state.learning import AGES, CELLS, STAGES
from pruner.state.population import BY_AGE, BY_HABIT, BY_STAGE, BY_USE
from pruner.state.rates import read_rates

_NEVER = np.inf
_BY_USE = np.array(BY_USE)
_DAY_MS = 86_400_000


class Tables(Protocol):
    """What was learned up to each midnight."""

    def day(self, day: int, /) -> tuple[Integers, Integers]:
        """Returns, and exposure in milliseconds, up to a midnight; shape (situations,) each."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """The same, counted here; shape (days, situations) each."""

    returns: Integers
    exposure_ms: Integers

    def day(self, day: int) -> tuple[Integers, Integers]:
        return self.returns[day], self.exposure_ms[day]


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
        self._fleet = _of_fleet(rates) if rates else None

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
        keys: NDArray[Any] = ORDERS[order](_PastFacts(self, now, images))
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
        returns = _up_to(midnight, b[returned], number[returned], one[returned], width)
        exposure = (
            midnight[:, None] * _up_to(midnight, a, number, one, width)
            - _up_to(midnight, a, number, a, width)
            - midnight[:, None] * _up_to(midnight, b, number, one, width)
            + _up_to(midnight, b, number, b, width)
        )
        return returns, exposure

    @cached_property
    def by_habit(self) -> Tables:
        """What was learned by age, habit and stage."""
        if kernel.available(self.trace):
            return self._learning(by_habit=True)
        inner = HABITS * STAGES
        return _Counted(*self._counted(AGES * inner, lambda cell: cell // inner // BUCKETS * inner + cell % inner))

    @cached_property
    def _by_count(self) -> Tables:
        """What was learned by age, use count, and whether superseded."""
        if kernel.available(self.trace):
            return self._learning(by_habit=False)
        return _Counted(
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
            rates = _rates(returns, exposure)
            beyond = np.zeros((AGES + 1, HABITS, STAGES))
            for age in range(AGES - 1, -1, -1):
                beyond[age] = learning.ahead(rates[age], learning.width_of(age), beyond[age + 1], _exp)
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
        often = np.minimum(_bits(self.uses), BUCKETS - 1)
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
        chance: Floats = learning.ahead(rates[age, *column], left, beyond[age + 1, *column], _exp)
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
        ages: Integers = np.clip(_bits(self.now - self.last_use), LOWEST_BIN, HIGHEST_BIN) - LOWEST_BIN
        return ages

    @cached_property
    def _stage(self) -> Integers:
        return np.searchsorted(PHASES, self.now - self.knowledge.superseded_since[self.present], side="right")


class _PastFacts(TraceFacts):
    """Facts about images that do not depend on what a policy did to them."""

    def __init__(self, knowledge: Knowledge, now: float, present: Integers) -> None:
        super().__init__(knowledge, now, present, np.empty(0), np.empty(0, dtype=np.int64))


def habits(gap: Floats) -> Integers:
    """As `pruner.state.learning.habit`."""
    bins = np.clip(_bits(gap) - experience.LOWEST_HABIT, 0, HABITS - 2) + 1
    return np.where(gap > 0, bins, 0)


def times_bins(uses: Integers) -> Integers:
    """As `pruner.state.learning.times_bin`."""
    return np.minimum(_bits(uses), learning.TIMES - 1)


def _rates(returns: NDArray[Any], exposure_ms: NDArray[Any]) -> NDArray[Any]:
    """`Learned.rates`; all of shape (AGES, HABITS, STAGES)."""
    typical = np.array([learning.typical_idle(age) for age in range(AGES)])
    by_stage = returns.sum(axis=1), exposure_ms.sum(axis=1)
    of_age: Any = _shrunk(by_stage[0].sum(axis=-1), by_stage[1].sum(axis=-1), np.array(BY_AGE) / typical, 0)
    of_stage: Any = _shrunk(*by_stage, of_age[..., None] * np.array(BY_STAGE), 1)
    return _shrunk(returns, exposure_ms, of_stage[..., None, :] * np.array(BY_HABIT), 2)


def _shrunk(returns: NDArray[Any], exposure_ms: NDArray[Any], expected: Any, level: int) -> NDArray[Any]:
    """As `pruner.state.learning.shrunk`."""
    trust = learning.TRUST[level]
    rates: NDArray[Any] = (returns + trust) / (exposure_ms / 1000.0 + trust / expected)
    return rates


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


def _of_fleet(rates: str) -> tuple[Floats, Floats] | None:
    """Returns and idle seconds by situation, shape (AGES, BUCKETS, HABITS, STAGES) each; None: it cannot be read.

    The pruner then continues with the host's own past (`pruner.state.survey.with_learning`), and so does a replay.
    """
    try:
        found = read_rates(Path(rates))
    except UsageError:
        return None
    shape = AGES, BUCKETS, HABITS, STAGES
    return np.reshape(found.returns, shape), np.reshape(found.exposure, shape)


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


def _bits(value: NDArray[Any]) -> Integers:
    """The number of binary digits of the integer part, as `frexp`'s exponent (also below 1)."""
    exponents: Integers = np.frexp(value.astype(np.float64))[1].astype(np.int64)
    return exponents


def _up_to(midnight: Integers, time: Integers, cell: Integers, weight: Integers, width: int) -> Integers:
    """Sums of weights by situation, of what was before each midnight; shape (days, width)."""
    day = np.searchsorted(midnight, time, side="left")
    sums = np.zeros((len(midnight) + 1) * width, dtype=np.int64)
    np.add.at(sums, day * width + cell, weight)
    table: Integers = np.cumsum(sums[: len(midnight) * width].reshape(-1, width), axis=0)
    return table


# The exponential of the C library, as the compiled replay has it: numpy's own differs in the last bit.
_exp = np.vectorize(math.exp, otypes=[np.float64])
