"""The replay: what a policy would have done to a host, step by step and in the open.

At equal times the disk changes first, then images are used, then the timer ticks. The timer ticks
at every multiple of its interval after the trace's origin, until the trace ends. With the trigger
`event` a prune also runs as soon as a pull, an arrival or a disk sample leaves free space under the
threshold, as on a host whose collector wakes the pruner.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from enum import StrEnum
from functools import cached_property
from typing import Protocol

import numpy as np

from analyzer import kernel
from analyzer.age_rule import AgeRule
from analyzer.facts import Knowledge, TraceFacts, knowledge_of
from analyzer.host import Host
from analyzer.kernel import Index, Outcome, Rules
from analyzer.moments import Moments
from analyzer.result import DEFAULT_PULL_RATE, Removals, Result, Timeline
from analyzer.trace import Floats, Integers, Trace, Use
from collector.errors import LogError, UsageError
from collector.units import format_duration
from pruner.decision import EVICT_EMERGENCY, Reason, evict, in_turn
from pruner.headroom import Falls
from pruner.orders import ORDERS, OWN_STATE_ORDERS
from pruner.policy import AUTO, Levels, Policy, Space

Progress = Callable[[float], None]

_DISK, _USE, _TICK = range(3)
_PROGRESS_STEPS = 200
_WORTH_SHARING = 4


class Trigger(StrEnum):
    """What starts a prune: the timer alone, or also an event that leaves too little space."""

    TICK = "tick"
    EVENT = "event"


class Cleaner(Protocol):
    """Something that removes images from a simulated host: our policy, or what others run.

    Attributes:
        name: what a report calls it.
        baseline: whether it stands for what others do.
        interval: seconds between ticks of its timer; 0: it has none.
    """

    name: str
    baseline: bool
    interval: float

    def tick(self, host: Host) -> None:
        """The timer fires."""

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """An image was just used; `brought_in` if it had to be pulled or has arrived."""

    def sampled(self, host: Host) -> None:
        """The disk was just sampled."""

    def waits(self, host: Host, until: float, *, use: bool) -> None:
        """Time passes from the last happening until `until`, when a use begins or something else happens."""


class PolicyCleaner:
    """Our pruner: the decision function, called at each tick. What inherits may have other `keys`, and nothing else.

    Args:
        policy: what to apply.
        trace: where to apply it.
        name: what a report calls it; None: the policy in words.
        trigger: what starts a prune.
    """

    baseline = False

    def __init__(self, policy: Policy, trace: Trace, name: str | None = None, trigger: Trigger = Trigger.TICK) -> None:
        self.policy = policy
        self.trace = trace
        self.trigger = trigger
        self.name = name or (f"{policy}, also at events" if trigger is Trigger.EVENT else str(policy))
        self.interval = policy.interval
        self._levels: dict[tuple[float | None, int, int], Levels] = {}
        self._headroom = Headroom(policy.interval) if policy.threshold.unit == AUTO else None

    @cached_property
    def protected(self) -> list[bool]:
        """Per image whether the allowlist names it."""
        return protection(self.policy, self.trace)

    @cached_property
    def first(self) -> list[int]:
        """Where each image's layers begin; see `Trace`."""
        first: list[int] = self.trace.first.tolist()
        return first

    @cached_property
    def layer(self) -> list[int]:
        """The layers of all images; see `Trace`."""
        layer: list[int] = self.trace.layer.tolist()
        return layer

    def levels(self, host: Host) -> Levels:
        """The policy's amounts of free space on the disk as it is now."""
        needed = self._headroom.threshold(host.total) if self._headroom is not None else None
        state = (needed, host.total, host.total_inodes)
        if state not in self._levels:
            policy = self.policy if needed is None else with_threshold(self.policy, needed)
            self._levels[state] = policy_levels(policy, host.total, host.total_inodes)
        return self._levels[state]

    def tick(self, host: Host) -> None:
        """Remove what the decision function says, if free space is under the threshold."""
        if self._headroom is not None:
            self._headroom.look(host)
        levels = self.levels(host)
        if host.free >= levels.threshold[0] and host.free_inodes >= levels.threshold[1]:
            return
        order = self.ordered(host)
        verdict = self.decide(host, order, levels)
        for i in in_turn(order, verdict):
            host.remove(i, emergency=verdict[i] == EVICT_EMERGENCY)
        if self._headroom is not None:
            self._headroom.look(host)

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Prune if that took too much space and events are to trigger it."""
        if brought_in:
            self._changed(host)

    def sampled(self, host: Host) -> None:
        """Prune if that shows too little space and events are to trigger it."""
        self._changed(host)

    def _changed(self, host: Host) -> None:
        if self._headroom is not None:
            self._headroom.look(host)
        if self.trigger is Trigger.EVENT:
            self.tick(host)

    def waits(self, host: Host, until: float, *, use: bool) -> None:
        """Nothing: it sleeps until the timer or an event wakes it."""

    def ordered(self, host: Host) -> list[int]:
        """The images that are there, first to go first."""
        present = host.present
        if self.policy.order == "lru":
            # To the very event; a trace's knowledge is to the moment.
            return sorted(present, key=lambda i: (min(host.last_use[i], host.now), i))
        images = np.array(present, dtype=np.int64)
        if self.policy.order in OWN_STATE_ORDERS:
            facts = knowledge_of(self.trace).facts(host.now, images, np.array(host.pulled), np.array(host.holders))
            keys = ORDERS[self.policy.order](facts)
        else:
            keys = self.keys(host.now, images)
        return [present[k] for k in np.argsort(keys, kind="stable")]

    def keys(self, now: float, images: Integers) -> Floats:
        """The keys of images by an order that looks at none of what the policy did, lowest first to go."""
        return knowledge_of(self.trace).keys(self.policy.order, now, images)

    def decide(self, host: Host, order: list[int], levels: Levels) -> list[int]:
        """The verdict on every image that is there."""
        blind = host.blind_until()
        verdict = [0] * len(host.held)
        evict(
            order,
            [self._blocked(host, i) for i in range(len(host.held))],
            self.protected,
            [recent_use(last_use, blind, self.policy.min_age) for last_use in host.last_use],
            host.now - self.policy.min_age,
            host.now - self.policy.allowlist_idle,
            (host.free, host.free_inodes),
            levels.threshold,
            levels.target,
            levels.emergency,
            self.first,
            self.layer,
            host.layer_bytes,
            host.layer_inodes,
            list(host.holders),
            verdict,
        )
        return verdict

    def _blocked(self, host: Host, image: int) -> int:
        if host.pinned(image):
            return Reason.PINNED
        return Reason.LOCAL if host.local[image] and self.policy.local_images == "keep" else 0


class Headroom:
    """The record of falls along a simulated history, as a host under this policy would have made it."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._falls = Falls(interval)
        self._began = 0.0
        self._highest = -math.inf
        self._deepest = 0.0

    def look(self, host: Host) -> None:
        """See what is free now; what was free at most in this interval counts from."""
        if host.now >= self._began + self._interval:
            if self._highest > -math.inf:
                self._falls.add(max(self._deepest, self._highest - host.free))
            self._began = host.now // self._interval * self._interval
            self._highest, self._deepest = host.free, 0.0
        self._highest = max(self._highest, host.free)
        self._deepest = max(self._deepest, self._highest - host.free)

    def threshold(self, total: int) -> float | None:
        """The free space that a disk of `total` bytes needs at a tick; None: too little is known yet."""
        return self._falls.threshold(total)


# Jobs that were pulled for in a gap have created their containers this long after it.
GAP_GRACE_S = 600.0


def recent_use(last_use: float, blind_until: float | None, min_age: float) -> float:
    """When an image counts as last used for `min_age`: a gap may have hidden a use.

    The same as `pruner.plan.recent_use`, without that module's need of an engine's client.
    """
    if blind_until is None:
        return last_use
    return max(last_use, blind_until + min(min_age, GAP_GRACE_S) - min_age)


def protection(policy: Policy, trace: Trace) -> list[bool]:
    """Per image whether the policy's allowlist names it."""
    if not policy.allowlist:
        return [False] * trace.images
    return [policy.protects(names) is not None for names in trace.names]


def with_threshold(policy: Policy, threshold: float) -> Policy:
    """An automatic policy with the bytes that are found to be needed."""
    return dataclasses.replace(policy, threshold=Space(threshold, "B", AUTO))


def policy_levels(policy: Policy, total: int, total_inodes: int) -> Levels:
    """The policy's levels on one disk. Raises UsageError if they contradict each other there.

    Simulated free space can be negative, so ``never`` has to be less than any amount.
    """
    try:
        levels = policy.levels(total, total_inodes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if policy.emergency is not None and policy.emergency.amount < 0.0:
        return Levels(levels.threshold, levels.target, (-math.inf, -math.inf))
    return levels


def check_trace(trace: Trace, interval: float, demands: int | None = None) -> None:
    """Refuse a trace from which no figure would be sound.

    Raises:
        LogError: it has no uses, or is shorter than one interval of the timer.
    """
    if demands is None:
        demands = trace.between(0.0, np.nextafter(trace.end, math.inf)).demands
    if not demands:
        raise LogError(f"the log of host {trace.host} holds no use of an image: let `collector run` watch some jobs")
    if trace.end < interval:
        raise LogError(
            f"the log of host {trace.host} spans {format_duration(trace.end)}, less than one interval of "
            f"{format_duration(interval)}: watch for longer, or give a shorter --interval"
        )


def replay(
    trace: Trace,
    cleaner: Cleaner,
    level: float | None = None,
    pull_rate: float = DEFAULT_PULL_RATE,
    progress: Progress | None = None,
    *,
    timeline: bool = False,
    reference: bool = False,
    removals: bool = True,
) -> Result:
    """Replay a trace under a policy or baseline. Deterministic.

    Policies are replayed by the compiled kernel where there is one, with the same result to the last
    bit; what follows in this module is the reference that it is held to.

    Args:
        trace: the history.
        cleaner: what removes images.
        level: free bytes under which time counts as under the threshold; None: the policy's own
            threshold on the first disk state, or 0 for a baseline.
        pull_rate: bytes per second at which pulls are taken to run.
        progress: told the share that is done, from 0 to 1.
        timeline: whether the result shall tell free space over time.
        reference: whether to do without the compiled kernel.
        removals: whether the result must list every removal; if not, it may.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: the policy contradicts itself on this disk.
    """
    index = None if reference else _index_for(trace, cleaner)
    check_trace(trace, cleaner.interval, index.demands if index else None)
    if level is None:
        level = threshold_of(cleaner, trace)
    if index is not None:
        outcome = index.replay(_rules(cleaner, index), level, removals=removals, steps=timeline)
        if progress:
            progress(1.0)
        return _result_of(outcome, cleaner, index, level, pull_rate, timeline=timeline)
    host = Host(trace, level, timeline=timeline)
    for time, what, number in _happenings(trace, cleaner.interval, progress):
        if time > trace.end:
            break
        before = len(host.counts.removals)
        cleaner.waits(host, time, use=what == _USE)
        host.now = time
        _happen(host, cleaner, what, number)
        host.counts.prunes += len(host.counts.removals) > before
    cleaner.waits(host, trace.end, use=False)
    host.now = trace.end
    host.account()
    return _result(host, cleaner, pull_rate)


def _happen(host: Host, cleaner: Cleaner, what: int, number: int) -> None:
    trace = host.trace
    if what == _USE:
        image = int(trace.image[number])
        brought_in = host.use(image, float(trace.until[number]), _KINDS[trace.kind[number]])
        cleaner.used(host, image, brought_in=brought_in)
    elif what == _TICK:
        cleaner.tick(host)
    else:
        host.set_disk(
            int(trace.disk_total[number]),
            int(trace.disk_other[number]),
            int(trace.inode_total[number]),
            int(trace.inode_other[number]),
        )
        cleaner.sampled(host)


def replay_many(
    trace: Trace,
    cleaners: Sequence[Cleaner | Policy],
    level: float | None = None,
    pull_rate: float = DEFAULT_PULL_RATE,
    progress: Progress | None = None,
    *,
    timeline: bool = False,
    reference: bool = False,
    removals: bool = True,
    threads: int | None = None,
) -> list[Result]:
    """Replay a trace under each of several policies and baselines. Deterministic, whatever the number of threads.

    Args:
        trace: the history.
        cleaners: what removes images, one result each; a policy prunes at its timer's ticks.
        level: free bytes under which a baseline's time counts as under the threshold; None: the
            threshold of the first policy. A policy's own threshold counts for itself.
        pull_rate: bytes per second at which pulls are taken to run.
        progress: told the share that is done, from 0 to 1.
        timeline: whether the results shall tell free space over time.
        reference: whether to do without the compiled kernel.
        removals: whether the results must list every removal; if not, they may.
        threads: how many policies to replay at once; None: one for each processor at hand.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: a policy contradicts itself on this disk.
    """
    runs = [PolicyCleaner(cleaner, trace) if isinstance(cleaner, Policy) else cleaner for cleaner in cleaners]
    if level is None:
        level = next((threshold_of(run, trace) for run in runs if isinstance(run, PolicyCleaner)), None)
    options = {"timeline": timeline, "reference": reference, "removals": removals}
    quick = [not reference and _index_for(trace, run) is not None for run in runs]
    if not reference:
        _prepare(trace, [run for run, native in zip(runs, quick, strict=True) if native])
    results: dict[int, Result] = {}

    def one(k: int) -> Result:
        under = None if isinstance(runs[k], PolicyCleaner) else level
        share = None if quick[k] else _share_of(progress, len(results), len(runs))
        results[k] = replay(trace, runs[k], under, pull_rate, share, **options)
        if progress and not quick[k]:
            progress(len(results) / len(runs))
        return results[k]

    natives = [k for k, native in enumerate(quick) if native]
    count = min(threads or len(os.sched_getaffinity(0)), len(natives))
    with ThreadPoolExecutor(count) if count > 1 else nullcontext() as pool:
        for _ in pool.map(one, natives) if pool else map(one, natives):
            if progress:
                progress(len(results) / len(runs))
    for k, native in enumerate(quick):
        if not native:
            one(k)
    return [results[k] for k in range(len(runs))]


def _share_of(progress: Progress | None, k: int, count: int) -> Progress | None:
    """The progress of the k-th of `count` runs, as part of them all."""
    if progress is None:
        return None
    return lambda share: progress((k + share) / count)


def threshold_of(cleaner: Cleaner, trace: Trace) -> float:
    """A policy's threshold on the first disk state, bytes; 0 for a baseline."""
    if not isinstance(cleaner, PolicyCleaner):
        return 0.0
    return policy_levels(cleaner.policy, int(trace.disk_total[0]), int(trace.inode_total[0])).threshold[0]


_KINDS = list(Use)


def _happenings(trace: Trace, interval: float, progress: Progress | None) -> Iterator[tuple[float, int, int]]:
    """All that happens, in order: (time, what, number of the disk state, use or tick)."""
    disk = ((time, _DISK, k) for k, time in enumerate(trace.disk_time.tolist()))
    uses = ((time, _USE, k) for k, time in enumerate(trace.time.tolist()))
    count = int(trace.end / interval) if interval else 0
    ticks = ((k * interval, _TICK, k) for k in range(1, count + 1))
    step = trace.end / _PROGRESS_STEPS
    due = step
    for happening in heapq.merge(disk, uses, ticks):
        if progress and happening[0] >= due:
            progress(happening[0] / trace.end)
            due = happening[0] + step
        yield happening


def _result(host: Host, cleaner: Cleaner, pull_rate: float) -> Result:
    counts = host.counts
    return Result(
        name=cleaner.name,
        baseline=cleaner.baseline,
        threshold=host.level,
        uses=counts.uses,
        hits=counts.uses - counts.compulsory - counts.repulls - counts.losses,
        compulsory=counts.compulsory,
        compulsory_bytes=counts.compulsory_bytes,
        repulls=counts.repulls,
        repulled_bytes=counts.repulled_bytes,
        losses=counts.losses,
        removals=len(counts.removals),
        removed_bytes=sum(removal.bytes for removal in counts.removals),
        emergency_removals=sum(removal.emergency for removal in counts.removals),
        prunes=counts.prunes,
        disk_full=counts.disk_full,
        min_free=int(host.min_free),
        seconds_under=host.seconds_under,
        mean_held_bytes=host.byte_seconds / host.trace.end,
        seconds=host.trace.end,
        pull_rate=pull_rate,
        removed=tuple(counts.removals),
        timeline=_timeline(host),
    )


def _timeline(host: Host) -> Timeline | None:
    if host.steps is None:
        return None
    return Timeline(
        np.array([seconds for seconds, _ in host.steps], dtype=np.float64),
        np.array([free for _, free in host.steps], dtype=np.int64),
    )


def _index_for(trace: Trace, cleaner: Cleaner) -> Index | None:
    """The trace's index, if the compiled kernel is at hand and knows what the cleaner does."""
    if not kernel.available(trace):
        return None
    known = isinstance(cleaner, PolicyCleaner) and cleaner.trace is trace
    return kernel.index_of(trace) if known or _rule_of(cleaner) is not None else None


def _rule_of(cleaner: Cleaner) -> AgeRule | None:
    """The rule of age that is all that a baseline does; None: it does something else."""
    rule = getattr(cleaner, "rule", None)
    return rule if isinstance(rule, AgeRule) else None


def _prepare(trace: Trace, cleaners: Sequence[Cleaner]) -> None:
    """Share the work of policies that decide at the same times, and do what is better done once."""
    ours = [cleaner for cleaner in cleaners if isinstance(cleaner, PolicyCleaner) and cleaner.policy.order == "lru"]
    moments = [
        (cleaner.policy.min_age, 0.0 if cleaner.trigger is Trigger.EVENT else cleaner.policy.interval)
        for cleaner in ours
    ]
    for cleaner in cleaners:
        if isinstance(cleaner, PolicyCleaner):
            _moments(cleaner, kernel.index_of(trace))
    for moment, count in Counter(moments).items():
        if count >= _WORTH_SHARING:
            kernel.index_of(trace).prepare(*moment)


def _rules(cleaner: Cleaner, index: Index) -> Rules:
    """A policy as the kernel takes it."""
    rule = _rule_of(cleaner)
    if rule is not None:
        return Rules(
            levels=np.zeros((len(index.sizes), 6)),
            protected=np.zeros(index.trace.images, dtype=np.bool_),
            interval=cleaner.interval,
            min_age=0.0,
            allowlist_idle=0.0,
            gap_grace=0.0,
            at_events=False,
            keep_local=False,
            rule=rule,
        )
    assert isinstance(cleaner, PolicyCleaner)  # noqa: S101 - `_index_for` lets no other pass
    policy = cleaner.policy
    levels = [policy_levels(policy, int(total), int(inodes)) for total, inodes in index.sizes]
    return Rules(
        levels=np.array([(*level.threshold, *level.target, *level.emergency) for level in levels]),
        protected=np.array(cleaner.protected, dtype=np.bool_),
        interval=policy.interval,
        min_age=policy.min_age,
        allowlist_idle=policy.allowlist_idle,
        gap_grace=GAP_GRACE_S,
        at_events=cleaner.trigger is Trigger.EVENT,
        keep_local=policy.local_images == "keep",
        order=_keys(policy.order, index) if policy.order in OWN_STATE_ORDERS else None,
        moments=_moments(cleaner, index),
        resolved=_resolved(policy, index) if policy.threshold.unit == AUTO else None,
    )


def _resolved(policy: Policy, index: Index) -> Callable[[int, float], Sequence[float]]:
    """An automatic policy's levels once its threshold is known, on each class of disk."""

    def levels(number: int, threshold: float) -> Sequence[float]:
        total, inodes = index.sizes[number]
        found = policy_levels(with_threshold(policy, threshold), int(total), int(inodes))
        return (*found.threshold, *found.target, *found.emergency)

    return levels


def _moments(cleaner: PolicyCleaner, index: Index) -> Moments | None:
    """All images as an order ranks them, whatever a policy did; None for an order that looks at what it did."""
    order = cleaner.policy.order
    if order == "lru" or order in OWN_STATE_ORDERS:
        return None

    def make() -> Moments:
        if order == "forecast":
            return Moments(index.trace.images, knowledge_of(index.trace).forecasting)
        # Computed here, what it needs is not computed in several threads at once.
        cleaner.keys(0.0, index.trace.image[:1].astype(np.int64))
        return Moments(index.trace.images, cleaner.keys)

    return index.moments(order, make)


def _keys(order: str, index: Index) -> Callable[[float, Integers, Floats, Integers], Floats]:
    """An order as the kernel calls it."""
    knowledge = knowledge_of(index.trace)

    def keys(now: float, present: Integers, pulled: Floats, holders: Integers) -> Floats:
        found: Floats = ORDERS[order](_KernelFacts(index, knowledge, now, present, pulled, holders))
        return found

    return keys


class _KernelFacts(TraceFacts):
    """Facts as the kernel tells them: holders of groups of layers, not of layers."""

    def __init__(
        self, index: Index, knowledge: Knowledge, now: float, present: Integers, pulled: Floats, holders: Integers
    ) -> None:
        super().__init__(knowledge, now, present, pulled, holders)
        self._index = index

    @cached_property
    def own_bytes(self) -> Integers:
        return self._index.freed_bytes(self.present, self.holders)


def _result_of(
    outcome: Outcome, cleaner: Cleaner, index: Index, level: float, pull_rate: float, *, timeline: bool
) -> Result:
    counts, amounts = outcome.counts, outcome.amounts
    uses, end = index.demands, index.trace.end
    return Result(
        name=cleaner.name,
        baseline=cleaner.baseline,
        threshold=level,
        uses=uses,
        hits=uses - counts["compulsory"] - counts["repulls"] - counts["losses"],
        **counts,
        min_free=int(amounts["min_free"]),
        seconds_under=amounts["seconds_under"],
        mean_held_bytes=amounts["byte_seconds"] / end,
        seconds=end,
        pull_rate=pull_rate,
        removed=Removals(outcome.removal_time, outcome.removal_image, outcome.removal_bytes, outcome.removal_emergency),
        timeline=Timeline(outcome.step_time, outcome.step_free) if timeline else None,
    )
