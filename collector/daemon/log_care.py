"""Waits for a log that somebody else holds, and goes on with a new one where it is damaged."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from threading import Event as Stop

from collector.eventlog.log import EventLog
from collector.eventlog.salvage import set_aside
from collector.eventlog.writer import LogWriter
from collector.machine.reserve import reserves
from collector.machine.systemd import Watchdog, notify
from collector.model.errors import LogBusyError, LogDamagedError, LogError
from collector.model.events import Event

logger = logging.getLogger(__name__)

_BUSY_RETRY_S = 1.0
# A damaged log that cannot be set aside now is tried again so much later.
_SALVAGE_RETRY_S = 60.0


class LogCare:
    """What keeps the log usable.

    Args:
        log: the log.
        writer: what appends to it.
        watchdog: learns that the collector still works.
        record: takes the gap that a damaged log leaves.
    """

    def __init__(self, log: EventLog, writer: LogWriter, watchdog: Watchdog, record: Callable[[Event], None]) -> None:
        self._log, self._writer, self._watchdog, self._record = log, writer, watchdog, record
        self._next_salvage = -math.inf

    def reserve(self, folders: Sequence[str]) -> None:
        """Allocate spool and reserve while there is space; a full disk does not keep the collector from observing."""
        try:
            self._writer.spool.reserve()
        except LogError as error:
            logger.warning("%s; until there is, what the log cannot take waits in memory", error)
        try:
            for reserve in reserves(self._log.path, folders):
                reserve.keep()
        except OSError as error:
            logger.warning("no space is reserved: %s", error.strerror)

    def patiently(self, act: Callable[[], None], stopping: Stop) -> None:
        """Do something as soon as nobody else holds the log, unless `stopping` is set first. Raises LogError."""
        announced = False
        while not stopping.is_set():
            try:
                act()
            except LogBusyError as error:
                if not announced:
                    logger.warning("%s; waiting for it", error)
                    announced = True
                self._alive(60)
                stopping.wait(_BUSY_RETRY_S)
            else:
                return

    def set_aside(self, error: LogDamagedError) -> None:
        """Begin a new log with what can be read of the damaged one, and say so. Raises LogError."""
        self._alive(600)
        found = set_aside(self._log, error.fault)
        self._watchdog.progress()
        logger.warning("the event log %s was damaged (%s): %s", self._log.path, error.fault, found)
        if found.gap is not None:
            self._record(found.gap)

    def replaced(self, error: LogDamagedError) -> bool:
        """Set the damaged log aside, unless that failed a moment ago; whether it is done."""
        now = time.monotonic()
        if now < self._next_salvage:
            return False
        self._next_salvage = now + _SALVAGE_RETRY_S
        try:
            self.set_aside(error)
        except LogBusyError:
            self._next_salvage = time.monotonic() + _BUSY_RETRY_S
            return False
        except LogError as obstacle:
            self._writer.report(obstacle)
            return False
        return True

    def damage(self) -> LogDamagedError | None:
        """What cannot be read of all of the log: appends touch only its end."""
        try:
            self._log.verify()
        except LogDamagedError as error:
            return error
        except LogError:
            return None  # an append says so if it lasts
        return None

    def _alive(self, seconds: int) -> None:
        """Ask systemd for so many seconds more."""
        self._watchdog.progress()
        notify(f"EXTEND_TIMEOUT_USEC={seconds}000000")
