"""Which image had a name when, and which of two is the later one: what decides that a local image is superseded."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from analyzer.trace.trace import Floats, Integers
from collector.model.events import Kind
from collector.model.references import repository

# When (UTC nanoseconds), which image (the log's number), what kind of event, and the name; none with a removal.
Naming = tuple[int, int, str, str]


def bearing(
    rows: Iterable[Naming], number: Integers, n: int, origin: int
) -> tuple[tuple[tuple[str, float, float], ...], ...]:
    """What `Trace.bearing` is.

    A name that an image lost because it was removed is its own all the same: a policy need not have removed it.

    Args:
        rows: what gave and took names, in order.
        number: the trace's number of each of the log's images.
        n: how many images the trace has.
        origin: where the trace begins, UTC nanoseconds.

    Returns:
        Of each image (repository, from, until), seconds after the origin; empty if there are no rows.
    """
    names = _Names()
    for time, image, kind, name in rows:
        if kind == Kind.IMAGE_DELETED:
            names.lost.pop(image, None)
        elif kind == Kind.IMAGE_UNTAGGED:
            names.lost.setdefault(image, []).append((name, time))
        else:
            names.give(image, name, time)
    for image in list(names.lost):
        names.settle(image)
    made: list[list[tuple[str, float, float]]] = [[] for _ in range(n)]
    still = ((image, name, since, None) for (image, name), since in names.begun.items())
    for image, name, since, until in (*names.over, *still):
        ends = math.inf if until is None else (until - origin) / 1e9
        made[int(number[image])].append((repository(name), (since - origin) / 1e9, ends))
    return tuple(map(tuple, made)) if any(made) else ()


class _Names:
    """Which image has which name, along the log.

    Attributes:
        begun: since when an image has a name.
        over: (image, name, since, until) of those that it has lost.
        lost: by image the names that were taken from it, and when: it may turn out that it was being removed.
    """

    def __init__(self) -> None:
        self.begun: dict[tuple[int, str], int] = {}
        self.over: list[tuple[int, str, int, int | None]] = []
        self.lost: dict[int, list[tuple[str, int]]] = {}
        self._bearer: dict[str, int] = {}

    def give(self, image: int, name: str, time: int) -> None:
        """The image has the name from now on, and no other does."""
        self.settle(image)
        before = self._bearer.get(name, image)
        if before != image:
            self._end(before, name, time)
        self._bearer[name] = image
        self.begun.setdefault((image, name), time)

    def settle(self, image: int) -> None:
        """What was taken from an image that stays is gone."""
        for name, time in self.lost.pop(image, ()):
            self._end(image, name, time)

    def _end(self, image: int, name: str, time: int) -> None:
        since = self.begun.pop((image, name), None)
        if since is not None:
            self.over.append((image, name, since, time))


def sights(earliest: Integers, created: Floats, number: Integers) -> Integers:
    """What `Trace.sight` is: by first sight, then build time.

    Args:
        earliest: when each of the log's images was first seen, UTC nanoseconds.
        created: when each of the trace's images was built; shape (n,).
        number: the trace's number of each of the log's images; -1: none.
    """
    seen = np.zeros(len(created), dtype=np.int64)
    seen[number[number >= 0]] = earliest[number >= 0]
    later = (np.diff(seen) > 0) | (np.diff(created) > 0)
    rank: Integers = np.concatenate(([0], np.cumsum(later))).astype(np.int64)
    return rank
