"""What a simulation says of one policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from analyzer.simulation.figures import FIGURES
from analyzer.simulation.host import Removal
from analyzer.trace.trace import Flags, Floats, Integers
from collector.model.defaults import PULL_RATE

# What else a failed job costs: somebody looks, starts it again, and it runs once more; seconds.
FAILED_JOB_S = 1800.0


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Free space as a step function; k steps.

    Attributes:
        seconds: when free space changed, seconds after the trace's origin, ascending; shape (k,).
            Several changes may stand at one time: a pull, and the prune that it set off.
        free: free bytes from then until the next change; shape (k,).
    """

    seconds: Floats
    free: Integers


class Removals(Sequence[Removal]):
    """Removals as columns: an object is made of one when it is looked at.

    Args:
        time: when each was, seconds after the trace's origin; shape (k,).
        image: which image went, the trace's number; shape (k,).
        freed: bytes that this freed; shape (k,).
        emergency: whether it was protected; shape (k,).
    """

    def __init__(self, time: Floats, image: Integers, freed: Integers, emergency: Flags) -> None:
        self.time, self.image, self.freed, self.emergency = time, image, freed, emergency

    @classmethod
    def of(cls, removed: Sequence[Removal]) -> Removals:
        """The same as columns."""
        if isinstance(removed, cls):
            return removed
        return cls(
            np.array([removal.time for removal in removed], dtype=np.float64),
            np.array([removal.image for removal in removed], dtype=np.int64),
            np.array([removal.bytes for removal in removed], dtype=np.int64),
            np.array([removal.emergency for removal in removed], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.time)

    @overload
    def __getitem__(self, index: int) -> Removal: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Removal, ...]: ...
    def __getitem__(self, index: int | slice) -> Removal | tuple[Removal, ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        return Removal(
            float(self.time[index]), int(self.image[index]), int(self.freed[index]), bool(self.emergency[index])
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


@dataclass(frozen=True, slots=True)
class Result:
    """One policy's outcome on one trace; bytes, seconds.

    `FIGURES` says what each figure means. It is the public shape of what the two replays keep while they run: the
    reference in `analyzer.simulation.host.Counts`, the kernel in `analyzer.kernel.runs.ReplayCounts`, whose arrays are
    the C library's.

    Attributes:
        name: the policy's or baseline's name.
        baseline: whether it is a baseline.
        removed: every removal, in order.
        timeline: free space over time, if it was asked for.
    """

    name: str
    baseline: bool
    threshold: float
    uses: int
    hits: int
    compulsory: int
    compulsory_bytes: int
    repulls: int
    repulled_bytes: int
    losses: int
    removals: int
    removed_bytes: int
    emergency_removals: int
    prunes: int
    disk_full: int
    min_free: int
    seconds_under: float
    mean_held_bytes: float
    seconds: float
    pull_rate: float = PULL_RATE
    price_per_gib: float = 0.0
    removed: Sequence[Removal] = ()
    timeline: Timeline | None = field(default=None, compare=False, repr=False)
    optimum_least: int | None = None
    optimum_most: int | None = None

    @property
    def hit_ratio(self) -> float:
        """The share of uses that found their image there; 1 without uses."""
        return self.hits / self.uses if self.uses else 1.0

    @property
    def repull_seconds(self) -> float:
        """Time spent on re-pulls at `pull_rate`."""
        return self.repulled_bytes / self.pull_rate

    @property
    def failed_jobs(self) -> int:
        """Jobs that fail: for lack of space, or of an image that existed only on the host."""
        return self.disk_full + self.losses

    @property
    def lost_seconds(self) -> float:
        """What all of it costs those who wait for jobs: `repull_seconds`, and `FAILED_JOB_S` for each that fails."""
        return self.repull_seconds + FAILED_JOB_S * self.failed_jobs

    @property
    def repull_cost(self) -> float:
        """What the re-pulls cost at `price_per_gib`."""
        return self.repulled_bytes / 2**30 * self.price_per_gib

    def to_json(self) -> dict[str, Any]:
        """All figures as a JSON object, without the list of removals and the timeline."""
        return {"name": self.name, "baseline": self.baseline, **{name: getattr(self, name) for name in FIGURES}}


def priced(results: Sequence[Result], price_per_gib: float) -> list[Result]:
    """The same with what pulling 1 GiB costs."""
    return [replace(result, price_per_gib=price_per_gib) for result in results] if price_per_gib else list(results)
