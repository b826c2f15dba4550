"""Many numbers in one file: lines of free space and texts, packed so that a browser unpacks them by itself."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.report.downsample import ranges
from analyzer.trace.trace import Floats, Integers

INTERVALS = 1200
LOWEST_SHOWN = -0.15
"""What was short is drawn down to this share of the disk."""
_STEPS = 60_000
_NOTHING = 65_535


@dataclass(frozen=True, slots=True)
class Scale:
    """Bytes as whole steps from the lowest amount that is drawn to the whole disk."""

    lowest: float
    step: float

    @classmethod
    def of(cls, total: int) -> Scale:
        """The scale for a disk of `total` bytes."""
        lowest = LOWEST_SHOWN * total
        return cls(lowest, (total - lowest) / _STEPS)

    @property
    def steps_most(self) -> int:
        """The whole disk; what is more stands for nothing."""
        return _STEPS

    def steps(self, amount: Integers) -> Integers:
        """Amounts in steps, rounded down: space is never said to be more than it was."""
        found: Integers = np.clip(np.floor((amount - self.lowest) / self.step), 0, _STEPS).astype(np.int64)
        return found


def line(scale: Scale, time: Floats, free: Integers, end: float) -> Integers:
    """Free space as (least, greatest) in each interval, in steps; shape (2, `INTERVALS`).

    What was before the first value is nothing.
    """
    if not len(time):
        return np.full((2, INTERVALS), _NOTHING)
    least, most = ranges(time, free, end, INTERVALS)
    found = np.stack((scale.steps(least), scale.steps(most)))
    found[:, : int(np.searchsorted(np.linspace(0.0, end, INTERVALS + 1)[1:], time[0]))] = _NOTHING
    return found


def pack_lines(lines: Sequence[Integers]) -> str:
    """Lines as the page unpacks them: differences from interval to interval, high bytes first, deflated."""
    values = np.stack(lines) if len(lines) else np.zeros((0, 2, INTERVALS), dtype=np.int64)
    change = np.diff(values, axis=2, prepend=0).astype(np.uint16)
    return _packed((change >> 8).astype(np.uint8).tobytes() + (change & 0xFF).astype(np.uint8).tobytes())


def pack_json(value: Any) -> str:
    """A JSON value, deflated."""
    return _packed(json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode())


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()
