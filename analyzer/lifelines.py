"""When each image was there, and what bringing it in cost: read off a trace and a list of removals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.host import Removal
from analyzer.trace import Flags, Floats, Images, Integers, Trace, Use


@dataclass(frozen=True, slots=True)
class Stays:
    """Intervals in which images were there, by image, then in time; k intervals.

    Attributes:
        image: whose; shape (k,).
        begin: when it came, seconds after the trace's origin; shape (k,).
        end: when it was removed, or the end of the trace; shape (k,).
        last_use: the latest end of a use within; shape (k,).
        again: whether it had been there before, and had to be brought in again; shape (k,).
        pulled: bytes that were missing and had to be pulled; 0 if it was found there; shape (k,).
    """

    image: Integers
    begin: Floats
    end: Floats
    last_use: Floats
    again: Flags
    pulled: Integers

    @property
    def idle(self) -> Floats:
        """Seconds for which each stay went on after the last use; shape (k,)."""
        return np.maximum(self.end - np.maximum(self.last_use, self.begin), 0.0)


def stays(trace: Trace, removed: Sequence[Removal]) -> Stays:
    """The stays of all images on a host that removed what is listed.

    An image comes with its first use after its removal. A tag brings nothing in, and a local image
    that was removed does not come back by being asked for.
    """
    going = _by_image(np.array([removal.image for removal in removed], dtype=np.int32), trace.images)
    gone = np.array([removal.time for removal in removed], dtype=np.float64)
    uses = _by_image(trace.image, trace.images)
    brings = _brings(trace)
    rows: list[tuple[int, float, float, float, bool, bool]] = []
    for i in range(trace.images):
        rows.extend(_stays_of(i, trace, uses[i], np.sort(gone[going[i]]), brings))
    image, begin, end, last_use, again, found = zip(*rows, strict=True) if rows else ((),) * 6
    made = Stays(
        image=np.array(image, dtype=np.int64),
        begin=np.array(begin, dtype=np.float64),
        end=np.array(end, dtype=np.float64),
        last_use=np.array(last_use, dtype=np.float64),
        again=np.array(again, dtype=np.bool_),
        pulled=np.zeros(len(rows), dtype=np.int64),
    )
    _price(trace, made, np.array(found, dtype=np.bool_))
    return made


def _brings(trace: Trace) -> tuple[Flags, Flags]:
    """Which uses bring in an image that has never been there, and which one that was removed."""
    demand = (trace.kind >= Use.CONTAINER) & (trace.kind <= Use.JOB)
    arrived = trace.kind == Use.ARRIVED
    return demand | arrived | (trace.kind == Use.FOUND), (demand & ~trace.local[trace.image]) | arrived


def _stays_of(
    image: int, trace: Trace, uses: Integers, gone: Floats, brings: tuple[Flags, Flags]
) -> list[tuple[int, float, float, float, bool, bool]]:
    """(image, begin, end, last use, again, found) of each stay of one image."""
    made: list[tuple[int, float, float, float, bool, bool]] = []
    edges = [0, *np.searchsorted(trace.time[uses], gone, side="right").tolist(), len(uses)]
    for (a, b), end in zip(itertools.pairwise(edges), [*gone.tolist(), np.inf], strict=True):
        coming = uses[a:b][brings[bool(made)][uses[a:b]]]
        if not len(coming):
            continue
        kind = Use(int(trace.kind[coming[0]]))
        last = min(end, trace.end)
        until = min(float(np.max(trace.until[uses[a:b]])), last)
        found = not kind.demands or bool(trace.local[image])
        made.append((image, float(trace.time[coming[0]]), last, until, bool(made), found))
    return made


def _price(trace: Trace, made: Stays, found: Flags) -> None:
    """Book the bytes that each stay's beginning had to transfer: the layers that no other image held then."""
    holders = np.zeros(len(trace.layer_bytes), dtype=np.int64)
    k = np.arange(len(made.image))
    time = np.concatenate((made.begin, made.end))
    leaves = np.concatenate((np.zeros(len(k), dtype=np.int64), np.ones(len(k), dtype=np.int64)))
    number = np.concatenate((k, k))
    for n in np.lexsort((number, leaves, time)):
        stay = int(number[n])
        layers = trace.layer[trace.first[made.image[stay]] : trace.first[made.image[stay] + 1]]
        if leaves[n]:
            holders[layers] -= 1
        else:
            if not found[stay]:
                made.pulled[stay] = int(trace.layer_bytes[layers[holders[layers] == 0]].sum())
            holders[layers] += 1


def _by_image(image: Images, count: int) -> list[Integers]:
    """The positions of each image's entries, in order."""
    order = np.argsort(image, kind="stable")
    return np.split(order, np.searchsorted(image[order], np.arange(1, count)))
