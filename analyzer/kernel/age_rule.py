"""The rule that most tools follow: at each tick all unused images go of which something is longer ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from analyzer.simulation.host import Host


class Clock(StrEnum):
    """What has to be longer ago: the image's build, its latest pull or arrival here, or its last use."""

    BUILT = "built"
    PULLED = "pulled"
    USED = "used"


@dataclass(frozen=True, slots=True)
class AgeRule:
    """A rule of age.

    Attributes:
        clock: what has to be longer ago.
        age: than so many seconds; negative infinity: all go.
        low: only while less than this share of the disk is free; None: whatever is free.
        by_id: whether it removes by ID without force.
    """

    clock: Clock
    age: float
    low: float | None = None
    by_id: bool = False

    def apply(self, host: Host) -> None:
        """Remove what the rule says; the compiled replay does the same, and a test holds the two together."""
        if self.low is not None and host.free >= self.low * host.total:
            return
        since = {Clock.BUILT: host.created, Clock.PULLED: host.pulled, Clock.USED: host.last_use}[self.clock]
        for i in unused(host):
            if since[i] < host.now - self.age and not (self.by_id and not removable_by_id(host.trace.references[i])):
                host.remove(i)


def unused(host: Host) -> list[int]:
    """The images that are there and that no container refers to, in order of first sight."""
    return [i for i in host.present if not host.pinned(i)]


def removable_by_id(references: Sequence[str]) -> bool:
    """Whether the engine removes an image by ID without force: not with two references (moby, image_delete.go)."""
    return len(references) <= 1
