"""Replays in the compiled kernel, of one trace under one policy or several of them side by side."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from ctypes import POINTER, byref, c_double, c_int, c_int32, c_int64, c_uint8, c_void_p
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any, cast

import numpy as np

from analyzer.kernel.index import Index
from analyzer.kernel.moments import Moments
from analyzer.kernel.rules import AgeClock, AgeRule, Superseded, ToolRules
from analyzer.native.binding import Array, checked, function, plain, pointers, view
from analyzer.trace.trace import Flags, Floats, Integers
from collector.machine.wake import FIRST_PAUSE_S, LAST_PAUSE_S
from collector.model.defaults import PULL_RATE
from pruner.policy.headroom import LEAST_SHARE, MARGIN, MOST_SHARE, FreeSpaceDrops, reach_of
from pruner.policy.orders import OWN_STATE_ORDERS

_CALLBACK = 2
_LEVELS = 6
# What is known of a moment is forgotten after each slice of the time: so many uses fit into the processor's cache.
_SLICES = 512
_USES_PER_SLICE = 1024
# Replays that share nothing go on by turns, as many at once as the processor's cache holds what they know of images.
_USES_PER_TURN = 2**16
_CACHED_IMAGES = 2**13
_MOST_IN_TURNS = 8
_REPORTS = 16
_STATE_BYTES = 2**28


_Levels = ctypes.CFUNCTYPE(c_int, c_int32, c_double, c_void_p)


class _Headroom(ctypes.Structure):
    _fields_ = (
        *((name, c_double) for name in ("margin", "least", "most", "reach")),
        *((name, c_int64) for name in ("kept", "enough", "sets")),
        *((name, c_void_p) for name in ("set_from", "set_bytes")),
        ("levels", c_void_p),
    )


class _AgeRule(ctypes.Structure):
    _fields_ = (("age", c_double), ("low", c_double), ("built", c_void_p), ("removable", c_void_p), ("clock", c_int32))


class _ToolRules(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("kind", "exact")),
        ("restarts", c_double),
        ("amount", c_double * 6),
        *((name, c_void_p) for name in ("built", "sizes")),
    )


class _Superseded(ctypes.Structure):
    _fields_ = (
        ("idle", c_double),
        *((name, c_int32) for name in ("repositories", "gaps")),
        *((name, c_void_p) for name in ("first", "repository", "borne_first", "borne", "borne_from", "borne_until")),
        *((name, c_void_p) for name in ("sight", "gap_begin", "gap_end")),
    )


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
# ``lru`` where images have to be ranked at each decision; ranks of all images by an order that does not; a rule that is
# carried out at each tick instead of deciding; what another tool does instead.
Chooser = str | Moments | AgeRule | ToolRules | None
_RANKED = ("", *OWN_STATE_ORDERS, "lru")


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
        self._call = _Call()
        least_age = min(rules.min_ages[:, 1].tolist())
        if rules.chooser is None:
            struct = index.by_last_use(least_age, 0.0 if rules.wake else rules.interval)
        else:
            struct = index.by_order()
        levels, protected = plain(rules.levels, np.float64), plain(rules.protected, np.uint8)
        age_from, age = (plain(rules.min_ages[:, column], np.float64) for column in (0, 1))
        wake = rules.wake or Wake()
        number, by, parts = _chooser(rules.chooser, index)
        headroom = _headroom(rules, self._call) if rules.resolved else None
        superseded = _superseded(rules.superseded) if rules.superseded else None
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


def _chooser(chooser: Chooser, index: Index) -> tuple[int, int | None, ctypes.Structure | None]:
    """The kernel's number of what chooses, the address of what goes with it, and what has to outlive that."""
    if chooser is None or isinstance(chooser, str):
        return _RANKED.index(chooser or ""), None, None
    if isinstance(chooser, Moments):
        return len(_RANKED), chooser.address, None
    parts = _age_rule(chooser, index) if isinstance(chooser, AgeRule) else _tool(chooser, index)
    return len(_RANKED) + 1 + isinstance(chooser, ToolRules), ctypes.addressof(parts), parts


def _age_rule(rule: AgeRule, index: Index) -> _AgeRule:
    return _AgeRule(
        age=rule.age,
        low=-1.0 if rule.low is None else rule.low,
        built=index.built.ctypes.data,
        removable=index.removable[rule.by_id].ctypes.data,
        clock=list(AgeClock).index(rule.clock),
    )


def _superseded(given: Superseded) -> tuple[_Superseded, list[Array]]:
    """The same for the kernel, and the arrays that it points to."""
    numbers: dict[str, int] = {}
    repository = [numbers.setdefault(name, len(numbers)) for names in given.repositories for name in names]
    borne = [(numbers.setdefault(name, len(numbers)), *times) for names in given.bearing for name, *times in names]
    first, borne_first = (
        np.concatenate(([0], np.cumsum([len(one) for one in each]))) for each in (given.repositories, given.bearing)
    )
    bearing = np.array(borne, dtype=np.float64).reshape(-1, 3)
    gaps = np.array(given.gaps, dtype=np.float64).reshape(-1, 2)
    arrays = [
        plain(first, np.int32),
        plain(np.array(repository), np.int32),
        plain(borne_first, np.int32),
        plain(bearing[:, 0], np.int32),
        *(plain(bearing[:, column], np.float64) for column in (1, 2)),
        plain(given.sight, np.int64),
        *(plain(gaps[:, column], np.float64) for column in (0, 1)),
    ]
    return _Superseded(given.idle, len(numbers), len(gaps), *(array.ctypes.data for array in arrays)), arrays


class _Call:
    """What is asked while a replay runs; a fault in it is kept and raised when that has ended."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.levels: Any = None


def _tool(tool: ToolRules, index: Index) -> _ToolRules:
    return _ToolRules(
        kind=tool.kind,
        exact=tool.exact,
        restarts=tool.restarts or 0.0,
        amount=(c_double * 6)(*tool.amounts),
        built=index.built.ctypes.data,
        sizes=index.sizes_of_images.ctypes.data,
    )


def _headroom(rules: Rules, call: _Call) -> tuple[_Headroom, list[Array]]:
    """What a threshold that follows from falls of free space is made from; see `pruner.policy.headroom`."""
    resolved, working_sets = rules.resolved, rules.working_sets
    assert resolved is not None and working_sets is not None  # noqa: S101, PT018 - who gives one gives both

    def levels(disk_class: int, threshold: float, made: int) -> int:
        try:
            view(made, c_double, _LEVELS)[:] = resolved(disk_class, threshold)
        except BaseException as error:  # noqa: BLE001 - raised again behind the C code
            call.error = error
            return 1
        return 0

    call.levels = _Levels(levels)
    reach = reach_of(rules.interval, early=rules.wake is not None)
    falls = FreeSpaceDrops(rules.interval)
    sets = [plain(working_sets[:, column], np.float64) for column in (0, 1)]
    made = _Headroom(
        margin=MARGIN,
        least=LEAST_SHARE,
        most=MOST_SHARE,
        reach=reach,
        kept=falls.kept,
        enough=falls.enough,
        sets=len(sets[0]),
        set_from=sets[0].ctypes.data,
        set_bytes=sets[1].ctypes.data,
        levels=ctypes.cast(call.levels, c_void_p),
    )
    return made, sets


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
