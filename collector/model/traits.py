"""What the rest of the program has to know of a kind of event: its source, use, effect and the like."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from collector.model.origin import Origin


class Reporter(StrEnum):
    """Who reports events of a kind."""

    ENGINE = "engine"
    COLLECTOR = "collector"
    JOBS = "job source"
    PRUNER = "pruner"


class Use(IntEnum):
    """What a sign of use says of its image. At equal times the lower comes first.

    FOUND: it was there already when first seen, and costs nothing.
    ARRIVED: it was built, loaded or imported on the host.
    CONTAINER: a container of it existed for a while: demand.
    PULL: a client asked for it: demand without duration.
    JOB: a job source named it: demand without duration.
    TAG: it was tagged: evidence of use, yet no demand.
    HOLD: a job in flight needs it, whose container does not exist yet: until then it stays, yet no demand.
    """

    FOUND = 0
    ARRIVED = 1
    CONTAINER = 2
    PULL = 3
    JOB = 4
    TAG = 5
    HOLD = 6

    @property
    def demands(self) -> bool:
        """Whether the image has to be there, pulled if need be."""
        return self in {Use.CONTAINER, Use.PULL, Use.JOB}


class Effect(StrEnum):
    """What an event does to the set of images that the engine holds."""

    NONE = ""
    COMES = "comes"
    GOES = "goes"
    RENAMED = "renamed"
    SEEN = "seen"


@dataclass(frozen=True, slots=True)
class Traits:
    """All that the rest of the program has to know of a kind.

    Attributes:
        reporter: who reports it.
        meaning: what it says, for the reference.
        use: the use of its image that it shows; None: none.
        evidence: that use in one word, as the view `uses` calls it.
        happened: what has happened to the image, as the view `last_use` and the pruner's reasons call it.
        effect: what it does to the engine's images.
        origin: where the image can be pulled again, judging by it; None: it does not say.
        names: whether its reference is a name of its image.
        changes_disk: whether free space may have changed by more than a little.
        watching: whether the collector must have been following the engine to record it.
        live: whether it shows that the collector was there at the time that it carries: what the engine reports may be
            from before it was first started.
    """

    reporter: Reporter
    meaning: str
    use: Use | None = None
    evidence: str = ""
    happened: str = ""
    effect: Effect = Effect.NONE
    origin: Origin | None = None
    names: bool = False
    changes_disk: bool = False
    watching: bool = False
    live: bool = False
