"""What systemd wants to hear from a service of Type=notify (sd_notify(3)); nothing elsewhere."""

from __future__ import annotations

import os
import socket


def notify(*states: str) -> None:
    """Send states such as ``READY=1`` or ``WATCHDOG=1`` to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(states).encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between signs of life so that the watchdog is content; None if there is none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 / 3 if microseconds.isdigit() else None
