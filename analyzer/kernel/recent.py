"""How often each repository was used recently, as it stood at each midnight: what changes there, and when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ctypes import c_int32, c_int64

import numpy as np

from analyzer.native.binding import function, plain, pointers
from analyzer.trace.trace import Floats, Integers, Trace
from collector.eventlog.recent_uses import RECENT_DAYS
from collector.model.traits import Use
from pruner.state.learning import TIMES

_DAY_MS = 86_400_000


class RecentUses:
    """The bins of repositories' recent uses (`pruner.state.learning.times_bin`), where they change.

    Args:
        trace: the history.
        repositories: those of each image; length n.
        offset_ms: milliseconds of the trace's origin after midnight.
        days: midnights, the first at or before the origin.
        compiled: whether to count in the kernel.

    Attributes:
        count: how many repositories there are (r).
        first: those of image i are ``repository[first[i]:first[i + 1]]``; shape (n + 1,).
        repository: see there.
        turned: at midnight d ``changed[turned[d]:turned[d + 1]]`` change; shape (days + 1,).
        changed: repositories.
        bin: to which bin each changes.
    """

    def __init__(
        self, trace: Trace, repositories: Sequence[Collection[str]], offset_ms: int, days: int, *, compiled: bool
    ) -> None:
        numbers: dict[str, int] = {}
        every = [numbers.setdefault(name, len(numbers)) for names in repositories for name in names]
        self.count = len(numbers)
        self.repository = np.array(every, dtype=np.int32)
        self.first = np.concatenate(([0], np.cumsum([len(names) for names in repositories]))).astype(np.int32)
        self._latest = (-1, np.zeros(self.count, dtype=np.uint8))
        of, day, uses = (self._compiled if compiled else self._plain)(trace, offset_ms)
        # Uses of a day count from the next midnight on, and no more from so many later on.
        of, midnight = np.concatenate((of, of)), np.concatenate((day + 1, day + 1 + RECENT_DAYS))
        order = np.lexsort((midnight, of))
        of, midnight = of[order], midnight[order]
        total = np.cumsum(np.concatenate((uses, -uses))[order])  # 0 again after each repository's last
        last = np.append((of[1:] != of[:-1]) | (midnight[1:] != midnight[:-1]), [True])[: len(of)]
        of, midnight = of[last], midnight[last]
        bins = np.minimum(np.frexp(total[last].astype(np.float64))[1], TIMES - 1)
        kept = (bins != np.concatenate(([0], bins[:-1]))[: len(bins)]) & (midnight < days)
        of, midnight, bins = of[kept], np.maximum(midnight[kept], 0), bins[kept]
        order = np.argsort(midnight, kind="stable")
        self.changed, self.bin = of[order].astype(np.int32), bins[order].astype(np.uint8)
        self.turned = np.searchsorted(midnight[order], np.arange(days + 1))

    def of_images(self, images: Integers, day: int) -> Integers:
        """The bin of each image's repository at a midnight, of several the highest; shape as `images`."""
        reached, bins = self._latest  # of the latest day only: moments follow each other
        if day != reached:
            bins = bins.copy() if day > reached else np.zeros_like(bins)
            begin = reached + 1 if day > reached else 0
            for k in range(int(self.turned[begin]), int(self.turned[day + 1])):
                bins[self.changed[k]] = self.bin[k]
            self._latest = day, bins
        found = np.zeros(len(self.first) - 1, dtype=np.int64)
        named = self.first[1:] > self.first[:-1]
        if np.any(named):
            found[named] = np.maximum.reduceat(bins[self.repository], self.first[:-1][named])
        return found[images]

    def _compiled(self, trace: Trace, offset_ms: int) -> tuple[Integers, Integers, Integers]:
        """Repository, day and number of uses, where there are any."""
        most = int(np.diff(self.first).max(initial=0))
        span = int((trace.time[-1] - trace.time[0]) * 1000.0 // _DAY_MS) + 2 if len(trace.time) else 0
        room = min(most * len(trace.time), self.count * span) + 1
        given = plain(trace.time, np.float64), plain(trace.image, np.int32), plain(trace.kind, np.uint8)
        latest = np.full(self.count + 1, -1, dtype=np.int64)
        of, day, uses = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        fill = function("kernel_daily_uses")
        fill.restype = c_int64
        n = fill(
            c_int32(len(trace.time)),
            *pointers(*given),
            c_int64(offset_ms),
            *pointers(self.first, self.repository, latest, of, day, uses),
        )
        return of[:n].astype(np.int64), day[:n], uses[:n]

    def _plain(self, trace: Trace, offset_ms: int) -> tuple[Integers, Integers, Integers]:
        demand = (trace.kind == Use.CONTAINER) | (trace.kind == Use.JOB)
        time: Floats = trace.time[demand]
        days = np.floor((time * 1000.0 + offset_ms) / _DAY_MS).astype(np.int64).tolist()
        counted: dict[tuple[int, int], int] = {}
        for image, day in zip(trace.image[demand].tolist(), days, strict=True):
            for number in self.repository[self.first[image] : self.first[image + 1]].tolist():
                counted[number, day] = counted.get((number, day), 0) + 1
        of, day = (np.array([key[k] for key in counted], dtype=np.int64) for k in (0, 1))
        return of, day, np.array(list(counted.values()), dtype=np.int64)
