"""Long series made short without losing their lows."""

from __future__ import annotations

import numpy as np

from analyzer.trace.trace import Floats, Integers


def distinct_times(time: Floats, span: float, most: int) -> Floats:
    """Of times that would coincide in `most` places of a span, only one."""
    if not len(time) or span <= 0.0:
        return time
    _, kept = np.unique((time / span * most).astype(np.int64), return_index=True)
    return time[kept]


def ranges(time: Floats, value: Integers, end: float, count: int) -> tuple[Integers, Integers]:
    """The least and the greatest value of a step function in each of `count` equal intervals from 0 to `end`.

    Args:
        time: when each value began, ascending; before the first it has the first value.
        value: the values.
        end: where the last interval ends.
        count: how many intervals.

    Returns:
        (the least, the greatest), each of shape (count,).
    """
    begin = np.linspace(0.0, end, count + 1)[:-1]
    first = np.searchsorted(time, begin, side="left")
    # What held when an interval began counts in it, too.
    held = value[np.maximum(np.searchsorted(time, begin, side="right") - 1, 0)]
    padded = np.append(value, value[-1:])
    least, most = (how.reduceat(padded, np.minimum(first, len(value))) for how in (np.minimum, np.maximum))
    inside = np.append(first[1:], len(value)) > first
    return np.where(inside, np.minimum(least, held), held), np.where(inside, np.maximum(most, held), held)
