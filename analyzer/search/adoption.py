"""What changes in the first week of a policy: the latest week once more, from what the host held when it began."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzer.kernel.runs import Wake
from analyzer.simulation.cleaner import PolicyCleaner, Trigger, learned
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Removals, Result
from analyzer.trace.trace import Flags, Trace
from collector.model.errors import HindsightError
from pruner.policy.policy import AUTO, Policy

WEEK_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class FirstWeek:
    """A policy's first week. Times are seconds after the trace's origin, sizes bytes.

    Attributes:
        begin: when it is adopted.
        end: when the week, or the history, is over.
        held: how many images the host held when it began.
        result: what the policy did, of this week alone.
        removed: every removal.
    """

    begin: float
    end: float
    held: int
    result: Result
    removed: Removals

    @property
    def first(self) -> tuple[int, int]:
        """How many images the first prune removes, and the bytes that frees."""
        now = self.removed.time == self.removed.time[:1]
        return int(np.count_nonzero(now)), int(self.removed.freed[now].sum())


def adoption_time(trace: Trace) -> float:
    """When the week begins: seven days before the end, or where a shorter history begins."""
    return max(0.0, trace.end - WEEK_S)


def first_week(
    trace: Trace,
    policy: Policy,
    held: Flags,
    trigger: Trigger = Trigger.EVENT,
    pull_rate: float | None = None,
) -> FirstWeek | None:
    """Replay the latest week under a policy.

    The order knows only what happened in that week, so that it does no better than the pruner would, who knows more. An
    automatic threshold is what it would have come to by then under the same policy.

    Args:
        trace: the history.
        policy: what is adopted.
        held: which images the host holds when the week begins; shape (n,).
        trigger: what starts a prune.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.

    Returns:
        None if too little happened in that week.
    """
    begin = adoption_time(trace)
    week = trace.between(begin, np.nextafter(trace.end, np.inf))
    kept = (week.time > begin) | (week.kind != 0) | held[week.image]
    week = replace(week, time=week.time[kept], image=week.image[kept], until=week.until[kept], kind=week.kind[kept])
    wake = Wake(pull_rate=pull_rate or trace.pull_rate)
    try:
        if policy.threshold.unit == AUTO:
            cleaner = PolicyCleaner(policy, trace, trigger=trigger, wake=wake)
            past = replay(trace, cleaner, pull_rate=pull_rate, timeline=True).timeline
            policy = policy if past is None else learned(policy, trace, past, begin, trigger)
        result = replay(week, PolicyCleaner(policy, week, trigger=trigger, wake=wake), pull_rate=pull_rate)
    except HindsightError:
        return None
    return FirstWeek(begin, trace.end, int(np.count_nonzero(held)), result, Removals.of(result.removed))
