from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.machine.clock import Clock
from collector.model.events import Event, Kind

S = 10**9
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


def use(clock: Clock, wall: int, container: str = "c") -> Event:
    return clock.stamped(Event(wall, Kind.CONTAINER_STARTED, image="sha256:a", container=container))


def test_time_that_only_passes_changes_nothing() -> None:
    hands = Hands()
    clock = hands.clock()
    for _ in range(100):
        hands.pass_time(20)
        assert clock.watch() == []
        assert use(clock, hands.wall).time_ns == hands.wall


def test_a_leap_forward_is_a_gap() -> None:
    hands = Hands()
    clock = hands.clock()
    hands.pass_time(20)
    hands.wall += 7200 * S
    (gap,) = clock.watch()
    assert (gap.kind, gap.began_ns, gap.time_ns) == (Kind.GAP, T0 + 20 * S, T0 + 7220 * S)
    assert "set forward by 2 h" in gap.attributes["reason"]
    assert clock.watch() == []


def test_after_a_step_back_uses_are_not_older_than_what_was_before() -> None:
    hands = Hands()
    clock = hands.clock()
    before = use(clock, hands.wall)
    hands.wall -= 3600 * S
    assert clock.watch() == []
    held = use(clock, hands.wall)
    assert held.time_ns == before.time_ns
    assert held.attributes["own_time_ns"] == hands.wall
    again = use(clock, hands.wall + 1)
    assert (again.time_ns, again.key != held.key) == (held.time_ns, True)
    assert use(clock, hands.wall).key == held.key
    hands.pass_time(3601)
    clock.watch()
    assert use(clock, hands.wall).time_ns == hands.wall


def test_a_clock_behind_the_log_at_the_start_is_held_to_it() -> None:
    hands = Hands()
    clock = hands.clock()
    clock.resume(T0 + 500 * S)
    assert use(clock, hands.wall).time_ns == T0 + 500 * S
    hands.pass_time(501)
    clock.watch()
    assert use(clock, hands.wall).time_ns == hands.wall


@given(st.lists(st.tuples(st.floats(0.0, 500.0), st.floats(-1e5, 1e5), st.integers(0, 3)), max_size=30))
def test_whatever_the_clock_does_the_order_of_last_uses_is_that_of_events(
    steps: list[tuple[float, float, int]],
) -> None:
    hands = Hands()
    clock = hands.clock()
    times = []
    for passed, leap, uses in steps:
        hands.pass_time(passed)
        # Less than the tolerance is not a step but a slow correction.
        hands.wall += int(leap * S) if abs(leap) > 2.0 else 0
        clock.watch()
        times += [use(clock, hands.wall).time_ns for _ in range(uses)]
    assert times == sorted(times)


def test_a_host_that_slept_has_missed_nothing() -> None:
    hands = Hands()
    clock = hands.clock()
    before = use(clock, hands.wall)
    hands.pass_time(8 * 3600)  # both clocks go on while it sleeps, and so does nothing else
    assert clock.watch() == []
    after = use(clock, hands.wall)
    assert after.time_ns - before.time_ns == 8 * 3600 * S
    assert "own_time_ns" not in after.attributes
