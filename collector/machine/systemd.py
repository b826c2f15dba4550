"""What systemd wants to hear from a service of Type=notify (sd_notify(3)); nothing elsewhere."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


def notify(*states: str) -> None:
    """Send states such as ``READY=1`` or ``WATCHDOG=1`` to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(states).encode(), address)
        except OSError as error:
            logger.warning("the service manager cannot be notified (%s): %s", states[0], error.strerror)


class Watchdog:
    """Notifies the service manager of progress: it ends and restarts a service that makes none.

    Call `progress` where a step of work is done, never from a timer or another thread: those would go
    on notifying when the work has long come to a halt.

    Args:
        now: a clock that nobody sets, seconds.
    """

    # Steps may be many in a flood of events; one word a second is plenty.
    _EVERY_S = 1.0

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._notified = -math.inf

    def progress(self) -> None:
        """A step of work is done."""
        now = self._now()
        if now - self._notified >= self._EVERY_S:
            self._notified = now
            notify("WATCHDOG=1")


def watchdog_limit() -> float:
    """Seconds after which the service manager ends a service that reports no progress; infinity: never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() else math.inf
