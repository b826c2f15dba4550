"""The simulated host: what it holds, what that costs it, and what has been counted so far.

Written to be read and to be right; `analyzer.simulation.replay` drives it through a trace.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np

from analyzer.trace.trace import Trace
from collector.model.traits import Use

NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Removal:
    """One image removed in simulation.

    Attributes:
        time: when, seconds after the trace's origin.
        image: which, the trace's number.
        bytes: what that freed: the layers that nothing else held then.
        emergency: whether it was protected and went in an emergency.
    """

    time: float
    image: int
    bytes: int
    emergency: bool


@dataclass(slots=True)
class Counts:
    """What is counted along the way; bytes, seconds.

    Attributes:
        uses: uses that need their image to be there.
        compulsory: first pulls ever, which no policy avoids.
        repulls: pulls of images that had been removed.
        losses: uses of removed local images, which no pull brings back.
        disk_full: pulls and arrivals for which there was no space, and samples at which other files took the last.
        prunes: times at which something was removed.
    """

    uses: int = 0
    compulsory: int = 0
    compulsory_bytes: int = 0
    repulls: int = 0
    repulled_bytes: int = 0
    losses: int = 0
    disk_full: int = 0
    prunes: int = 0
    removals: list[Removal] = field(default_factory=list)


class Host:
    """A host on which a trace happens under some policy.

    Free space is what the disk has, less what others hold of it, less the layers held. It may be
    negative: a pull that does not fit is counted as a disk-full incident and the image is taken to
    be there all the same, for the job is tried again until it is; how far free space went below
    zero says how much was short.

    Attributes:
        now: seconds after the trace's origin.
        held: per image whether it is there.
        arriving: bytes that the latest use let be pulled.
        beside: further bytes that this pull took until it had ended.
        pull_space: per image and layer see `Trace.pull_space`.
        known: per image whether it has ever been there.
        last_use: per image the latest end of a use, which is in the future while a container lives.
        pulled: per image when it was last pulled, or else arrived.
        uses: per image how many containers and jobs used it.
        sizes: per image the bytes of all its layers.
        holders: per layer how many held images have it.
        held_bytes: bytes of the layers that are held.
        level: bytes of free space under which time is counted as spent under the threshold.
        steps: each change of free space as (time, free bytes from then on), if it is to be kept.
    """

    def __init__(self, trace: Trace, level: float = 0.0, *, timeline: bool = False) -> None:
        n = trace.images
        self.trace = trace
        self.now = 0.0
        self.arriving = self.beside = 0
        self.held = [False] * n
        self.known = [False] * n
        self.last_use = [NEVER] * n
        self.pulled = [NEVER] * n
        self.uses = [0] * n
        first, layer = trace.first.tolist(), trace.layer.tolist()
        self.layers: list[list[int]] = [layer[first[i] : first[i + 1]] for i in range(n)]
        self.layer_bytes: list[int] = trace.layer_bytes.tolist()
        space = (trace.pull_space if len(trace.pull_space) else np.zeros(len(layer), dtype=np.int64)).tolist()
        self.pull_space: list[list[int]] = [space[first[i] : first[i + 1]] for i in range(n)]
        self.sizes: list[int] = trace.image_bytes.tolist()
        self.layer_inodes: list[float] = trace.layer_inodes.tolist()
        self.local: list[bool] = trace.local.tolist()
        self.created: list[float] = trace.created.tolist()
        self.holders = [0] * len(self.layer_bytes)
        self.held_bytes = 0
        self.held_inodes = 0.0
        self.level = level
        self.total = self.other = self.total_inodes = self.other_inodes = 0
        self.counts = Counts()
        self.min_free = math.inf
        self.seconds_under = 0.0
        self.byte_seconds = 0.0
        self.steps: list[tuple[float, int]] | None = [] if timeline else None
        self._accounted = 0.0
        self._present: list[int] = []
        self._blind: list[tuple[float, float]] = [(begin, end) for begin, end in trace.blind.tolist()]

    @property
    def free(self) -> int:
        """Free bytes."""
        return self.total - self.other - self.held_bytes

    @property
    def free_inodes(self) -> float:
        """Free inodes; without end where the file system has no limit."""
        return self.total_inodes - self.other_inodes - self.held_inodes if self.total_inodes else math.inf

    @property
    def present(self) -> list[int]:
        """The images that are there, in order of first sight."""
        return self._present.copy()

    def pinned(self, image: int) -> bool:
        """Whether a container of the image exists now."""
        return self.last_use[image] > self.now

    def blind_until(self) -> float | None:
        """The end of the latest gap so far; within a gap it is now. None: there was no gap yet."""
        return max((min(end, self.now) for begin, end in self._blind if begin <= self.now), default=None)

    def guessed(self) -> dict[int, int]:
        """The images that jobs in flight may need by a guess, each with its rank: see `Trace.guesses`."""
        guesses, found = self.trace.guesses, dict[int, int]()
        for _, _, image, rank in guesses[(guesses[:, 0] <= self.now) & (self.now < guesses[:, 1])].tolist():
            found[int(image)] = max(int(rank), found.get(int(image), 0))
        return found

    def use(self, image: int, until: float, kind: Use) -> bool:
        """Let an image be used now; whether something had to be brought in for it."""
        before, self.arriving, self.beside = self.held[image], 0, 0
        if kind.demands:
            self._demand(image)
        elif kind is Use.FOUND:
            self._find(image)
        elif kind is Use.ARRIVED and not before:
            self._hold(image)
        self.last_use[image] = max(self.last_use[image], until)
        self.uses[image] += kind in {Use.CONTAINER, Use.JOB}
        if kind is Use.PULL and self.held[image]:
            self.pulled[image] = self.now
        return self.held[image] and not before

    def _demand(self, image: int) -> None:
        self.counts.uses += 1
        if self.held[image]:
            return
        if not self.local[image]:
            first_ever = not self.known[image]
            missing = self.arriving = self._hold(image, pulled=True)
            if first_ever:
                self.counts.compulsory += 1
                self.counts.compulsory_bytes += missing
            else:
                self.counts.repulls += 1
                self.counts.repulled_bytes += missing
        elif self.known[image]:
            self.counts.losses += 1
        else:
            self._find(image)

    def _find(self, image: int) -> None:
        if not self.known[image]:
            self._hold(image)

    def _hold(self, image: int, *, pulled: bool = False) -> int:
        """Make an image be there; the bytes of its layers that were missing."""
        self.account()
        missing = 0
        for j, beside in zip(self.layers[image], self.pull_space[image], strict=True):
            if self.holders[j] == 0:
                missing += self.layer_bytes[j]
                self.held_inodes += self.layer_inodes[j]
                if pulled:
                    self.beside = max(self.beside, beside)
            self.holders[j] += 1
        self.held[image] = self.known[image] = True
        insort(self._present, image)
        self.pulled[image] = self.now
        self.held_bytes += missing
        self.counts.disk_full += missing > 0 and self.free - self.beside < 0
        self._note(self.free - self.beside)
        self._note(self.free)
        return missing

    def remove(self, image: int, *, emergency: bool = False) -> int:
        """Remove an image; the bytes that this frees."""
        self.account()
        freed = 0
        for j in self.layers[image]:
            self.holders[j] -= 1
            if self.holders[j] == 0:
                freed += self.layer_bytes[j]
                self.held_inodes -= self.layer_inodes[j]
        self.held[image] = False
        del self._present[bisect_left(self._present, image)]
        self.held_bytes -= freed
        self._note(self.free)
        self.counts.removals.append(Removal(self.now, image, freed, emergency))
        return freed

    def set_disk(self, total: int, other: int, total_inodes: int, other_inodes: int) -> None:
        """Change the surroundings from now on."""
        self.account()
        was_full = self.free < 0
        self.total, self.other, self.total_inodes, self.other_inodes = total, other, total_inodes, other_inodes
        self.counts.disk_full += self.free < 0 and not was_full
        self._note(self.free)

    def _note(self, free: int) -> None:
        """Remember how much is free since now."""
        self.min_free = min(self.min_free, free)
        if self.steps is not None and (not self.steps or self.steps[-1][1] != free):
            self.steps.append((self.now, free))

    def account(self) -> None:
        """Book the time since the last change."""
        elapsed = self.now - self._accounted
        if elapsed > 0.0:
            self.byte_seconds += self.held_bytes * elapsed
            if self.free < self.level:
                self.seconds_under += elapsed
            self._accounted = self.now
