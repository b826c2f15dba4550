"""Search of a policy space: many policies on one trace, and which of them no other beats.

Pure functions: a trace and policies in, results out, the same whatever the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analyzer.kernel.runs import Wake
from analyzer.search.grid import Candidate
from analyzer.simulation.cleaner import PolicyCleaner, Trigger, policy_levels
from analyzer.simulation.replay import Progress, replay_many
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.errors import UsageError


def sweep(
    trace: Trace,
    candidates: Sequence[Candidate],
    pull_rate: float | None = None,
    progress: Progress | None = None,
    trigger: Trigger = Trigger.EVENT,
    *,
    timeline: bool = False,
) -> list[Result]:
    """Each candidate's result on the trace, in the order given.

    Args:
        trace: the history.
        candidates: the policies, with their names in the results.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        progress: called with the share that is done, from 0 to 1.
        trigger: what starts a prune.
        timeline: whether the results have free space over time.

    Raises:
        LogError: the trace is too poor for a sound figure.
        UsageError: a policy contradicts itself on this disk.
    """
    wake = Wake(pull_rate=pull_rate or trace.pull_rate)
    cleaners = [PolicyCleaner(candidate.policy, trace, candidate.name, trigger, wake) for candidate in candidates]
    # The removals of thousands of policies would fill the memory; a sweep is about the figures.
    results = replay_many(trace, cleaners, pull_rate=pull_rate, progress=progress, timeline=timeline, removals=False)
    return [replace(result, removed=()) for result in results]


def possible(trace: Trace, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates whose levels do not contradict each other on any of the trace's disk states.

    Raises:
        UsageError: none of them is possible there.
    """
    disks = sorted(set(zip(trace.disk_total.tolist(), trace.inode_total.tolist(), strict=True)))
    kept: list[Candidate] = []
    refused: UsageError | None = None
    for candidate in candidates:
        try:
            for total, inodes in disks:
                policy_levels(candidate.policy, total, inodes)
        except UsageError as error:
            refused = error
        else:
            kept.append(candidate)
    if not kept and refused is not None:
        raise UsageError(f"no policy of the grid is possible on host {trace.host}: {refused}")
    return kept


def badness(result: Result) -> tuple[int, int, int, int]:
    """What a policy should have little of: disk-full incidents, losses, re-pulled bytes, space taken."""
    return (result.disk_full, result.losses, result.repulled_bytes, -result.min_free)


def pareto(results: Sequence[Result]) -> list[bool]:
    """Which results no other beats: none is as good in everything (`badness`) and better in something.

    Of equal results all are on the front.
    """
    points = [badness(result) for result in results]
    distinct = sorted(set(points))
    front: list[tuple[int, int, int, int]] = []
    # In this order a point can only be beaten by one before it.
    for point in distinct:
        if not any(all(a <= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    kept = set(front)
    return [point in kept for point in points]
