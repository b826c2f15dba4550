"""What else may go wrong on a host, each for some seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from pathlib import Path

from tests.engine.disk import LoopDisk
from tests.engine.host import Host
from tests.engine.leftovers import processes_of
from tests.engine.proxy import Proxy

_LASTS_S = 2.0
_BETWEEN_S = 3.0


class Disturber(threading.Thread):
    """Brings faults in turn, each for some seconds, with some seconds of peace in between.

    Args:
        host: where.
        disk: that of the log.
        proxy: through which collector and pruner reach the engine.
        faults: names of `FAULTS`.
        over: when to end.
    """

    def __init__(self, host: Host, disk: LoopDisk, proxy: Proxy, faults: Sequence[str], over: threading.Event) -> None:
        super().__init__(name="disturber")
        self.host, self.disk, self.proxy = host, disk, proxy
        self._faults = faults
        self._over = over
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        """Disturb until it is over; then all is well again."""
        for fault in cycle(self._faults):
            if self._over.wait(_BETWEEN_S):
                return
            with FAULTS[fault](self):
                self._over.wait(_LASTS_S)
            self.done[fault] += 1


@contextmanager
def _full(here: Disturber) -> Iterator[None]:
    """The log's disk is full to the last block."""
    here.disk.fill_to(0)
    try:
        yield
    finally:
        here.disk.unfill()


@contextmanager
def _read_only(here: Disturber) -> Iterator[None]:
    """Nothing can be written to the log's disk: a kernel does so after an error."""
    _remount(here.disk.path, "ro")
    try:
        yield
    finally:
        _remount(here.disk.path, "rw")


@contextmanager
def _socket(here: Disturber) -> Iterator[None]:
    """The engine's socket has gone."""
    here.proxy.cut()
    try:
        yield
    finally:
        here.proxy.restore()


@contextmanager
def _slow(here: Disturber) -> Iterator[None]:
    """The engine answers nothing: it stands still."""
    engine = [pid for pid in processes_of(here.host.engine.folder) if _is_engine(pid)]
    for pid in engine:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in engine:
            os.kill(pid, signal.SIGCONT)


def _is_engine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd"
    except OSError:
        return False


def _remount(path: Path, how: str) -> None:
    """Mount it in another way, as soon as no file on it is open for writing."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        command = ["mount", "-o", f"remount,{how}", os.fspath(path)]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.01)


# The clock of an engine cannot be set without that of the machine: see tests/collector/test_clock.py.
FAULTS: Mapping[str, Callable[[Disturber], AbstractContextManager[None]]] = {
    "full": _full,
    "readonly": _read_only,
    "socket": _socket,
    "slow": _slow,
}
