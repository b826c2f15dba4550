"""Each baseline on a worked example: what goes when, by hand from the tool's own rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from analyzer.baselines import BASELINES, baseline, meanings
from analyzer.baselines.by_age import Buildkite, ClearDockerCache, Ecs, Nomad, Taskcluster, TtlIdle
from analyzer.baselines.by_events import Codefresh
from analyzer.baselines.by_space import (
    Arvados,
    BuildkitRank,
    Docuum,
    DroneGc,
    Flush,
    Kubelet,
    RunnerCleanup,
    Stone,
)
from analyzer.simulation.cleaner import Cleaner
from analyzer.simulation.replay import replay
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.errors import UsageError
from collector.model.traits import Use
from tests.analyzer.command import analyzer

RUN = Use.CONTAINER
DAY = 86400.0
A, B, C, D = range(4)


def alone(*sizes: int) -> list[ImageFacts]:
    """Images of one layer each."""
    return [ImageFacts([(f"own{i}", size)]) for i, size in enumerate(sizes)]


def gone(
    cleaner: Cleaner,
    images: Sequence[ImageFacts],
    *uses: tuple[float, int, float],
    total: int = 10**12,
    end: float = 1000.0,
    disk: Sequence[DiskState] = (),
) -> list[tuple[float, int]]:
    """What goes when: uses as (begin, image, end), containers all."""
    states = disk or [DiskState(0, total, 0)]
    trace = make_trace(images, [(*use, RUN) for use in uses], states, end=end)
    return [(removal.time, removal.image) for removal in replay(trace, cleaner).removed]


def test_flush_takes_all_that_is_unused_once_a_tenth_is_not_free() -> None:
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (5.0, C, 900.0)]
    assert gone(Flush(), alone(30, 30, 29), *uses, total=100) == []  # 11 of 100 are free
    assert gone(Flush(), alone(30, 30, 31), *uses, total=100) == [(300, A), (300, B)]


def test_buildkite_prunes_before_a_job_and_each_hour_by_build_time() -> None:
    old, new = -5 * 3600.0, 0.0
    images = [ImageFacts([("a", 50)], created=old), ImageFacts([("b", 45)], created=new), *alone(1)]
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (100.0, B, 101.0)]
    # 5 of 100 are free and 10 wanted: before the next job A, built over four hours ago, goes; B is too young.
    assert gone(Buildkite(low=10), images, *uses, total=100, end=3600) == [(100, A)]
    # B is four hours old after 4 h, so the hourly check at 5 h takes it (at 4 h it is not yet older).
    hour = 3600.0
    full = [DiskState(0, 100, 0), DiskState(200, 100, 50)]
    assert gone(Buildkite(low=10), images, *uses, disk=full, end=6 * hour) == [(100, A), (5 * hour, B)]


def test_clear_docker_cache_removes_all_each_week_in_one_version_only() -> None:
    uses = [(1.0, A, 2.0), (3.0, B, 8 * DAY)]
    taken = {
        version: gone(ClearDockerCache(version), alone(1, 1), *uses, end=15 * DAY)
        for version in ("19.1", "19.2", "19.3")
    }
    assert taken == {"19.1": [], "19.2": [(7 * DAY, A), (14 * DAY, B)], "19.3": []}


def test_ttl_idle_takes_what_was_unused_for_a_week_daily() -> None:
    assert gone(TtlIdle(), alone(1, 1), (1.0, A, 2.0), (3.0, B, 1.5 * DAY), end=9 * DAY) == [(8 * DAY, A), (9 * DAY, B)]


def test_docuum_vacuums_only_when_an_image_is_new_to_it() -> None:
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (5.0, A, 6.0), (7.0, C, 8.0), (9.0, A, 10.0), (11.0, B, 12.0)]
    # 30 + 30 fit in 70. C makes 90: B, longer unused than A, goes. B comes back: now C goes, for A was used at 9.
    assert gone(Docuum(70), alone(30, 30, 30), *uses) == [(7, B), (11, C)]
    # Growth of anything else never triggers it.
    assert gone(Docuum(70), alone(30), (1.0, A, 2.0), disk=[DiskState(0, 100, 0), DiskState(5, 100, 90)]) == []
    # Half of a disk of 100.
    assert gone(Docuum(share=0.5), alone(30, 30), (1.0, A, 2.0), (3.0, B, 4.0), total=100) == [(3, A)]


def test_runner_cleanup_waits_a_minute_after_use_and_stops_at_twice_the_level() -> None:
    cleaner = RunnerCleanup(low=10, expected=20)
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (5.0, C, 6.0), (80.0, C, 81.0)]
    # 8 of 100 are free at 5. At the last look before 80 A's minute is over: A goes (38 > 20), B stays.
    assert gone(cleaner, alone(30, 30, 32), *uses, total=100) == [(80, A)]
    # Restarted at 77 (each 77 s), it takes all for just used.
    assert gone(RunnerCleanup(10, 20, restarts=77.0), alone(30, 30, 32), *uses, total=100) == []


def test_runner_cleanup_spares_the_runners_own_images() -> None:
    images = [ImageFacts([("a", 60)], references=("gitlab/gitlab-runner-helper:x86",)), *alone(35)]
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (500.0, A, 501.0)]
    assert gone(RunnerCleanup(10, 20), images, *uses, total=100) == [(500, B)]


def shared() -> list[ImageFacts]:
    return [ImageFacts([("base", 20), (f"own{i}", 10)]) for i in range(3)]


def test_drone_gc_books_too_much_and_stops_too_early() -> None:
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (5.0, C, 6.0)]
    # 50 are held, less than 31 wanted. A is booked as 30 + 20 = 50: done, though only 10 came free.
    assert gone(DroneGc(31), shared(), *uses, end=4000) == [(3900, A)]
    # Booked rightly, it takes two.
    assert gone(DroneGc(31, exact=True), shared(), *uses, end=4000) == [(3900, A), (3900, B)]
    # Whose container was created within the hour stays, and so does all while less is held.
    assert gone(DroneGc(31), shared(), *uses, (3000.0, A, 3001.0), end=4000) == [(3900, B)]
    assert gone(DroneGc(51), shared(), *uses, end=4000) == []


def test_drone_gc_takes_build_time_after_a_restart() -> None:
    images = [ImageFacts([("a", 30)], created=-10.0), ImageFacts([("b", 30)], created=-20.0)]
    uses = [(1.0, A, 2.0), (3.0, B, 4.0)]
    assert gone(DroneGc(50, exact=True), images, *uses, end=4000) == [(3900, A)]
    assert gone(DroneGc(50, exact=True, restarts=3850), images, *uses, end=4000) == [(3900, B)]


def test_kubelet_takes_what_no_poll_saw_first_and_books_whole_sizes() -> None:
    images = [ImageFacts([("base", 40), ("a", 10)]), ImageFacts([("base", 40), ("b", 10)]), *alone(27)]
    # B runs while a poll at 300 looks; A and C end before. 87 of 100 are used, 7 have to go.
    uses = [(1.0, A, 2.0), (290.0, B, 310.0), (500.0, C, 510.0)]
    # At 600 all are unused. Never seen in use: A (detected at 300), then C (detected just now: too young).
    # A is booked as 50: enough, though 10 came free.
    assert gone(Kubelet(), images, *uses, total=100, end=601) == [(600, A)]
    bigger = [DiskState(0, 100, 0), DiskState(550, 100, 10)]
    # 17 are needed of 97: by true bytes A gives 10, C is too young, B gives the rest of the base.
    assert gone(Kubelet(exact=True), images, *uses, disk=bigger, end=601) == [(600, A), (600, B)]


def test_kubelet_forgets_at_restart_and_has_a_maximal_age() -> None:
    uses = [(1.0, A, 310.0), (3.0, B, 4.0)]
    # A was seen in use at 300, so B goes at 600; after a restart at 590 both are new: too young for it.
    full = [DiskState(0, 100, 0), DiskState(550, 100, 60)]
    assert gone(Kubelet(), alone(20, 20), *uses, disk=full, end=601) == [(600, B)]
    assert gone(Kubelet(restarts=590), alone(20, 20), *uses, disk=full, end=601) == []
    # The maximal age takes what was never seen in use at once, and A 700 s after the last poll saw it.
    assert gone(Kubelet(max_age=650), alone(20, 20), *uses, end=1300) == [(900, B), (1200, A)]


def test_ecs_takes_five_whatever_is_free_three_hours_after_the_task() -> None:
    hour = 3600.0
    uses = [(1.0 + i, i, 10.0 - i) for i in range(6)]
    # Last used first: the image whose container ended first. Five at 3.5 h, the sixth half an hour later.
    times = gone(Ecs(), alone(*[1] * 6), *uses, end=5 * hour)
    assert times == [*((3.5 * hour, i) for i in (5, 4, 3, 2, 1)), (4 * hour, 0)]


def test_nomad_removes_three_minutes_after_the_last_task_unless_it_forgot() -> None:
    uses = [(1.0, A, 2.0), (100.0, A, 150.0), (10.0, B, 20.0), (900.0, C, 999.0)]
    assert gone(Nomad(), alone(1, 1, 1), *uses) == [(200, B), (330, A)]
    assert gone(Nomad(restarts=300), alone(1, 1, 1), *uses) == []  # the next look is at 900, and it has forgotten both


def test_taskcluster_expires_after_two_hours_or_takes_all_when_full() -> None:
    uses = [(10.0, A, 20.0), (30.0, B, 9000.0), (9600.0, A, 9601.0)]
    # A expires at 7,210, seen at the sweep of 7,260; B's container pins it until 9,000.
    # A, pulled again at 9,600, is not yet due at the end.
    assert gone(Taskcluster(low=0), alone(1, 1), *uses, end=9700) == [(7260, A), (9000, B)]
    assert gone(
        Taskcluster(low=10),
        alone(1, 1, 89),
        (10.0, A, 20.0),
        (30.0, B, 200.0),
        (70.0, C, 500.0),
        (400.0, C, 500.0),
        total=100,
    ) == [
        (120, A),
        (240, B),
    ]


def test_buildkit_ranks_recency_and_frequency_together() -> None:
    # A is the oldest but the most used: ranks A 1/3 + 2/2, B 2/3 + 1/2, C 3/3 + 1/2. B goes first.
    uses = [(1.0, A, 2.0), (3.0, A, 4.0), (70.0, B, 71.0), (140.0, C, 141.0), (210.0, D, 300.0)]
    assert gone(BuildkitRank(), alone(30, 15, 15, 21), *uses, total=100) == [(210, B)]
    # 81 are held: over 80 and less than 20 free: 1 has to go; after B, ranked again: enough.
    assert gone(BuildkitRank(), alone(30, 15, 15, 20), *uses, total=100) == []


def test_arvados_keeps_the_most_recent_that_fit_and_smaller_older_ones() -> None:
    uses = [(1.0, A, 2.0), (10.0, B, 11.0), (20.0, C, 21.0), (30.0, D, 40.0)]
    # At 30 D lives (quota 60 - 20 = 40): C (50) does not fit and goes, B (10) and A (25) do.
    assert gone(Arvados(60), alone(25, 10, 50, 20), *uses) == [(20, A), (30, C)]
    # Shared layers are counted again and again, unless exactly.
    images = [ImageFacts([("base", 30), (f"own{i}", 1)]) for i in range(2)]
    assert gone(Arvados(40), images, (1.0, A, 2.0), (10.0, B, 11.0)) == [(10, A)]
    assert gone(Arvados(40, exact=True), images, (1.0, A, 2.0), (10.0, B, 11.0)) == []


def test_stone_has_three_clocks() -> None:
    images = alone(31, 31, 31)
    uses = [(1.0, A, 2.0, RUN), (3.0, B, 4.0, RUN), (5.0, C, 6.0, RUN), (7.0, A, 8.0, Use.JOB), (9.0, B, 10.0, RUN)]
    uses += [(11.0, C, 11.0, Use.PULL), (13.0, B, 14.0, Use.TAG)]
    trace = make_trace(images, uses, [DiskState(0, 100, 0)], end=301)
    went = {
        clock: [removal.image for removal in replay(trace, Stone(clock)).removed] for clock in ("use", "pull", "job")
    }
    # Used last: B, C, A. Pulled last: C, B, A. Named by a container or job last: B, A, C.
    assert went == {"use": [A], "pull": [A], "job": [C]}


def built(*times: float) -> list[ImageFacts]:
    """Images of one layer of a byte each, built then."""
    return [ImageFacts([(f"own{i}", 1)], created=time) for i, time in enumerate(times)]


def test_codefresh_keeps_for_three_days_what_was_used_in_a_build_or_built() -> None:
    uses = [(1.0, A, 2.0), (3.0, B, 4.0), (5.0, C, 6.0), (200_000.0, B, 200_001.0)]
    # Each half hour is a build; from the one on that ends at 1,800 every tenth cleans: at 1,800 + k x 18,000.
    # A is named by the events that were saved at 1,800, up to 261,000. B is, too, by those of 201,600: up to 460,800.
    # C was built at 200,000: it is young up to 459,200.
    assert gone(Codefresh(), built(-10 * DAY, -10 * DAY, 200_000.0), *uses, end=480_000) == [
        (271_800, A),
        (469_800, B),
        (469_800, C),
    ]
    own = [ImageFacts([("own", 1)], references=("quay.io/codefresh/pikolo:1",), created=-10 * DAY)]
    assert gone(Codefresh(), own, (1.0, A, 2.0), end=480_000) == []
    # Of builds of an hour, the sixth is six hours after the last cleaning.
    assert gone(Codefresh(3600.0), built(-10 * DAY), (1.0, A, 2.0), end=300_000) == [(3600 + 13 * 6 * 3600, A)]


def test_codefresh_forgets_what_was_used_early_in_a_busy_build() -> None:
    for busy, cleaner, went in ((41, Codefresh(), []), (42, Codefresh(), [(19_800, A)])):
        uses = [(1.0, A, 2.0), *((10.0 + k, B, 10.5 + k) for k in range(busy))]
        assert gone(cleaner, built(-10 * DAY, -10 * DAY), *uses, end=20_000) == went
    assert gone(Codefresh(remembers=True), built(-10 * DAY, -10 * DAY), *uses, end=20_000) == []


def test_codefresh_takes_all_that_is_unused_where_80_per_cent_of_the_disk_is_used() -> None:
    assert gone(Codefresh(), alone(80), (1.0, A, 2.0), total=100, end=4000) == []
    assert gone(Codefresh(), alone(50, 31), (1.0, A, 2.0), (3.0, B, 2000.0), total=100, end=4000) == [(1800, A)]


def test_codefresh_s_agent_purges_over_90_per_cent_what_was_built_three_hours_ago() -> None:
    images = [ImageFacts([("a", 50)], created=-4 * 3600.0), ImageFacts([("b", 41)], created=-3 * 3600.0 + 100)]
    uses = [(1.0, A, 2.0), (3.0, B, 4.0)]
    assert gone(Codefresh(), images, *uses, total=100, end=1800) == [(5, A)]
    # B alone is too much, too: it was built three hours before 100, and A is pinned.
    assert gone(Codefresh(), images, (1.0, A, 999.0), uses[1], total=100, end=1800) == [(105, B)]


def test_every_baseline_runs_and_has_a_meaning_of_one_line() -> None:
    for name, (meaning, switches) in meanings().items():
        assert meaning.endswith((".", ":")) or len(meaning) > 30, name
        for switch in ("", *(f"+{switch}" for switch in switches)):
            made = baseline(name + switch)
            uses = [(float(k), k % 4, k + 1.5) for k in range(1, 900, 7)]
            assert all(not math.isnan(time) for time, _ in gone(made, alone(5, 6, 7, 8), *uses, total=30, end=8 * DAY))
    assert set(meanings()) == set(BASELINES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody", "unknown 'nobody'"),
        ("drone-gc+fast", "has no switch '+fast'; it has +exact and +restarts"),
        ("flush+exact", "it has none"),
    ],
)
def test_unknown_names_and_switches_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="--baseline") as caught:
        baseline(text)
    assert words in str(caught.value)


def test_the_list_is_printed() -> None:
    shown = analyzer("baselines").stdout
    assert all(name in shown for name in BASELINES)
