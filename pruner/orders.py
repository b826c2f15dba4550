"""Orders: which image goes first. Each is one small function, usable live and in simulation.

An order maps the facts of an image to a number; the image with the lowest goes first, and ties go
to the image that was first seen earlier. The functions use arithmetic only, so that the facts may
be plain numbers (one image) or arrays of shape (n,) (all images at once).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """What an order may look at: numbers for one image, or arrays of shape (n,) for all.

    Attributes:
        now: the time of the decision, UTC seconds.
        last_use: latest witnessed use, UTC seconds.
        pulled: when it was last pulled (when first seen, if no pull was witnessed), UTC seconds.
        created: its build time, UTC seconds (0 if unknown).
        uses: how many uses were witnessed.
        bytes: bytes of all its layers.
    """

    now: float
    last_use: Any
    pulled: Any
    created: Any
    uses: Any
    bytes: Any


Order = Callable[[Facts], Any]


def lru(facts: Facts) -> Any:
    """Least recently used first: the mission's own order (moby issue 4237 asks for it)."""
    return facts.last_use


def pulled(facts: Facts) -> Any:
    """Least recently pulled first: what a host without use evidence falls back to (FIFO)."""
    return facts.pulled


def created(facts: Facts) -> Any:
    """Oldest build first: the clock of ``docker image prune --filter until=``."""
    return facts.created


def lfu(facts: Facts) -> Any:
    """Least frequently used first; ties by last use are left to the order of first sight."""
    return facts.uses


ORDERS: dict[str, Order] = {"lru": lru, "pulled": pulled, "created": created, "lfu": lfu}
