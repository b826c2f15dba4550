"""Long series made short without losing their lows."""

from __future__ import annotations

import numpy as np

from analyzer.trace.trace import Floats, Integers


def fewer_steps(time: Floats, value: Integers, most: int) -> tuple[Floats, Integers]:
    """A step function in at most `most` steps; no low of it vanishes.

    Each interval keeps its lowest value, at its own time, and its last one, so that the function
    returns to where it was. What is short enough already stays as it is.

    Args:
        time: when each value began, ascending.
        value: the values.
        most: how many steps may remain; at least 2.
    """
    if len(time) <= most:
        return time, value
    intervals = most // 2
    edges = np.linspace(time[0], time[-1], intervals + 1)[1:-1]
    begin = np.unique(np.concatenate(([0], np.searchsorted(time, edges))))
    begin = begin[begin < len(time)]
    end = np.append(begin[1:], len(time))
    lowest = np.minimum.reduceat(value, begin)
    owner = np.repeat(np.arange(len(begin)), end - begin)
    low = np.flatnonzero(value == lowest[owner])
    _, at = np.unique(owner[low], return_index=True)
    kept = np.unique(np.concatenate((low[at], end - 1)))
    return time[kept], value[kept]


def distinct_times(time: Floats, span: float, most: int) -> Floats:
    """Of times that would coincide in `most` places of a span, only one."""
    if not len(time) or span <= 0.0:
        return time
    _, kept = np.unique((time / span * most).astype(np.int64), return_index=True)
    return time[kept]
