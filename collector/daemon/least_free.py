"""The least free space between two disk samples: what fills a disk may be gone again when its end is reported."""

from __future__ import annotations

import threading
from collections.abc import Callable

from collector.machine.disk import DiskSample
from collector.model.errors import EngineError

# What files other than the engine's write and delete all the time is not worth an event.
_TOLERANCE = 2**20


class LeastFree:
    """Measures the disk of the images every second, in a thread of its own: looking at the engine may take long.

    Args:
        now: the time, UTC nanoseconds.
        measure: samples the file system of a folder; it may raise EngineError.
        every: seconds between two looks.
    """

    def __init__(self, now: Callable[[], int], measure: Callable[[str], DiskSample], every: float = 1.0) -> None:
        self._now = now
        self._measure = measure
        self._every = every
        self._path = ""
        self._before: int | None = None
        self._least: tuple[int, DiskSample] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="least free space", daemon=True)

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> None:
        """Measure no more."""
        self._stopping.set()

    def look(self) -> None:
        """Measure once."""
        path = self._path
        if not path:
            return
        try:
            sample = self._measure(path)
        except EngineError:
            return  # the samples themselves say so
        with self._lock:
            if path == self._path and (self._least is None or sample.free_bytes < self._least[1].free_bytes):
                self._least = (self._now(), sample)

    def since_last(self, sample: DiskSample) -> tuple[int, DiskSample] | None:
        """When least was free since the last call, and that sample; None: not less than then or now.

        Args:
            sample: the disk as it is now; from now on this is the disk that is measured.
        """
        with self._lock:
            before, least = self._before, self._least
            known = sample.path == self._path
            self._path, self._before, self._least = sample.path, sample.free_bytes, None
        if not known or before is None or least is None:
            return None
        return least if least[1].free_bytes < min(before, sample.free_bytes) - _TOLERANCE else None

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            self.look()
