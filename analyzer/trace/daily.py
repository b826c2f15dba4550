"""The least free space of each day, as a share of the disk: a year of a host in a line of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.trace.trace import Floats, Integers, Trace
from collector.model.units import DAY_S

UNKNOWN = 255
STEPS = 200
"""Shares are kept in half per cent."""


@dataclass(frozen=True, slots=True)
class DailyFree:
    """The least free space of each day.

    Attributes:
        first: the first day, in days since 1970 (UTC).
        shares: for each day from then on the share of the disk, in `STEPS`.
    """

    first: int
    shares: bytes


def daily_free(trace: Trace, seconds: Floats, free: Integers) -> DailyFree:
    """The least of a step function on each day of a trace.

    Args:
        trace: the history.
        seconds: when free space changed, seconds after the trace's origin, ascending; shape (k,).
        free: free bytes from then on; shape (k,).
    """
    begin, end = trace.utc(0.0), trace.utc(trace.end)
    first, last = int(begin // DAY_S), int(end // DAY_S)
    midnights = np.arange(first, last + 1) * DAY_S - begin
    before = np.maximum(np.searchsorted(seconds, midnights, side="right") - 1, 0)
    after = np.searchsorted(seconds, midnights + DAY_S, side="left")
    least = np.array([free[a : max(b, a + 1)].min() for a, b in zip(before, after, strict=True)])
    shares = np.clip(least / max(int(trace.disk_total.max()), 1), 0.0, 1.0) * STEPS
    return DailyFree(first, np.floor(shares).astype(np.uint8).tobytes())
