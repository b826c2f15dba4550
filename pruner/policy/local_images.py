"""Which images that exist only on the host may go all the same, and when their turn comes.

Such an image may go if a later one of each of its repositories is on this host and nothing has used it for
`local_idle`. What one pipeline built for itself is superseded by what the next one built. The latest of a repository
stays, and so does an image of which no name is known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")
ByNumber = Sequence[Value] | Mapping[int, Value]
"""Values of images, looked up by the image's number."""

KEEP, SUPERSEDED, EVICT = "keep", "superseded", "evict"
LOCAL_IMAGES = (SUPERSEDED, KEEP, EVICT)


def idle_since(now: float, idle: float, began: float | None, gaps: Iterable[tuple[float, float]]) -> float:
    """The time from which on so much was observed up to now; what was used then at the latest was idle all the time.

    Args:
        now: the time of the decision.
        idle: seconds.
        began: when observation began; None: it never did.
        gaps: begin and end of each interval in which nothing was observed, sorted by `by_end`.

    Returns:
        The time; negative infinity where so much was not observed yet.
    """
    reached, left = now, idle
    for begin, end in gaps:
        observed = max(reached - end, 0.0)
        if observed >= left:
            break
        left -= observed
        reached = min(reached, begin)
    since = reached - left
    return -math.inf if began is None or since < began else since


def by_end(gaps: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Gaps, the one that ends last first."""
    return sorted(gaps, key=lambda gap: -gap[1])


def superseded(
    present: Iterable[int],
    repositories: ByNumber[Collection[str]],
    current: ByNumber[Collection[str]],
    seen: ByNumber[Any],
) -> list[int]:
    """Local images of which a later one is there in each of their repositories.

    Args:
        present: the local images that are there, in order of first sight.
        repositories: per image those in which it ever had a name.
        current: per image those in which it has a name now; a later one elsewhere takes no image's place.
        seen: per image what it is ordered by; of two that are equal, none is known to be the later one.
    """
    images = list(present)
    latest = {name: seen[i] for i in images for name in current[i]}
    return [
        i
        for i in images
        if repositories[i] and all(name in latest and latest[name] > seen[i] for name in repositories[i])
    ]


def in_their_turn(order: Sequence[int], local: Sequence[bool], last_use: Sequence[float], quiet: float) -> list[int]:
    """An order in which local images come after all others that were idle as long, and before what is in use.

    Strictly last, they would push out what is pulled again the same day while they fill the disk.

    Args:
        order: the images, first to go first.
        local: per image whether it exists only on this host.
        last_use: per image its last use.
        quiet: images not used since this time (see `idle_since`) have been idle for `local_idle`.
    """
    return sorted(order, key=lambda i: 1 if local[i] else 0 if last_use[i] <= quiet else 2)
