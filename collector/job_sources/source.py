"""What every source of facts about jobs has in common: a runner's log, a CI server, the next CI system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from collector.job_sources.runnerlog import JobFact


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read at once; stored together with the position that it reaches.

    Attributes:
        lines: how many lines (or traces) were read.
        facts: what they say about jobs, in order.
        assumed_ns: the time of facts that have none, UTC nanoseconds.
        mark: the source's key and the position that is reached, to resume from; None: nothing to resume from.
        missing: how many jobs had no trace to read.
    """

    lines: int
    facts: Sequence[JobFact]
    assumed_ns: int
    mark: tuple[str, str] | None
    missing: int = 0


class JobSource(ABC):
    """A source of facts about jobs, read in batches from where the last reading ended.

    Attributes:
        evidence: what the event log says of where a fact comes from.
        key: the name under which the event log keeps the position.
    """

    evidence: ClassVar[str]
    key: str

    @abstractmethod
    def batches(self, position: str | None) -> Iterator[Batch]:
        """What is new; the caller stores each batch before it asks for the next.

        Args:
            position: what the last mark said; None: read from the beginning.

        Raises:
            HindsightError: the source cannot be read; the batches before are valid.
        """
