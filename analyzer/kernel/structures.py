"""What goes with a policy, as the compiled kernel takes it: what chooses, local images, an automatic threshold."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int, c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.kernel.index import Index
from analyzer.kernel.moments import Moments
from analyzer.kernel.rules import AgeClock, AgeRule, Superseded, ToolRules
from analyzer.native.binding import Array, plain, view
from pruner.policy.headroom import LEAST_SHARE, MARGIN, MOST_SHARE, FreeSpaceDrops, reach_of
from pruner.policy.orders import OWN_STATE_ORDERS

if TYPE_CHECKING:
    from analyzer.kernel.runs import Rules

LEVELS = 6
"""Amounts of space of each class of disk: threshold, target and emergency, bytes and inodes each."""


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


# ``lru`` where images have to be ranked at each decision; ranks of all images by an order that does not; a rule that is
# carried out at each tick instead of deciding; what another tool does instead.
Chooser = str | Moments | AgeRule | ToolRules | None
_RANKED = ("", *OWN_STATE_ORDERS, "lru")


def chooser_of(chooser: Chooser, index: Index) -> tuple[int, int | None, ctypes.Structure | None]:
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


def superseded_of(given: Superseded) -> tuple[_Superseded, list[Array]]:
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


class Call:
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


def headroom_of(rules: Rules, call: Call) -> tuple[_Headroom, list[Array]]:
    """What a threshold that follows from falls of free space is made from; see `pruner.policy.headroom`."""
    resolved, working_sets = rules.resolved, rules.working_sets
    assert resolved is not None and working_sets is not None  # noqa: S101, PT018 - who gives one gives both

    def levels(disk_class: int, threshold: float, made: int) -> int:
        try:
            view(made, c_double, LEVELS)[:] = resolved(disk_class, threshold)
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
