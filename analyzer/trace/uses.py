"""Uses as an event log has them, columns of any order, and how they come into the order of a trace.

Compiled where a kernel is available; the same in numpy elsewhere.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.native.binding import checked, plain, pointers
from analyzer.native.loader import load
from analyzer.trace.trace import Floats, Images, Integers, Kinds
from collector.model.traits import Use

OPEN = np.iinfo(np.int64).max
"""The end of a use that has none yet."""
SPAN_BITS = 50
"""A span here is 2^50 nanoseconds, 13 days: a shift instead of a division."""
NEVER = np.iinfo(np.int64).max
"""The first use of an image without one."""
WORTH_A_THREAD = 1_000_000
"""With more uses than that, passes over them are shared by threads."""
_MOST = 2**31 - 2**16
_NS = 1e9


@dataclass(frozen=True, slots=True)
class LoggedUses:
    """Uses, in any order; all of shape (u,).

    Attributes:
        time: when each began, UTC nanoseconds.
        until: when it ended, UTC nanoseconds; `OPEN` if it has not.
        image: the log's number of its image.
        kind: `analyzer.trace.trace.Use` of each.
    """

    time: Integers
    until: Integers
    image: Images
    kind: Kinds

    def __len__(self) -> int:
        return len(self.time)

    def parameter(self) -> _Uses:
        """For the compiled functions; it keeps no array alive."""
        return _Uses(len(self), *pointers(*self._columns()))

    def plain(self) -> LoggedUses:
        """The same, as the compiled functions take it; copied only where it must be."""
        kinds = (np.int64, np.int64, np.int32, np.uint8)
        return LoggedUses(*(plain(column, kind) for column, kind in zip(self._columns(), kinds, strict=True)))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.time, self.until, self.image, self.kind


class _Uses(ctypes.Structure):
    _fields_ = (("count", c_int64), *((name, c_void_p) for name in ("time", "until", "image", "kind")))


@dataclass(frozen=True, slots=True)
class Survey:
    """What uses are, taken together.

    Attributes:
        earliest: UTC nanoseconds of the first use of each image of the log; int64's highest for none; shape (images,).
        began: per span, by its number since 1970, how many containers began in it,
            and the exclusive or of the times when they did.
    """

    earliest: Integers
    began: dict[int, tuple[int, int]]


def survey(uses: LoggedUses, images: int) -> Survey:
    """Look through uses once.

    Args:
        uses: at most 2^31 of them.
        images: how many images the log numbers.
    """
    earliest = np.full(images, NEVER, dtype=np.int64)
    if not len(uses):
        return Survey(earliest, {})
    uses = uses.plain()
    low, high = int(uses.time.min()) >> SPAN_BITS, int(uses.time.max()) >> SPAN_BITS
    count, beginnings = np.zeros((2, high - low + 1), dtype=np.int64)
    library = load()
    if library is None:
        np.minimum.at(earliest, uses.image, uses.time)
        began = uses.time[uses.kind == Use.CONTAINER]
        span = (began >> SPAN_BITS) - low
        np.add.at(count, span, 1)
        np.bitwise_xor.at(beginnings, span, began)
    else:
        library.kernel_survey(byref(uses.parameter()), c_int64(low), *pointers(earliest, count, beginnings))
    found = {low + m: (int(count[m]), int(beginnings[m])) for m in np.flatnonzero(count).tolist()}
    return Survey(earliest, found)


def in_order(uses: LoggedUses, more: LoggedUses, origin: int, number: Integers) -> dict[str, NDArray[Any]]:
    """The columns of a trace: by time, then kind, image and end.

    What began before the origin was there already when the log began: it is found then.

    Args:
        uses: many.
        more: some more.
        origin: where the trace begins, UTC nanoseconds.
        number: the trace's number of each of the log's images.

    Raises:
        MemoryError: there is not enough.
    """
    count = len(uses) + len(more)
    library = load()
    if library is None or count >= _MOST:
        return _by_numpy(uses, more, origin, number)
    blocks = uses.plain(), more.plain()
    parameter = (_Uses * 2)(*(block.parameter() for block in blocks))
    numbers = plain(number, np.int64)
    made = {
        name: np.empty(count, dtype=kind)
        for name, kind in (("time", np.float64), ("image", np.int32), ("until", np.float64), ("kind", np.uint8))
    }

    def put(part: tuple[int, int, int]) -> None:
        low, high, first = part
        columns = (column[first:] for column in made.values())
        bounds = (c_int64(value) for value in (low, high, origin))
        checked(library.kernel_order(parameter, *bounds, *pointers(numbers, *columns)))

    parts = [(np.iinfo(np.int64).min, NEVER, 0)]
    if count > WORTH_A_THREAD:
        middle = int(np.median(max(blocks, key=len).time[::1024]))
        before = sum(int(np.count_nonzero(block.time < middle)) for block in blocks)
        parts = [(np.iinfo(np.int64).min, middle, 0), (middle, NEVER, before)]
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in pool.map(put, parts):
            pass
    return made


def _by_numpy(uses: LoggedUses, more: LoggedUses, origin: int, number: Integers) -> dict[str, NDArray[Any]]:
    time = np.concatenate((uses.time, more.time))
    until = np.concatenate((uses.until, more.until))
    image = number[np.concatenate((uses.image, more.image))]
    kind = np.where(time < origin, int(Use.FOUND), np.concatenate((uses.kind, more.kind)))
    order = np.lexsort((until, image, kind, time))
    time, until = time[order], until[order]
    return {
        "time": np.maximum(seconds(time, origin), 0.0),
        "image": image[order].astype(np.int32),
        "until": np.where(until == OPEN, np.inf, seconds(until, origin)),
        "kind": kind[order].astype(np.uint8),
    }


def seconds(nanoseconds: NDArray[Any], origin: int) -> Floats:
    """Seconds after the origin, of UTC nanoseconds."""
    after: Integers = nanoseconds.astype(np.int64, copy=False) - origin
    return after / _NS
