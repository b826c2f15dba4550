"""Appends what a CI runner's log says to the event log, piece by piece: the engine's events come first."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from collector.eventlog.log import EventLog
from collector.job_sources.follow import Follower
from collector.job_sources.ingest import store_batch
from collector.model.errors import LogDamagedError, LogError

logger = logging.getLogger(__name__)

_AT_ONCE_S = 0.25
# Each batch is compared with the log: that takes so much of the time at most, but never waits longer for the next.
_SHARE, _LONGEST_PAUSE_S = 0.05, 5.0


class Intake:
    """Takes the batches that a runner's log has ready.

    Attributes:
        due: monotonic seconds before which nothing more is taken.

    Args:
        follower: reads the runner's log.
        log: where the events go.
        progress: called before each batch.
    """

    def __init__(self, follower: Follower, log: EventLog, progress: Callable[[], None]) -> None:
        self._follower, self._log, self._progress = follower, log, progress
        self.due = -math.inf

    @property
    def waits(self) -> bool:
        """Whether a batch is ready."""
        return self._follower.waiting() is not None

    def resume(self) -> None:
        """Let the reader begin where the event log says that it ended. Raises LogError."""
        if self._follower.key is not None:
            self._follower.resume(self._log.position(self._follower.key))

    def take(self) -> None:
        """Append what is ready; what the event log cannot take now stays in the runner's. Raises LogDamagedError."""
        began = time.monotonic()
        if began < self.due:
            return
        while time.monotonic() < began + _AT_ONCE_S and (batch := self._follower.waiting()) is not None:
            self._progress()
            try:
                store_batch(self._log, batch)
            except LogDamagedError:
                raise
            except LogError as error:
                logger.debug("the runner's log waits: %s", error)
                return
            self._follower.taken()
            now = time.monotonic()
            self.due = now + min((now - began) / _SHARE, _LONGEST_PAUSE_S)
