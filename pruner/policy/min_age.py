"""``min_age = "auto"``: for how long an image stays young, from what this host's own log shows.

Between the pull of an image, or the last look whether it is there, and the first container lies a moment
in which nothing refers to it. A minimum age is there for that moment and for nothing else: longer, it protects the
dead tags of the pipeline that just ran, and live images of others go instead. The analyzer makes the
same of the same rows for each hour of a history, so that a simulation knows what was known then.
Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from collector.eventlog import hourly
from collector.eventlog.hourly import HOUR_NS
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.units import format_count, format_duration
from collector.model.untrusted import LAST_NS
from pruner.policy.policy import AUTO_DEFAULT_AGE, Policy

LEAST_AGE = 300.0
MOST_AGE = AUTO_DEFAULT_AGE
"""The limits, seconds; the upper one holds until enough was seen."""
GITLAB_AGE = 600.0
"""The upper limit where GitLab jobs are known while they are in flight: their images are held then."""
_DAY_HOURS = 24
_LAST_HOUR = LAST_NS // HOUR_NS
MEMORY_HOURS = 30 * _DAY_HOURS
"""How far the record reaches back."""
ENOUGH_PULLS = 50
ENOUGH_JOBS = 20
"""So many pulls that a container followed, or containers of GitLab jobs, are enough evidence."""
_MOST_STRETCHES = 8
QUANTILE = 0.99
MARGIN = 2.0
"""The share of pulls to cover, and what their time is multiplied by."""

Pulls = Sequence[tuple[int, int, int]]
"""Hour since 1970 in which a container followed a pull within `MOST_AGE`, seconds between (rounded up), how often."""
Jobs = Sequence[tuple[int, int]]
"""Hour since 1970, and how many containers of GitLab jobs were created in it."""

_ANY_JOB = "SELECT 1 FROM job WHERE host = ? AND ci = 'gitlab' AND job_id IS NOT NULL LIMIT 1"
# Of what is not a GitLab job there are few, or no jobs at all.
_OTHER_JOBS = "FROM job WHERE host = $host AND (ci <> 'gitlab' OR job_id IS NULL)"
_JOBS = f"""
    SELECT epoch_ns(time) // {HOUR_NS} AS hour, count(*)
    FROM event ANTI JOIN ({_OTHER_JOBS}) AS other ON event.job = other.job
    WHERE host = $host AND event.job IS NOT NULL AND kind = 'container_created'
        AND time BETWEEN make_timestamp_ns($from) AND make_timestamp_ns($until)
    GROUP BY hour ORDER BY hour
"""


class Evidence:
    """What was seen within the last `MEMORY_HOURS`.

    Attributes:
        pulls: pulls that a container followed.
        jobs: containers of GitLab jobs.
    """

    def __init__(self) -> None:
        self.pulls = self.jobs = 0
        self._waited = [0] * (int(AUTO_DEFAULT_AGE) + 1)

    def add(self, pulls: Iterable[tuple[int, int, int]], jobs: Iterable[tuple[int, int]], sign: int = 1) -> None:
        """Count rows, or with a negative sign take them away."""
        for _, seconds, count in pulls:
            self._waited[seconds] += sign * count
            self.pulls += sign * count
        for _, count in jobs:
            self.jobs += sign * count

    @property
    def gitlab(self) -> bool:
        """Whether GitLab jobs are known while they are in flight."""
        return self.jobs >= ENOUGH_JOBS

    @property
    def waited(self) -> int | None:
        """Seconds within which nearly all pulls were followed by a container; None: too little was seen."""
        if self.pulls < ENOUGH_PULLS:
            return None
        wanted, seen = math.ceil(QUANTILE * self.pulls), 0
        for seconds, count in enumerate(self._waited):
            seen += count
            if seen >= wanted:
                return seconds
        return None

    @property
    def age(self) -> float:
        """The minimum age, seconds."""
        most = GITLAB_AGE if self.gitlab else MOST_AGE
        waited = self.waited
        return most if waited is None else min(max(MARGIN * waited, LEAST_AGE), most)

    def __str__(self) -> str:
        waited = self.waited
        found = (
            f"too few pulls were seen yet ({self.pulls} of {ENOUGH_PULLS})"
            if waited is None
            else f"{QUANTILE:.0%} of {format_count(self.pulls, 'pull')} were followed by a container "
            f"within {format_duration(waited)}"
        )
        return f"{found}; GitLab jobs in flight are known" if self.gitlab else found


def history(pulls: Pulls, jobs: Jobs) -> Iterator[tuple[int, float]]:
    """Each change of the minimum age: the hour since 1970 from which on it holds, and the age in seconds."""
    evidence, age, knew_jobs = Evidence(), MOST_AGE, False
    pulls_of = {hour: list(rows) for hour, rows in groupby(pulls, lambda row: row[0])}
    jobs_of = dict(jobs)
    hours = pulls_of.keys() | jobs_of.keys()
    # What was seen in an hour is known at its end, and forgotten when it is too long ago.
    for hour in sorted({hour + 1 for hour in hours} | {hour + 1 + MEMORY_HOURS for hour in hours}):
        new, gone = hour - 1, hour - 1 - MEMORY_HOURS
        evidence.jobs += jobs_of.get(new, 0) - jobs_of.get(gone, 0)
        knows_jobs = evidence.jobs >= ENOUGH_JOBS
        if new in pulls_of or gone in pulls_of:
            evidence.add(pulls_of.get(new, ()), ())
            evidence.add(pulls_of.get(gone, ()), (), -1)
        elif knows_jobs == knew_jobs:
            continue  # as in nearly all hours
        knew_jobs = knows_jobs
        if evidence.age != age:
            age = evidence.age
            yield hour, age


@dataclass(frozen=True, slots=True)
class Decisive:
    """The hours whose jobs decide when enough of them had been seen, and rows in place of those of all other hours.

    Attributes:
        hours: the first and the last of each stretch of them, since 1970.
        others: hours and how many containers of jobs count as created in them.
    """

    hours: Sequence[tuple[int, int]] = ((0, _LAST_HOUR),)
    others: Jobs = ()


def decisive_hours(jobs: Mapping[int, int], span_ns: int) -> Decisive:
    """Which hours' containers of jobs have to be counted, where it is known how many there were in longer spans.

    Of three spans in a row with enough jobs each the middle one need not be looked at by the hour: `MEMORY_HOURS` that
    reach into it reach over all of itself, of the one before, or of the one after, so there are enough.

    Args:
        jobs: how many containers of GitLab jobs were created in each span, by its number since 1970; without zeros.
        span_ns: how long each is, nanoseconds: at most half of `MEMORY_HOURS`.
    """
    enough = {span for span, count in jobs.items() if count >= ENOUGH_JOBS}
    settled = {span for span in enough if {span - 1, span + 1} <= enough}
    stretches: list[tuple[int, int]] = []
    for span in sorted(jobs.keys() - settled):
        begin, end = span * span_ns // HOUR_NS, ((span + 1) * span_ns - 1) // HOUR_NS
        if stretches and begin <= stretches[-1][1] + 1:
            begin = stretches.pop()[0]
        stretches.append((begin, end))
    if len(stretches) > _MOST_STRETCHES:
        return Decisive()
    # In its second hour, which is a part of no other span.
    return Decisive(stretches, [(span * span_ns // HOUR_NS + 1, jobs[span]) for span in sorted(settled)])


def rows(
    connection: Any, host: str, decisive: Decisive | None = None, *, is_folded: bool = True, pulled: bool = True
) -> tuple[Pulls, Jobs]:
    """What the log shows in all hours.

    Args:
        connection: to the log, which is open and shows all events.
        host: whose.
        decisive: which hours' jobs matter, as of all jobs of the host; None: all do.
        is_folded: whether the log may have some of it folded.
        pulled: whether it may know of a pull.
    """
    if not pulled:
        pulls: Pulls = ()
    else:
        pulls = hourly.waits(connection, host, 0, _LAST_HOUR) if is_folded else hourly.waits_shown(connection, host)
    if decisive is None or connection.execute(f"SELECT 1 {_OTHER_JOBS} LIMIT 1", {"host": host}).fetchone():
        decisive = Decisive()
    jobs = [row for begin, end in decisive.hours for row in _jobs(connection, host, begin, end)]
    return pulls, [*jobs, *decisive.others]


def _jobs(connection: Any, host: str, begin: int, end: int) -> Any:
    if not connection.execute(_ANY_JOB, [host]).fetchone():
        return ()
    values = {"host": host, "from": begin * HOUR_NS, "until": min((end + 1) * HOUR_NS - 1, LAST_NS)}
    return connection.execute(_JOBS, values).fetchall()


def read_evidence(log: EventLog | None, now: float) -> Evidence:
    """What the log shows by now, up to the last full hour. Raises LogError.

    Args:
        log: the event log; None or not there: nothing.
        now: UTC seconds.
    """
    evidence = Evidence()
    if log is not None and log.exists():
        hour = int(now // 3600)
        since = hour - MEMORY_HOURS
        with log.reading(whole_since=ONLY_KEPT) as connection:
            evidence.add(hourly.waits(connection, log.host, since, hour - 1), ())
        # Of jobs it counts whether there are enough: where there are many, the last day shows it.
        for begin, end in ((hour - _DAY_HOURS, hour - 1), (since, hour - _DAY_HOURS - 1)):
            if not evidence.gitlab:
                with log.reading(whole_since=begin * 3600.0) as connection:
                    evidence.add((), _jobs(connection, log.host, begin, end))
    return evidence


def with_min_age(policy: Policy, log: EventLog | None, now: float) -> Policy:
    """The policy with seconds in place of ``auto``, and why so many. Raises LogError."""
    if policy.min_age is not None:
        return policy
    evidence = read_evidence(log, now)
    return replace(policy, min_age=evidence.age, min_age_evidence=str(evidence))
