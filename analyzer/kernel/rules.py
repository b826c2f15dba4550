"""Rules that the compiled kernel knows too: the rule of age that most tools follow, and single tools."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from analyzer.trace.trace import Integers


class AgeClock(StrEnum):
    """What has to be longer ago: the image's build, its latest pull or arrival here, or its last use."""

    BUILT = "built"
    PULLED = "pulled"
    USED = "used"


@dataclass(frozen=True, slots=True)
class AgeRule:
    """At each tick all unused images go of which something is longer ago.

    Attributes:
        clock: what has to be longer ago.
        age: than so many seconds; negative infinity: all go.
        low: only while less than this share of the disk is free; None: whatever is free.
        by_id: whether it removes by ID without force.
    """

    clock: AgeClock
    age: float
    low: float | None = None
    by_id: bool = False


def removable_by_id(references: Sequence[str]) -> bool:
    """Whether the engine removes an image by ID without force: not with two references (moby, image_delete.go)."""
    return len(references) <= 1


@dataclass(frozen=True, slots=True)
class Superseded:
    """How local images may go that are superseded; see `pruner.policy.local_images`.

    Attributes:
        idle: seconds unused after which one may.
        repositories: of each image; length n.
        bearing: in which of them it has a name, see `Trace.bearing`; length n.
        sight: which is the later one, see `Trace.sight`; shape (n,).
        gaps: begin and end of each interval in which nothing was observed, the one that ends last first.
    """

    idle: float
    repositories: Sequence[Collection[str]]
    bearing: Sequence[Sequence[tuple[str, float, float]]]
    sight: Integers
    gaps: Sequence[tuple[float, float]]


class ToolKind(IntEnum):
    """Which rules; in the kernel's own order."""

    STONE = 0
    DOCUUM = 1
    DRONE_GC = 2
    KUBELET = 3
    ECS = 4
    NOMAD = 5
    TASKCLUSTER = 6
    ARVADOS = 7


@dataclass(frozen=True, slots=True)
class ToolRules:
    """What a baseline does, if the kernel knows it.

    Attributes:
        kind: whose rules.
        amounts: seconds, bytes and shares, as the kernel lists them with these rules.
        exact: book what a removal frees as it is, where the tool is wrong about it.
        restarts: seconds between restarts; None: it never restarts.
    """

    kind: ToolKind
    amounts: tuple[float, ...]
    exact: bool = False
    restarts: float | None = None
