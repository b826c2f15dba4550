"""From facts about jobs, whatever their source, to events: each fact once, however often it is reported."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.job_sources.joblog import Sighting
from collector.job_sources.reading import JOURNAL, JournalExport
from collector.job_sources.runnerlog import SOURCE, JobFact
from collector.job_sources.source import Batch, JobSource
from collector.model.events import NAME_GIVING, Event, Kind, reported_by
from collector.model.jobs import JOB_FIELDS, Job
from collector.model.references import familiar
from collector.model.traits import Reporter
from collector.model.untrusted import past_ns

# A name that meant nothing when a job asked for it means what is pulled under it soon after.
_PULL_NS = 3600 * 10**9
# All that is known of a job lies within such a time: a look at less of the log is a short one.
_JOB_NS = 7 * 86400 * 10**9


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was read from a job source.

    Attributes:
        lines: how many lines (or traces) were read.
        facts: how many facts about jobs they held.
        new: how many of them the log did not know, by containers or otherwise.
        unresolved: how many of the new ones name an image whose ID is not known.
        untimed: how many facts had no time; `assumed` was taken.
        missing: how many jobs had no trace to read.
    """

    lines: int = 0
    facts: int = 0
    new: int = 0
    unresolved: int = 0
    untimed: int = 0
    missing: int = 0

    def plus(self, other: Ingested) -> Ingested:
        """Both together."""
        return Ingested(
            *(mine + others for mine, others in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )


def ingest(log: EventLog, source: JobSource) -> Ingested:
    """Append what is new in a source of facts about jobs; an interrupted call is resumed by the next one.

    Args:
        log: where to append.
        source: where to read.

    Raises:
        HindsightError: the source cannot be read further; what came before is stored.
        LogError: the log cannot be appended to.
    """
    total = Ingested()
    for batch in source.batches(log.position(source.key)):
        total = total.plus(store_batch(log, batch, source.evidence))
    return total


def journal_cursor(log: EventLog) -> str | None:
    """The journal's cursor of the last entry taken, for ``journalctl --after-cursor``. Raises LogError."""
    return JournalExport(log.position(JOURNAL)).cursor


def store_batch(log: EventLog, batch: Batch, evidence: str = SOURCE) -> Ingested:
    """Append what was read at once, with the position that it reaches. Raises LogError."""
    found = store(log, batch.facts, evidence, batch.assumed_ns, batch.mark)
    return replace(found, lines=batch.lines, missing=batch.missing)


def store(
    log: EventLog, facts: Sequence[JobFact], source: str, assumed_ns: int, mark: tuple[str, str] | None = None
) -> Ingested:
    """Append what is not known yet about jobs.

    What a container shows, by better evidence, is not stored again.

    Args:
        log: where to append.
        facts: the facts, in the order in which they were reported.
        source: where they come from, for the log.
        assumed_ns: the time of facts that have none, UTC nanoseconds.
        mark: a source and the position in it that is reached therewith, kept in the same transaction.

    Raises:
        LogError: the log cannot be appended to.
    """
    times = [_time_of(fact) for fact in facts]
    since_ns = max(0, min((time_ns or 0 for time_ns in times), default=0) - _JOB_NS)
    known = _Known(log, {fact.job.job_id or "" for fact in facts}, since_ns)
    events = []
    for fact in _resolved_first(facts):
        event = _event(fact, known, source, assumed_ns)
        if event is not None:
            events.append(event)
    new = log.append(events, mark=mark)
    unresolved = sum(event.kind is Kind.JOB_IMAGE_USED and event.image is None for event in events)
    untimed = times.count(None)
    return Ingested(0, len(facts), new, unresolved, untimed)


def _resolved_first(facts: Sequence[JobFact]) -> Iterator[JobFact]:
    """Leave out that a job intends an image where the same batch says which image that was."""
    named = [(fact, fact.sighting) for fact in facts]
    resolved = {
        (fact.job.job_id, seen.reference) for fact, seen in named if seen is not None and seen.image is not None
    }
    for fact, seen in named:
        intended = fact.kind is Kind.JOB_IMAGE_USED and seen is not None and seen.image is None
        if not (intended and seen is not None and (fact.job.job_id, seen.reference) in resolved):
            yield fact


def _time_of(fact: JobFact) -> int | None:
    now_ns = time.time_ns()
    own_ns = None if fact.sighting is None else past_ns(fact.sighting.time_ns, now_ns)
    return past_ns(fact.time_ns, now_ns) if own_ns is None else own_ns


def _event(fact: JobFact, known: _Known, source: str, assumed_ns: int) -> Event | None:
    """The event of a fact; None if it is known."""
    time_ns, seen = _time_of(fact), fact.sighting
    more: dict[str, Any] = {"source": source, **fact.details}
    if time_ns is None:
        more["assumed_time"] = True
        time_ns = assumed_ns
    if seen is not None and fact.kind is Kind.JOB_IMAGE_USED:
        return _image_event(fact.job, seen, known, time_ns, more)
    image, reference = (known.resolve(seen.reference, None, time_ns), seen.reference) if seen else (None, None)
    return _made(fact.job, fact.kind, time_ns, more, image, reference) if known.learn(fact.job, fact.kind) else None


def _image_event(job: Job, seen: Sighting, known: _Known, time_ns: int, more: dict[str, Any]) -> Event | None:
    role = seen.role or known.role(job, seen.reference)
    if seen.image is None and known.fulfilled(job, role, seen.reference):
        return None
    image = seen.image or known.resolve(seen.reference, seen.digest, time_ns)
    if not known.learn(job, Kind.JOB_IMAGE_USED, role, seen.reference, image):
        return None
    more |= {"role": role, "digest": seen.digest}
    if seen.pulled:
        more |= {"pulled": True, "pull_seconds": seen.pull_seconds}
    which = f" {role} {image or seen.reference}"
    return _made(job, Kind.JOB_IMAGE_USED, time_ns, more, image, seen.reference, which)


def _made(
    job: Job,
    kind: Kind,
    time_ns: int,
    more: Mapping[str, Any],
    image: str | None,
    reference: str | None,
    which: str = "",
) -> Event:
    """The event of a fact; `which` distinguishes several of the kind of one job."""
    known = {key: value for key, value in more.items() if value is not None}
    return Event(
        time_ns,
        kind,
        image=image,
        reference=reference,
        attributes={"job": job.to_json(), **known},
        identity=f"side-band {kind} {job.ci} {job.job_id} {job.project_id or ''}{which}",
    )


class _Known:
    """What the log knows of some jobs.

    Args:
        log: the log; it need not exist yet.
        job_ids: the IDs of the jobs.
        since_ns: from when on, UTC nanoseconds.
    """

    def __init__(self, log: EventLog, job_ids: set[str], since_ns: int) -> None:
        self._facts: dict[str, list[tuple[Job, str, str | None, str | None, str | None]]] = {}
        self._names: dict[str, list[tuple[int, str]]] | None = None
        self._log = log
        if not log.exists() or not job_ids:
            return
        for kind, role, reference, image, *values in log.query(
            _FACTS, {"host": log.host, "ids": sorted(job_ids), "since": since_ns}
        ):
            job = Job(*values)
            self._facts.setdefault(job.job_id or "", []).append((job, kind, role, reference, image))

    def learn(
        self,
        job: Job,
        kind: Kind,
        role: str | None = None,
        reference: str | None = None,
        image: str | None = None,
    ) -> bool:
        """Note a fact; whether it is new."""
        facts = self._facts.setdefault(job.job_id or "", [])
        for other, known_kind, known_role, known_reference, known_image in facts:
            if not other.is_same(job):
                continue
            if known_kind == _THINNED:
                return False
            if kind is not Kind.JOB_IMAGE_USED:
                if known_kind == kind:
                    return False
            elif known_kind == "container":
                if image is not None and known_image == image:
                    return False
            elif known_kind == kind and _says_as_much(
                (known_role, known_reference, known_image), (role, reference, image)
            ):
                return False
        facts.append((job, kind.value, role, reference, image))
        return True

    def fulfilled(self, job: Job, role: str | None, reference: str | None) -> bool:
        """Whether it is known already which image the job used that it intends to use."""
        return any(
            other.is_same(job)
            and (
                (kind == "container" and role == "build" == known_role) or (kind != "container" and named == reference)
            )
            for other, kind, known_role, named, _ in self._facts.get(job.job_id or "", [])
        )

    def role(self, job: Job, reference: str | None) -> str | None:
        """The role of an image that this line does not give, if an earlier one did."""
        facts = self._facts.get(job.job_id or "", [])
        return next(
            (role for other, _, role, named, _ in facts if role and named == reference and other.is_same(job)), None
        )

    def resolve(self, reference: str | None, digest: str | None, time_ns: int) -> str | None:
        """The image that a name meant at a time, as far as inventories and pulls show."""
        if self._names is None:
            self._names = {}
            rows = self._log.query(_NAMES, {"host": self._log.host}) if self._log.exists() else []
            for name, time, image in rows:
                self._names.setdefault(familiar(name), []).append((time, image))
        for name in filter(None, (digest, reference)):
            meant = self._names.get(familiar(name), [])
            before = [image for time, image in meant if time <= time_ns]
            soon = [image for time, image in meant if time_ns < time <= time_ns + _PULL_NS]
            if before or soon:
                return (before[-1:] or soon[:1])[0]
        return None


def _says_as_much(known: tuple[str | None, ...], stated: tuple[str | None, ...]) -> bool:
    """Whether what is known covers what is stated: the same, or the image where only a name is stated."""
    role, reference, image = stated
    if image is not None and known[2] != image:
        return False
    if image is None and known[1] != reference:
        return False
    return role is None or known[0] == role


# A job of which a compaction has made sums: they hold all its uses.
_THINNED = "thinned"
_FACTS = f"""
SELECT kind, role, reference, image_id, {", ".join(f"j.{key}" for key in JOB_FIELDS)} FROM (
    SELECT kind, role, reference, image, job FROM event
    WHERE host = $host AND time >= make_timestamp_ns($since)
        AND kind IN ({sql_list(reported_by(Reporter.JOBS))}) AND job IS NOT NULL
    UNION ALL
    SELECT DISTINCT 'container', role, reference, image, job FROM event
    WHERE host = $host AND time >= make_timestamp_ns($since) AND container IS NOT NULL AND job IS NOT NULL
    UNION ALL
    SELECT DISTINCT '{_THINNED}', NULL, NULL, NULL, unnest(jobs) FROM thinned_use
    WHERE host = $host AND ended >= make_timestamp_ns($since)
) JOIN job AS j USING (job) LEFT JOIN image USING (image)
WHERE j.host = $host AND j.job_id IN (SELECT unnest($ids::VARCHAR[]))
"""
_NAMES = f"""
SELECT DISTINCT name, epoch_ns(time), image_id FROM image_references
WHERE host = $host
    AND kind IN ({sql_list(kind for kind in NAME_GIVING if kind.traits.reporter is not Reporter.JOBS)})
ORDER BY 2
"""
