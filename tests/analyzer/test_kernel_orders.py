"""Orders, automatic thresholds and rules of age: the kernel and the reference come to the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.baselines import DEFAULT_BASELINES, Baseline, baseline
from analyzer.kernel import moments, runs
from analyzer.kernel.rules import AgeClock, AgeRule
from analyzer.kernel.runs import Wake
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.host import Host
from analyzer.simulation.replay import replay, replay_many
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.errors import UsageError
from collector.model.traits import Use
from pruner.policy import headroom
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, Space
from tests.analyzer.test_kernel import WAKES, assert_equal, figures, policies, stretched, traces
from tests.needs import examples


@settings(max_examples=examples(150))
@given(
    traces(),
    st.lists(policies(), min_size=3, max_size=3),
    st.sampled_from(Trigger),
    WAKES,
    st.sampled_from([701.3, 20000.0, 86400.0]),
    st.sampled_from(sorted(set(ORDERS) - {"lru"})),
    st.sampled_from([0, 600, moments._MOMENTS_BYTES]),
    st.integers(1, 2),
    st.sampled_from([1, 3, 256]),
)
def test_orders_over_days(
    trace: Trace,
    chosen: list[Policy],
    trigger: Trigger,
    wake: Wake,
    factor: float,
    order: str,
    room: int,
    threads: int,
    slices: int,
) -> None:
    """Where habits are learned; policies share moments, as far as these have room."""
    trace = stretched(trace, factor)
    cleaners = [
        PolicyCleaner(
            replace(
                policy,
                order=order,
                interval=policy.interval * factor,
                allowlist_idle=policy.allowlist_idle * factor,
                min_age=None if policy.min_age is None else policy.min_age * factor,
            ),
            trace,
            trigger=trigger,
            wake=Wake(wake.latency * factor, wake.pull_rate / factor),
        )
        for policy in chosen
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_MOMENTS_BYTES", room)
        patch.setattr(moments, "WORTH_A_THREAD", 0 if threads > 1 else len(trace.time))
        patch.setattr(runs, "_SLICES", slices)
        slow, together = (
            replay_many(trace, cleaners, timeline=True, reference=reference, threads=threads)
            for reference in (True, False)
        )
        alone = replay(trace, cleaners[0], timeline=True)
    assert [figures(result) for result in together] == [figures(result) for result in slow]
    assert figures(alone) == figures(slow[0])


@pytest.mark.parametrize("shuffled", [False, True])
def test_containers_that_end_in_another_order_than_they_began(*, shuffled: bool) -> None:
    """Idle periods are sorted in one way where they are nearly in order, and in another where they are not."""
    count = 60
    ends = np.random.default_rng(3).permutation(count) if shuffled else np.arange(count)[::-1]
    known = [ImageFacts([(f"own{i}", 1 + i % 7)]) for i in range(count)]
    uses = [(float(i), i, 100.0 + float(ends[i]), Use.CONTAINER) for i in range(count)]
    uses += [(300.0 + i, i, 300.0 + i, Use.JOB) for i in range(0, count, 3)]
    trace = make_trace(known, uses, [DiskState(0, 200, 0)], end=400.0)
    policy = Policy(threshold=Space.parse("60B"), target=Space.parse("90B"), min_age=5.0, interval=20.0, order="lru")
    assert replay(trace, PolicyCleaner(policy, trace)).removals > 0
    assert_equal(trace, policy, Trigger.TICK)


@settings(max_examples=examples(150))
@given(
    traces(),
    policies(),
    st.sampled_from(Trigger),
    WAKES,
    st.sampled_from([0.5, 1.0, 2.5, 7.0]),
    st.sampled_from([0.0, 60.0, 2e5, 1e9]),
)
def test_automatic_thresholds_over_months(
    trace: Trace, chosen: Policy, trigger: Trigger, wake: Wake, days: float, reach: float
) -> None:
    auto = replace(chosen, threshold=Space.parse("auto"), target=None, emergency=None, interval=days * 86400.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headroom, "ARRIVAL", reach)
        assert_equal(stretched(trace, 86400.0), auto, trigger, wake)


def test_an_automatic_threshold_is_half_of_the_disk_at_most() -> None:
    day = 86400.0
    images = [ImageFacts([("a", 70)]), ImageFacts([("b", 45)])]
    uses = [(1.5 * day, 0, 1.5 * day, Use.JOB), (3.5 * day, 1, 3.5 * day, Use.JOB)]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=9 * day)
    policy = Policy(threshold=Space.parse("auto"), interval=3600.0)
    for reference in (False, True):
        result = replay(trace, PolicyCleaner(policy, trace), reference=reference)
        assert [removal.image for removal in result.removed] == [0]


def test_an_automatic_threshold_that_contradicts_the_policy_is_refused() -> None:
    # Half of the disk is used up within the second day: with that, 60 % have to be free, more than the target of 30 %.
    uses = [(86400.0 + 60.0, 0, 86400.0 + 70.0, Use.CONTAINER)]
    trace = make_trace([ImageFacts([("a", 48)])], uses, [DiskState(0, 100, 0)], end=9 * 86400.0)
    policy = Policy(threshold=Space.parse("auto"), target=Space.parse("30%"), interval=3600.0)
    for reference in (False, True):
        with pytest.raises(UsageError, match="target"):
            replay(trace, PolicyCleaner(policy, trace), reference=reference)


@settings(max_examples=examples(200))
@given(
    traces(),
    st.builds(
        AgeRule,
        st.sampled_from(AgeClock),
        st.sampled_from([-math.inf, 0.0, 3.0, 15.0, 30.5, math.inf]),
        st.sampled_from([None, None, 0.0, 0.3, 1.0]),
        st.booleans(),
    ),
    st.sampled_from([0.0, 1.0, 2.5, 7.0]),
)
def test_rules_of_age(trace: Trace, rule: AgeRule, interval: float) -> None:
    cleaner = Baseline()
    cleaner.rule, cleaner.interval = rule, interval
    fast, slow = (replay(trace, cleaner, 20.0, timeline=True, reference=reference) for reference in (False, True))
    assert figures(fast) == figures(slow)


@pytest.mark.parametrize("name", [*DEFAULT_BASELINES, "flush", "clear-docker-cache-19.2", "ttl-idle"])
def test_simple_baselines_are_replayed_by_the_kernel(mesa: Trace, name: str) -> None:
    cleaner = baseline(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "use", None)  # the reference would fall over that
        replay(mesa, cleaner)
