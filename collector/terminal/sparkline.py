"""Free space over time in one line of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*%#"


def sparkline(samples: Sequence[tuple[float, float]], highest: float, width: int, bars: str = BARS) -> str:
    """One character for each interval: how much of `highest` the least sample in it was.

    The least, not the mean: a disk that was full for a minute was full. An interval without a
    sample is blank.

    Args:
        samples: (time, value), ascending.
        highest: the value of a full bar; the lowest bar is 0 and less.
        width: how many characters.
        bars: the characters, low to high.
    """
    if not samples or highest <= 0.0:
        return ""
    begin, end = samples[0][0], samples[-1][0]
    least = [math.inf] * width
    for time, value in samples:
        k = min(width - 1, int((time - begin) / (end - begin) * width)) if end > begin else width - 1
        least[k] = min(least[k], value)
    return "".join(_bar(value / highest, bars) for value in least)


def _bar(share: float, bars: str) -> str:
    if math.isinf(share):
        return " "
    return bars[min(len(bars) - 1, max(0, int(share * len(bars))))]
