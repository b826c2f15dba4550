"""Time in the log never runs backwards, whatever happens to the host's clock.

Last use is compared by time, so a clock that is set back would make what is used afterwards look
older than what was used before. Until the clock has caught up, events get the latest time that is
in the log. A clock that is set forward makes everything look older than it is: the leap is a blind
interval like any other.
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
        self._latest = 0
        # Events before this time are held to it; 0: the clock is not behind the log.
        self._floor = 0

    def now(self) -> int:
        """Wall time, UTC nanoseconds."""
        return self._wall()

    def resume(self, latest_ns: int | None) -> None:
        """Take up the latest time in the log, UTC nanoseconds."""
        self._latest = max(self._latest, latest_ns or 0)
        if self._latest > self._wall() + _TOLERANCE_NS:
            self._floor = self._latest

    def watch(self) -> list[Event]:
        """See whether the clock was set since the last call; a leap forward is a gap."""
        wall, steady = self._wall(), self._steady()
        leap = wall - steady - self._offset
        self._offset += leap
        if self._floor and wall > self._floor:
            self._floor = 0
        if leap < -_TOLERANCE_NS:
            self._floor = self._latest
        if leap <= _TOLERANCE_NS:
            return []
        reason = f"the host's clock was set forward by {format_duration(leap / _NS)}"
        return [Event(wall, Kind.GAP, began_ns=wall - leap, attributes={"reason": reason})]

    def stamped(self, event: Event) -> Event:
        """The event with a time that is not before the log's, while the clock is behind it, and not still to come.

        Its own time stays in its attributes, and tells it from others with the same floor.
        """
        if event.time_ns > self._wall() + AHEAD_S * _NS:
            own_ns, now_ns = event.time_ns, max(self._wall(), self._floor)
            event = replace(event, time_ns=now_ns, attributes={**event.attributes, "own_time_ns": own_ns})
        if event.time_ns >= self._floor:
            self._latest = max(self._latest, event.time_ns)
            return event
        return replace(
            event,
            time_ns=self._floor,
            attributes={**event.attributes, "own_time_ns": event.time_ns},
            identity=f"{event.identity or event.kind} {event.image} {event.container} at {event.time_ns}",
        )
