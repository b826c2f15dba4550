"""The replay: what a policy would have done to a host, step by step and in the open.

At equal times the disk changes first, then images are used, then the timer ticks. The timer ticks
at every multiple of its interval after the trace's origin, until the trace ends. With the trigger
`event` a prune also runs as soon as a pull, an arrival or a disk sample leaves free space under the
threshold, as on a host whose collector wakes the pruner.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np

from analyzer.facts import knowledge_of
from analyzer.host import Host
from analyzer.result import DEFAULT_PULL_RATE, Result, Timeline
from analyzer.trace import Trace, Use
from collector.errors import LogError, UsageError
from collector.units import format_duration
from pruner.decision import EVICT_EMERGENCY, Reason, evict
from pruner.orders import ORDERS
from pruner.policy import Levels, Policy

Progress = Callable[[float], None]

_DISK, _USE, _TICK = range(3)
_PROGRESS_STEPS = 200


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


class PolicyCleaner:
    """Our pruner: the decision function, called at each tick.

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
        self.protected = protection(policy, trace)
        self.first: list[int] = trace.first.tolist()
        self.layer: list[int] = trace.layer.tolist()
        self._levels: dict[tuple[int, int], Levels] = {}

    def levels(self, host: Host) -> Levels:
        """The policy's amounts of free space on the disk as it is now."""
        size = (host.total, host.total_inodes)
        if size not in self._levels:
            self._levels[size] = policy_levels(self.policy, *size)
        return self._levels[size]

    def tick(self, host: Host) -> None:
        """Remove what the decision function says, if free space is under the threshold."""
        levels = self.levels(host)
        if host.free >= levels.threshold[0] and host.free_inodes >= levels.threshold[1]:
            return
        order = self.ordered(host)
        verdict = self.decide(host, order, levels)
        taken = [i for i in order if Reason(verdict[i]).evicts]
        for i in sorted(taken, key=lambda i: verdict[i]):
            host.remove(i, emergency=verdict[i] == EVICT_EMERGENCY)

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Prune if that took too much space and events are to trigger it."""
        if brought_in and self.trigger is Trigger.EVENT:
            self.tick(host)

    def sampled(self, host: Host) -> None:
        """Prune if that shows too little space and events are to trigger it."""
        if self.trigger is Trigger.EVENT:
            self.tick(host)

    def ordered(self, host: Host) -> list[int]:
        """The images that are there, first to go first."""
        present = host.present
        facts = knowledge_of(self.trace).facts(
            host.now, np.array(present, dtype=np.int64), np.array(host.pulled), np.array(host.holders)
        )
        return [present[k] for k in np.argsort(ORDERS[self.policy.order](facts), kind="stable")]

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
    return [policy.protects(names) is not None for names in trace.names]


def policy_levels(policy: Policy, total: int, total_inodes: int) -> Levels:
    """The policy's levels on one disk. Raises UsageError if they contradict each other there."""
    try:
        return policy.levels(total, total_inodes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def check_trace(trace: Trace, interval: float) -> None:
    """Refuse a trace from which no figure would be sound.

    Raises:
        LogError: it has no uses, or is shorter than one interval of the timer.
    """
    if not trace.demands:
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
) -> Result:
    """Replay a trace under a policy or baseline. Deterministic.

    Args:
        trace: the history.
        cleaner: what removes images.
        level: free bytes under which time counts as under the threshold; None: the policy's own
            threshold on the first disk state, or 0 for a baseline.
        pull_rate: bytes per second at which pulls are taken to run.
        progress: told the share that is done, from 0 to 1.
        timeline: whether the result shall tell free space over time.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: the policy contradicts itself on this disk.
    """
    check_trace(trace, cleaner.interval)
    if level is None:
        level = threshold_of(cleaner, trace)
    host = Host(trace, level, timeline=timeline)
    for time, what, number in _happenings(trace, cleaner.interval, progress):
        host.now = time
        before = len(host.counts.removals)
        _happen(host, cleaner, what, number)
        host.counts.prunes += len(host.counts.removals) > before
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
) -> list[Result]:
    """Replay a trace under each of several policies and baselines. Deterministic.

    Args:
        trace: the history.
        cleaners: what removes images, one result each; a policy prunes at its timer's ticks.
        level: free bytes under which a baseline's time counts as under the threshold; None: the
            threshold of the first policy. A policy's own threshold counts for itself.
        pull_rate: bytes per second at which pulls are taken to run.
        progress: told the share that is done, from 0 to 1.
        timeline: whether the results shall tell free space over time.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: a policy contradicts itself on this disk.
    """
    runs = [PolicyCleaner(cleaner, trace) if isinstance(cleaner, Policy) else cleaner for cleaner in cleaners]
    if level is None:
        level = next((threshold_of(run, trace) for run in runs if isinstance(run, PolicyCleaner)), None)
    results = []
    for k, run in enumerate(runs):
        under = None if isinstance(run, PolicyCleaner) else level
        share = _share_of(progress, k, len(runs))
        results.append(replay(trace, run, under, pull_rate, share, timeline=timeline))
    return results


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
    misses = counts.compulsory + counts.repulls + counts.losses
    return Result(
        name=cleaner.name,
        baseline=cleaner.baseline,
        threshold=host.level,
        uses=counts.uses,
        hits=counts.uses - misses,
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
