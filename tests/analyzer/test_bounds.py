"""The clairvoyant and the bound: by hand, by trying all ways, and against every policy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.simulation.bounds import Bracket, Clairvoyant, add_regret, bracket, lower_bound, with_regret
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.traits import Use
from pruner.policy.policy import Policy, Space
from tests.analyzer.test_kernel import policies, traces
from tests.needs import examples

ORDERS = ("lru", "pulled", "created", "lfu", "gdsf", "next-use", "superseded", "hazard", "forecast")
RUN = Use.CONTAINER


def strict(threshold: int, **more: object) -> Policy:
    fixed = {"threshold": Space.parse(f"{threshold}B"), "inode_threshold": Space.parse("0"), "min_age": 0.0}
    return Policy(**{**fixed, "interval": 10.0, **more})  # type: ignore[arg-type]


def repulled(trace: Trace, policy: Policy, trigger: Trigger = Trigger.TICK) -> int:
    return replay(trace, PolicyCleaner(policy, trace, trigger=trigger)).repulled_bytes


def test_by_hand() -> None:
    """Three images of 40 on 100: at 10 one has to go. A is needed soon, B late, C never again."""
    images = [ImageFacts([(name, 40)]) for name in "abc"]
    uses = [(1.0, 0, 2.0, RUN), (3.0, 1, 4.0, RUN), (5.0, 2, 6.0, RUN), (11.0, 0, 12.0, RUN), (31.0, 1, 32.0, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=40)
    assert repulled(trace, strict(0)) == 80  # lru takes A, and then B
    clairvoyant = replay(trace, Clairvoyant(strict(0), trace))
    assert [(removal.time, removal.image) for removal in clairvoyant.removed] == [(10, 2)]
    assert bracket(trace, strict(0)) == Bracket(0, 0)
    # With 50 kept free C and B go at 10, or C and 30 bytes of B.
    assert bracket(trace, strict(50)) == Bracket(30, 40)
    assert bracket(trace, strict(50, min_age=30.0)) == Bracket(0, 40)  # the clairvoyant minds no age


def test_an_automatic_threshold_has_a_bracket_too() -> None:
    trace = make_trace([ImageFacts([("a", 40)])], [(1.0, 0, 2.0, RUN)], [DiskState(0, 100, 0)], end=40)
    chosen = [strict(0), replace(strict(0), threshold=Space.parse("auto"))]
    results = [replay(trace, PolicyCleaner(policy, trace)) for policy in chosen]
    assert [result.optimum_most for result in add_regret(trace, chosen, results)] == [0, 0]


def test_a_first_pull_of_a_shared_layer_is_no_repull() -> None:
    images = [ImageFacts([("base", 50), ("a", 10)]), ImageFacts([("base", 50), ("b", 10)])]
    uses = [(1.0, 0, 2.0, RUN), (11.0, 1, 12.0, RUN), (21.0, 0, 22.0, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=40)
    # With 60 kept free, all of A goes at 10, or 20 bytes of the base, which B's first pull brings back.
    result = replay(trace, PolicyCleaner(strict(60), trace))
    assert (result.compulsory_bytes, result.repulled_bytes) == (120, 60)
    assert lower_bound(trace, strict(60)) == 20


def test_what_is_used_after_the_end_costs_nothing() -> None:
    uses = [(1.0, 0, 2.0, RUN), (51.0, 0, 52.0, RUN)]
    bounds = {
        end: lower_bound(make_trace([ImageFacts([("a", 40)])], uses, [DiskState(0, 100, 0)], end=end), strict(90))
        for end in (50.0, 51.0)
    }
    assert bounds == {50.0: 0, 51.0: 30}


def test_what_a_policy_may_have_kept_or_dropped_takes_no_space() -> None:
    twins = [ImageFacts([("same", 40)], references=("a:1",)), ImageFacts([("same", 40)], references=("b:1",))]
    uses = [(1.0, 0, 2.0, RUN), (1.0, 1, 2.0, RUN), (21.0, 0, 22.0, RUN)]
    trace = make_trace(twins, uses, [DiskState(0, 100, 0)], end=40)
    # What only the other holds goes with it; in an emergency also if that is protected.
    for names in ((), ("b",), ("a", "b")):
        policy = strict(90, allowlist=names)
        assert (lower_bound(trace, policy), repulled(trace, policy)) == (30, 40)
    policy = strict(90, allowlist=("b",), emergency=Space.parse("never"))
    assert (lower_bound(trace, policy), repulled(trace, policy)) == (0, 0)
    # Image 0 is lost at 10: that it is asked for at 11 does not keep its layer, which image 1 then brings back.
    images = [ImageFacts([("own", 40)], local=True), ImageFacts([("own", 40)]), ImageFacts([("other", 40)])]
    uses = [(1.0, 0, 2.0, RUN), (11.0, 0, 39.0, RUN), (12.0, 1, 13.0, RUN), (14.0, 2, 15.0, RUN), (31.0, 2, 32.0, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 100, 70), DiskState(11, 100, 0)], end=40)
    policy = strict(60, local_images="evict")
    assert (lower_bound(trace, policy), repulled(trace, policy)) == (0, 0)
    # At 10 the protected image goes in an emergency: what came after it has more space from then on.
    images = [ImageFacts([("kept", 40)], references=("a:1",)), ImageFacts([("other", 40)], references=("b:1",))]
    uses = [(1.0, 0, 2.0, RUN), (14.0, 1, 15.0, RUN), (31.0, 1, 32.0, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 100, 70), DiskState(11, 100, 0)], end=40)
    policy = strict(50, allowlist=("a",), emergency=Space.parse("20B"))
    assert (lower_bound(trace, policy), repulled(trace, policy)) == (0, 0)


@st.composite
def equal_images(draw: st.DrawFn) -> tuple[Trace, int]:
    """Images of one layer of 10 bytes each, without duration; and how many of them may stay."""
    n = draw(st.integers(2, 4))
    uses = [
        (float(10 * step - 5 + k), image, float(10 * step - 5 + k), Use.JOB)
        for step in range(1, 7)
        for k, image in enumerate(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3, unique=True)))
    ]
    images = [ImageFacts([(f"own{i}", 10)]) for i in range(n)]
    return make_trace(images, uses, [DiskState(0, 100, 0)], end=70.0), draw(st.integers(0, n))


def best_by_trying(trace: Trace, stay: int) -> int:
    """The fewest re-pulled images, over all that may be kept at each tick."""
    steps: dict[int, set[int]] = {}
    for time, image in zip(trace.time.tolist(), trace.image.tolist(), strict=True):
        steps.setdefault(int(time // 10), set()).add(image)
    last = max(steps)

    @cache
    def fewest(step: int, held: frozenset[int], known: frozenset[int]) -> int:
        if step > last:
            return 0
        needed = frozenset(steps.get(step, ()))
        now, seen = held | needed, known | needed
        kept = [frozenset(some) for some in itertools.combinations(sorted(now), min(stay, len(now)))]
        return len((needed - held) & known) + min(fewest(step + 1, some, seen) for some in kept)

    return 10 * fewest(min(steps), frozenset(), frozenset())


@settings(max_examples=examples(50))
@given(equal_images())
def test_for_equal_images_clairvoyant_bound_and_optimum_are_one(made: tuple[Trace, int]) -> None:
    trace, stay = made
    policy = strict(100 - 10 * stay)
    optimum = best_by_trying(trace, stay)
    assert bracket(trace, policy) == Bracket(optimum, optimum)
    assert all(optimum <= repulled(trace, replace(policy, order=order)) for order in ORDERS)


@settings(max_examples=examples(60))
@given(traces(), policies(), st.sampled_from(Trigger))
def test_no_policy_beats_the_bound(trace: Trace, policy: Policy, trigger: Trigger) -> None:
    bound = lower_bound(trace, policy)
    assert bound == lower_bound(trace, policy, reference=True)
    assert bound <= replay(trace, Clairvoyant(policy, trace)).repulled_bytes
    for order in ORDERS:
        assert bound <= repulled(trace, replace(policy, order=order), trigger)


@pytest.mark.slow
@settings(max_examples=examples(1000))
@given(traces(), policies(), st.sampled_from(Trigger))
def test_no_policy_ever_beats_the_bound(trace: Trace, policy: Policy, trigger: Trigger) -> None:
    assert lower_bound(trace, policy) <= repulled(trace, policy, trigger)


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "least_gain"), [(24, 0.05)])
def test_on_the_mesa_year_the_future_is_worth_something(mesa: Trace, gib: int, least_gain: float) -> None:
    month = replace(
        mesa.between(0.0, 60 * 86400.0), disk_total=np.full(len(mesa.disk_total), gib * 2**30, dtype=np.int64)
    )
    policy = Policy(threshold=Space.parse("20%"))
    found, lru = bracket(month, policy), repulled(month, policy)
    assert found.least <= found.most <= lru * (1 - least_gain)
    result = with_regret(replay(month, PolicyCleaner(policy, month)), found)
    assert (result.optimum_least, result.optimum_most) == (found.least, found.most)
