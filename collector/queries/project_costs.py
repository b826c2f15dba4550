"""What each project's jobs had pulled, as metrics that stay few however many projects there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from collector.model.untrusted import cut

OTHERS = "(others)"
"""All projects beyond `MOST_PROJECTS`, together."""
MOST_PROJECTS = 50
# Characters of a project's name in a label; a server may refuse all metrics of a host for a longer one.
_MOST_NAME = 200
# Who uses an image later than this after its pull did not have it pulled; as `collector.queries.pulls` has it.
_PAYS_S = 3600.0
FIRST, AGAIN = "first", "again"


@dataclass
class _Arrival:
    """An image that was pulled, and has not been paid for yet."""

    pulled: float
    payer: str = ""
    bytes: int | None = None
    again: bool = False


@dataclass
class ProjectCosts:
    """Bytes pulled for each project: by the job that first used an image after it had been pulled.

    Attributes:
        bytes: by (project, ``first`` or ``again``).
    """

    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _arrivals: dict[str, _Arrival] = field(default_factory=dict)
    _named: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` goes on from."""
        arrivals = {image: asdict(arrival) for image, arrival in self._arrivals.items()}
        return {"bytes": [[*key, size] for key, size in self.bytes.items()], "arrivals": arrivals}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> ProjectCosts:
        """The same again, but for which projects have a name of their own."""
        arrivals = {image: _Arrival(**arrival) for image, arrival in found["arrivals"].items()}
        return cls(Counter({(project, pull): size for project, pull, size in found["bytes"]}), arrivals)

    def pulled(self, image: str, time: float) -> None:
        """An image that was not there is pulled; UTC seconds."""
        self._arrivals[image] = _Arrival(time)

    def arrived(self, image: str, missing: int, *, again: bool) -> None:
        """It is there, with so many bytes that were missing; `again` if it had been there before."""
        arrival = self._arrivals.get(image)
        if arrival is not None:
            arrival.bytes, arrival.again = missing, again
            self._settle(image, arrival)

    def used(self, image: str, project: str, time: float) -> None:
        """A job of a project uses it; UTC seconds."""
        arrival = self._arrivals.get(image)
        if arrival is None or arrival.payer:
            return
        if time - arrival.pulled > _PAYS_S:
            del self._arrivals[image]
            return
        arrival.payer = project
        self._settle(image, arrival)

    def happened_by(self, time: float) -> None:
        """All pulls so far had happened by a time, UTC seconds: the clock was set back to it."""
        for arrival in self._arrivals.values():
            arrival.pulled = min(arrival.pulled, time)

    def _settle(self, image: str, arrival: _Arrival) -> None:
        if arrival.payer and arrival.bytes is not None:
            self.bytes[arrival.payer, AGAIN if arrival.again else FIRST] += arrival.bytes
            del self._arrivals[image]

    def bounded(self) -> dict[tuple[str, str], int]:
        """The same of the projects that had most pulled, and of all others together.

        A project that has a name of its own keeps it until the collector is started again: no counter goes back.
        """
        totals: Counter[str] = Counter()
        for (project, _), size in self.bytes.items():
            totals[project] += size
        for project, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
            if len(self._named) < MOST_PROJECTS:
                self._named.add(project)
        shown: Counter[tuple[str, str]] = Counter()
        for (project, pull), size in self.bytes.items():
            shown[cut(project, _MOST_NAME) if project in self._named else OTHERS, pull] += size
        return {(project, pull): shown[project, pull] for project, _ in shown for pull in (FIRST, AGAIN)}
