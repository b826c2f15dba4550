"""What a simulation stands on: the facts of a trace, for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analyzer.trace.trace import Trace
from collector.model.units import format_bytes

FAILED = "recorded: "
"""What the note on recorded failures begins with."""


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """One host's history.

    Attributes:
        host: its name.
        begin: UTC seconds.
        end: UTC seconds.
        images: how many images it knows.
        uses: how many uses need their image to be there.
        disk_total_bytes: the disk's size at the end.
        assumptions: what is not known and had to be assumed, in words.
    """

    host: str
    begin: float
    end: float
    images: int
    uses: int
    disk_total_bytes: int
    assumptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, trace: Trace, notes: Sequence[str] = ()) -> HistoryFacts:
        """The facts of a trace, with further assumptions."""
        return cls(
            host=trace.host,
            begin=trace.utc(0.0),
            end=trace.utc(trace.end),
            images=trace.images,
            uses=trace.demands,
            disk_total_bytes=int(trace.disk_total[-1]),
            assumptions=(*notes_of(trace), *notes),
        )

    def to_json(self) -> dict[str, Any]:
        """All of them."""
        return {**asdict(self), "assumptions": list(self.assumptions)}


def notes_of(trace: Trace) -> tuple[str, ...]:
    """What to say of a history first: what failed, and then what had to be assumed."""
    return (*((f"{FAILED}{trace.failures}",) if trace.failures else ()), *trace.assumptions)


def disk_range(trace: Trace) -> str:
    """The disk's size and its other usage, in words."""
    low, high = int(trace.disk_other.min()), int(trace.disk_other.max())
    other = format_bytes(low) if low == high else f"{format_bytes(low)} to {format_bytes(high)}"
    return f"{format_bytes(int(trace.disk_total[-1]))}, {other} of it used by others"
