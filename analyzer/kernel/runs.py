"""Replays in the compiled kernel, of one trace under one policy or several of them side by side."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from ctypes import POINTER, byref, c_double, c_int32, c_int64, c_uint8, c_void_p
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any, cast

import numpy as np

from analyzer.kernel.index import Index
from analyzer.kernel.moments import Moments
from analyzer.kernel.rules import Superseded
from analyzer.kernel.structures import Call, Chooser, chooser_of, headroom_of, superseded_of
from analyzer.native.binding import Array, checked, function, plain, pointers
from analyzer.trace.trace import Flags, Floats, Integers
from collector.machine.wake import FIRST_PAUSE_S, LAST_PAUSE_S
from collector.model.defaults import PULL_RATE

_CALLBACK = 2
# What is known of a moment is forgotten after each slice of the time: so many uses fit into the processor's cache.
_SLICES = 512
_USES_PER_SLICE = 1024
# Replays that share nothing go on by turns, as many at once as the processor's cache holds what they know of images.
_USES_PER_TURN = 2**16
_CACHED_IMAGES = 2**13
_MOST_IN_TURNS = 8
_REPORTS = 16
_STATE_BYTES = 2**28


class _Policy(ctypes.Structure):
    _fields_ = (
        ("levels", c_void_p),
        ("protected", c_void_p),
        *((name, c_double) for name in ("interval", "min_age", "allowlist_idle", "gap_grace", "level")),
        *((name, c_double) for name in ("latency", "pull_rate", "first_pause", "last_pause")),
        *((name, c_void_p) for name in ("age_from", "age")),
        ("ages", c_int32),
        *((name, c_int32) for name in ("at_events", "keep_local", "keep_removals", "keep_steps")),
        ("chooser", c_int32),
        *((name, c_void_p) for name in ("sizes", "by", "headroom", "superseded")),
    )


_COUNTS = (
    *("compulsory", "compulsory_bytes", "repulls", "repulled_bytes", "losses", "removals", "removed_bytes"),
    *("emergency_removals", "prunes", "disk_full"),
)
_AMOUNTS = ("min_free", "seconds_under", "byte_seconds")


class _Result(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in _COUNTS),
        *((name, c_double) for name in _AMOUNTS),
        ("kept_removals", c_int64),
        ("kept_steps", c_int64),
        ("removal_time", POINTER(c_double)),
        ("removal_image", POINTER(c_int32)),
        ("removal_bytes", POINTER(c_int64)),
        ("removal_emergency", POINTER(c_uint8)),
        ("step_time", POINTER(c_double)),
        ("step_free", POINTER(c_int64)),
    )


@dataclass(frozen=True, slots=True)
class Wake:
    """How a shortage starts a prune, as `collector.machine.wake` does it.

    Attributes:
        latency: seconds from the sample that shows the shortage to what the prune has freed.
        pull_rate: bytes per second of pulls; the sample is taken when the pull has ended.
    """

    latency: float = 10.0
    pull_rate: float = PULL_RATE


# What chooses the images that go: least recently used first (None); an order that looks at what the policy did, or
@dataclass(frozen=True, slots=True)
class Rules:
    """A policy as the kernel takes it.

    Attributes:
        levels: per class of disk the threshold, target and emergency, bytes and inodes each; shape (c, 6).
        protected: per image whether the allowlist names it; shape (n,).
        interval: seconds between ticks; 0: none.
        min_ages: the minimum age in seconds, and from when on it holds, the first always; shape (k, 2) of (time, age).
        allowlist_idle: seconds.
        gap_grace: seconds for which a gap keeps images young.
        wake: how pulls, arrivals and disk samples start a prune too; None: they do not.
        keep_local: whether local images stay, but for what `superseded` lets go.
        chooser: what chooses the images that go.
        resolved: for a threshold that follows from falls of free space, the levels as in `levels`
            with that many bytes, on the class of disk of that number; None: the threshold is given.
        superseded: which local images may go all the same; None: none. Else the chooser has to rank images.
        working_sets: bytes of images that such a threshold leaves room for, and from when on; shape (k, 2) of
            (time, bytes); None: the threshold is given.
    """

    levels: Floats
    protected: Flags
    interval: float
    min_ages: Floats
    allowlist_idle: float
    gap_grace: float
    wake: Wake | None
    keep_local: bool
    chooser: Chooser = None
    resolved: Callable[[int, float], Sequence[float]] | None = None
    working_sets: Floats | None = None
    superseded: Superseded | None = None


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """What a replay counted: see `analyzer.simulation.result.Result`; arrays are empty unless asked for."""

    counts: dict[str, int]
    amounts: dict[str, float]
    removal_time: Floats
    removal_image: Array
    removal_bytes: Integers
    removal_emergency: Array
    step_time: Floats
    step_free: Integers


class Run:
    """A replay under one policy.

    Args:
        index: the trace's index.
        rules: the policy.
        level: free bytes under which time counts as under the threshold.
        removals: whether to return each removal.
        steps: whether to return each change of free space.
    """

    def __init__(self, index: Index, rules: Rules, level: float, *, removals: bool = True, steps: bool = False) -> None:
        self.moments = rules.chooser if isinstance(rules.chooser, Moments) else None
        self.uses, self.images = index.uses, index.trace.images
        self._call = Call()
        least_age = min(rules.min_ages[:, 1].tolist())
        if rules.chooser is None:
            struct = index.by_last_use(least_age, 0.0 if rules.wake else rules.interval)
        else:
            struct = index.by_order()
        levels, protected = plain(rules.levels, np.float64), plain(rules.protected, np.uint8)
        age_from, age = (plain(rules.min_ages[:, column], np.float64) for column in (0, 1))
        wake = rules.wake or Wake()
        number, by, parts = chooser_of(rules.chooser, index)
        headroom = headroom_of(rules, self._call) if rules.resolved else None
        superseded = superseded_of(rules.superseded) if rules.superseded else None
        policy = _Policy(
            levels=levels.ctypes.data,
            protected=protected.ctypes.data,
            interval=rules.interval,
            min_age=least_age,
            allowlist_idle=rules.allowlist_idle,
            gap_grace=rules.gap_grace,
            level=level,
            latency=wake.latency,
            pull_rate=wake.pull_rate,
            first_pause=FIRST_PAUSE_S,
            last_pause=LAST_PAUSE_S,
            age_from=age_from.ctypes.data,
            age=age.ctypes.data,
            ages=len(age),
            at_events=rules.wake is not None,
            keep_local=rules.keep_local,
            keep_removals=removals,
            keep_steps=steps,
            chooser=number,
            sizes=index.sizes_of_images.ctypes.data,
            by=by,
            superseded=ctypes.addressof(superseded[0]) if superseded else None,
            headroom=ctypes.addressof(headroom[0]) if headroom else None,
        )
        self._policy = policy
        self._kept = (index, struct, levels, protected, age_from, age, parts, headroom, superseded)
        self._given = (byref(struct), byref(policy))
        self._result = _Result()
        self.address: int | None = None

    def begin(self) -> None:
        """Have what it needs while it runs. Raises MemoryError."""
        begin = function("kernel_begin")
        begin.restype = c_void_p
        self.address = begin(*self._given, byref(self._result))
        if self.address is None:
            raise MemoryError("not enough memory for the replay")

    def share(self, moments: Moments) -> None:
        """Take the ranks of images from these moments, of the same order."""
        self.moments = moments
        self._policy.by = moments.address

    @property
    def error(self) -> BaseException | None:
        """What went wrong in an order or threshold that is asked for; None: nothing so far."""
        return self._call.error or (self.moments.error if self.moments else None)

    def end(self) -> ReplayCounts:
        """What it came to. Raises MemoryError, or what the order raised."""
        address, self.address = self.address, None
        status = function("kernel_end")(c_void_p(address))
        if status == _CALLBACK and self.error is not None:
            raise self.error
        checked(status)
        return _outcome(self._result)

    def free(self) -> None:
        """Free what it holds."""
        if self.address is not None:
            function("kernel_end")(c_void_p(self.address))
            self.address = None
        function("kernel_release")(byref(self._result))


def at_once(index: Index) -> int:
    """How many replays of a trace may be under way at once."""
    trace = index.trace
    return max(2, _STATE_BYTES // (index.uses // 8 + 200 * trace.images + 4 * index.groups + 2**16))


def play(
    runs: Sequence[Run], end: float, threads: int = 1, progress: Callable[[float], None] | None = None
) -> list[ReplayCounts]:
    """Let replays run to their end, side by side: what several need to know of a moment is computed once.

    Args:
        runs: replays that have not run.
        end: when the trace ends.
        threads: how many at once; at least 1.
        progress: called with the share that is done, from 0 to 1.

    Raises:
        MemoryError: there is not enough.
        BaseException: what an order raised that is asked.
    """
    together = [run for run in runs if run.moments]
    alone = [run for run in runs if not run.moments]
    if len(together) == 1:
        alone, together = list(runs), []
    count = min(threads, len(runs))
    outcomes: dict[int, ReplayCounts] = {}
    try:
        with ThreadPoolExecutor(count) if count > 1 else nullcontext() as pool:
            spread = pool.map if pool else map
            # What shares nothing with others begins when its turn has come: there is less memory to go through.
            most = max(1, min(_MOST_IN_TURNS, _CACHED_IMAGES // (runs[0].images + 1))) if runs else 1
            rounds = [alone[k : k + most] for k in range(0, len(alone), most)]
            if len(rounds) < count:
                rounds = [alone[k::count] for k in range(min(count, len(alone)))]
            for some, found in zip(rounds, spread(lambda some: _play_in_turns(some, end), rounds), strict=True):
                outcomes |= zip(map(id, some), found, strict=True)
                if progress:
                    progress(len(outcomes) / len(runs))
            groups = _groups(together, count)
            update = _GroupProgress(len(groups), _rest_of(progress, len(alone), len(runs)))
            played = spread(lambda number: _play_together(groups[number], end, update.by(number)), range(len(groups)))
            for group, found in zip(groups, played, strict=True):
                outcomes |= zip(map(id, group), found, strict=True)
        return [outcomes[id(run)] for run in runs]
    finally:
        for run in runs:
            run.free()


def _rest_of(progress: Callable[[float], None] | None, done: int, count: int) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((done + share * (count - done)) / count)


class _GroupProgress:
    """Progress of several groups at once, reported as one share."""

    def __init__(self, groups: int, progress: Callable[[float], None] | None) -> None:
        self._done = [0.0] * groups
        self._progress = progress
        self._lock = Lock()

    def by(self, number: int) -> Callable[[float], None]:
        """Where a group reports its own share."""

        def report(share: float) -> None:
            with self._lock:
                self._done[number] = share
                if self._progress:
                    self._progress(sum(self._done) / len(self._done))

        return report


def _groups(runs: Sequence[Run], count: int) -> list[list[Run]]:
    """Replays that share moments: of each order as many groups as there are threads, or one where Python is asked."""
    groups: list[list[Run]] = []
    for moments in {id(run.moments): run.moments for run in runs if run.moments}.values():
        some = [run for run in runs if run.moments is moments]
        parts = 1 if moments.asks else min(count, len(some))
        ends = [len(some) * k // parts for k in range(parts + 1)]
        groups += [some[first:last] for first, last in pairwise(ends)]
    for group in groups:
        apart = cast("Moments", group[0].moments).another(len(groups))
        for run in group:
            run.share(apart)
    return groups


def _play_in_turns(some: Sequence[Run], end: float) -> list[ReplayCounts]:
    """Let replays that share nothing go on by turns: what one reads of a stretch of the history is cached for all."""
    for run in some:
        run.begin()
    turns = some[0].uses // _USES_PER_TURN + 1 if len(some) > 1 else 1
    for k in range(1, turns):
        _play(_addresses(some), end * k / turns)
    _play(_addresses(some), math.inf)
    return [run.end() for run in some]


def _play_together(group: Sequence[Run], end: float, report: Callable[[float], None]) -> list[ReplayCounts]:
    """Let replays go on side by side, from one time to the next."""
    for run in group:
        run.begin()
    moments, addresses = cast("Moments", group[0].moments), _addresses(group)
    slices = min(_SLICES, group[0].uses // _USES_PER_SLICE + 1)
    step = -(-slices // _REPORTS)
    for first in range(0, slices, step):
        part = range(first, min(first + step, slices))
        moments.play(addresses, end, part, slices)
        if any(run.error for run in group):
            break
        report(part.stop / slices)
    return [run.end() for run in group]


def _addresses(runs: Sequence[Run]) -> Array:
    return np.array([run.address for run in runs], dtype=np.uintp)


def _play(runs: Array, until: float) -> None:
    function("kernel_play")(c_int32(len(runs)), *pointers(runs), c_double(until))


def _outcome(result: _Result) -> ReplayCounts:
    removals, steps = result.kept_removals, result.kept_steps
    return ReplayCounts(
        counts={name: int(getattr(result, name)) for name in _COUNTS},
        amounts={name: float(getattr(result, name)) for name in _AMOUNTS},
        removal_time=_copied(result.removal_time, removals, np.float64),
        removal_image=_copied(result.removal_image, removals, np.int32),
        removal_bytes=_copied(result.removal_bytes, removals, np.int64),
        removal_emergency=_copied(result.removal_emergency, removals, np.uint8),
        step_time=_copied(result.step_time, steps, np.float64),
        step_free=_copied(result.step_free, steps, np.int64),
    )


def _copied(pointer: Any, count: int, kind: Any) -> Array:
    if not count:
        return np.empty(0, dtype=kind)
    return np.ctypeslib.as_array(pointer, shape=(count,)).copy()
