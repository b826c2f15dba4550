"""What is learned from a history: by hand, and the same live (from the log) as in simulation (from arrays)."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.kernel import index
from analyzer.native import loader
from analyzer.simulation.facts import habits, superseded_since, times_bins
from analyzer.simulation.knowledge import Knowledge
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.experience import SESSION
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.traits import Use
from collector.model.units import DAY_S, HOUR_S
from pruner.policy.orders import ORDERS, OWN_STATE_ORDERS
from pruner.state.learning import (
    CELLS,
    TIMES,
    Learned,
    age_bin,
    habit,
    read_experience,
    situation,
    stage,
    times_bin,
)
from pruner.state.population import BY_AGE, BY_HABIT, BY_STAGE, BY_USE
from pruner.state.rates import WORTH_S, read_rates, to_toml
from tests.analyzer.test_kernel import histories
from tests.analyzer.test_loading import T0, S, container, observed, sample
from tests.needs import examples

INF = float("inf")


def test_situations_are_powers_of_two() -> None:
    assert situation(0.0, 0, 0.0, -INF) == situation(2047.9, 0, 0.0, -1.0) == 0
    assert age_bin(2048.0) == 1
    assert [stage(seconds) for seconds in (-INF, -1.0, 0.0, DAY_S, 7 * DAY_S, INF)] == [0, 0, 1, 2, 3, 3]
    assert [habit(gap) for gap in (0.0, 3601.0, 4096.0, 8192.0, 1e9)] == [0, 1, 2, 3, 9]
    assert situation(0.0, 2, 0.0, -1.0) == situation(0.0, 3, 0.0, -1.0) == 2 * 40
    assert situation(1e12, 10**6, 1e9, 1e9) == CELLS - 1


def learned_of(**counts: tuple[float, float]) -> Learned:
    returns, exposure = [0.0] * CELLS, [0.0] * CELLS
    cell = situation(3000.0, 1, 0.0, -1.0)
    returns[cell], exposure[cell] = counts["here"]
    return Learned(tuple(returns), tuple(exposure))


def test_the_hazard_is_returns_over_idle_time_with_a_prior() -> None:
    assert Learned().hazard(3000.0, 1, superseded=False) == pytest.approx(0.05 / DAY_S)
    learned = learned_of(here=(3.0, 2 * DAY_S))
    assert learned.hazard(3000.0, 1, superseded=False) == pytest.approx(3.05 / (3 * DAY_S))
    assert learned.hazard(3000.0, 1, superseded=True) == pytest.approx(0.05 / DAY_S)


def test_rates_are_drawn_towards_those_of_coarser_situations() -> None:
    """Each as much higher or lower than the coarser one as it is on other hosts, where nothing was counted."""
    assert Learned().rates[1][0, 0] == pytest.approx(BY_AGE[1] / 2**11.5 * BY_STAGE[1][0] * BY_HABIT[1][0][0])
    learned = learned_of(here=(3.0, 2 * DAY_S))
    coarse = 5.0 / (2 * DAY_S + 2.0 / (BY_AGE[1] / 2**11.5))
    assert learned.rates[1][5, 3] == pytest.approx(coarse * BY_STAGE[1][3] * BY_HABIT[1][5][3])
    of_stage = 6 / (2 * DAY_S + 3 / (coarse * BY_STAGE[1][0]))
    assert learned.rates[1][5, 0] == pytest.approx(of_stage * BY_HABIT[1][5][0])
    assert learned.rates[1][0, 0] == pytest.approx(6 / (2 * DAY_S + 3 / (of_stage * BY_HABIT[1][0][0])))


def test_the_forecast_looks_ahead() -> None:
    """What has been idle for long returns later, if nothing is known."""
    chances = [Learned().forecast(2.0**k, 1, 0.0, -1.0, 0) for k in range(5, 25)]
    assert chances[:5] == sorted(chances[:5], reverse=True)
    assert 0.0 < max(chances[-4:]) < min(chances[:8]) < 1.0
    # Ten returned each time between 18 and 36 hours: at 17 hours that is near, at 3 days it is not.
    returns, exposure = [0.0] * CELLS, [100 * DAY_S] * CELLS
    for usual in range(5, 10):
        returns[situation(DAY_S, 9, 2.0 ** (usual + 11), -1.0)] = 500.0
    nightly = Learned(tuple(returns), tuple(exposure))
    assert nightly.forecast(17 * HOUR_S, 99, DAY_S, -1.0, 99) > 2 * nightly.forecast(3 * DAY_S, 99, DAY_S, -1.0, 99)
    assert nightly.forecast(17 * HOUR_S, 99, DAY_S, -1.0, 99) > nightly.forecast(17 * HOUR_S, 99, DAY_S, 0.0, 99)


def test_without_a_past_the_image_that_superseded_another_is_kept_longer() -> None:
    """On a host's first day no repository was used before midnight, and what was found there was never used."""
    for idle in (0.0, 10.0, 600.0, HOUR_S, 6 * HOUR_S):
        never, once, superseded = (
            Learned().forecast(idle, uses, 0.0, since, 0) for uses, since in ((0, -1.0), (1, -1.0), (1, idle + 60.0))
        )
        assert superseded < once
        assert never <= once
    for lower, higher in pairwise(BY_USE):
        edge = np.array(lower) * 0.5, np.array(higher)
        assert np.all(edge[0] < edge[1]), "a higher chance of a return must not be corrected to half a lower one"


def test_an_image_is_superseded_once_a_later_one_was_used_in_all_its_repositories() -> None:
    names = [("r/a",), ("r/a", "r/b"), ("r/a",), ("r/b",), ()]
    assert superseded_since(list(map(frozenset, names)), np.array([0.0, 10.0, 20.0, 30.0, 40.0])) == pytest.approx(
        [10.0, 30.0, INF, INF, INF]
    )


def test_idle_times_fall_into_situations_by_hand() -> None:
    """One image is used from 0 to 100 s, again after 10,000 s, then never; a later one supersedes it at 15,000 s."""
    images = [ImageFacts([("a", 1)], references=("r/a:1",)), ImageFacts([("b", 1)], references=("r/a:2",))]
    uses = [(0.0, 0, 100.0, Use.CONTAINER), (10100.0, 0, 10100.0, Use.JOB), (15000.0, 1, 15000.0, Use.PULL)]
    known = Knowledge(make_trace(images, uses, [DiskState(0.0, 10, 0)], end=2 * DAY_S))
    returns, exposure = (table[1] for table in known.learned)
    assert np.flatnonzero(returns).tolist() == [situation(10000.0, 1, 0.0, -1.0)]
    assert exposure[situation(10.0, 1, 0.0, -1.0)] == pytest.approx(2048)
    assert exposure[situation(9000.0, 1, 0.0, -1.0)] == pytest.approx(10000 - 8192)
    assert exposure[situation(4096.0, 2, 10000.0, -1.0)] == pytest.approx(4900 - 4096)
    assert exposure[situation(4096.0, 2, 10000.0, 0.0)] == pytest.approx(8192 - 4900)
    assert sum(exposure) == pytest.approx(10000 + (DAY_S - 10100) + (DAY_S - 15000))
    assert known.learned[0][0].sum() == known.learned[1][0].sum() == 0
    facts = known.facts(15100.0, np.array([0, 1]), np.zeros(2), np.array([1, 1]))
    assert facts.superseded.tolist() == [1, 0]
    assert facts.uses.tolist() == [2, 0]
    assert facts.returns.tolist() == [1, 0]
    assert facts.gap.tolist() == [10000.0, 0.0]
    assert facts.last_use.tolist() == [10100.0, 15000.0]


@pytest.mark.parametrize("order", sorted(set(ORDERS) - {"lru", *OWN_STATE_ORDERS}))
def test_only_some_orders_look_at_what_a_policy_did(order: str) -> None:
    # Such facts are not available where keys are made for all policies at once.
    images = [ImageFacts([("a", 1)]), ImageFacts([("b", 1)])]
    uses = [(1.0, 0, 2.0, Use.CONTAINER), (3.0, 1, 4.0, Use.JOB)]
    known = Knowledge(make_trace(images, uses, [DiskState(0.0, 10, 0)], end=50.0))
    facts = known.facts(10.0, np.array([0, 1]), np.array([1.0, 3.0]), np.array([1, 1]))
    assert known.keys(order, 10.0, np.array([0, 1])).tolist() == np.asarray(ORDERS[order](facts)).tolist()


@pytest.mark.parametrize("order", OWN_STATE_ORDERS)
def test_the_others_do(order: str) -> None:
    known = Knowledge(make_trace([ImageFacts([("a", 1)])], [(1.0, 0, 2.0, Use.JOB)], [DiskState(0.0, 10, 0)]))
    with pytest.raises(IndexError):
        known.keys(order, 10.0, np.array([0]))


@pytest.mark.skipif(loader.load() is None, reason="neither a built kernel nor a C compiler")
@given(histories(), st.integers(0, 10**18))
def test_compiled_and_in_python_the_same_is_learned(trace: Trace, origin: int) -> None:
    trace = replace(trace, origin_ns=origin)
    compiled, plain = Knowledge(trace), Knowledge(trace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "available", lambda _: False)
        usage = np.empty(plain.count, dtype=np.uint8)
        usage[plain._order] = habits(plain.averages[1]) * TIMES + times_bins(plain.uses)
        days = range(plain.day(trace.end) + 1)
        expected = [(*plain.by_habit.day(day), *plain.rates(day), plain.hazards(day)) for day in days]
        changes = plain.recent
    for name in ("turned", "changed", "bin"):
        assert np.array_equal(getattr(compiled.recent, name), getattr(changes, name))
    forecasting = compiled.forecasting
    assert np.array_equal(forecasting.usage, usage)
    for day, tables in enumerate(expected):
        found = (*compiled.by_habit.day(day), *forecasting.day(day), compiled.hazards(day))
        for one, other in zip(found, tables, strict=True):
            assert np.array_equal(one, other.reshape(one.shape))


# Idle times at, just under and just over what separates one situation from the next, seconds; else anything.
EDGES = sorted({edge + by for power in range(10, 20) for edge in (2**power, SESSION, DAY_S) for by in (-1, 0, 1)})
NAMES = ("r/a", "r/b", "q/a")
LENGTH = int(12 * DAY_S)


@st.composite
def logged_histories(draw: st.DrawFn) -> list[Event]:
    """Twelve days of a few images in few repositories, with every kind of use, idle up to the edges of situations."""
    idle = st.sampled_from(EDGES) | st.integers(1, LENGTH // 2)
    events = [sample(0, free=50, image_bytes=0), sample(LENGTH, free=50)]
    for number in range(draw(st.integers(1, 4))):
        image = f"i{number}"
        at = draw(st.sampled_from([0, 0, 1]) | st.integers(0, LENGTH // 2))
        tags = [f"{name}:{number}" for name in draw(st.sets(st.sampled_from(NAMES), max_size=2))]
        stored = draw(st.none() | st.integers(0, int(9 * DAY_S)))
        more = {} if stored is None else {"stored": T0 / S + at - stored}
        events.append(observed(at, image, references=sorted(tags), digests=[], **more))
        if draw(st.integers(0, 3)) == 0:
            events += container(-draw(st.integers(1, 90_000)), draw(st.integers(1, 90_000)), image, f"{image}-before")
        for turn in range(draw(st.integers(0, 8))):
            at += draw(idle)
            lasts = draw(st.sampled_from([0, 1, 600]) | st.integers(0, 20_000))
            if at >= LENGTH:
                break
            if draw(st.booleans()):
                runs = at + lasts < LENGTH and draw(st.integers(0, 9)) > 0
                events += container(at, at + lasts if runs else None, image, f"{image}-{turn}")
                at += lasts
            else:
                what = draw(st.sampled_from([Kind.IMAGE_PULLED, Kind.JOB_IMAGE_USED, Kind.IMAGE_TAGGED]))
                events.append(Event(T0 + at * S, what, image=image, reference=tags[0] if tags else None))
    return sorted(events, key=lambda event: event.time_ns)


HOSTS = count()


@pytest.fixture(scope="module")
def one_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of many hosts: to make one for each of them would take most of the time."""
    return tmp_path_factory.mktemp("hosts") / "events.duckdb"


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(logged_histories())
def test_live_and_simulated_learn_the_same(one_log: Path, history: list[Event]) -> None:
    log = EventLog(one_log, host=f"runner {next(HOSTS)}")
    log.append(history)
    trace = load_trace(log, log.host)
    live = read_experience(log, T0 / S + trace.end)
    known = Knowledge(trace)
    day = known.day(trace.end)
    assert live.learned.returns == pytest.approx(known.learned[0][day])
    # Simulated, both ends of each piece are whole milliseconds.
    assert live.learned.exposure == pytest.approx(known.learned[1][day], abs=0.05)
    facts = known.facts(
        trace.end, np.arange(trace.images), np.zeros(trace.images), np.ones(len(trace.layer_bytes), dtype=np.int64)
    )
    fleet = one_log.with_name("rates.toml")
    if not fleet.exists():
        counts = [3.0 * (cell % 7) for cell in range(CELLS)], [1e4 * (cell % 11) for cell in range(CELLS)]
        fleet.write_text(to_toml(*counts, ["a", "b"], WORTH_S))
    beside = live.learned.beside(read_rates(fleet))
    with_fleet = Knowledge(trace, str(fleet)).facts(trace.end, facts.present, facts.pulled, facts.holders)
    for i, image in enumerate(trace.image_ids):
        usage = live.habits[image]
        idle = trace.end - facts.last_use[i]
        superseded_for = T0 / S + trace.end - usage.superseded
        past = idle, usage.uses, usage.gap, superseded_for, usage.recent
        assert usage.uses == facts.uses[i]
        assert usage.returns == facts.returns[i]
        assert usage.gap == pytest.approx(facts.gap[i])
        assert times_bin(usage.recent) == known.recent.of_images(facts.present, day)[i]
        assert (superseded_for >= 0) == facts.superseded[i]
        assert live.learned.hazard(idle, usage.uses, superseded_for >= 0) == pytest.approx(facts.hazard[i])
        assert live.learned.forecast(*past) == pytest.approx(facts.forecast[i])
        assert beside.hazard(idle, usage.uses, superseded_for >= 0) == pytest.approx(with_fleet.hazard[i])
        assert beside.forecast(*past) == pytest.approx(with_fleet.forecast[i])
