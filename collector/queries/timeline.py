"""The timeline of one image: its events turned into episodes, with the uses between them in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collector.model.events import Kind, with_effect
from collector.model.traits import Effect
from collector.model.units import format_count, format_duration
from collector.queries.pulls import Pull, PullKind

# The engine reports a deletion, and the pruner its own, within this time.
SAME_NS = 120 * 10**9
_SHOWN = 3
_USED = "used"
_ARRIVED = frozenset(kind for kind in with_effect(Effect.COMES) if kind is not Kind.IMAGE_PULLED)
# A file from elsewhere may hold any.
_KINDS = frozenset(Kind)


@dataclass(slots=True)
class Episode:
    """What happened at one time, or again and again without anything else between.

    Attributes:
        began: when it happened first, UTC seconds.
        ended: when it ended, or happened last, UTC seconds; None: it goes on.
        what: ``found``, ``pulled``, ``used``, ``tagged``, ``removed``...
        detail: more in words.
        bytes: pulled or freed, where that is known.
        count: how often.
        jobs: how many jobs it was done by.
    """

    began: float
    ended: float | None
    what: str
    detail: str = ""
    bytes: int | None = None
    count: int = 1
    jobs: int = 0


@dataclass(slots=True)
class UseRun:
    """Uses that nothing else has come between.

    Attributes:
        number: how many other things had happened to the image by then.
        began: of the first, UTC nanoseconds.
        ended: of the last; None: one goes on.
        count: how many uses.
        pulls: pulls that found the image up to date.
        jobs: how many jobs they were by.
        others: how many were by no job.
        projects: how many jobs of each project.
    """

    number: int
    began: int
    ended: int | None
    count: int
    pulls: int
    jobs: int
    others: int
    projects: dict[str, int] = field(default_factory=dict)


class TimelineBuilder:
    """Turns the events of one image into episodes.

    Args:
        image: the log's number of the image.
        fetched: pulls that fetched something, by image and time.
        owners: the project of the job that each was for, by image and time.

    Attributes:
        places: time (UTC nanoseconds) and number of the event that each episode but uses began with.
    """

    def __init__(
        self, image: int, fetched: Mapping[tuple[int, int], Pull], owners: Mapping[tuple[int, int], str]
    ) -> None:
        self._image = image
        self._fetched = fetched
        self._owners = owners
        self._found: list[Episode] = []
        self._runs: dict[int, Episode] = {}
        self._earlier: tuple[int, Episode] | None = None
        self._place = (0, 0)
        self.places: list[tuple[int, int]] = []
        self._here = False

    def add(self, row: Sequence[Any]) -> None:
        """Take the next (time, number, kind, reference, bytes, whether the pruner did it, why, trigger, inferred)."""
        time_ns, seq, kind, reference, size, is_ours, why, trigger, inferred = row
        self._place = time_ns, seq
        if kind == "image_pulled":
            self._pull(time_ns, reference)
        elif kind == "image_observed":
            if not self._here and not self._recently_came(time_ns):
                self._add(
                    time_ns, "found", "an inventory saw it first" if not self._found else "an inventory saw it again"
                )
            self._here = True
        elif kind == "image_deleted":
            self._deleted(time_ns, is_ours=is_ours, inferred=bool(inferred))
        elif kind == "item_removed":
            by = f"by the pruner ({trigger})" if trigger else "by the pruner"
            self._add(time_ns, "removed", f"{by}: {why}" if why else by, size)
            self._here = False
        elif kind == "item_failed":
            self._add(time_ns, "kept", f"the pruner meant to remove it: {why}")
        else:
            self._happened(time_ns, kind, reference)

    def take(self, runs: Sequence[UseRun]) -> None:
        """Take the uses."""
        for run in runs:
            ended = None if run.ended is None else run.ended / 1e9
            what = _USED if run.count else "up to date"
            count = run.count or run.pulls
            self._runs[run.number] = Episode(run.began / 1e9, ended, what, _in_words(run), count=count, jobs=run.jobs)

    def take_earlier(self, number: int, began: int, ended: int | None, count: int) -> None:
        """Take how often the image was used before the uses that were looked at one by one.

        Args:
            number: how many other things had happened to the image when that began.
            began: of the first, UTC nanoseconds.
            ended: when those that were looked at begin; None: one goes on.
            count: how many.
        """
        counted = f"{format_count(count, 'earlier use')}, only counted" if count > 0 else "earlier pulls, not counted"
        what = _USED if count > 0 else "up to date"
        until = None if ended is None else ended / 1e9
        self._earlier = number, Episode(began / 1e9, until, what, f"{counted}: --all looks at each", count=count)

    def episodes(self) -> list[Episode]:
        """All, in order."""
        found = []
        for number in range(len(self._found) + 1):
            found += [self._earlier[1]] if self._earlier is not None and self._earlier[0] == number else []
            found += [self._runs[number]] if number in self._runs else []
            found += self._found[number : number + 1]
        return found

    def _happened(self, time_ns: int, kind: str, reference: str | None) -> None:
        if kind in _KINDS:
            self._add(time_ns, Kind(kind).traits.happened, reference or "")
            self._here |= kind in _ARRIVED

    def _add(self, time_ns: int, what: str, detail: str = "", size: int | None = None) -> None:
        self.places.append(self._place)
        self._found.append(Episode(time_ns / 1e9, time_ns / 1e9, what, detail, size))

    def _recently_came(self, time_ns: int) -> bool:
        """Whether the last episode already says how the image arrived."""
        last = next(
            (
                episode
                for episode in reversed(self._found)
                if episode.what in {"pulled", "loaded", "imported", "built", "tagged"}
            ),
            None,
        )
        return last is not None and time_ns / 1e9 - last.began < SAME_NS / 1e9

    def _deleted(self, time_ns: int, *, is_ours: bool, inferred: bool) -> None:
        if is_ours:
            self._here = False
            return
        if not self._here and self._found and self._found[-1].what == "removed":
            return
        self._add(time_ns, "removed", "unseen, by somebody else" if inferred else "by somebody else than the pruner")
        self._here = False

    def _pull(self, time_ns: int, reference: str | None) -> None:
        pull = self._fetched[self._image, time_ns]
        again = " again" if pull.kind is PullKind.AGAIN else ""
        owner = self._owners.get((self._image, time_ns))
        by = "" if owner is None else f", for a job of {owner}"
        self._add(time_ns, "pulled", f"{reference or ''}{again}{by}", pull.bytes)
        self._here = True


def _in_words(uses: UseRun) -> str:
    """``112 uses by 87 jobs of mesa/mesa, 3 by no job; 87 pulls, up to date``."""
    parts = []
    if uses.count:
        parts.append(format_count(uses.count, "use"))
    if uses.jobs:
        most = sorted(uses.projects, key=lambda name: (-uses.projects[name], name))
        named = ", ".join(most[:_SHOWN]) + (f" and {len(most) - _SHOWN} more" if len(most) > _SHOWN else "")
        parts[-1] += f" by {format_count(uses.jobs, 'job')} of {named}"
    if uses.jobs and uses.others:
        parts.append(f"{uses.others:,} by no job")
    if uses.pulls:
        parts.append(f"{format_count(uses.pulls, 'pull')} that found it up to date")
    if uses.ended is not None and uses.count and uses.ended > uses.began:
        parts.append(f"within {format_duration((uses.ended - uses.began) / 1e9)}")
    return ", ".join(parts)
