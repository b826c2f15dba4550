"""Jobs with their images, times and pulls, from the log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import CHOSEN_BY_JOB
from collector.eventlog.views import table_of_events
from collector.model.untrusted import LAST_NS
from collector.queries.pulls import Pull, PullKind, read_pulls


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job. Times are UTC seconds, sizes bytes.

    Attributes:
        images: what its build and service containers, or what it says of itself, name.
        pulls: how many images were pulled for it that were not there, and `pulled_bytes` of them.
        repulls: how many of these had been there before, and `repulled_bytes` of them.
    """

    ci: str
    job_id: str | None
    name: str | None
    project_id: str | None
    project: str | None
    ref: str | None
    pipeline_id: str | None
    url: str | None
    runner: str | None
    began: float | None
    ended: float | None
    seconds: float | None
    outcome: str | None
    containers: int
    images: list[str]
    pulls: int = 0
    pulled_bytes: int = 0
    repulls: int = 0
    repulled_bytes: int = 0


def jobs(log: EventLog, project: str | None = None, limit: int = 50) -> list[JobRow]:
    """The latest jobs, the newest first. Raises LogError.

    Args:
        log: the log.
        project: only those of this project (its path or ID).
        limit: how many at most.
    """
    asked = {"host": log.host, "project": project, "limit": limit}
    with log.one_state():
        # Jobs are numbered as they are first heard of: as many as are asked for have begun since the first of the last.
        with log.reading(whole_since=ONLY_KEPT) as connection:
            sql = _FIRST.format(events=table_of_events(connection))
            (first,) = connection.execute(sql, asked).fetchall()[0]
        for before in _OVERLAPS_S:
            since = None if before is None else ONLY_KEPT if first is None else first - before
            rows, pulls, is_whole = _read(log, asked, since)
            if is_whole:
                break
    paid: dict[int, list[Pull]] = {}
    for pull in pulls:
        if pull.job is not None and pull.kind is not PullKind.UP_TO_DATE:
            paid.setdefault(pull.job, []).append(pull)
    return [_row(values, paid.get(number, [])) for number, *values in rows]


def _read(log: EventLog, asked: dict[str, Any], since: float | None) -> tuple[list[tuple[Any, ...]], list[Pull], bool]:
    """The jobs, all pulls, and whether the events since a time (UTC seconds; None: all) show all of these jobs."""
    with log.reading(whole_since=since) as connection:
        rows = connection.execute(_JOBS, asked).fetchall()
        pulls = read_pulls(connection, log.host)
        if since is None or not rows:
            return rows, pulls, True
        events = table_of_events(connection)
        values = [log.host, [row[0] for row in rows], int(min(max(since * 1e9, 0), LAST_NS))]
        return rows, pulls, not connection.execute(_BEFORE.format(events=events), values).fetchall()


def _row(values: list[Any], paid: list[Pull]) -> JobRow:
    again = [pull.bytes for pull in paid if pull.kind is PullKind.AGAIN]
    return replace(
        JobRow(*values),
        pulls=len(paid),
        pulled_bytes=sum(pull.bytes for pull in paid),
        repulls=len(again),
        repulled_bytes=sum(again),
    )


# So much before the first of them is read at first; for a job that had begun before, more, and in the end all.
_OVERLAPS_S = (6 * 3600.0, 2 * 86400.0, None)
# When the first of the last jobs began, UTC seconds; NULL where there is none.
_FIRST = """
WITH last AS (
    SELECT job FROM job WHERE host = $host AND ($project IS NULL OR project_id = $project OR project = $project)
    ORDER BY job DESC LIMIT $limit
)
SELECT epoch_ns(least(min(time), min(began))) / 1e9
FROM {events} SEMI JOIN last USING (job) WHERE host = $host AND job >= (SELECT min(job) FROM last)
"""
_BEFORE = """
SELECT 1 FROM {events} WHERE host = $1 AND job IN (SELECT unnest($2::INTEGER[])) AND time < make_timestamp_ns($3)
LIMIT 1
"""
_JOBS = f"""
WITH chosen AS (
    SELECT * FROM jobs
    WHERE host = $host AND ($project IS NULL OR project_id = $project OR project = $project) AND began IS NOT NULL
        -- Most jobs of a long log have no event among the latest.
        AND job IN (SELECT job FROM event WHERE job IS NOT NULL)
    ORDER BY began DESC NULLS LAST, job DESC LIMIT $limit
), used AS (
    SELECT job, list(DISTINCT coalesce(reference, image_id) ORDER BY coalesce(reference, image_id)) AS images
    FROM job_images SEMI JOIN chosen USING (job)
    WHERE coalesce(reference, image_id) IS NOT NULL AND host = $host
        AND {CHOSEN_BY_JOB}
    GROUP BY job
)
SELECT job, ci, job_id, name, project_id, project, ref, pipeline_id, url, runner, epoch_ns(began) / 1e9,
    epoch_ns(ended) / 1e9, coalesce(seconds, (epoch_ns(ended) - epoch_ns(began)) / 1e9), outcome, containers,
    coalesce(used.images, [])
FROM chosen LEFT JOIN used USING (job) ORDER BY began DESC NULLS LAST, job DESC
"""
