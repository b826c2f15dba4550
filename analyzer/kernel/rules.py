"""Tools whose rules the compiled kernel knows too: what it has to be told of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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
class Tool:
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
