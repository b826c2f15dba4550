"""When each image was there, and what bringing it in cost: read off a trace and a list of removals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.simulation.host import Removal
from analyzer.simulation.result import Removals
from analyzer.trace.trace import Flags, Floats, Images, Integers, Kinds, Trace, demanding
from collector.model.traits import Use


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
    gone = Removals.of(removed)
    by_image = np.lexsort((gone.time, gone.image))
    removal_image, removal_time = gone.image[by_image], gone.time[by_image]
    order = np.argsort(trace.image, kind="stable")
    image, time, until, kind = trace.image[order], trace.time[order], trace.until[order], trace.kind[order]
    # Each image has a span before each of its removals, and one after the last.
    spans = np.searchsorted(removal_image, np.arange(trace.images + 1)) + np.arange(trace.images + 1)
    span = _spans(trace, image, time, removal_image, removal_time)
    ends = np.full(int(spans[-1]), np.inf)
    ends[np.arange(len(removal_time)) + removal_image] = removal_time
    comes = _coming(trace, image, kind, span, spans)
    latest = np.full(len(ends), -np.inf)
    used = np.flatnonzero(np.diff(span, prepend=-1))
    if len(used):
        latest[span[used]] = np.maximum.reduceat(until, used)
    stay, owner = span[comes], image[comes].astype(np.int64)
    end = np.minimum(ends[stay], trace.end)
    found = ~_demands(kind[comes]) | trace.local[owner]
    begin = time[comes]
    return Stays(
        image=owner,
        begin=begin,
        end=end,
        last_use=np.minimum(latest[stay], end),
        again=np.diff(owner, prepend=-1) == 0,
        pulled=np.where(found, 0, _missing_bytes(trace, owner, begin, end, order[comes])),
    )


def _demands(kind: Kinds) -> Flags:
    demands: Flags = demanding(kind)
    return demands


def _spans(trace: Trace, image: Images, time: Floats, removal_image: Integers, removal_time: Floats) -> Integers:
    """The number of the span that each use is in; uses and removals by image, then time.

    A removal comes after what is used at the same moment.
    """
    span = image.astype(np.int64)
    uses = np.searchsorted(image, np.arange(trace.images + 1))
    removals = np.searchsorted(removal_image, np.arange(trace.images + 1))
    for i in np.flatnonzero(np.diff(removals)):
        mine = slice(uses[i], uses[i + 1])
        span[mine] += np.searchsorted(removal_time[removals[i] : removals[i + 1]], time[mine], side="left")
    return span + removals[image]


def _coming(trace: Trace, image: Images, kind: Kinds, span: Integers, spans: Integers) -> Integers:
    """The uses with which a stay begins: at first whatever finds or demands an image, later what brings it back."""
    demands, arrived = _demands(kind), kind == Use.ARRIVED
    ever = np.flatnonzero(demands | arrived | (kind == Use.FOUND))
    first = ever[np.diff(image[ever], prepend=-1) > 0]
    first_span = np.full(trace.images, spans[-1])
    first_span[image[first]] = span[first]
    back = np.flatnonzero((demands & ~trace.local[image]) | arrived)
    later = back[np.diff(span[back], prepend=-1) > 0]
    return np.sort(np.concatenate((first, later[span[later] > first_span[image[later]]])))


def _missing_bytes(trace: Trace, image: Integers, begin: Floats, end: Floats, row: Integers) -> Integers:
    """The bytes of the layers that no other image held when each stay began; `row`: the use that began it."""
    count = len(image)
    leaves = np.repeat([False, True], count)
    order = np.lexsort((np.tile(row, 2), leaves, np.concatenate((begin, end))))
    stay, leaves = order % count if count else order, leaves[order]
    layers = np.diff(trace.first)[image[stay]]
    event = np.repeat(np.arange(2 * count), layers)
    within = np.arange(len(event)) - np.repeat(np.cumsum(layers) - layers, layers)
    layer = trace.layer[trace.first[image[stay[event]]] + within]
    by_layer = np.argsort(layer, kind="stable")
    event, layer = event[by_layer], layer[by_layer]
    # Whatever comes goes: from layer to layer the sum is 0 again.
    change = np.where(leaves[event], -1, 1)
    held = np.cumsum(change) - change
    missing = ~leaves[event] & (held == 0)
    found = np.zeros(count, dtype=np.int64)
    np.add.at(found, stay[event[missing]], trace.layer_bytes[layer[missing]])
    return found
