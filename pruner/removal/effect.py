"""Whether removals have the effect that was predicted: the last guard against measuring the wrong disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from collector.machine.disk import DiskSample, hasten, sample_disk
from collector.model.errors import HindsightError
from collector.model.units import format_bytes
from pruner.planning.plan import Plan

# A removal that is to free less says little: others write meanwhile.
_LEAST_BYTES = 64 * 2**20
_POOR_SHARE = 0.1
_MOST_POOR = 3
_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.2
# Less is not worth waiting for.
_WORTH_WAITING_BYTES = 16 * 2**20
_ARRIVED_SHARE = 0.5
# Between two removals nobody waits for longer: what comes later is waited for once all are done.
_SHORT_WAIT_S = 2.0


def settled(
    measure: Callable[[], DiskSample], free_before: int, predicted: int, settling: float, *, last: bool
) -> DiskSample:
    """The disk once what was removed shows as free space, or should have.

    Args:
        measure: samples the disk.
        free_before: free space before it, bytes.
        predicted: what it was to free, bytes.
        settling: how long the file system may take, seconds.
        last: whether nothing more is removed before the state is looked at as a whole.
    """
    disk = measure()
    if predicted < _WORTH_WAITING_BYTES:
        return disk
    if settling > _SHORT_WAIT_S and hasten(disk.path):
        settling = _PATIENCE_S if last else _SHORT_WAIT_S
    elif settling > _SHORT_WAIT_S and not last:
        return disk
    deadline = time.monotonic() + settling
    while disk.free_bytes - free_before < _ARRIVED_SHARE * predicted and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        hasten(disk.path)
        disk = measure()
    return disk


class NoEffectError(HindsightError):
    """Removals do not free what they should: what is measured is not what is removed from."""


@dataclass
class FreedSpace:
    """What removals freed, beside what was predicted of them.

    Args:
        patience: how long to wait for space that was to be freed, seconds.
    """

    patience: float = _PATIENCE_S
    _poor: list[tuple[int, int, int]] = field(default_factory=list)

    def check(
        self,
        predicted: int,
        free_before: int,
        free_after: int,
        measure: Callable[[], DiskSample],
        settling: float = 0.0,
    ) -> str | None:
        """Take one removal into account; why the run has to stop, else None.

        Args:
            predicted: what it was to free, bytes.
            free_before: free space before it, bytes.
            free_after: free space after it, bytes.
            measure: the disk now.
            settling: how long the file system may take to show it, seconds.
        """
        if predicted < _LEAST_BYTES:
            return None
        if free_after - free_before >= _POOR_SHARE * predicted:
            self._poor.clear()
            return None
        self._poor.append((predicted, free_before, free_after - free_before))
        if len(self._poor) < _MOST_POOR:
            return None
        expected = sum(predicted for predicted, _, _ in self._poor)
        before = self._poor[0][1]
        deadline = time.monotonic() + max(self.patience, settling)
        while (came := (disk := measure()).free_bytes - before) < _POOR_SHARE * expected:
            hasten(disk.path)
            if time.monotonic() >= deadline:
                amounts = f"{format_bytes(expected)}, and {format_bytes(max(0, came))} came"
                return (
                    f"{_MOST_POOR} removals were to free {amounts}: the engine's bytes are not on the disk that is "
                    "measured, or something fills it at the same time; nothing more is removed, and "
                    "`collector doctor` shows what is measured"
                )
            time.sleep(_LOOK_EVERY_S)
        self._poor.clear()
        return None


def disk_now(made: Plan) -> DiskSample:
    """The disk that a plan is for, as it is now."""
    # Whether the path leads to the disk was settled when it was surveyed.
    disk = made.inventory.disk
    return replace(sample_disk(disk.path, canonical=True), mount=disk.mount, holds=disk.holds)
