"""What knowing the future would be worth: a clairvoyant policy, and a bound that no policy can beat.

The optimum lies between the two. The clairvoyant removes whole images under the same rules as the
policy in question, those first whose next use is the farthest (Belady 1966), and so is attainable. The bound
lets a policy drop single bytes of single layers: every byte then is a page of unit size and cost, for
which farthest next need first is optimal, so nothing that keeps the same space free re-pulls less.
"""

from __future__ import annotations

import ctypes
import heapq
import math
from collections.abc import Iterator, Sequence
from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.kernel import index
from analyzer.kernel.runs import Wake
from analyzer.native.binding import Array, checked, function, plain
from analyzer.simulation.cleaner import PolicyCleaner, Trigger, policy_levels
from analyzer.simulation.knowledge import knowledge_of
from analyzer.simulation.layer_needs import needs_of_layers, spares
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Result
from analyzer.trace.trace import Floats, Integers, Trace
from pruner.planning.decision import GAP_GRACE_S
from pruner.policy.headroom import LEAST_SHARE
from pruner.policy.policy import AUTO, Policy

_AT_ONCE = 2**16
# What is needed when, by what it depends on of a policy: its threshold is not among that.
_Columns = dict[tuple[object, ...], tuple[NDArray[Any], ...]]


class Clairvoyant(PolicyCleaner):
    """A policy with its order replaced: the image whose next use is the farthest goes first, however young.

    Args:
        policy: whose threshold, target, allowlist and its age hold.
        trace: where to apply it, and its future.
        trigger: what starts a prune.
        wake: how events do, if they do.
    """

    def __init__(self, policy: Policy, trace: Trace, trigger: Trigger = Trigger.TICK, wake: Wake | None = None) -> None:
        name = f"prune below {policy.threshold} free (clairvoyant order)"
        super().__init__(replace(policy, order="clairvoyant", min_age=0.0), trace, name, trigger, wake)
        self._knowledge = knowledge_of(trace)
        self._next = self._knowledge.next_demands

    def keys(self, now: float, images: Integers) -> Floats:
        """The farthest next use first."""
        after = self._knowledge.latest(now, images) + 1
        mine = after < self._knowledge.begins[images + 1]
        following: Floats = np.where(mine, self._next[np.minimum(after, len(self._next) - 1)], math.inf)
        return -following


@dataclass(frozen=True, slots=True)
class Bracket:
    """Between what re-pulled bytes the optimum lies, for one policy's rules.

    Attributes:
        least: no policy that keeps the same space free re-pulls fewer bytes.
        most: the clairvoyant's re-pulled bytes.
    """

    least: int
    most: int


def with_regret(result: Result, bracket: Bracket) -> Result:
    """The result with what the optimum would have re-pulled."""
    return replace(result, optimum_least=min(bracket.least, bracket.most), optimum_most=bracket.most)


def add_regret(
    trace: Trace,
    policies: Sequence[Policy],
    results: Sequence[Result],
    trigger: Trigger = Trigger.TICK,
    wake: Wake | None = None,
) -> list[Result]:
    """The results of policies with their brackets; policies that differ in the order only share one.

    Args:
        trace: the history.
        policies: whose results they are.
        results: the results.
        trigger: what starts a prune.
        wake: how events do, if they do.
    """
    known: dict[Policy, Bracket] = {}
    columns: _Columns = {}
    added = []
    for policy, result in zip(policies, results, strict=True):
        rules = replace(policy, order="lru")
        if rules not in known:
            known[rules] = bracket(trace, rules, columns, trigger, wake)
        added.append(with_regret(result, known[rules]))
    return added


def bracket(
    trace: Trace,
    policy: Policy,
    columns: _Columns | None = None,
    trigger: Trigger = Trigger.TICK,
    wake: Wake | None = None,
) -> Bracket:
    """The optimum's re-pulled bytes under a policy's threshold and allowlist. Raises as `replay`.

    The clairvoyant ignores the minimum age, so that its distance shows what that costs, too.

    Args:
        trace: the history.
        policy: whose.
        columns: what policies that differ in their threshold share; filled.
        trigger: what starts a prune.
        wake: how events do, if they do.
    """
    most = replay(trace, Clairvoyant(policy, trace, trigger, wake), removals=False).repulled_bytes
    return Bracket(lower_bound(trace, policy, columns=columns), most)


def lower_bound(trace: Trace, policy: Policy, *, reference: bool = False, columns: _Columns | None = None) -> int:
    """Re-pulled bytes of the optimal fractional policy: no policy with this threshold has fewer.

    It holds for policies that have the threshold free after each tick, as far as their rules let
    anything go. What may not go at a tick (pinned, young or local images) may not go here. As in a
    replay, what is used after the trace's end does not count.

    A policy is neither forced to drop nor sure to hold what an allowlist may spare, local images that
    go only when they are superseded, nor what was used
    in a way that does not bring it back (a tag, or a local image that is lost). That then takes no
    space here, which only lowers the bound.

    Args:
        trace: the history.
        policy: whose threshold, ages and allowlist hold.
        reference: whether to do without the compiled kernel.
        columns: what policies that differ in their threshold share; filled.

    Raises:
        UsageError: the policy contradicts itself on this disk.
    """
    within = trace.time <= trace.end
    observed = replace(
        trace,
        time=trace.time[within],
        image=trace.image[within],
        until=trace.until[within],
        kind=trace.kind[within],
    )
    return _Fractional(observed, policy, {} if columns is None else columns).run(reference=reference)


class _Fractional:
    """The replay of bytes: each layer may be held in part."""

    def __init__(self, trace: Trace, policy: Policy, columns: _Columns) -> None:
        self.trace = trace
        self.policy = policy
        # The longest that ever held: what may have been too young is not forced to go.
        self.min_age = float(trace.min_ages[:, 1].max()) if policy.min_age is None else policy.min_age
        self.columns = columns
        self.ticks = int(trace.end / policy.interval)
        self.size: list[int] = trace.layer_bytes.tolist()
        self.held = [0.0] * len(self.size)
        self.counted = [True] * len(self.size)
        self.exempt_until = [-math.inf] * len(self.size)
        self.doubtful_until = [-math.inf] * len(self.size)
        self.version = [0] * len(self.size)
        self.heap: list[tuple[float, int, int]] = []
        self.waiting: list[tuple[float, tuple[float, int, int]]] = []
        self.total = 0.0
        self.repulled = 0.0

    def run(self, *, reference: bool) -> int:
        """The bytes that have to be pulled again."""
        if not reference and index.available(self.trace):
            grace = min(self.min_age, GAP_GRACE_S)
            return int(_compiled(self.trace, self._columns(), self._allowed(), self.policy.interval, grace))
        state, allowed = 0, self._allowed().tolist()
        tick, needs = 0, iter(self._needs())
        pending = next(needs, None)
        while tick < self.ticks or pending is not None:
            tick = self._next_tick(tick, pending[0] if pending else self.ticks)
            while pending is not None and pending[0] <= tick:
                self._need(*pending)
                pending = next(needs, None)
            if tick > self.ticks:
                break
            now = tick * self.policy.interval
            while state + 1 < len(self.trace.disk_time) and self.trace.disk_time[state + 1] <= now:
                state += 1
            self._drop(now, allowed[state])
        return int(self.repulled)

    def _next_tick(self, tick: int, needed: int) -> int:
        """The next tick at which something may have to go: after a need, a disk state, or while too much is held."""
        if self.too_much or needed <= tick + 1:
            return tick + 1
        k = int(np.searchsorted(self.trace.disk_time, tick * self.policy.interval, side="right"))
        changed = math.inf
        if k < len(self.trace.disk_time):
            changed = math.ceil(self.trace.disk_time[k] / self.policy.interval)
        return int(max(tick + 1, min(needed, changed, max(self.ticks, tick + 1))))

    too_much = False

    def _needs(self) -> Iterator[tuple[int, int, bool, bool, float, float, float]]:
        """The rows of `_columns`."""
        columns = self._columns()
        for k in range(0, len(columns[0]), _AT_ONCE):  # numbers as objects take much memory
            yield from zip(*(column[k : k + _AT_ONCE].tolist() for column in columns), strict=True)

    def _columns(self) -> tuple[NDArray[Any], ...]:
        policy = self.policy
        spared = policy.allowlist if spares(policy) else ()
        key = (policy.interval, policy.min_age, policy.local_images, spared)
        if key not in self.columns:
            self.columns[key] = needs_of_layers(self.trace, policy, self.min_age)
        return self.columns[key]

    def _need(
        self, tick: int, layer: int, needed: bool, costs: bool, until: float, doubtful: float, following: float
    ) -> None:
        self.exempt_until[layer] = max(self.exempt_until[layer], until)
        self.doubtful_until[layer] = max(self.doubtful_until[layer], doubtful)
        if self.doubtful_until[layer] > tick * self.policy.interval:
            self.total -= self.held[layer] * self.counted[layer]
            self.counted[layer] = False
        if not needed:
            return
        missing = self.size[layer] - self.held[layer]
        if costs:
            self.repulled += missing
        if self.doubtful_until[layer] <= tick * self.policy.interval:
            self.total += self.size[layer] - self.held[layer] * self.counted[layer]
            self.counted[layer] = True
        self.held[layer] = float(self.size[layer])
        self.version[layer] += 1
        heapq.heappush(self.heap, (-following, layer, self.version[layer]))

    def _allowed(self) -> Floats:
        """Bytes of images that may be held after a tick, in each disk state."""
        trace = self.trace
        sizes = np.stack((trace.disk_total, trace.inode_total), axis=1)
        distinct, number = np.unique(sizes, axis=0, return_inverse=True)
        levels = [self._threshold(int(total), int(inodes)) for total, inodes in distinct]
        allowed: Floats = trace.disk_total - trace.disk_other - np.array(levels)[number.reshape(-1)]
        return allowed

    def _threshold(self, total: int, inodes: int) -> float:
        """Bytes that the policy has free at least; one that follows from its own past may come to little."""
        if self.policy.threshold.unit == AUTO:
            return LEAST_SHARE * total
        return policy_levels(self.policy, total, inodes).threshold[0]

    def _drop(self, now: float, allowed: float) -> None:
        """Drop bytes, those that are needed last first, until no more are held than is allowed."""
        self.too_much = self.total > allowed
        if not self.too_much or self._blind(now):
            return
        while self.waiting and self.waiting[0][0] <= now:
            heapq.heappush(self.heap, heapq.heappop(self.waiting)[1])
        while self.total > allowed and self.heap:
            entry = self.heap[0]
            _, layer, version = entry
            current = version == self.version[layer] and self.held[layer] > 0.0 and self.counted[layer]
            if current and self.exempt_until[layer] <= now:
                going = min(self.held[layer], self.total - allowed)
                self.held[layer] -= going
                self.total -= going
                current = self.held[layer] > 0.0
            elif current:
                heapq.heappush(self.waiting, (self.exempt_until[layer], entry))
                current = False
            if not current:
                heapq.heappop(self.heap)
        self.too_much = self.total > allowed

    def _blind(self, now: float) -> bool:
        """Whether every image still counts as just used after a gap."""
        grace = min(self.min_age, GAP_GRACE_S)
        return any(begin <= now and min(end, now) + grace > now for begin, end in self.trace.blind.tolist())


class _Needs(ctypes.Structure):
    _fields_ = (
        ("count", c_int64),
        *((name, c_void_p) for name in ("tick", "layer", "needed", "costs", "until", "doubtful", "following")),
        *((name, c_int32) for name in ("layers", "states", "gaps")),
        *((name, c_void_p) for name in ("size", "disk_time", "allowed", "gap_begin", "gap_end")),
        *((name, c_double) for name in ("interval", "grace")),
        ("ticks", c_int64),
    )


def _compiled(trace: Trace, columns: Sequence[Array], allowed: Array, interval: float, grace: float) -> float:
    """The bytes that the optimal fractional policy pulls again, compiled; see `bound`.

    Args:
        trace: the history.
        columns: per layer and tick: tick, layer, whether needed, whether it costs, exempt until, doubtful
            until, and the tick of the next costly need; by tick, then layer.
        allowed: bytes that may be held in each disk state.
        interval: seconds between ticks.
        grace: seconds after a gap in which nothing goes.

    Raises:
        MemoryError: there is not enough.
    """
    names = ("tick", "layer", "needed", "costs", "until", "doubtful", "following")
    kinds = (np.int64, np.int32, np.uint8, np.uint8, np.float64, np.float64, np.float64)
    arrays = {name: plain(column, kind) for name, column, kind in zip(names, columns, kinds, strict=True)} | {
        "size": plain(trace.layer_bytes, np.int64),
        "disk_time": plain(trace.disk_time, np.float64),
        "allowed": plain(allowed, np.float64),
        "gap_begin": plain(trace.blind[:, 0], np.float64),
        "gap_end": plain(trace.blind[:, 1], np.float64),
    }
    needs = _Needs(
        count=len(arrays["tick"]),
        layers=len(trace.layer_bytes),
        states=len(trace.disk_time),
        gaps=len(trace.blind),
        interval=interval,
        grace=grace,
        ticks=int(trace.end / interval),
        **{name: array.ctypes.data for name, array in arrays.items()},
    )
    repulled = c_double()
    checked(function("kernel_bound")(byref(needs), byref(repulled)))
    return repulled.value
