"""What is learned from a history: by hand, and the same live (from the log) as in simulation (from arrays)."""

from __future__ import annotations

import random

import numpy as np
import pytest

from analyzer.facts import Knowledge, superseded_since
from analyzer.loading import load_trace
from analyzer.trace import DiskState, ImageFacts, Use, make_trace
from collector.events import Event, Kind
from collector.log import EventLog
from pruner import learning
from pruner.learning import CELLS, DAY, Learned, moving_average, read_experience, situation
from tests.analyzer.test_loading import T0, S, container, observed, sample

INF = float("inf")


def test_situations_are_powers_of_two() -> None:
    assert situation(0.0, 0, 0) == 0
    assert situation(63.0, 0, 1) == 1
    assert situation(64.0, 0, 0) == 12
    assert situation(127.9, 1, 0) == 14
    assert situation(0.0, 2, 0) == situation(0.0, 3, 0) == 4
    assert situation(0.0, 16, 1) == situation(0.0, 10**6, 1) == 11
    assert situation(1e12, 10**6, 1) == CELLS - 1


def test_rates_are_returns_over_idle_time_with_a_prior() -> None:
    assert Learned().rate(100.0, 1, 0) == pytest.approx(0.05 / DAY)
    returns, exposure = [0.0] * CELLS, [0.0] * CELLS
    returns[situation(100.0, 1, 0)], exposure[situation(100.0, 1, 0)] = 3.0, 2 * DAY
    assert Learned(tuple(returns), tuple(exposure)).rate(100.0, 1, 0) == pytest.approx(3.05 / (3 * DAY))


def test_the_moving_average_weighs_the_latest_idle_times() -> None:
    assert moving_average([]) == 0.0
    assert moving_average([8.0, 4.0]) == 7.0
    assert moving_average([1e9] + [5.0] * 16) == 5.0


def test_an_image_is_superseded_once_a_later_one_was_used_in_all_its_repositories() -> None:
    names = [("r/a:1",), ("r/a:2", "r/b:1"), ("r/a:3",), ("r/b@sha256:1",), ()]
    assert superseded_since(names, np.array([0.0, 10.0, 20.0, 30.0, 40.0])) == pytest.approx(
        [10.0, 30.0, INF, INF, INF]
    )


def test_idle_times_fall_into_situations_by_hand() -> None:
    """One image is used from 0 to 100 s, again after 1,000 s, then never; a later one supersedes it at 2,000 s."""
    images = [ImageFacts([("a", 1)], references=("r/a:1",)), ImageFacts([("b", 1)], references=("r/a:2",))]
    uses = [(0.0, 0, 100.0, Use.CONTAINER), (1100.0, 0, 1100.0, Use.JOB), (2000.0, 1, 2000.0, Use.PULL)]
    known = Knowledge(make_trace(images, uses, [DiskState(0.0, 10, 0)], end=2 * DAY))
    returns, exposure = (table[1] for table in known.learned)
    assert np.flatnonzero(returns).tolist() == [situation(1000.0, 1, 0)]
    assert exposure[situation(10.0, 1, 0)] == pytest.approx(64)
    assert exposure[situation(600.0, 1, 0)] == pytest.approx(1000 - 512)
    assert exposure[situation(600.0, 2, 0)] == pytest.approx(900 - 512)
    assert exposure[situation(600.0, 2, 1)] == pytest.approx(1024 - 900)
    assert sum(exposure) == pytest.approx(1000 + (DAY - 1100) + (DAY - 2000))
    assert known.learned[0][0].sum() == known.learned[1][0].sum() == 0
    facts = known.facts(2100.0, np.array([0, 1]), np.zeros(2), np.array([1, 1]))
    assert facts.superseded.tolist() == [1, 0]
    assert facts.uses.tolist() == [2, 0]
    assert facts.last_use.tolist() == [1100.0, 2000.0]


def random_history(seed: int) -> list[Event]:
    """Four days of some images in few repositories, with every kind of use."""
    draw = random.Random(seed)
    events = [sample(0, free=50, image_bytes=0), sample(4 * DAY, free=50)]
    for number in range(12):
        image = f"i{number}"
        begin = draw.choice([0.0, draw.uniform(0, 3 * DAY)])
        names = {"references": [f"r/{draw.choice('abc')}:{number}"], "digests": []}
        stored = (T0 / S + begin - draw.uniform(0, 9 * DAY)) if draw.random() < 0.5 else None
        events.append(observed(begin, image, **names, stored=stored))
        for turn in range(draw.randrange(30)):
            at = begin + draw.uniform(0, 1.0) ** 3 * (4 * DAY - begin)
            kind = draw.random()
            if kind < 0.7:
                end = at + draw.expovariate(1 / 2000)
                events += container(
                    at, end if end < 4 * DAY and draw.random() < 0.97 else None, image, f"{image}-{turn}"
                )
            elif kind < 0.95:
                what = draw.choice([Kind.IMAGE_PULLED, Kind.JOB_IMAGE_USED, Kind.IMAGE_TAGGED])
                events.append(Event(T0 + int(at * S), what, image=image, reference=names["references"][0]))
            else:
                events += container(-draw.uniform(0, 9e4), draw.uniform(0, 9e4), image, f"{image}-{turn}")
    return sorted(events, key=lambda event: event.time_ns)


@pytest.mark.parametrize("seed", range(5))
def test_live_and_simulated_learn_the_same(log: EventLog, seed: int) -> None:
    log.append(random_history(seed))
    trace = load_trace(log)
    live = read_experience(log, T0 / S + trace.end)
    known = Knowledge(trace)
    day = known.day(trace.end)
    assert day >= 3
    assert live.learned.returns == pytest.approx(known.learned[0][day])
    assert live.learned.exposure == pytest.approx(known.learned[1][day], abs=1e-3)
    assert sum(live.learned.returns) > 20
    facts = known.facts(
        trace.end, np.arange(trace.images), np.zeros(trace.images), np.ones(len(trace.layer_bytes), dtype=np.int64)
    )
    for i, image in enumerate(trace.image_ids):
        habits = live.habits[image]
        assert habits.returns == facts.returns[i]
        assert moving_average(habits.gaps) == pytest.approx(facts.gap[i])
        assert habits.superseded == facts.superseded[i]
        assert habits.uses == facts.uses[i]
        idle = trace.end - facts.last_use[i]
        assert live.learned.rate(idle, habits.uses, habits.superseded) == pytest.approx(facts.hazard[i])
    assert {habits.superseded for habits in live.habits.values()} == {False, True}
    assert any(len(habits.gaps) == learning.REMEMBERED_GAPS or habits.returns > 3 for habits in live.habits.values())
