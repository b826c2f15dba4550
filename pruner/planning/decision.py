"""The one decision function: state in, a verdict with its reason for every image out.

Nothing here does input or output or has a clock of its own. The pruner calls `evict` on the live host,
and the analyzer's reference replay goes through it. The compiled replay that the analyzer normally uses is
another algorithm (it keeps its order from decision to decision); tests/analyzer/test_kernel.py shows by
properties that both give the same results.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from enum import IntEnum

Ints = Sequence[int]
Floats = Sequence[float]


class Reason(IntEnum):
    """Why an image stays or goes. Values are stored in logs: never renumber."""

    ENOUGH_SPACE = 0
    PINNED = 1
    HELD = 2
    LOCAL = 3
    YOUNG = 4
    PROTECTED = 5
    FREES_NOTHING = 6
    TARGET_REACHED = 7
    REFUSED = 8
    LABELLED = 9
    EVICT = 16
    EVICT_EMERGENCY = 17
    EVICT_DANGLING = 18
    EVICT_TOGETHER = 19
    EVICT_LOCAL = 20

    @property
    def evicts(self) -> bool:
        """Whether the image goes."""
        return self >= Reason.EVICT

    @property
    def word(self) -> str:
        """What plans and logs call it."""
        return self.name.lower()


MEANING: dict[Reason, str] = {
    Reason.ENOUGH_SPACE: "free space is above the threshold: nothing is removed",
    Reason.PINNED: "a container refers to it",
    Reason.HELD: "a job whose build container does not exist yet needs it, or a service that may be rolled back",
    Reason.LOCAL: "exists only on this host (local_images)",
    Reason.YOUNG: "used or pulled within min_age",
    Reason.PROTECTED: "on the allowlist, and there is no emergency",
    Reason.FREES_NOTHING: "all its layers are shared with images that stay: removing it frees nothing",
    Reason.TARGET_REACHED: "removals before it free enough",
    Reason.REFUSED: "it could not be removed in this run",
    Reason.LABELLED: "a label keeps it (keep_labels)",
    Reason.EVICT: "next in the order while free space is under the target",
    Reason.EVICT_LOCAL: "EXISTS ONLY ON THIS HOST, and local_images lets it be removed",
    Reason.EVICT_DANGLING: "untagged, or its tag has moved on: such images are removed first",
    Reason.EVICT_TOGETHER: "its layers are freed only together with an allowlisted image, which goes in an emergency",
    Reason.EVICT_EMERGENCY: "on the allowlist, but all others are gone and free space is under `emergency`",
}

# Plain integers: an enumeration's look-ups would be most of the time of a replay in Python.
ENOUGH_SPACE = int(Reason.ENOUGH_SPACE)
YOUNG = int(Reason.YOUNG)
PROTECTED = int(Reason.PROTECTED)
FREES_NOTHING = int(Reason.FREES_NOTHING)
TARGET_REACHED = int(Reason.TARGET_REACHED)
EVICT = int(Reason.EVICT)
EVICT_EMERGENCY = int(Reason.EVICT_EMERGENCY)
EVICT_TOGETHER = int(Reason.EVICT_TOGETHER)

# After a gap every image may have been used unseen. Its jobs have long created their containers by
# then, so the doubt lasts as long as a job may take from pull to container, not a whole min_age.
GAP_GRACE_S = 600.0


def recent_use(last_use: float, blind_until: float | None, min_age: float) -> float:
    """When an image counts as last used for `min_age`, UTC seconds: a gap may have hidden a use."""
    if blind_until is None:
        return last_use
    return max(last_use, blind_until + min(min_age, GAP_GRACE_S) - min_age)


def evict(  # noqa: C901, PLR0912 - one loop, mirrored by the compiled replay; its branches are the rules
    order: Ints,
    blocked: Ints,
    protected: Sequence[bool],
    last_use: Floats,
    young_since: float,
    idle_since: float,
    free: Floats,
    threshold: Floats,
    target: Floats,
    emergency: Floats,
    first: Ints,
    layer: Ints,
    layer_bytes: Ints,
    layer_inodes: Floats,
    holders: MutableSequence[int],
    verdict: MutableSequence[int],
) -> None:
    """Decide which images go: the decision function, live and in simulation.

    Images are numbered 0..n-1 in the order in which they were first seen, which also breaks ties.
    Amounts of space are pairs, bytes first and inodes second; an image goes as long as either is
    short. A layer is counted as freed once nothing that stays holds it.

    An image that was taken but whose layers are, in the end, all held by images that stay would
    free nothing: it is given back. That is judged when a stage ends and not on the way, because
    two old images with the same layers free them only together. In an emergency those given back
    are taken once more, and judged again: the protected images that go may be what held their layers.

    Args:
        order: the images present, first to go first; shape (k,).
        blocked: per image 0, or the reason that it must stay (PINNED, HELD, LOCAL); shape (n,).
        protected: per image whether the allowlist names it; shape (n,).
        last_use: per image its last use, UTC seconds; shape (n,).
        young_since: images used after this time are too young to go, UTC seconds.
        idle_since: protected images not used since this time have lost their protection, UTC seconds.
        free: what is free now.
        threshold: pruning starts when less is free.
        target: pruning stops when as much is free.
        emergency: while less is free and all others are gone, protected images go; negative: never.
        first: layers of image i are ``layer[first[i]:first[i + 1]]``; shape (n + 1,).
        layer: layer numbers; shape (first[n],).
        layer_bytes: bytes that removing the layer frees; shape (m,).
        layer_inodes: inodes that removing the layer frees; shape (m,).
        holders: how many present images hold the layer; shape (m,). Changed to what holds after.
        verdict: written: the `Reason` value for each image in `order`; shape (n,).
    """
    free_bytes = free[0]
    free_inodes = free[1]
    if free_bytes >= threshold[0] and free_inodes >= threshold[1]:
        for i in order:
            verdict[i] = blocked[i]
        return
    for stage in range(2):
        goal = target if stage == 0 else emergency
        taken = EVICT if stage == 0 else EVICT_EMERGENCY
        if stage == 1:
            for i in order:
                if verdict[i] == FREES_NOTHING:
                    verdict[i] = EVICT_TOGETHER
                    for k in range(first[i], first[i + 1]):
                        holders[layer[k]] -= 1
        for i in order:
            if stage == 1 and verdict[i] != PROTECTED:
                continue
            if blocked[i] != 0:
                verdict[i] = blocked[i]
            elif last_use[i] > young_since:
                verdict[i] = YOUNG
            elif stage == 0 and protected[i] and last_use[i] >= idle_since:
                verdict[i] = PROTECTED
            elif free_bytes >= goal[0] and free_inodes >= goal[1]:
                if stage == 0:
                    verdict[i] = TARGET_REACHED
            else:
                verdict[i] = taken
                for k in range(first[i], first[i + 1]):
                    j = layer[k]
                    holders[j] -= 1
                    if holders[j] == 0:
                        free_bytes += layer_bytes[j]
                        free_inodes += layer_inodes[j]
        for i in order:
            if verdict[i] >= EVICT:
                held = True
                for k in range(first[i], first[i + 1]):
                    if holders[layer[k]] == 0:
                        held = False
                if held:
                    verdict[i] = FREES_NOTHING
                    for k in range(first[i], first[i + 1]):
                        holders[layer[k]] += 1
        if free_bytes >= emergency[0] and free_inodes >= emergency[1]:
            return


def in_turn(order: Ints, verdict: Sequence[int] | Mapping[int, int]) -> list[int]:
    """The images that go, in the order of their removal: what is protected comes last.

    What frees space only together with that comes just before it: should the others have freed
    enough by then, neither goes.

    Args:
        order: as `evict` was given it.
        verdict: what it decided.
    """
    return [i for turn in (EVICT, EVICT_TOGETHER, EVICT_EMERGENCY) for i in order if verdict[i] == turn]
