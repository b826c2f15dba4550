"""Worked traces: every figure below can be followed by hand."""

from __future__ import annotations

import math

import pytest

from analyzer.baselines import Baseline
from analyzer.baselines.by_age import DockerGc, PruneUntil
from analyzer.kernel.runs import Wake
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.host import Removal
from analyzer.simulation.replay import replay, replay_many
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.errors import LogError, UsageError
from collector.model.traits import Use
from pruner.policy.policy import Policy, Space

BASE = ("base", 30)
A, B, C = range(3)
IMAGES = [ImageFacts([BASE, ("a", 10)]), ImageFacts([BASE, ("b", 20)]), ImageFacts([("c", 40)])]
RUN = Use.CONTAINER


def policy(threshold: str = "20B", **kwargs: object) -> Policy:
    return Policy(threshold=Space.parse(threshold), **{"min_age": 0.0, "interval": 10.0, **kwargs})  # type: ignore[arg-type]


def under(trace: Trace, chosen: Policy) -> Result:
    return replay(trace, PolicyCleaner(chosen, trace))


def trace_of(*uses: tuple[float, int, float], total: int = 100, end: float = 50.0) -> Trace:
    return make_trace(
        IMAGES, [(time, image, until, RUN) for time, image, until in uses], [DiskState(0, total, 0)], end=end
    )


def test_the_least_recently_used_image_goes_and_comes_back() -> None:
    # 40 + 20 + 40 bytes fill the disk; at 10 A (unused since 2) goes, which frees its own 10 bytes
    # only, and B (since 3), which frees 20 and the base's 30. At 21 A is pulled again: 40 bytes.
    trace = trace_of((1, A, 2), (2, B, 3), (3, C, 4), (21, A, 22))
    result = under(trace, policy())
    assert result.removed == (Removal(10, A, 10, emergency=False), Removal(10, B, 50, emergency=False))
    assert (result.uses, result.hits, result.compulsory, result.compulsory_bytes) == (4, 0, 3, 100)
    assert (result.repulls, result.repulled_bytes, result.removals, result.removed_bytes) == (1, 40, 2, 60)
    assert (result.prunes, result.disk_full, result.losses, result.min_free) == (1, 0, 0, 0)
    # Under 20 bytes free: from 3 to 10 (0 free) and not after (60, then 20 free).
    assert result.seconds_under == 7
    assert result.mean_held_bytes == (1 * 40 + 1 * 60 + 7 * 100 + 11 * 40 + 29 * 80) / 50
    assert result.repull_seconds == 40 / 50e6


def test_a_live_container_pins_its_image() -> None:
    result = under(trace_of((1, A, 45), (2, B, 3), (3, C, 4)), policy())
    assert [removal.image for removal in result.removed] == [B]


def test_a_container_that_ends_at_the_tick_no_longer_pins() -> None:
    result = under(trace_of((1, A, 10), (2, B, 10), (3, C, 10)), policy())
    assert [removal.image for removal in result.removed] == [A, B]


def test_a_use_at_the_tick_comes_before_it() -> None:
    result = under(trace_of((1, A, 2), (2, B, 3), (3, C, 4), (10, A, 10)), policy())
    assert [removal.image for removal in result.removed] == [B]
    assert result.repulls == 0


def test_min_age_spares_the_young() -> None:
    result = under(trace_of((1, A, 2), (2, B, 3), (3, C, 4)), policy(min_age=15.0))
    assert [(removal.time, removal.image) for removal in result.removed] == [(20, A), (20, B)]


def test_after_a_gap_every_image_counts_as_just_used() -> None:
    trace = make_trace(
        IMAGES,
        [(1, A, 2, RUN), (2, B, 3, RUN), (3, C, 4, RUN)],
        [DiskState(0, 100, 0)],
        blind=[(5, 25)],
        end=50,
    )
    result = under(trace, policy(min_age=5.0))
    assert {removal.time for removal in result.removed} == {30}


def test_protected_images_go_last_and_only_in_an_emergency() -> None:
    uses = ((1, A, 2), (2, B, 3), (3, C, 4))
    protect_b = policy(allowlist=("image:1",))
    assert [removal.image for removal in under(trace_of(*uses), protect_b).removed] == [A, C]
    all_protected = policy(allowlist=("image:*",))
    result = under(trace_of(*uses), all_protected)
    assert [(removal.image, removal.emergency) for removal in result.removed] == [(A, True), (B, True)]
    assert result.emergency_removals == 2
    never = policy(allowlist=("image:*",), emergency=Space.parse("never"))
    assert under(trace_of(*uses), never).removals == 0
    lapsed = policy(allowlist=("image:*",), emergency=Space.parse("never"), allowlist_idle=7.0)
    assert [(removal.time, removal.image) for removal in under(trace_of(*uses), lapsed).removed] == [
        (10, A),
        (20, B),
    ]


def test_a_pull_that_does_not_fit_is_one_incident_and_is_carried_out() -> None:
    trace = trace_of((1, A, 2), (2, B, 3), (3, C, 4), (5, C, 6), total=90)
    result = under(trace, policy())
    assert (result.disk_full, result.min_free, result.hits) == (1, -10, 1)


def test_other_files_that_take_the_last_space_are_an_incident() -> None:
    states = [DiskState(0, 100, 0), DiskState(5, 100, 61), DiskState(6, 100, 70), DiskState(7, 100, 0)]
    trace = make_trace(IMAGES, [(1, A, 2, RUN)], states, end=50)
    result = replay(trace, Baseline())
    assert (result.disk_full, result.min_free) == (1, -10)


def test_a_removed_local_image_is_lost_until_it_is_built_again() -> None:
    images = [*IMAGES[:2], ImageFacts([("c", 40)], local=True)]
    uses = [
        (0, C, 0, Use.ARRIVED),
        (1, A, 2, RUN),
        (2, B, 3, RUN),
        (12, C, 13, RUN),
        (13, C, 14, Use.ARRIVED),
        (14, C, 15, RUN),
    ]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=15)
    kept = under(trace, policy())
    assert (kept.losses, [removal.image for removal in kept.removed]) == (0, [A, B])
    lost = under(trace, policy(local_images="evict", order="lru"))
    assert [removal.image for removal in lost.removed] == [C]
    assert (lost.losses, lost.repulls, lost.hits) == (1, 0, 1)


def test_what_was_found_costs_nothing_until_it_is_pulled_again() -> None:
    uses = [(0, A, -100, Use.FOUND), (0, C, -50, Use.FOUND), (1, B, 2, RUN), (30, A, 31, RUN)]
    trace = make_trace(IMAGES, uses, [DiskState(0, 100, 0)], end=50)
    result = under(trace, policy())
    assert [(removal.time, removal.image) for removal in result.removed] == [(10, A), (10, C)]
    assert (result.compulsory, result.compulsory_bytes, result.repulls, result.repulled_bytes) == (1, 20, 1, 10)


def test_orders_choose_who_goes_first() -> None:
    images = [ImageFacts([(f"own{i}", 30)], created=float(-i)) for i in range(3)]
    uses = [(1, 0, 2, RUN), (2, 1, 3, RUN), (3, 2, 4, RUN), (4, 0, 9, RUN), (5, 1, 8, RUN), (6, 0, 6, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=10)
    went = {
        order: [removal.image for removal in under(trace, policy("30B", order=order)).removed]
        for order in ("lru", "pulled", "created", "lfu")
    }
    assert went == {"lru": [2], "pulled": [0], "created": [2], "lfu": [2]}


def test_inodes_alone_can_start_a_prune() -> None:
    trace = make_trace(IMAGES, [(1, C, 2, RUN)], [DiskState(0, 1000, 0, 100, 97)], end=50)
    trace.layer_inodes[:] = 1.0
    result = under(trace, policy("20B", inode_threshold=Space.parse("3%")))
    assert [(removal.time, removal.image) for removal in result.removed] == [(10, C)]


def test_docker_gc_goes_by_build_time_whatever_is_free() -> None:
    images = [
        ImageFacts([("a", 1)], created=-200.0),
        ImageFacts([("b", 1)], created=-5.0),
        ImageFacts([("c", 1)], references=("c:1", "c:2"), created=-200.0),
        ImageFacts([("d", 1)], created=-200.0),
    ]
    uses = [(float(k + 1), k, float(k + 2), RUN) for k in range(3)] + [(4.0, 3, 100.0, RUN)]
    trace = make_trace(images, uses, [DiskState(0, 10**12, 0)], end=30)
    result = replay(trace, DockerGc(grace=100, interval=10))
    # Loaded a moment ago yet built long ago: gone. Two tags: the engine refuses. Pinned: stays.
    assert [(removal.time, removal.image) for removal in result.removed] == [(10, 0)]


def test_image_prune_has_two_clocks() -> None:
    images = [ImageFacts([("a", 1)], created=-200.0), ImageFacts([("b", 1)], created=0.0)]
    trace = make_trace(images, [(1, 0, 2, RUN), (2, 1, 3, RUN)], [DiskState(0, 100, 0)], end=60)
    built = replay(trace, PruneUntil(age=50, interval=10, clock="built"))
    local = replay(trace, PruneUntil(age=50, interval=10, clock="local"))
    assert [(removal.time, removal.image) for removal in built.removed] == [(10, 0), (60, 1)]
    assert [(removal.time, removal.image) for removal in local.removed] == [(60, 0), (60, 1)]


def test_a_trace_too_poor_for_a_figure_is_refused() -> None:
    idle = make_trace(IMAGES, [(0, A, 0, Use.FOUND)], [DiskState(0, 100, 0)], end=50)
    with pytest.raises(LogError, match="no image was used"):
        under(idle, policy())
    with pytest.raises(LogError, match="less than one interval of 5 min"):
        under(trace_of((1, A, 2)), policy(interval=300.0))


def test_levels_that_contradict_on_this_disk_are_refused() -> None:
    with pytest.raises(UsageError, match="target 15B is less than threshold 20%"):
        under(trace_of((1, A, 2)), policy("20%", target=Space.parse("15B")))


def test_an_event_that_takes_too_much_space_can_start_a_prune() -> None:
    # C at 3 leaves nothing free: with the early trigger A and B go two seconds after its pull, not at 10.
    trace = trace_of((1, A, 2), (2, B, 3), (3, C, 4))
    for rate, gone in ((math.inf, 5.0), (20.0, 7.0)):
        cleaner = PolicyCleaner(policy(), trace, trigger=Trigger.EVENT, wake=Wake(2.0, rate))
        result = replay(trace, cleaner)
        assert [(removal.time, removal.image) for removal in result.removed] == [(gone, A), (gone, B)]
        assert result.prunes == 1


def test_a_prune_that_helps_little_is_followed_by_none_for_a_while() -> None:
    """All is in use at 4, when the pruner has looked first: the sample at 6 wakes it ten seconds after it was woken."""
    uses = [(1, A, 25, RUN), (2, B, 25, RUN), (3, C, 12, RUN)]
    trace = make_trace(IMAGES, uses, [DiskState(0, 100, 0), DiskState(6, 100, 1)], end=30)
    for reference in (False, True):
        cleaner = PolicyCleaner(policy(interval=29.0), trace, trigger=Trigger.EVENT, wake=Wake(1.0, math.inf))
        result = replay(trace, cleaner, reference=reference)
        assert [(removal.time, removal.image) for removal in result.removed] == [(14.0, C)]


def test_free_space_over_time_is_a_step_function() -> None:
    states = [DiskState(0, 100, 0), DiskState(20, 100, 10)]
    uses = [(1, A, 2, RUN), (2, B, 3, RUN), (3, C, 4, RUN), (4, C, 5, RUN)]
    trace = make_trace(IMAGES, uses, states, end=50)
    timeline = replay(trace, PolicyCleaner(policy(), trace), timeline=True).timeline
    assert timeline is not None
    steps = list(zip(timeline.seconds.tolist(), timeline.free.tolist(), strict=True))
    assert steps == [(0, 100), (1, 60), (2, 40), (3, 0), (10, 10), (10, 60), (20, 50)]
    assert under(trace, policy()).timeline is None


def test_many_policies_at_once_are_each_as_alone() -> None:
    trace = trace_of((1, A, 2), (2, B, 3), (3, C, 4), (21, A, 22))
    policies = [policy(), policy("50B"), policy(order="pulled")]
    output: list[float] = []
    results = replay_many(trace, [Baseline(), *policies], progress=output.append)
    assert results[1:] == [under(trace, chosen) for chosen in policies]
    assert results[0].threshold == 20
    assert output == sorted(output)


def test_a_superseded_local_image_goes_after_all_that_was_idle_as_long_and_may_be_missed() -> None:
    day = 86400.0
    facts = [
        ImageFacts([("old", 30)], ("ci/app:1",), local=True),
        ImageFacts([("idle", 30)], ("r/idle:1",)),
        ImageFacts([("busy", 10)], ("r/busy:1",)),
        ImageFacts([("new", 30)], ("ci/app:2",), local=True),
    ]
    uses = [(k * day, k, k * day, Use.ARRIVED if facts[k].local else RUN) for k in range(4)]
    uses += [(day * k + 60, 2, day * k + 120, RUN) for k in range(3, 20)] + [(20 * day, 0, 20 * day + 5, RUN)]
    for total, gone, losses in ((111, [1], 0), (89, [1, 0], 1)):
        trace = make_trace(facts, sorted(uses), [DiskState(0, 200, 0), DiskState(12 * day, total, 0)])
        for order in ("lru", "forecast"):
            chosen = policy("20B", order=order, interval=3600.0)
            for reference in (True, False):
                result = replay(trace, PolicyCleaner(chosen, trace), reference=reference)
                assert ([removal.image for removal in result.removed], result.losses) == (gone, losses)
