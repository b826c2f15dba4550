"""Waits between attempts: each twice as long as the one before, up to a limit."""

from __future__ import annotations


class Backoff:
    """How long to wait before the next attempt.

    Args:
        first: the first wait, seconds.
        last: the longest, seconds.
    """

    def __init__(self, first: float, last: float) -> None:
        self._first = self._next = min(first, last)
        self._last = last

    def next(self) -> float:
        """The wait that is due now, seconds; the one after it is longer."""
        found = self._next
        self._next = min(2 * found, self._last)
        return found

    def reset(self) -> None:
        """An attempt has succeeded: begin with the first wait again."""
        self._next = self._first
