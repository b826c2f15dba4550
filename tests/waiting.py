"""Waits that end with what they wait for, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

# Whatever comes at all has come by then, seconds.
PATIENCE_S = 120.0


def wait_for(
    condition: Callable[[], object],
    what: str | Callable[[], str],
    patience: float = PATIENCE_S,
    every: float = 0.01,
) -> None:
    """Wait until something (`what`, in words) is so, so many seconds at most, looking every so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what if isinstance(what, str) else what()}"
        time.sleep(every)
