"""What removes images from a simulated host: our policy, or something others run."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from enum import StrEnum
from functools import cached_property
from typing import Protocol

import numpy as np

from analyzer.kernel.runs import Wake
from analyzer.simulation.host import Host
from analyzer.simulation.knowledge import knowledge_of
from analyzer.simulation.result import Timeline
from analyzer.trace.trace import Floats, Integers, Trace
from collector.machine.wake import FIRST_PAUSE_S, LAST_PAUSE_S
from collector.model.errors import UsageError
from pruner.planning.decision import EVICT_EMERGENCY, Reason, evict, in_turn, recent_use
from pruner.policy.headroom import MEMORY, FreeSpaceDrops, capped, reach_of
from pruner.policy.local_images import EVICT, SUPERSEDED, by_end, idle_since, in_their_turn, superseded
from pruner.policy.orders import ORDERS, OWN_STATE_ORDERS
from pruner.policy.policy import AUTO, Levels, Policy, Space


class Trigger(StrEnum):
    """What starts a prune: the timer alone, or also an event that leaves too little space."""

    TICK = "tick"
    EVENT = "event"


class Cleaner(Protocol):
    """Something that removes images from a simulated host: our policy, or what others run.

    Attributes:
        name: what a report calls it.
        baseline: whether it is a baseline, not a policy of ours.
        interval: seconds between ticks of its timer; 0: it has none.
        due: when else it is to be woken, seconds after the trace's origin; infinity: not.
    """

    name: str
    baseline: bool
    interval: float
    due: float

    def tick(self, host: Host) -> None:
        """The timer fires."""

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """An image was just used; `brought_in` if it had to be pulled or has arrived."""

    def sampled(self, host: Host) -> None:
        """The disk was just sampled."""

    def waits(self, host: Host, until: float, *, use: bool) -> None:
        """Time passes from the last happening until `until`, when a use begins or something else happens."""

    def wakes(self, host: Host) -> None:
        """It is `due`."""


class PolicyCleaner:
    """Our pruner: the decision function, called at each tick. What inherits may have other `keys`, and nothing else.

    Args:
        policy: what to apply.
        trace: where to apply it.
        name: what a report calls it; None: the policy in words.
        trigger: what starts a prune.
        wake: how events do, if they do; None: pulls run as on the history's host.
    """

    baseline = False

    def __init__(
        self,
        policy: Policy,
        trace: Trace,
        name: str | None = None,
        trigger: Trigger = Trigger.TICK,
        wake: Wake | None = None,
    ) -> None:
        self.policy = policy
        self.trace = trace
        self.trigger = trigger
        self.wake = wake or Wake(pull_rate=trace.pull_rate)
        self.due = math.inf
        self._quiet_until = -math.inf
        self._pause = FIRST_PAUSE_S
        self.name = name or str(policy)
        self.interval = policy.interval
        self._levels: dict[tuple[float | None, int, int], Levels] = {}
        self._superseded: set[int] = set()
        self._headroom = None
        if policy.threshold.unit == AUTO:
            self._headroom = Headroom(policy.interval, reach_of(policy.interval, early=trigger is Trigger.EVENT))

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

    @cached_property
    def min_ages(self) -> Floats:
        """The minimum age, seconds, and from when on it holds, the first always; shape (k, 2) of (time, age)."""
        if self.policy.min_age is not None:
            return np.array([[-math.inf, self.policy.min_age]])
        return self.trace.min_ages

    def min_age(self, now: float) -> float:
        """The minimum age that holds at a time, seconds."""
        return float(self.min_ages[max(0, int(np.searchsorted(self.min_ages[:, 0], now, side="right")) - 1), 1])

    def levels(self, host: Host) -> Levels:
        """The policy's amounts of free space on the disk as it is now."""
        needed = self._needed(host)
        state = (needed, host.total, host.total_inodes)
        if state not in self._levels:
            policy = self.policy if needed is None else with_threshold(self.policy, needed)
            self._levels[state] = policy_levels(policy, host.total, host.total_inodes)
        return self._levels[state]

    def _needed(self, host: Host) -> float | None:
        """The automatic threshold, bytes; None: there is none, or too little is known yet."""
        found = self._headroom.threshold(host.total) if self._headroom is not None else None
        if found is None:
            return None
        sets = self.working_sets
        usual = float(sets[int(np.searchsorted(sets[:, 0], host.now, side="right")) - 1, 1])
        return capped(found, host.total, host.free + host.held_bytes, usual)

    @cached_property
    def working_sets(self) -> Floats:
        """See `Knowledge.working_sets`."""
        return knowledge_of(self.trace).working_sets

    def tick(self, host: Host) -> None:
        """Remove what the decision function says, if free space is under the threshold."""
        self._prune(host)

    def _prune(self, host: Host) -> Levels:
        """The same; the levels that held."""
        if self._headroom is not None:
            self._headroom.look(host.now, host.free)
        levels = self.levels(host)
        if host.free >= levels.threshold[0] and host.free_inodes >= levels.threshold[1]:
            return levels
        guessed = host.guessed()
        order = sorted(self._local_in_turn(host, self.ordered(host)), key=lambda i: guessed.get(i, 0))
        verdict = self.decide(host, order, levels)
        for i in in_turn(order, verdict):
            host.remove(i, emergency=verdict[i] == EVICT_EMERGENCY)
        if self._headroom is not None:
            self._headroom.look(host.now, host.free)
        return levels

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Prune if that took too much space and events are to trigger it."""
        if brought_in:
            if self._headroom is not None:
                self._headroom.look(host.now, host.free - host.beside)
            self._changed(host, host.arriving)

    def sampled(self, host: Host) -> None:
        """Prune if that shows too little space and events are to trigger it."""
        self._changed(host)

    def _changed(self, host: Host, arriving: int = 0) -> None:
        if self._headroom is not None:
            self._headroom.look(host.now, host.free)
        if self.trigger is not Trigger.EVENT or self._calm(host, self.levels(host)):
            return
        # The sample that shows it is taken once the pull has ended.
        sample = host.now + arriving / self.wake.pull_rate
        self.due = min(self.due, max(sample, self._quiet_until) + self.wake.latency)

    def wakes(self, host: Host) -> None:
        """A prune that an event started does its work; as `collector.machine.wake.Alarm` has it."""
        self.due = math.inf
        if not self._calm(host, self._prune(host)):
            self._quiet_until = host.now - self.wake.latency + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE_S)

    def _calm(self, host: Host, levels: Levels) -> bool:
        """Whether there is space enough; then the next shortage is heard at once."""
        if host.free < levels.threshold[0] or host.free_inodes < levels.threshold[1]:
            return False
        self._pause, self._quiet_until = FIRST_PAUSE_S, -math.inf
        return True

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

    @cached_property
    def lets_local_go(self) -> bool:
        """Whether there are images that exist only on the host, and those that are superseded may go."""
        return self.policy.local_images == SUPERSEDED and bool(self.trace.local.any())

    @cached_property
    def gaps(self) -> list[tuple[float, float]]:
        """When nothing was observed, the gap that ends last first."""
        return by_end((begin, end) for begin, end in self.trace.blind.tolist())

    def _local_in_turn(self, host: Host, order: list[int]) -> list[int]:
        """The same images, those that exist only on the host at their turn; which of these may go is noted."""
        if not self.lets_local_go:
            return order
        quiet = idle_since(host.now, self.policy.local_idle, 0.0, self.gaps)
        there, known = [i for i in host.present if host.local[i]], knowledge_of(self.trace)
        current = [{name for name, since, until in names if since <= host.now < until} for names in known.bearing]
        found = superseded(there, known.repositories, current, known.sight.tolist())
        self._superseded = {i for i in found if host.last_use[i] <= quiet}
        return in_their_turn(order, host.local, host.last_use, quiet) if self._superseded else order

    def keys(self, now: float, images: Integers) -> Floats:
        """The keys of images by an order that looks at none of what the policy did, lowest first to go."""
        return knowledge_of(self.trace, self.policy.rates).keys(self.policy.order, now, images)

    def decide(self, host: Host, order: list[int], levels: Levels) -> list[int]:
        """The verdict on every image that is there."""
        blind, min_age = host.blind_until(), self.min_age(host.now)
        verdict = [0] * len(host.held)
        evict(
            order,
            [self._blocked(host, i) for i in range(len(host.held))],
            self.protected,
            [recent_use(last_use, blind, min_age) for last_use in host.last_use],
            host.now - min_age,
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
        stays = host.local[image] and self.policy.local_images != EVICT and image not in self._superseded
        return Reason.LOCAL if stays else 0


class Headroom:
    """The record of falls along a simulated history, as a host under this policy would have made it."""

    def __init__(self, interval: float, reach: float) -> None:
        self._interval = interval
        self._reach = reach
        self._falls = FreeSpaceDrops(interval)
        self._began = 0.0
        self._before: int | None = None
        self._deepest = 0.0
        # What was free until when: the highest within reach first, then only what was lower and later.
        self._past: deque[tuple[float, int]] = deque()

    def look(self, now: float, free: int) -> None:
        """See what is free now; a fall counts from what was free at most within reach."""
        if self._before is not None:
            while self._past and self._past[-1][1] <= self._before:
                self._past.pop()
            while self._past and self._past[0][0] < now - self._reach:
                self._past.popleft()
            self._past.append((now, self._before))
            self._deepest = max(self._deepest, self._past[0][1] - free)
        if now >= self._began + self._interval:
            if self._before is not None:
                self._falls.add(self._deepest)
            self._began = now // self._interval * self._interval
            self._deepest = 0.0
        self._before = free

    def threshold(self, total: int) -> float | None:
        """The free space that a disk of `total` bytes needs at a tick; None: too little is known yet."""
        return self._falls.threshold(total)


def learned(policy: Policy, trace: Trace, past: Timeline, now: float, trigger: Trigger) -> Policy:
    """A policy with the amount that its automatic threshold has come to at a time; itself if too little is known.

    Args:
        policy: the policy.
        trace: the history.
        past: what was free until then.
        now: the time, seconds after the trace's origin.
        trigger: what starts a prune.
    """
    if policy.threshold.unit != AUTO:
        return policy
    headroom = Headroom(policy.interval, reach_of(policy.interval, early=trigger is Trigger.EVENT))
    begin = max(0.0, now - MEMORY)
    ticks = np.arange(begin, now, policy.interval)
    # Of several changes at one time each is looked at, as they come; a tick sees what the last one left.
    changes = np.flatnonzero((past.seconds >= begin) & (past.seconds < now))
    times = np.concatenate((past.seconds[changes], ticks))
    steps = np.concatenate((changes, np.searchsorted(past.seconds, ticks, side="right") - 1))
    turn = np.argsort(times, kind="stable")
    for time, step in zip(times[turn].tolist(), steps[turn].tolist(), strict=True):
        if step >= 0:
            headroom.look(time, int(past.free[step]))
    state = max(0, int(np.searchsorted(trace.disk_time, now, side="right")) - 1)
    total, other = int(trace.disk_total[state]), int(trace.disk_other[state])
    found = headroom.threshold(total)
    if found is None:
        return policy
    sets = knowledge_of(trace).working_sets
    usual = float(sets[int(np.searchsorted(sets[:, 0], now, side="right")) - 1, 1])
    return with_threshold(policy, capped(found, total, total - other, usual))


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

    Simulated free space can be negative, so ``never`` has to be less than any amount. An amount per job is taken
    for all job slots, for the log does not say how many were free.
    """
    if policy.per_job and policy.job_slots is None:
        raise UsageError("an amount per job needs the number of job slots: set job_slots in a policy file (--policy)")
    try:
        levels = policy.levels(total, total_inodes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if policy.emergency is not None and policy.emergency.amount < 0.0:
        return Levels(levels.threshold, levels.target, (-math.inf, -math.inf))
    return levels


def threshold_of(cleaner: Cleaner, trace: Trace) -> float:
    """A policy's threshold on the first disk state, bytes; 0 for a baseline."""
    if not isinstance(cleaner, PolicyCleaner):
        return 0.0
    return policy_levels(cleaner.policy, int(trace.disk_total[0]), int(trace.inode_total[0])).threshold[0]
