"""Disk samples: what each disk that holds bytes of the engine has free, and what fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
            least_ns, low = least
            facts = {**low.attributes(), "least": True}
            yield Event(least_ns, Kind.DISK_SAMPLED, bytes=low.free_bytes, attributes=facts, identity="least")
        at_ns = self._now()
        held = {"image_bytes": image_bytes, **self._held_otherwise()}
        yield Event(
            at_ns, Kind.DISK_SAMPLED, bytes=main.free_bytes, attributes=main.attributes() | held, identity="disk"
        )
        for disk in disks[1:]:
            # Older readers and most queries look at the disk of the images alone.
            facts = {**disk.attributes(), "main": False}
            name = f"disk {disk.mount}"
            yield Event(at_ns, Kind.DISK_SAMPLED, bytes=disk.free_bytes, attributes=facts, identity=name)

    def _measure(self, path: str) -> DiskSample:
        return sample_disk(path, canonical=self._canonical)

    def _held_otherwise(self) -> dict[str, int | None]:
        """What the engine says that things other than images hold, bytes, wherever they lie."""
        usage = self.usage
        if usage is None:
            return {}
        return {
            "container_bytes": usage.container_bytes,
            "volume_bytes": usage.volume_bytes,
            "build_cache_bytes": usage.build_cache_bytes,
        }
