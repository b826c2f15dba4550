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
_LIBRARIES = ("*/faketime/libfaketimeMT.so.1", "faketime/libfaketimeMT.so.1")
_STEPS = ("+1h", "-1h", "+1y")
# libfaketime answers Python's own way to sleep with an error (EINVAL): another way that it leaves alone.
_SLEEP = """\
import select
import time

time.sleep = lambda seconds: select.select((), (), (), seconds) and None
"""


class Disturber(threading.Thread):
    """Brings faults in turn, each for some seconds, with some seconds of peace in between.

    Args:
        host: where.
        disk: that of the log.
        backing: where that disk's bytes lie, so that it fails when they find no place; None: it cannot fail.
        clock: that of the collector.
        proxy: through which collector and pruner reach the engine.
        faults: names of `FAULTS`.
        over: when to end.
    """

    def __init__(
        self,
        host: Host,
        disk: LoopDisk,
        backing: LoopDisk | None,
        clock: FakedClock,
        proxy: Proxy,
        faults: Sequence[str],
        over: threading.Event,
    ) -> None:
        super().__init__(name="disturber")
        self.host, self.disk, self.backing, self.clock, self.proxy = host, disk, backing, clock, proxy
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


class FakedClock:
    """A clock of a process, set while it runs (libfaketime).

    Args:
        path: a file that says by how much.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._customized = path.with_suffix(".python")
        self._steps = cycle(_STEPS)
        self.set("+0")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process keep to it; its steady clocks stay as they are."""
        found = [path for folder in _LIBRARIES for path in Path("/usr/lib").glob(folder)]
        if not found:
            raise RuntimeError("libfaketime is not installed: run .ci/install-packages")
        self._customized.mkdir(exist_ok=True)
        (self._customized / "sitecustomize.py").write_text(_SLEEP)
        return {
            "PYTHONPATH": str(self._customized),
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        """Set it that far from the true time: ``+1h``."""
        replacement = self._path.with_suffix(".new")
        replacement.write_text(offset)
        replacement.rename(self._path)

    def step(self) -> None:
        """Set it to the next of the offsets."""
        self.set(next(self._steps))


@contextmanager
def _clock(here: Disturber) -> Iterator[None]:
    """The collector's clock is wrong by an hour or a year, and then right again."""
    here.clock.step()
    try:
        yield
    finally:
        here.clock.set("+0")


@contextmanager
def _store(here: Disturber) -> Iterator[None]:
    """The engine's own disk is completely full."""
    here.host.engine.disk.fill_to(0)
    try:
        yield
    finally:
        here.host.engine.disk.unfill()


@contextmanager
def _errors(here: Disturber) -> Iterator[None]:
    """The log's disk answers new blocks with I/O errors; then an operator repairs the file system."""
    if here.backing is None:
        raise ValueError("a disk of which nothing else holds the bytes cannot fail")
    here.backing.fill_to(0)
    try:
        yield
    finally:
        here.backing.unfill()
        here.disk.repair()


@contextmanager
def _drip(here: Disturber) -> Iterator[None]:
    """The engine's answers come byte by byte, one every 20 s."""
    here.proxy.pause_s = 20.0
    try:
        yield
    finally:
        here.proxy.pause_s = 0.0


@contextmanager
def _full(here: Disturber) -> Iterator[None]:
    """The log's disk is completely full."""
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


# The clock of an engine cannot be set without that of the machine: the collector's is.
FAULTS: Mapping[str, Callable[[Disturber], AbstractContextManager[None]]] = {
    "full": _full,
    "readonly": _read_only,
    "socket": _socket,
    "slow": _slow,
    "drip": _drip,
    "store": _store,
    "errors": _errors,
    "clock": _clock,
}
