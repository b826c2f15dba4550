"""The replay: what a policy would have done to a host, step by step and in the open.

At equal times the disk changes first, then images are used, then the timer ticks. The timer ticks
at every multiple of its interval after the trace's origin, until the trace ends. With the trigger
`event` a pull, an arrival or a disk sample that leaves free space under the threshold starts a prune,
too, as on a host whose collector wakes the pruner: once the pull has ended, and the prune has had its time.
What was started so does its work after all that happens at the same time.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields

import numpy as np

from analyzer.kernel import index as kernel
from analyzer.kernel.runs import ReplayCounts, Run, at_once, play
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, threshold_of
from analyzer.simulation.compiled import index_for, result_of, rules_of
from analyzer.simulation.host import Host
from analyzer.simulation.result import Result, Timeline
from analyzer.trace.trace import Trace
from collector.model.errors import LogError
from collector.model.traits import Use
from collector.model.units import format_duration
from pruner.policy.policy import Policy

Progress = Callable[[float], None]

_DISK, _USE, _TICK = range(3)
_PROGRESS_STEPS = 200
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let replays take one thread where nobody says otherwise: the other processors are busy with other hosts."""
    before = _threads.set(1)
    try:
        yield
    finally:
        _threads.reset(before)


def check_trace(trace: Trace, interval: float, demands: int | None = None) -> None:
    """Refuse a trace from which no figure would be sound.

    Raises:
        LogError: it has no uses, or is shorter than one interval of the timer.
    """
    if demands is None:
        demands = trace.between(0.0, np.nextafter(trace.end, math.inf)).demands
    if not demands:
        log = f"{format_duration(trace.end)} of the log"
        raise LogError.about(trace.host, log, ", and no image was used: let the collector record some jobs")
    if trace.end < interval:
        short = f" spans {format_duration(trace.end)}, less than one interval of {format_duration(interval)}"
        raise LogError.about(trace.host, "the log", f"{short}: watch for longer, or give a shorter --interval")


def replay(
    trace: Trace,
    cleaner: Cleaner,
    level: float | None = None,
    pull_rate: float | None = None,
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
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        progress: called with the share that is done, from 0 to 1.
        timeline: whether the result has free space over time.
        reference: whether to do without the compiled kernel.
        removals: whether the result must list every removal; if not, it may.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: the policy contradicts itself on this disk.
    """
    pull_rate = pull_rate or trace.pull_rate
    index = None if reference else index_for(trace, cleaner)
    check_trace(trace, cleaner.interval, index.demands if index else None)
    if level is None:
        level = threshold_of(cleaner, trace)
    if index is not None:
        run = Run(index, rules_of(cleaner, index), level, removals=removals, steps=timeline)
        (outcome,) = play([run], trace.end)
        if progress:
            progress(1.0)
        return result_of(outcome, cleaner, index, level, pull_rate, timeline=timeline)
    host = Host(trace, level, timeline=timeline)
    for time, what, number in _happenings(trace, cleaner.interval, progress):
        if time > trace.end:
            break
        _wake(host, cleaner, np.nextafter(time, -math.inf))
        before = len(host.counts.removals)
        cleaner.waits(host, time, use=what == _USE)
        host.now = time
        _happen(host, cleaner, what, number)
        host.counts.prunes += len(host.counts.removals) > before
    _wake(host, cleaner, trace.end)
    cleaner.waits(host, trace.end, use=False)
    host.now = trace.end
    host.account()
    return _result(host, cleaner, pull_rate)


def _wake(host: Host, cleaner: Cleaner, until: float) -> None:
    """Wake whoever is due up to a time."""
    while cleaner.due <= until:
        before = len(host.counts.removals)
        host.now = cleaner.due
        cleaner.wakes(host)
        host.counts.prunes += len(host.counts.removals) > before


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
    pull_rate: float | None = None,
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
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        progress: called with the share that is done, from 0 to 1.
        timeline: whether the results have free space over time.
        reference: whether to do without the compiled kernel.
        removals: whether the results must list every removal; if not, they may.
        threads: how many policies to replay at once; None: one for each available processor, or see `one_thread`.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: a policy contradicts itself on this disk.
    """
    pull_rate = pull_rate or trace.pull_rate
    runs = [PolicyCleaner(cleaner, trace) if isinstance(cleaner, Policy) else cleaner for cleaner in cleaners]
    if level is None:
        level = next((threshold_of(run, trace) for run in runs if isinstance(run, PolicyCleaner)), None)
    own = [threshold_of(run, trace) if level is None or isinstance(run, PolicyCleaner) else level for run in runs]
    native = [] if reference else [k for k, run in enumerate(runs) if index_for(trace, run) is not None]
    found: dict[int, Result] = {}
    if native:
        compiled = [(runs[k], own[k]) for k in native]
        update = _part_of(progress, 0, len(native), len(runs))
        results = _replay_compiled(trace, compiled, threads, update, removals=removals, timeline=timeline)
        found = {
            k: result_of(outcome, runs[k], kernel.index_of(trace), own[k], pull_rate, timeline=timeline)
            for k, outcome in zip(native, results, strict=True)
        }
    for k, run in enumerate(runs):
        if k not in found:
            update = _part_of(progress, len(found), 1, len(runs))
            found[k] = replay(trace, run, own[k], pull_rate, update, timeline=timeline, reference=True)
    return [found[k] for k in range(len(runs))]


def _replay_compiled(
    trace: Trace,
    cleaners: Sequence[tuple[Cleaner, float]],
    threads: int | None,
    progress: Progress | None,
    *,
    removals: bool,
    timeline: bool,
) -> list[ReplayCounts]:
    """Replay under several of what the kernel knows, each with the level that counts for it."""
    index = kernel.index_of(trace)
    for cleaner, _ in cleaners:
        check_trace(trace, cleaner.interval, index.demands)
    outcomes: list[ReplayCounts] = []
    batch = at_once(index)
    for first in range(0, len(cleaners), batch):
        some = cleaners[first : first + batch]
        update = _part_of(progress, first, len(some), len(cleaners))
        runs = [
            Run(index, rules_of(cleaner, index), level, removals=removals, steps=timeline) for cleaner, level in some
        ]
        outcomes += play(runs, trace.end, threads or _threads.get() or len(os.sched_getaffinity(0)), update)
    return outcomes


def _part_of(progress: Progress | None, done: int, part: int, count: int) -> Progress | None:
    """The progress of `part` of `count` runs, after `done` of them, as part of them all."""
    if progress is None:
        return None
    return lambda share: progress((done + share * part) / count)


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
    counts = {item.name: getattr(host.counts, item.name) for item in fields(host.counts)}
    uses, removals = counts.pop("uses"), counts.pop("removals")
    return Result(
        name=cleaner.name,
        baseline=cleaner.baseline,
        threshold=host.level,
        uses=uses,
        hits=uses - counts["compulsory"] - counts["repulls"] - counts["losses"],
        **counts,
        removals=len(removals),
        removed_bytes=sum(removal.bytes for removal in removals),
        emergency_removals=sum(removal.emergency for removal in removals),
        min_free=int(host.min_free),
        seconds_under=host.seconds_under,
        mean_held_bytes=host.byte_seconds / host.trace.end,
        seconds=host.trace.end,
        pull_rate=pull_rate,
        removed=tuple(removals),
        timeline=_timeline(host),
    )


def _timeline(host: Host) -> Timeline | None:
    if host.steps is None:
        return None
    return Timeline(
        np.array([seconds for seconds, _ in host.steps], dtype=np.float64),
        np.array([free for _, free in host.steps], dtype=np.int64),
    )
