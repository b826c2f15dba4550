"""Wakes the pruner when a sample shows too little space, so that it need not wait for its timer.

The pruner leaves the levels that its policy means on this disk beside the log. The collector holds each
sample against them and touches a file that the service manager watches (`pruner.path`). Both files are
a few bytes that can also be written while the disk is full.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from collector.machine.disk import DiskSample
from collector.model.backoff import Backoff
from collector.model.paths import read_bytes, rewrite_file
from collector.model.units import format_bytes
from collector.model.untrusted import cut, read_object

logger = logging.getLogger(__name__)

# A pruner that cannot reach its target is called again ever more seldom, at last as often as its timer does.
FIRST_PAUSE_S = 10.0
LAST_PAUSE_S = 300.0
# Written always as long as this: a shorter text over a longer one would leave a tail.
_LENGTH = 1024
_MOST_WORDS = 200


def levels_path(log_path: Path) -> Path:
    """Where the pruner leaves its levels: beside the log."""
    return log_path.with_name(log_path.name + ".levels")


def wake_path(log_path: Path) -> Path:
    """The file whose change wakes the pruner: beside the log."""
    return log_path.with_name(log_path.name + ".wake")


def leave_levels(
    log_path: Path,
    data_root: str,
    free_bytes: float,
    free_inodes: float,
    others: Mapping[str, tuple[float, float]] | None = None,
    min_age: str = "",
) -> bool:
    """Leave word for the collector under which free space the pruner wants to be woken; whether that worked.

    Args:
        log_path: the event log.
        data_root: the folder whose file system they speak of.
        free_bytes: the threshold, bytes.
        free_inodes: the threshold of free inodes; 0: none.
        others: both thresholds on each other disk of the engine, by a folder on it.
        min_age: the minimum age that holds, in words, with its evidence.
    """
    path = levels_path(log_path)
    entry: dict[str, Any] = {
        "data_root": data_root,
        "free_bytes": round(free_bytes),
        "free_inodes": round(free_inodes),
    }
    if others:
        entry["others"] = {path: [round(level) for level in levels] for path, levels in others.items()}
    if min_age:
        entry["min_age"] = cut(min_age, _MOST_WORDS)
    text = f"{json.dumps(entry):<{_LENGTH - 1}}\n".encode()
    with contextlib.suppress(OSError):
        if read_bytes(path) == text:
            path.touch()  # its time says when the pruner last looked
            return True
    try:
        rewrite_file(path, text, 0o640)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the collector cannot wake the pruner early", path, error.strerror)
        return False
    return True


def read_levels(log_path: Path, data_root: str) -> tuple[int, int] | None:
    """The levels (bytes, inodes) that a pruner left for this disk; None: none that make sense."""
    try:
        entry = json.loads(read_bytes(levels_path(log_path)))
        if entry["data_root"] == data_root:
            return int(entry["free_bytes"]), int(entry["free_inodes"])
        free_bytes, free_inodes = entry["others"][data_root]
        return int(free_bytes), int(free_inodes)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def last_decision(log_path: Path) -> float | None:
    """When a run of the pruner last made a plan, UTC seconds; None: not known."""
    try:
        return levels_path(log_path).stat().st_mtime
    except OSError:
        return None


def just_woken(log_path: Path) -> bool:
    """Whether the pruner was woken in the last `FIRST_PAUSE_S`."""
    try:
        return abs(time.time() - wake_path(log_path).stat().st_mtime) <= FIRST_PAUSE_S
    except OSError:
        return False


def read_min_age(log_path: Path) -> str:
    """The minimum age by which the pruner last decided, in words; empty: it left none."""
    with contextlib.suppress(OSError):
        entry = read_object(read_bytes(levels_path(log_path))) or {}
        return cut(str(entry.get("min_age") or ""), _MOST_WORDS)
    return ""


class Alarm:
    """Holds samples against the pruner's levels, and wakes the pruner.

    Args:
        log_path: the event log, beside which both files are.
        now: a clock that nobody sets, seconds.

    Attributes:
        again: when to take a sample for a shortage that could not wake the pruner so soon after the last; inf: none.
        is_short: whether the latest samples were under its levels.
    """

    def __init__(self, log_path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._log_path = log_path
        self._now = now
        self._pauses = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        self._quiet_until = -math.inf
        self.again = math.inf
        self.is_short = False

    def hear(self, *samples: DiskSample) -> bool:
        """Wake the pruner if a sample, one of each disk, is under its levels; whether it was woken."""
        self.again = math.inf
        known = [(sample, levels) for sample in samples if (levels := read_levels(self._log_path, sample.path))]
        short = [(sample, levels) for sample, levels in known if _is_short(sample, levels)]
        self.is_short = bool(short)
        if not known:
            return False
        if not short:
            self._pauses.reset()
            self._quiet_until = -math.inf
            return False
        sample, levels = short[0]
        now = self._now()
        if now < self._quiet_until:
            self.again = self._quiet_until
            return False
        if not _touch(wake_path(self._log_path)):
            return False
        logger.info(
            "%s free, under the pruner's threshold of %s: waking it",
            format_bytes(sample.free_bytes),
            format_bytes(levels[0]),
        )
        self._quiet_until = now + self._pauses.next()
        return True


def _is_short(sample: DiskSample, levels: tuple[int, int]) -> bool:
    return sample.free_bytes < levels[0] or bool(sample.total_inodes and sample.free_inodes < levels[1])


def _touch(path: Path) -> bool:
    """Change a file's times, which needs no space once the file is there."""
    try:
        path.touch(mode=0o640)
    except OSError as error:
        logger.warning("%s cannot be touched (%s): the pruner waits for its timer", path, error.strerror)
        return False
    return True
