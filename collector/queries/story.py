"""The story of one image as a timeline: came, used, named, gone and by whom, come back at which cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.schema import table_of_events
from collector.eventlog.sql import sql_list
from collector.eventlog.views import show_wholly
from collector.model.errors import UsageError
from collector.model.events import CONTAINERS, Kind, with_effect
from collector.model.origin import Origin
from collector.model.references import meant, similar
from collector.model.traits import Effect
from collector.model.units import format_bytes, format_duration
from collector.queries.pulls import Pull, PullKind, read_pulls

# The engine reports a deletion, and the pruner its own, within this time.
_SAME_NS = 120 * 10**9
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

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Story:
    """An image's names, its timeline, and where it can be pulled again; `gone`: the engine no longer holds it."""

    image_id: str
    names: list[str]
    gone: bool
    episodes: list[Episode]
    origin: Origin

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def stories(log: EventLog, text: str) -> list[Story]:
    """The stories of all images that a user who writes `text` may mean.

    Args:
        log: the log.
        text: a reference, a digest, or the beginning of an ID.

    Raises:
        UsageError: no image of this host was ever called so.
        LogError: the log cannot be read.
    """
    with log.reading(whole_since=ONLY_KEPT) as connection:
        host = {"host": log.host}
        ids = dict(connection.execute(_IDS, host).fetchall())
        names = dict(connection.execute(_NAMES, host).fetchall())
        called = {image_id: names.get(image_id, []) for image_id in ids.values()}
        found = set(meant(text, called))
        chosen = [image for image, image_id in ids.items() if image_id in found]
        if not chosen:
            like = similar(text, called)
            hint = f"did you mean {' or '.join(like)}?" if like else "`collector images` lists those it holds"
            raise UsageError(f"no image that this host has ever held is '{text}': {hint}")
        held = {image for (image,) in connection.execute(_HELD, host).fetchall()}
        show_wholly(connection, chosen)
        pulls = [pull for pull in read_pulls(connection, log.host) if pull.image in chosen]
        owners = dict(
            connection.execute(
                _OWNERS, {**host, "jobs": sorted({pull.job for pull in pulls if pull.job is not None})}
            ).fetchall()
        )
        origins = {image: Origin(origin) for image, origin in connection.execute(_ORIGINS, host).fetchall()}
        triggers = dict(connection.execute(_TRIGGERS.format(events=table_of_events(connection)), host).fetchall())
        stories = []
        for image in chosen:
            found_rows = connection.execute(_EVENTS, {**host, "image": image}).fetchall()
            rows = [(*row, triggers.get(prune), inferred) for *row, prune, inferred in found_rows]
            own = {pull.time_ns: pull for pull in pulls if pull.image == image}
            episodes = _TimelineBuilder(own, owners).build(rows)
            origin = origins.get(image, Origin.UNKNOWN)
            stories.append(Story(ids[image], called[ids[image]], image not in held, episodes, origin))
    return stories


@dataclass(slots=True)
class _Folding:
    """Uses that nothing else has come between."""

    began: int
    ended: int | None
    count: int = 0
    pulls: int = 0
    jobs: dict[int, str] = field(default_factory=dict)
    projects: dict[str, int] = field(default_factory=dict)
    others: int = 0


class _TimelineBuilder:
    """Turns the events of one image into episodes.

    Args:
        pulls: the image's pulls by time.
        owners: the project of each job, by the log's number of the job.
    """

    def __init__(self, pulls: dict[int, Pull], owners: dict[int, str]) -> None:
        self._pulls = pulls
        self._owners = owners
        self._found: list[Episode] = []
        self._uses: _Folding | None = None
        self._here = False

    def build(self, rows: Sequence[Sequence[Any]]) -> list[Episode]:
        """The episodes of (time, until, kind, reference, bytes, job, project, why, trigger, inferred)."""
        ours = [row for row in rows if row[2] == "item_removed"]
        for row in rows:
            time_ns, until, kind, reference, size, job, project, why, trigger, inferred = row
            if kind in {"container", "job_image_used"}:
                self._use(time_ns, until, job, project)
            elif kind == "thinned":
                self._thinned(time_ns, until, json.loads(why), size)
            elif kind == "image_pulled":
                self._pull(time_ns, reference)
            elif kind == "image_observed":
                if not self._here and not self._recently_came(time_ns):
                    self._add(
                        time_ns,
                        "found",
                        "an inventory saw it first" if not self._found else "an inventory saw it again",
                    )
                self._here = True
            elif kind == "image_deleted":
                self._deleted(time_ns, ours, inferred=bool(inferred))
            elif kind == "item_removed":
                by = f"by the pruner ({trigger})" if trigger else "by the pruner"
                self._add(time_ns, "removed", f"{by}: {why}" if why else by, size)
                self._here = False
            elif kind == "item_failed":
                self._add(time_ns, "kept", f"the pruner meant to remove it: {why}")
            else:
                self._happened(time_ns, kind, reference)
        self._close()
        return self._found

    def _happened(self, time_ns: int, kind: str, reference: str | None) -> None:
        if kind in _KINDS:
            self._add(time_ns, Kind(kind).traits.happened, reference or "")
            self._here |= kind in _ARRIVED

    def _add(self, time_ns: int, what: str, detail: str = "", size: int | None = None) -> None:
        self._close()
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
        return last is not None and time_ns / 1e9 - last.began < _SAME_NS / 1e9

    def _deleted(self, time_ns: int, ours: Sequence[Sequence[Any]], *, inferred: bool) -> None:
        if any(abs(row[0] - time_ns) <= _SAME_NS for row in ours):
            self._here = False
            return
        if not self._here and self._found and self._found[-1].what == "removed":
            return
        self._add(time_ns, "removed", "unseen, by somebody else" if inferred else "by somebody else than the pruner")
        self._here = False

    def _pull(self, time_ns: int, reference: str | None) -> None:
        pull = self._pulls.get(time_ns)
        if pull is None or pull.kind is PullKind.UP_TO_DATE:
            uses = self._fold(time_ns, time_ns)
            uses.pulls += 1
            return
        again = " again" if pull.kind is PullKind.AGAIN else ""
        by = "" if pull.job is None else f", for a job of {self._owners[pull.job]}"
        self._add(time_ns, "pulled", f"{reference or ''}{again}{by}", pull.bytes)
        self._here = True

    def _use(self, time_ns: int, until: int | None, job: int | None, project: str | None) -> None:
        uses = self._fold(time_ns, until)
        uses.count += 1
        if job is None:
            uses.others += 1
        elif job not in uses.jobs:
            uses.jobs[job] = project or "?"
            uses.projects[project or "?"] = uses.projects.get(project or "?", 0) + 1

    def _thinned(self, time_ns: int, until: int, jobs: list[int | None], checks: int) -> None:
        """Uses of which a compaction left no more than whose they were, and pulls that found the image up to date."""
        for job in jobs:
            self._use(time_ns, until, job if job in self._owners else None, self._owners.get(job or 0))
        self._fold(time_ns, until).pulls += checks

    def _fold(self, time_ns: int, until: int | None) -> _Folding:
        if self._uses is None:
            self._uses = _Folding(time_ns, until)
        elif self._uses.ended is not None:
            self._uses.ended = None if until is None else max(self._uses.ended, until)
        return self._uses

    def _close(self) -> None:
        uses, self._uses = self._uses, None
        if uses is None:
            return
        ended = None if uses.ended is None else uses.ended / 1e9
        what = _USED if uses.count else "up to date"
        self._found.append(
            Episode(uses.began / 1e9, ended, what, _in_words(uses), count=uses.count or uses.pulls, jobs=len(uses.jobs))
        )


def _in_words(uses: _Folding) -> str:
    """``112 uses by 87 jobs of mesa/mesa, 3 by no job; 87 pulls, up to date``."""
    parts = []
    if uses.count:
        parts.append(f"{uses.count:,} use{'s' * (uses.count > 1)}")
    if uses.jobs:
        most = sorted(uses.projects, key=lambda name: (-uses.projects[name], name))
        named = ", ".join(most[:_SHOWN]) + (f" and {len(most) - _SHOWN} more" if len(most) > _SHOWN else "")
        parts[-1] += f" by {len(uses.jobs):,} job{'s' * (len(uses.jobs) > 1)} of {named}"
    if uses.jobs and uses.others:
        parts.append(f"{uses.others:,} by no job")
    if uses.pulls:
        parts.append(f"{uses.pulls:,} pull{'s' * (uses.pulls > 1)} that found it up to date")
    if uses.ended is not None and uses.count and uses.ended > uses.began:
        parts.append(f"within {format_duration((uses.ended - uses.began) / 1e9)}")
    return ", ".join(parts)


def size_of(episode: Episode) -> str:
    """Bytes for people; nothing where they are not known."""
    return "" if episode.bytes is None else format_bytes(episode.bytes)


_NAMES = """
SELECT image_id, list(DISTINCT name ORDER BY name) FROM image_references WHERE host = $host GROUP BY image_id
"""
_IDS = "SELECT image, image_id FROM image SEMI JOIN (FROM event WHERE host = $host) USING (image) ORDER BY image"
_OWNERS = """
SELECT job, coalesce(project, 'project ' || project_id, ci) FROM job WHERE host = $host
    AND job IN (SELECT unnest($jobs::INTEGER[])
        UNION ALL SELECT unnest(jobs) FROM thinned_use WHERE host = $host AND image IN (FROM shown_wholly))
"""
_ORIGINS = "SELECT image, origin FROM image_origins WHERE host = $host"
_HELD = "SELECT image FROM present_images WHERE host = $host"
_TRIGGERS = """
SELECT attributes ->> '$.prune', attributes ->> '$.trigger' FROM {events} WHERE host = $host AND kind = 'prune_started'
"""
_EVENTS = f"""
WITH own AS (
    SELECT epoch_ns(time) AS began, epoch_ns(time) AS ended, kind, reference, bytes, job,
        CASE kind WHEN 'item_failed' THEN attributes ->> '$.error'
            ELSE coalesce(attributes ->> '$.detail', attributes ->> '$.reason') END AS why,
        attributes ->> '$.prune' AS prune, coalesce(attributes ->> '$.inferred' = 'true', false) AS inferred, seq
    FROM event WHERE host = $host AND image = $image AND kind NOT IN ({sql_list(CONTAINERS)})
    UNION ALL
    SELECT epoch_ns(least(min(began), min(time))), epoch_ns(max(time) FILTER (kind = 'container_destroyed')),
        'container', NULL, NULL, max(job), NULL, NULL, false, min(seq)
    FROM event WHERE host = $host AND image = $image
        AND kind IN ({sql_list(CONTAINERS)})
    GROUP BY container
    UNION ALL
    SELECT epoch_ns(began), epoch_ns(ended), 'thinned', NULL, checks, NULL, CAST(to_json(jobs) AS VARCHAR), NULL, false,
        seq
    FROM thinned_use WHERE host = $host AND image = $image
)
SELECT o.began, o.ended, o.kind, o.reference, o.bytes, o.job,
    coalesce(j.project, 'project ' || j.project_id, j.ci), why, prune, inferred
FROM own AS o LEFT JOIN job AS j ON j.job = o.job
ORDER BY o.began, o.seq
"""
