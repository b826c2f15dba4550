"""How much work is done at a time with the log held, and how long it is left to others in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONG_S = 0.3
"""A step that took longer, seconds of the processor's time, is followed by a smaller one.

On a busy machine each step takes longer, and smaller ones would hardly take less: there would only be more of them.
"""


class Pace:
    """How many events each step of some work takes: half as many after a long step, twice as many after a quick one.

    Args:
        least: a step takes so many, however long that takes.
        most: a step takes no more.
        first: the first step takes so many; None: the least.
    """

    def __init__(self, least: int, most: int, first: int | None = None) -> None:
        self._least, self._most = least, most
        self.size = min(max(first or least, least), most)

    def took(self, events: int, seconds: float) -> None:
        """Take into account how long a step over so many events took, seconds of the processor's time."""
        if seconds > LONG_S:
            self.size = max(self._least, min(self.size, events) // 2)
        elif events >= self.size and seconds < LONG_S / 2:
            self.size = min(self._most, self.size * 2)

    @contextmanager
    def step(self) -> Iterator[int]:
        """Measure one step over as many events as this gives."""
        events, began = self.size, time.process_time()
        yield events
        self.took(events, time.process_time() - began)


def rest(began: float, pause: float = 0.0) -> None:
    """Leave the log to others after a step as long as that took, so that all who waited for it find it free.

    Args:
        began: when the step began, `time.monotonic`.
        pause: how long to rest at least, as a multiple of the time that it took.
    """
    time.sleep(max(pause, 1.0) * (time.monotonic() - began))
