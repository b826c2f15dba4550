"""Policies and baselines as the compiled kernel takes them, and what it found as results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analyzer.kernel import index as kernel
from analyzer.kernel.index import Index
from analyzer.kernel.moments import Moments
from analyzer.kernel.rules import AgeRule, Superseded, ToolRules
from analyzer.kernel.runs import ReplayCounts, Rules
from analyzer.kernel.structures import Chooser
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, Trigger, policy_levels, with_threshold
from analyzer.simulation.knowledge import knowledge_of
from analyzer.simulation.result import Removals, Result, Timeline
from analyzer.trace.trace import Flags, Trace
from pruner.planning.decision import GAP_GRACE_S
from pruner.policy.local_images import EVICT
from pruner.policy.orders import OWN_STATE_ORDERS
from pruner.policy.policy import AUTO, Policy

# Floating point still resolves a hundred times as much to the byte.
_MOST_BYTES = 2**53 // 100


def index_for(trace: Trace, cleaner: Cleaner) -> Index | None:
    """The trace's index, if the compiled kernel is available and knows what the cleaner does."""
    if not kernel.available(trace):
        return None
    known = isinstance(cleaner, PolicyCleaner) and cleaner.trace is trace
    if known or _rule_or_tool(cleaner, trace) is not None:
        return kernel.index_of(trace)
    return None


def _rule_or_tool(cleaner: Cleaner, trace: Trace) -> AgeRule | ToolRules | None:
    """What a baseline does, if the kernel knows it and does it to the last bit on such a disk."""
    rule, tool = getattr(cleaner, "rule", None), getattr(cleaner, "tool", None)
    if isinstance(rule, AgeRule):
        return rule
    return tool if isinstance(tool, ToolRules) and int(trace.disk_total.max(initial=0)) < _MOST_BYTES else None


def rules_of(cleaner: Cleaner, index: Index) -> Rules:
    """A policy as the kernel takes it."""
    other = _rule_or_tool(cleaner, index.trace)
    if other is not None:
        return Rules(
            levels=np.zeros((len(index.sizes), 6)),
            protected=np.zeros(index.trace.images, dtype=np.bool_),
            interval=cleaner.interval,
            min_ages=np.zeros((1, 2)),
            allowlist_idle=0.0,
            gap_grace=0.0,
            wake=None,
            keep_local=False,
            chooser=other,
        )
    assert isinstance(cleaner, PolicyCleaner)  # noqa: S101 - `index_for` lets no other pass
    policy = cleaner.policy
    levels = [policy_levels(policy, int(total), int(inodes)) for total, inodes in index.sizes]
    return Rules(
        levels=np.array([(*level.threshold, *level.target, *level.emergency) for level in levels]),
        protected=_protected(cleaner),
        interval=policy.interval,
        min_ages=cleaner.min_ages,
        allowlist_idle=policy.allowlist_idle,
        gap_grace=GAP_GRACE_S,
        wake=cleaner.wake if cleaner.trigger is Trigger.EVENT else None,
        keep_local=policy.local_images != EVICT,
        superseded=_superseded(cleaner),
        chooser=_chooser(cleaner, index),
        resolved=_resolved(policy, index) if policy.threshold.unit == AUTO else None,
        working_sets=cleaner.working_sets if policy.threshold.unit == AUTO else None,
    )


def _protected(cleaner: PolicyCleaner) -> Flags:
    """Per image whether the allowlist names it; shape (n,)."""
    if not cleaner.policy.allowlist:
        return np.zeros(cleaner.trace.images, dtype=np.bool_)
    return np.array(cleaner.protected, dtype=np.bool_)


def _superseded(cleaner: PolicyCleaner) -> Superseded | None:
    """How local images may go, if there are any that may."""
    if not cleaner.lets_local_go:
        return None
    known = knowledge_of(cleaner.trace)
    return Superseded(cleaner.policy.local_idle, known.repositories, known.bearing, known.sight, cleaner.gaps)


def _resolved(policy: Policy, index: Index) -> Callable[[int, float], Sequence[float]]:
    """An automatic policy's levels once its threshold is known, on each class of disk."""

    def levels(number: int, threshold: float) -> Sequence[float]:
        total, inodes = index.sizes[number]
        found = policy_levels(with_threshold(policy, threshold), int(total), int(inodes))
        return (*found.threshold, *found.target, *found.emergency)

    return levels


def _chooser(cleaner: PolicyCleaner, index: Index) -> Chooser:
    """What ranks the images; once for all policies, if they are ranked alike whatever a policy did."""
    order, rates = cleaner.policy.order, cleaner.policy.rates
    if order in OWN_STATE_ORDERS:
        return order
    if order == "lru":
        # With local images at their turn, images have to be ranked at each decision.
        return order if cleaner.lets_local_go else None

    def make() -> Moments:
        if order == "forecast" and not rates:
            return Moments(index.trace.images, knowledge_of(index.trace).forecasting)
        # Computed here, what it needs is not computed in several threads at once.
        cleaner.keys(0.0, index.trace.image[:1].astype(np.int64))
        return Moments(index.trace.images, cleaner.keys)

    return index.moments(f"{order} {rates}", make)


def result_of(
    outcome: ReplayCounts, cleaner: Cleaner, index: Index, level: float, pull_rate: float, *, timeline: bool
) -> Result:
    """What a replay found, as a result; see `analyzer.simulation.replay.replay`."""
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
