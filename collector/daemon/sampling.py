"""Disk samples: what each disk that holds bytes of the engine has free, and what fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from collector.daemon.least_free import LeastFree
from collector.machine.disk import DiskSample, sample_disk, sample_disks
from collector.machine.wake import Alarm
from collector.model.events import Event, Kind
from collector.model.observation import EngineInfo, Usage


class Sampling:
    """Samples the disks of an engine, and wakes the pruner where one is short of space.

    Args:
        log_path: the event log: the pruner is woken by a file beside it.
        now: the time, UTC nanoseconds.

    Attributes:
        disks: the latest samples; the disk of the images comes first.
        usage: what the engine says that its objects hold; None: it did not say so far.
        least_free: the least free space between two samples.
        alarm: what wakes the pruner.
    """

    def __init__(self, log_path: Path, now: Callable[[], int]) -> None:
        self.disks: tuple[DiskSample, ...] = ()
        self.usage: Usage | None = None
        self.alarm = Alarm(log_path)
        self.least_free = LeastFree(now, self._measure)
        self._now = now
        self._canonical = False

    def sample(self, info: EngineInfo, image_bytes: int | None) -> Iterator[Event]:
        """Sample each disk that holds bytes of the engine: an event for each, and for the least since the last time.

        Args:
            info: where the bytes of the engine lie.
            image_bytes: what all its images hold.

        Raises:
            EngineError: a disk cannot be measured.
        """
        self._canonical = info.store != "podman"
        disks = self.disks = sample_disks(info)
        self.alarm.hear(*disks)
        main = disks[0]
        if (least := self.least_free.since_last(main)) is not None:
            yield _sampled(*least, "least", least=True)
        at_ns = self._now()
        # What the engine says that other things than images hold, wherever they lie.
        others = {} if self.usage is None else asdict(self.usage)
        yield _sampled(at_ns, main, "disk", image_bytes=image_bytes, **others)
        for disk in disks[1:]:
            # Older readers and most queries look at the disk of the images alone.
            yield _sampled(at_ns, disk, f"disk {disk.mount}", main=False)

    def _measure(self, path: str) -> DiskSample:
        return sample_disk(path, canonical=self._canonical)


def _sampled(at_ns: int, disk: DiskSample, identity: str, **facts: int | None) -> Event:
    attributes = {**disk.attributes(), **facts}
    return Event(at_ns, Kind.DISK_SAMPLED, bytes=disk.free_bytes, attributes=attributes, identity=identity)
