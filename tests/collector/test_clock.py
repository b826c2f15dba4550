"""A clock that somebody sets: events bear true time again at once, and the log is read in the order of its numbers."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.eventlog.log import EventLog
from collector.machine.clock import Clock
from collector.model.events import Event, Kind
from collector.queries.check import check
from collector.queries.coverage import last_observed_ns
from collector.queries.status import status
from pruner.state.inventory import read_history
from tests.needs import examples

S = 10**9
DAY = 86400 * S
IMAGE = "sha256:a"
T0 = 1_700_000_000 * S


class Hands:
    """Clocks that a test may set."""

    def __init__(self) -> None:
        self.wall = T0
        self.steady = 5 * S

    def pass_time(self, seconds: float) -> None:
        self.wall += int(seconds * S)
        self.steady += int(seconds * S)

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady)


def test_time_that_only_passes_changes_nothing() -> None:
    hands = Hands()
    clock = hands.clock()
    for _ in range(100):
        hands.pass_time(20)
        assert clock.watch() == []
    assert clock.resume(hands.wall) == []


def test_a_leap_forward_is_a_gap() -> None:
    hands = Hands()
    clock = hands.clock()
    hands.pass_time(20)
    hands.wall += 7200 * S
    (gap,) = clock.watch()
    assert (gap.kind, gap.began_ns, gap.time_ns) == (Kind.GAP, T0 + 20 * S, T0 + 7220 * S)
    assert "set forward by 2 h" in gap.attributes["reason"]
    assert clock.watch() == []


def test_a_step_back_is_an_event_of_the_true_time() -> None:
    hands = Hands()
    clock = hands.clock()
    hands.wall -= 3600 * S
    (step,) = clock.watch()
    assert (step.kind, step.time_ns, step.attributes) == (Kind.CLOCK_SET_BACK, T0 - 3600 * S, {"seconds": 3600.0})
    assert clock.watch() == []
    (found,) = clock.resume(T0 + 500 * S)
    assert (found.kind, found.time_ns) == (Kind.CLOCK_SET_BACK, hands.wall)


@pytest.mark.slow
@settings(max_examples=examples(20))
@given(st.lists(st.tuples(st.floats(0.0, 500.0), st.floats(-1e5, 1e5), st.integers(0, 3)), max_size=12))
def test_whatever_the_clock_does_the_order_of_times_is_that_of_events(steps: list[tuple[float, float, int]]) -> None:
    hands = Hands()
    clock = hands.clock()
    events: list[Event] = []
    for passed, leap, uses in steps:
        hands.pass_time(passed)
        # Less than the tolerance is not a step but a slow correction.
        hands.wall += int(leap * S) if abs(leap) > 2.0 else 0
        events += [step for step in clock.watch() if step.kind is Kind.CLOCK_SET_BACK]
        events += [Event(hands.wall, Kind.IMAGE_TAGGED, IMAGE, f"a:{len(events)}-{use}") for use in range(uses)]
    with TemporaryDirectory() as folder:
        log = EventLog(Path(folder) / "events.duckdb", host="h")
        if events:
            log.append(events)
            times = [row[0] for row in log.query("SELECT epoch_ns(time) FROM event ORDER BY seq")]
            assert times == sorted(times)


def test_a_host_that_slept_has_missed_nothing() -> None:
    hands = Hands()
    clock = hands.clock()
    hands.pass_time(8 * 3600)  # both clocks go on while it sleeps, and so does nothing else
    assert clock.watch() == []


@pytest.mark.slow
def test_nothing_in_a_log_is_later_than_now_for_whoever_reads_it(tmp_path: Path) -> None:
    """A sample, a gap and a use dated 30 days ahead, after which the clock was set right."""
    now = time.time_ns()
    ahead = now + 30 * DAY
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append(
        [
            Event(now - 2 * DAY, Kind.COLLECTOR_STARTED),
            Event(now - DAY, Kind.IMAGE_TAGGED, IMAGE, "a:1"),
            Event(ahead, Kind.DISK_SAMPLED, bytes=1, attributes={"total_bytes": 9}),
            Event(ahead + 1, Kind.GAP, began_ns=ahead),
            Event(ahead + 2, Kind.IMAGE_TAGGED, "sha256:b", "b:1"),
        ]
    )
    assert last_observed_ns(log) is not None
    assert (last_observed_ns(log) or 0) <= time.time_ns()
    set_back = now - 3600 * S
    log.append([Event(set_back, Kind.CLOCK_SET_BACK), Event(now - 60 * S, Kind.DISK_SAMPLED, bytes=5)])
    history = read_history(log)
    assert history.images["sha256:b"].last_use == pytest.approx(set_back / S)
    assert history.coverage.blind_until == pytest.approx(set_back / S)
    found = status(log)
    assert found.free_bytes == 5
    assert (found.first_event or 0) < now / S
    assert found.gap_seconds == 0
    # What has no beginning gets none by that, so that nothing ends before it begins.
    assert log.query("SELECT count(*) FROM event WHERE began IS NOT NULL AND kind <> 'gap'") == [(0,)]
    assert check(log) == []
    # The table keeps what was recorded, so that what the engine reports again is known.
    assert log.append([Event(ahead + 2, Kind.IMAGE_TAGGED, "sha256:b", "b:1")]) == 0
    assert log.query("SELECT epoch_ns(max(time)) FROM event", as_recorded=True) == [(ahead + 2,)]


def test_a_log_that_began_in_the_future_began_now(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append([Event(time.time_ns() + 8 * 3600 * S, Kind.DISK_SAMPLED, bytes=1)])
    found = status(log)
    assert found.first_event is not None
    assert 0 <= time.time() - found.first_event < 600
