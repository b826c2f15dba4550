"""Loopback ports that nobody else takes between the choice and the use."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_FIRST = 20_000
# Locks against other test processes: names of sockets without a file, which end with the process.
_held: list[socket.socket] = []


def free_port() -> int:
    """A free port of 127.0.0.1 that is this process's as long as it lives, among those that the kernel never gives."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(_FIRST, low), low - _FIRST):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0docker-hindsight-test-port-{port}")
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        if _is_free(port):
            return port
    raise RuntimeError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
