"""How often the collector looks by itself, and when what is due next."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from collector.machine.systemd import watchdog_limit
from collector.model.backoff import Backoff

# After a failed append the next comes later and later.
_LAST_FLUSH_S = 8.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often the collector looks by itself, seconds."""

    disk: float = 300.0
    inventory: float = 3600.0
    containers: float = 60.0
    flush: float = 1.0
    # The longest sleep of an idle loop: also how often the watchdog hears of it.
    heartbeat: float = 20.0


class Timetable:
    """When what is due next.

    Attributes:
        disk, inventory, containers, flush: monotonic seconds; 0: at once.
    """

    def __init__(self, every: Schedule) -> None:
        self._every = every
        self._flush_waits = Backoff(2 * every.flush, _LAST_FLUSH_S)
        self.disk = self.inventory = self.containers = self.flush = 0.0

    def sampled(self, now: float) -> None:
        """The disk was sampled."""
        self.disk = now + self._every.disk

    def inventoried(self, now: float) -> None:
        """All images and containers were compared."""
        self.inventory = now + self._every.inventory
        self.compared(now)

    def compared(self, now: float) -> None:
        """All containers were compared."""
        self.containers = now + self._every.containers

    def wait_for_more(self) -> None:
        """The first event since the last append came: what comes soon after it is appended with it."""
        self.flush = time.monotonic() + self._every.flush

    def flushed(self, *, done: bool) -> None:
        """An append was tried: after failures the next comes later and later."""
        if done:
            self._flush_waits.reset()
        self.flush = time.monotonic() + (self._every.flush if done else self._flush_waits.next())

    def is_overdue(self, now: float) -> bool:
        """Whether an append has waited too long: a flood of events must not keep the rest waiting."""
        return now >= self.flush + self._every.heartbeat

    def pause(self, due: Iterable[float]) -> float:
        """Seconds until something is due here or in `due`, monotonic seconds; never so long that the watchdog bites."""
        until = min(self.disk, self.inventory, self.containers, *due) - time.monotonic()
        return min(max(until, 0.0), self._every.heartbeat, watchdog_limit() / 3)
