"""The trace: what a host's history demanded, as arrays.

A trace holds the *demand* (which image was needed when, and until when) and the surroundings (the
disk and what else fills it). What the host removed in fact is not part of it: that was the old
policy's doing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from collector.model.defaults import PULL_RATE
from collector.model.traits import Use
from collector.model.units import format_count, format_duration
from pruner.policy.min_age import MOST_AGE

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Images = NDArray[np.int32]
Kinds = NDArray[np.uint8]


def demanding(kind: Kinds) -> Flags:
    """Which uses of these kinds need their image to be there; of the kinds' shape."""
    needed: Flags = (kind >= Use.CONTAINER) & (kind <= Use.JOB)
    return needed


@dataclass(frozen=True, slots=True)
class Trace:
    """A host's history; n images, m layers, u uses, s disk states, g gaps.

    All times are seconds after `origin_ns`, in float64: exact to some nanoseconds over a year.
    Images are numbered in the order in which they were first seen.

    Attributes:
        host: the host's name in the log.
        origin_ns: where the history begins, UTC, nanoseconds since 1970.
        end: where it ends.
        image_ids: image ID of each image; length n.
        references: the tags of each image when last observed; length n.
        names: every name that each image was ever seen with; length n.
        local: whether it exists only on this host; shape (n,).
        created: build time (1970 if unknown); shape (n,).
        first: layers of image i are ``layer[first[i]:first[i + 1]]``; shape (n + 1,).
        layer: layer numbers, base first, none twice in an image; shape (first[n],).
        layer_bytes: bytes of each layer; shape (m,).
        time: when each use began, ascending; shape (u,).
        image: whose use it was; shape (u,).
        until: when it ended: the image's last use is the latest `until`; shape (u,).
        kind: `Use` of each; shape (u,).
        disk_time: when each disk state began, the first at 0; shape (s,).
        disk_total: bytes of the file system; shape (s,).
        disk_other: bytes that something else than images holds; shape (s,).
        inode_total: inodes of the file system, 0 where there is no limit; shape (s,).
        inode_other: inodes that something else than images holds; shape (s,).
        layer_inodes: inodes of each layer, estimated; shape (m,).
        blind: begin and end of each interval in which nothing was observed; shape (g, 2).
        assumptions: what the history lacks and what is taken instead, in words.
        min_ages: what `min_age = "auto"` comes to, seconds, and from when on, the first always; shape (k, 2) of
            (time, age).
        failures: what failed on a full disk as it was recorded, in words; empty: nothing.
        sight: what says which image is the later one, ascending, equal where nobody knows; shape (n,), empty: each is
            later than those before it.
        bearing: of each image the repositories in which it has a name as (repository, from, until), in fact, not by a
            policy's doing; length n, empty: those of all its names, always.
        pull_rate: bytes per second at which this host pulls, as measured; else what is usual.
        pull_space: bytes that a pull takes for a while beside what its image then holds, the most of those that stand
            beside a missing layer; as `layer`, shape (first[n],); empty: none. See `analyzer.trace.pull_space`.
        guesses: when which image may be needed by a job in flight, by no more than a guess, and so goes last; shape
            (k, 4) of (begin, end, image, rank from 1 to 2). See `pruner.state.jobs_in_flight.Hold.rank`.
    """

    host: str
    origin_ns: int
    end: float
    image_ids: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    names: tuple[tuple[str, ...], ...]
    local: Flags
    created: Floats
    first: Integers
    layer: Integers
    layer_bytes: Integers
    time: Floats
    image: Images
    until: Floats
    kind: Kinds
    disk_time: Floats
    disk_total: Integers
    disk_other: Integers
    inode_total: Integers
    inode_other: Integers
    layer_inodes: Floats
    blind: Floats
    assumptions: tuple[str, ...] = ()
    min_ages: Floats = field(default_factory=lambda: np.array([[-np.inf, MOST_AGE]]))
    failures: str = ""
    sight: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    bearing: tuple[tuple[tuple[str, float, float], ...], ...] = ()
    pull_rate: float = PULL_RATE
    pull_space: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    guesses: Floats = field(default_factory=lambda: np.empty((0, 4)))

    @property
    def images(self) -> int:
        """How many images there are (n)."""
        return len(self.image_ids)

    @property
    def image_bytes(self) -> Integers:
        """Bytes of all layers of each image; shape (n,)."""
        sums = np.concatenate(([0], np.cumsum(self.layer_bytes[self.layer])))
        sizes: Integers = sums[self.first[1:]] - sums[self.first[:-1]]
        return sizes

    @property
    def demanded(self) -> Flags:
        """Which uses need their image to be there; shape (u,)."""
        return demanding(self.kind)

    @property
    def demands(self) -> int:
        """How many uses need their image to be there."""
        return int(np.count_nonzero(self.demanded))

    def name(self, image: int) -> str:
        """What to call an image: its first reference, or else its ID."""
        return next(iter(self.references[image]), self.image_ids[image])

    def utc(self, seconds: float) -> float:
        """UTC seconds since 1970 of a time in the trace."""
        return self.origin_ns / 1e9 + seconds

    def between(self, begin: float, end: float) -> Trace:
        """The same history, with the demand from `begin` (inclusive) to `end` (exclusive) only.

        Times stay as they are. What came before `begin` is still evidence of last use: each image
        seen then is there at `begin`, as the history's own host had it.
        """
        before = self.time < begin
        inside = ~before & (self.time < end)
        seen, last = _latest(self.image[before], self.until[before])
        time = np.concatenate((np.full(len(seen), begin), self.time[inside]))
        return replace(
            self,
            end=min(end, self.end),
            time=time,
            image=np.concatenate((seen, self.image[inside])),
            until=np.concatenate((last, self.until[inside])),
            kind=np.concatenate((np.full(len(seen), int(Use.FOUND), dtype=np.uint8), self.kind[inside])),
        )

    def __str__(self) -> str:
        what = f"{format_count(self.demands, 'use')} of {format_count(self.images, 'image')}"
        return f"{what} in {format_duration(self.end)} on host {self.host}"


def _latest(image: Images, until: Floats) -> tuple[Images, Floats]:
    """Of each image that occurs, in order of its number, the latest end."""
    seen = np.unique(image)
    last = np.full(int(seen[-1]) + 1 if len(seen) else 0, -np.inf)
    np.maximum.at(last, image, until)
    return seen, last[seen]
