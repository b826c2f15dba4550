"""One prune after the other, where no service manager has a timer: in a container, or under another init.

Each prune is a process of its own, started with the same command: what it does, and how it ends, is what
a timer's does. Like `pruner.path`, a wake-up of the collector starts one at once.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from collector.machine.wake import wake_path
from collector.model.units import format_duration

logger = logging.getLogger(__name__)
_LOOK_S = 1.0
_OPTION = "--every"


def repeat(log_path: Path, every: float, argv: Sequence[str]) -> None:
    """Prune at once and then every so many seconds, until the process is asked to end; a prune under way ends first.

    Args:
        log_path: the event log.
        every: seconds between the beginnings of two prunes.
        argv: the command line, the program first.
    """
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    logger.info("pruning every %s, and when the collector sees that space is short", format_duration(every))
    trigger = "timer"
    while not ended.is_set():
        due, woken = time.monotonic() + every, _touched(log_path)
        subprocess.run(_once(argv, trigger), check=False)  # noqa: S603 - our own command line
        trigger = "timer"
        while not ended.is_set() and trigger == "timer" and time.monotonic() < due:
            ended.wait(min(_LOOK_S, max(due - time.monotonic(), 0.0)))
            if _touched(log_path) != woken:
                trigger = "early"


def _once(argv: Sequence[str], trigger: str) -> list[str]:
    """The same command for one prune."""
    kept = list(argv)
    while _OPTION in kept:
        del kept[kept.index(_OPTION) : kept.index(_OPTION) + 2]
    kept = [word for word in kept if not word.startswith(f"{_OPTION}=")]
    chosen = any(word.partition("=")[0] == "--trigger" for word in kept)
    return [sys.executable, *kept, *(() if chosen else ("--trigger", trigger))]


def _touched(log_path: Path) -> int | None:
    """When the collector last woke the pruner; None: never."""
    try:
        return wake_path(log_path).stat().st_mtime_ns
    except OSError:
        return None
