"""Whether removals have the effect that was predicted: the last guard against measuring the wrong disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collector.model.errors import HindsightError
from collector.model.units import format_bytes

# A removal that is to free less says little: others write meanwhile.
_LEAST_BYTES = 64 * 2**20
_POOR_SHARE = 0.1
_MOST_POOR = 3
# Some file systems free space only some time after a file has gone (btrfs).
PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.5


class NoEffectError(HindsightError):
    """Removals do not free what they should: what is measured is not what is removed from."""


@dataclass
class Effect:
    """What removals freed, beside what was predicted of them.

    Args:
        patience: how long to wait for space that was to be freed, seconds.
    """

    patience: float = PATIENCE_S
    _poor: list[tuple[int, int, int]] = field(default_factory=list)

    def check(self, predicted: int, free_before: int, free_after: int, measure: Callable[[], int]) -> str | None:
        """Take one removal into account; why the run has to stop, else None.

        Args:
            predicted: what it was to free, bytes.
            free_before: free space before it, bytes.
            free_after: free space after it, bytes.
            measure: free space now, bytes.
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
        deadline = time.monotonic() + self.patience
        while (came := measure() - before) < _POOR_SHARE * expected:
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
