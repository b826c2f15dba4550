"""Where an image can be pulled again: an image that no registry has is lost when it is removed."""

from __future__ import annotations

from enum import StrEnum


class Origin(StrEnum):
    """Where an image can be pulled again; the value is what the log holds."""

    REGISTRY = "registry"
    LOCAL = "local"
    UNKNOWN = "unknown"
    # Not made by this engine: pulled, or loaded from an archive. Only events show which; never stored.
    PACKED = "packed"


MEANING: dict[Origin, str] = {
    Origin.REGISTRY: "a registry has it",
    Origin.LOCAL: "only this host has it, as far as is known",
    Origin.UNKNOWN: "not known: it counts as local",
}


def agreed(logged: Origin | None, reported: Origin) -> Origin:
    """What log and engine say together.

    Args:
        logged: what the log concludes from all observations; None: nothing.
        reported: what the engine's records show now.
    """
    known = {logged, reported}
    if Origin.REGISTRY in known:
        return Origin.REGISTRY
    if Origin.LOCAL in known:
        return Origin.LOCAL
    return Origin.REGISTRY if Origin.PACKED in known else Origin.UNKNOWN
