"""Orders: which image goes first. Each is one small function, usable live and in simulation.

An order maps the facts of images to keys; the image with the lowest goes first, and ties go to the
image that was first seen earlier. The functions use arithmetic only, so that the facts may be plain
numbers (one image) or arrays of shape (n,) (all images at once).

That keys rank images by what they cost per byte freed, and need no size, is due to the cost itself:
what a removal frees is what its return transfers again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from collector.model.units import DAY_S


class Facts(NamedTuple):
    """What an order may look at, of one image; `analyzer.simulation.facts.TraceFacts` has the same of all at once.

    All of it is the past of this host as observed up to `now`. Times are UTC seconds live and
    seconds after the trace's origin in simulation: an order may use differences only.

    Attributes:
        now: the time of the decision.
        last_use: latest observed use.
        pulled: when it was last pulled (when first seen, if no pull was observed).
        created: its build time (1970 if unknown).
        first_seen: when it was first observed.
        uses: how many containers and jobs used it.
        returns: how often it was used again after an idle time of more than `experience.SESSION` seconds.
        gap: moving average of those idle times, seconds; 0 without any.
        bytes: bytes of all its layers.
        own_bytes: bytes of the layers that no other image present holds: what its removal frees.
        superseded: 1 if its repository has been used with an image first seen later, else 0.
        hazard: returns per idle second of images with such an idle time, use count and flag (`pruner.state.learning`).
        forecast: the chance of its return, discounted by how far off it is (`pruner.state.learning`).
    """

    now: float
    last_use: float
    pulled: float
    created: float
    first_seen: float
    uses: int
    returns: int
    gap: float
    bytes: int
    own_bytes: int
    superseded: int
    hazard: float
    forecast: float


Order = Callable[[Any], Any]
"""Takes `Facts`, or what has arrays of shape (n,) in their place; returns the key, or keys."""


def lru(facts: Facts) -> float:
    """Least recently used first: the mission's own order (moby issue 4237 asks for it)."""
    return facts.last_use


def pulled(facts: Facts) -> float:
    """Least recently pulled first: what a host without use evidence falls back to (FIFO)."""
    return facts.pulled


def created(facts: Facts) -> float:
    """Oldest build first: the clock of ``docker image prune --filter until=``."""
    return facts.created


def lfu(facts: Facts) -> float:
    """Least frequently used first; ties by last use are left to the order of first sight."""
    return facts.uses


def gdsf(facts: Facts) -> float:
    """GreedyDual-Size with frequency (Cherkasova, HP Labs 1998): clock + uses x cost / size.

    The cost of a return is the bytes that it transfers. The original's clock is the priority of the
    latest victim, which is state of one policy; the clock here is last use, in days.
    """
    share = facts.own_bytes / (facts.bytes + (facts.bytes == 0))
    return facts.last_use / DAY_S + facts.uses * share


def next_use(facts: Facts) -> float:
    """Farthest predicted next use first, as Belady's rule (1966) with a forecast for the future.

    The idle time is forecast by an exponentially weighted moving average of earlier ones; one that
    is overdue, or was never seen to end, is taken to last as long again as it has lasted.
    """
    idle = facts.now - facts.last_use
    early = idle < facts.gap
    return -(early * (facts.gap - idle) + (1 - early) * idle)


def superseded(facts: Facts) -> float:
    """Images whose repository has since been used with a newer image go first; then least recently used."""
    return facts.last_use - facts.superseded * _FOREVER


def hazard(facts: Facts) -> float:
    """Lowest rate of return first: age-conditional rates as in LHD (Beckmann et al., NSDI 2018)."""
    return facts.hazard


def forecast(facts: Facts) -> float:
    """Lowest discounted chance of return first: the rates of LHD, looked at ahead and by each image's habits."""
    return facts.forecast


_FOREVER = 2.0**36  # seconds: more than any log spans, and floats still resolve microseconds

ORDERS: dict[str, Order] = {
    "lru": lru,
    "pulled": pulled,
    "created": created,
    "lfu": lfu,
    "gdsf": gdsf,
    "next-use": next_use,
    "superseded": superseded,
    "hazard": hazard,
    "forecast": forecast,
}
LEARNING_ORDERS = ("lfu", "gdsf", "next-use", "superseded", "hazard", "forecast")
"""The orders that need `pruner.state.learning.read_experience`."""
RATE_ORDERS = ("hazard", "forecast")
"""Those of them that go by how soon images return."""
OWN_STATE_ORDERS = ("pulled", "gdsf")
"""The orders that look at what the policy itself did: what it let be pulled, and which images share layers now."""
