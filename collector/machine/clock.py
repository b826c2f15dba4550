"""Watches the host's clock, which somebody may set.

Events carry the true time as soon as the clock shows it. What was recorded before the clock was set back may carry a
time still to come: an event says so, and readers of the log take all that was recorded before it to have happened by
then. A clock that is set forward makes everything look older than it is: the leap is a blind interval like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from collector.model.events import Event, Kind
from collector.model.units import format_duration
from collector.model.untrusted import AHEAD_S

_NS = 10**9
_TOLERANCE_NS = _NS


def steady_ns() -> int:
    """Nanoseconds on a clock that nobody sets and that goes on while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """Watches the wall clock against a steady one.

    Args:
        wall: the wall clock, UTC nanoseconds.
        steady: a clock that nobody sets, nanoseconds.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, steady: Callable[[], int] = steady_ns) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> int:
        """Wall time, UTC nanoseconds."""
        return self._wall()

    def resume(self, latest_ns: int | None) -> list[Event]:
        """Compare the clock with the latest time that is in the log, UTC nanoseconds; a step back is an event."""
        wall = self._wall()
        if latest_ns is None or latest_ns <= wall + _TOLERANCE_NS:
            return []
        return [_set_back(wall, latest_ns - wall)]

    def watch(self) -> list[Event]:
        """See whether the clock was set since the last call: back is an event, forward a gap."""
        wall, steady = self._wall(), self._steady()
        leap = wall - steady - self._offset
        self._offset += leap
        if leap < -_TOLERANCE_NS:
            return [_set_back(wall, -leap)]
        if leap <= _TOLERANCE_NS:
            return []
        reason = f"the host's clock was set forward by {format_duration(leap / _NS)}"
        return [Event(wall, Kind.GAP, began_ns=wall - leap, attributes={"reason": reason})]

    def stamped(self, event: Event) -> Event:
        """The event with a time that is not still to come; its own stays in its attributes."""
        now_ns = self._wall()
        if event.time_ns <= now_ns + AHEAD_S * _NS:
            return event
        return replace(event, time_ns=now_ns, attributes={**event.attributes, "own_time_ns": event.time_ns})


def _set_back(wall_ns: int, by_ns: int) -> Event:
    return Event(wall_ns, Kind.CLOCK_SET_BACK, attributes={"seconds": by_ns / _NS})
