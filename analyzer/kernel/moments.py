"""What is the same under every policy, compiled: what a host learned, and how its images rank at each moment."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_double, c_int, c_int32, c_int64, c_void_p

import numpy as np

from analyzer.kernel.recent import RecentUses
from analyzer.native.binding import Array, function, plain, pointers, view
from analyzer.trace.trace import Floats, Integers, Trace
from analyzer.trace.uses import WORTH_A_THREAD
from collector.eventlog.experience import BUCKETS, HABITS
from pruner.state.learning import AGES, STAGES, TRUST, typical_idle
from pruner.state.population import BY_AGE, BY_HABIT, BY_STAGE, BY_USE

_MOMENTS_BYTES = 2**28
_PARTS = 2
_Keys = ctypes.CFUNCTYPE(c_int, c_double, c_int32, c_void_p, c_void_p)


class _Learned(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("usage", "superseded", "expected", "by_stage", "by_habit", "by_use")),
        *((name, c_void_p) for name in ("learning", "first", "repository", "turned", "changed", "bin")),
        *((name, c_int64) for name in ("offset", "repositories")),
        ("trust", c_double * len(TRUST)),
    )


class Learning:
    """What a host learned up to each midnight, compiled; see `analyzer.simulation.knowledge.Knowledge`.

    Args:
        trace: the history.
        following: per use the next use of the same image, see `Index.following`; shape (u,).
        superseded: since when each image has been; shape (n,).
        days: midnights, the first at or before the origin.
        offset_ms: milliseconds of the origin after it.
        by_habit: situations by age, habit and stage; or by age, use count and whether superseded.

    Attributes:
        usage: bins of the image's usual idle time (times `TIMES`) and use count, from each use on; shape (u,).

    Raises:
        MemoryError: there is not enough.
    """

    def __init__(
        self, trace: Trace, following: Array, superseded: Floats, days: int, offset_ms: int, *, by_habit: bool
    ) -> None:
        self._width = AGES * HABITS * STAGES if by_habit else AGES * BUCKETS * 2
        self.usage = np.empty(len(trace.time), dtype=np.uint8)
        given = (
            plain(trace.time, np.float64),
            plain(trace.image, np.int32),
            plain(trace.until, np.float64),
            plain(trace.kind, np.uint8),
            following,
            plain(superseded, np.float64),
        )
        make = function("kernel_learn")
        make.restype = c_void_p
        parts = _PARTS if len(trace.time) > WORTH_A_THREAD else 1

        def learn(part: int) -> int | None:
            made: int | None = make(
                c_int32(trace.images),
                c_int32(len(trace.time)),
                *pointers(*given),
                c_double(trace.end),
                c_int64(offset_ms),
                c_int32(days),
                c_int(0 if by_habit else 1),
                c_int32(part),
                c_int32(parts),
                *pointers(self.usage),
            )
            return made

        with ThreadPoolExecutor(parts) as pool:
            self.address = _joined(list(pool.map(learn, range(parts))))
        weakref.finalize(self, function("kernel_unlearn"), c_void_p(self.address)).atexit = False

    def day(self, day: int) -> tuple[Integers, Integers]:
        """Returns, and exposure in milliseconds, up to a midnight; shape (situations,) each."""
        counted = np.empty(2 * self._width, dtype=np.int64)
        function("kernel_day")(c_void_p(self.address), c_int64(-1), c_int64(day), *pointers(counted))
        return counted[: self._width], counted[self._width :]


def _joined(parts: list[int | None]) -> int:
    """What was learned of some images and of others, as one. Raises MemoryError if one is missing."""
    made, *more = parts
    if made is None or None in more:
        for part in parts:
            function("kernel_unlearn")(c_void_p(part))
        raise MemoryError("not enough memory to learn from the history")
    for part in more:
        function("kernel_join")(c_void_p(made), c_void_p(part))
    return made


class Forecasting:
    """What the compiled replay makes forecasts from; see `pruner.state.learning`.

    Args:
        learning: what was learned by habit.
        superseded: since when each image has been; shape (n,).
        offset_ms: milliseconds of the trace's origin after midnight.
        recent: how often repositories were used recently.

    Attributes:
        usage: bins of the image's usual idle time (times `TIMES`) and use count, from each use on; shape (u,).
    """

    def __init__(self, learning: Learning, superseded: Floats, offset_ms: int, recent: RecentUses) -> None:
        expected = [BY_AGE[age] / typical_idle(age) for age in range(AGES)]
        self.usage = learning.usage
        tables = (np.array(table) for table in (expected, BY_STAGE, BY_HABIT))
        arrays: list[Array] = [self.usage, plain(superseded, np.float64), *tables, np.array(BY_USE, dtype=np.uint16)]
        changes: list[Array] = [recent.first, recent.repository, recent.turned, recent.changed, recent.bin]
        self._kept = (learning, arrays, changes)
        addresses, more = ([array.ctypes.data for array in each] for each in (arrays, changes))
        self.struct = _Learned(*addresses, learning.address, *more, offset_ms, recent.count, TRUST)

    def day(self, day: int) -> tuple[Floats, Floats]:
        """`analyzer.simulation.knowledge.Knowledge.rates`, compiled."""
        rates, beyond = np.empty((AGES, HABITS, STAGES)), np.empty((AGES + 1, HABITS, STAGES))
        function("kernel_rates")(byref(self.struct), c_int64(day), *pointers(rates, beyond))
        return rates, beyond


class Moments:
    """Images as an order ranks them at each moment at which a policy decided: once for all that are replayed together.

    Args:
        images: how many there are.
        source: what makes the keys: the tables of forecasts, or a function of the time and the numbers of images.
        parts: of the memory that may be taken, this takes one of so many.

    Attributes:
        error: what went wrong in that function; None: nothing.
        asks: whether there is such a function, in Python.

    Raises:
        MemoryError: there is not enough.
    """

    def __init__(self, images: int, source: Forecasting | Callable[[float, Integers], Array], parts: int = 1) -> None:
        self.error: BaseException | None = None
        self.asks = not isinstance(source, Forecasting)
        self._given = (images, source)
        learned, ask = None, None
        if isinstance(source, Forecasting):
            learned = byref(source.struct)
        else:
            self._ask = _Keys(self._asked(source))
            ask = ctypes.cast(self._ask, c_void_p)
        make = function("kernel_moments")
        make.restype = c_void_p
        self.address: int | None = make(c_int32(images), learned, ask, c_int64(_MOMENTS_BYTES // parts))
        if self.address is None:
            raise MemoryError("not enough memory for the replay")
        weakref.finalize(self, function("kernel_forget"), c_void_p(self.address)).atexit = False

    def another(self, parts: int) -> Moments:
        """Room for moments of the same order, apart from others. Raises MemoryError."""
        return Moments(*self._given, parts)

    def play(self, runs: Array, end: float, part: range, slices: int) -> None:
        """Let replays go on together, with room for other moments from each slice of the time on.

        Args:
            runs: their addresses.
            end: when the trace ends, seconds.
            part: which slices.
            slices: how many there are up to the end.
        """
        bounds = (c_int32(number) for number in (part.start, part.stop, slices))
        function("kernel_play_slices")(
            c_void_p(self.address), c_int32(len(runs)), *pointers(runs), c_double(end), *bounds
        )

    def _asked(self, keys: Callable[[float, Integers], Array]) -> Callable[[float, int, int, int], int]:
        def ask(now: float, count: int, present: int, made: int) -> int:
            try:
                view(made, c_double, count)[:] = keys(now, view(present, c_int32, count).astype(np.int64))
            except BaseException as error:  # noqa: BLE001 - raised again behind the C code
                self.error = error
                return 1
            return 0

        return ask
