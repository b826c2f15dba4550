"""The compiled replay: the figures of `analyzer.simulation.replay`, found by touching only what changes a host.

An index is made once per trace and shared by all replays of it, which may run in several threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from functools import cached_property
from threading import Lock

import numpy as np

from analyzer.kernel.moments import Moments
from analyzer.kernel.rules import removable_by_id
from analyzer.native.binding import Array, checked, function, plain, pointers
from analyzer.native.loader import load
from analyzer.trace.trace import Floats, Integers, Trace

_MOST_USES = 2**31 - 2**16
_MOST_IMAGES = 2**29


class _Trace(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("images", "groups", "uses", "disks", "gaps", "guesses", "parts")),
        ("periods", c_int64),
        ("trace_end", c_double),
        ("scale", c_double),
        *(
            (name, c_void_p)
            for name in (
                *(
                    "time",
                    "until",
                    "image",
                    "kind",
                    "bringing",
                    "following",
                    "before",
                    "end",
                    "period_image",
                    "at",
                    "next",
                ),
                *("facts", "group", "group_bytes", "group_inodes"),
                *("own_space", "space", "local"),
                *("disk_time", "disk_total", "disk_other", "inode_total", "inode_other", "disk_class"),
                *("gap_begin", "gap_end"),
                *("guess_begin", "guess_end", "guess_image", "guess_rank"),
            )
        ),
    )


# `image_t`.
_FACTS = np.dtype("i8, f8, i4, i4, u1, u1", align=True)


def available(trace: Trace) -> bool:
    """Whether the kernel can replay this trace here."""
    return len(trace.time) < _MOST_USES and trace.images < _MOST_IMAGES and load() is not None


def first_demands(trace: Trace) -> Floats:
    """When each image was first needed, in seconds; infinity for one that never was; shape (n,)."""
    first = np.full(trace.images, np.inf)
    given = plain(trace.time, np.float64), plain(trace.image, np.int32), plain(trace.kind, np.uint8)
    function("kernel_first_demands")(c_int32(trace.images), c_int32(len(trace.time)), *pointers(*given, first))
    return first


class Index:
    """What all replays of a trace share.

    Args:
        trace: the history.

    Raises:
        MemoryError: there is not enough.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.uses = int(np.searchsorted(trace.time, trace.end, side="right"))
        self.disks = int(np.searchsorted(trace.disk_time, trace.end, side="right"))
        self._arrays: dict[str, Array] = {
            "time": plain(trace.time, np.float64),
            "until": plain(trace.until, np.float64),
            "image": plain(trace.image, np.int32),
            "kind": plain(trace.kind, np.uint8),
            "local": plain(trace.local, np.uint8),
        }
        self._survey()
        self._clock()
        self._groups()
        self._disk()
        by_begin = np.argsort(trace.blind[:, 0], kind="stable")
        self._arrays["gap_begin"] = plain(trace.blind[by_begin, 0], np.float64)
        self._arrays["gap_end"] = plain(trace.blind[by_begin, 1], np.float64)
        by_begin = np.argsort(trace.guesses[:, 0], kind="stable")
        kinds = {"guess_begin": np.float64, "guess_end": np.float64, "guess_image": np.int32, "guess_rank": np.uint8}
        for column, (name, kind) in zip(trace.guesses[by_begin].T, kinds.items(), strict=True):
            self._arrays[name] = plain(column, kind)
        self.struct = _Trace(
            images=trace.images,
            groups=self.groups,
            uses=self.uses,
            disks=self.disks,
            gaps=len(trace.blind),
            guesses=len(trace.guesses),
            parts=len(self._arrays["before"]) - 1,
            periods=0,
            trace_end=trace.end,
            scale=self._scale,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )
        self._views: dict[tuple[float, float], tuple[_Trace, list[Array]]] = {}
        self._moments: dict[str, Moments] = {}
        self._making = Lock()

    def moments(self, order: str, make: Callable[[], Moments]) -> Moments:
        """The moments of an order, made at first."""
        with self._making:
            if order not in self._moments:
                self._moments[order] = make()
            return self._moments[order]

    def _survey(self) -> None:
        arrays = self._arrays
        arrays["bringing"] = np.empty(self.trace.images, dtype=np.int32)
        vain = c_int32()
        look = function("kernel_index")
        look.restype = c_int64
        self.demands: int = look(
            c_int32(self.trace.images),
            c_int32(self.uses),
            *pointers(*(arrays[name] for name in ("image", "kind", "local", "bringing"))),
            byref(vain),
        )
        self._vain = bool(vain.value)

    def _clock(self) -> None:
        """A table of positions by time, so that a tick is found at once."""
        parts = self.uses // _USES_PER_PART + 1
        last = float(self._arrays["time"][self.uses - 1]) if self.uses else 0.0
        self._scale = parts / last if last > 0.0 else 0.0
        before = np.empty(parts + 1, dtype=np.int32)
        function("kernel_clock")(
            c_int32(self.uses),
            *pointers(self._arrays["time"]),
            c_double(self._scale),
            c_int32(parts),
            *pointers(before),
        )
        self._arrays["before"] = before

    def by_last_use(self, min_age: float, interval: float) -> _Trace:
        """What the kernel takes for policies that remove least recently used images first, made at first.

        Args:
            min_age: seconds.
            interval: seconds between their decisions; 0: at any time.

        Raises:
            MemoryError: there is not enough.
        """
        with self._making:
            if (min_age, interval) not in self._views:
                self._views[min_age, interval] = self._periods(min_age, interval)
            return self._views[min_age, interval][0]

    def by_order(self) -> _Trace:
        """What the kernel takes for other policies, and for rules of age. Raises MemoryError."""
        with self._making:
            self.struct.following = self.following.ctypes.data
            return self.struct

    def _periods(self, min_age: float, interval: float) -> tuple[_Trace, list[Array]]:
        room = self.uses + 1
        columns: list[Array] = [np.empty(room, dtype=np.float64), *(np.empty(room, dtype=np.int32) for _ in range(3))]
        make = function("kernel_periods")
        make.restype = c_int64
        count = make(
            c_int32(self.trace.images),
            c_int32(self.uses),
            *pointers(*(self._arrays[name] for name in ("time", "image", "until"))),
            c_double(min_age),
            c_double(interval),
            c_int32(_STAGED),
            *pointers(*columns),
        )
        if count < 0:
            raise MemoryError("not enough memory for the replay")
        struct = _Trace.from_buffer_copy(self.struct)
        struct.periods = count
        struct.following = self.following.ctypes.data if self._vain else None
        for name, column in zip(("end", "period_image", "at", "next"), columns, strict=True):
            setattr(struct, name, column.ctypes.data)
        return struct, columns

    def _groups(self) -> None:
        trace = self.trace
        n, m, pairs = trace.images, len(trace.layer_bytes), len(trace.layer)
        arrays: dict[str, Array] = {
            "facts": np.empty(n, dtype=_FACTS),
            "group": np.empty(pairs, dtype=np.int32),
            "group_bytes": np.empty(m, dtype=np.int64),
            "group_inodes": np.empty(m, dtype=np.float64),
            "group_of_layer": np.empty(m, dtype=np.int32),
        }
        groups = c_int32()
        has_space = bool(trace.pull_space.any())
        spaces = {"own_space": np.empty(n, dtype=np.int64), "space": np.empty(pairs, dtype=np.int64)}
        beside = (plain(trace.pull_space, np.int64), *spaces.values()) if has_space else ()
        given = (
            plain(trace.first, np.int64),
            plain(trace.layer, np.int64),
            plain(trace.layer_bytes, np.int64),
            plain(trace.layer_inodes, np.float64),
            self._arrays["local"],
        )
        checked(
            function("kernel_groups")(
                c_int32(n),
                c_int32(m),
                *pointers(*given, *arrays.values()),
                *(pointers(*beside) if has_space else (None,) * 3),
                byref(groups),
            )
        )
        self.groups = groups.value
        del arrays["group_of_layer"]
        self._arrays |= arrays | (spaces if has_space else {})

    def _disk(self) -> None:
        trace = self.trace
        sizes = np.stack((trace.disk_total, trace.inode_total), axis=1)
        self.sizes, number = np.unique(sizes, axis=0, return_inverse=True)
        self._arrays["disk_class"] = plain(number.reshape(-1), np.int32)
        self._arrays["disk_time"] = plain(trace.disk_time, np.float64)
        for name in ("disk_total", "disk_other", "inode_total", "inode_other"):
            self._arrays[name] = plain(getattr(trace, name), np.int64)

    @cached_property
    def following(self) -> Array:
        """Per use of the trace the next use of the same image, or the highest number; shape (u,)."""
        made = np.empty(len(self.trace.time), dtype=np.int32)
        follow = function("kernel_following")
        checked(follow(c_int32(self.trace.images), c_int32(len(made)), *pointers(self._arrays["image"], made)))
        return made

    @cached_property
    def removable(self) -> tuple[Array, Array]:
        """Per image whether the engine removes it by its name, and by its ID."""
        by_id = [removable_by_id(names) for names in self.trace.references]
        return np.ones(self.trace.images, dtype=np.uint8), plain(np.array(by_id, dtype=np.bool_), np.uint8)

    @cached_property
    def sizes_of_images(self) -> Integers:
        """Bytes of all layers of each image; shape (n,)."""
        return plain(self.trace.image_bytes, np.int64)

    @cached_property
    def built(self) -> Floats:
        """When each image was built; shape (n,)."""
        return plain(self.trace.created, np.float64)


_latest: list[Index] = []
_lock = Lock()
_KEPT = 2
_USES_PER_PART = 256
_STAGED = 2**15


def index_of(trace: Trace) -> Index:
    """The index of a trace; those of the latest two are kept."""
    with _lock:
        for index in _latest:
            if index.trace is trace:
                return index
        made = Index(trace)
        _latest.insert(0, made)
        del _latest[_KEPT:]
        return made
