"""Waits that end with what they wait for, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from collector.eventlog.database import state_of

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


class Answers:
    """Answers from a log that somebody asks again and again while waiting: anew only where the log has changed.

    To open a log takes a processor longer than most questions. What was answered counts for a second at most.

    Args:
        path: where the log is.
    """

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._found: dict[Hashable, tuple[object, float, Any]] = {}

    def get(self, question: Hashable, ask: Callable[[], Any]) -> Any:
        """The answer to a question, from `ask` if need be."""
        now, state = time.monotonic(), state_of(self._path())
        known, asked, answer = self._found.get(question, (None, now, None))
        if state is None or state != known or now - asked > _FRESH_S:
            answer = ask()
            self._found[question] = state, now, answer
        return answer


_FRESH_S = 1.0
