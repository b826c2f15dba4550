"""Jobs with their images, times and pulls, from the log."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.jobs import HELPER_ROLES
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

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def jobs(log: EventLog, project: str | None = None, limit: int = 50) -> list[JobRow]:
    """The latest jobs, the newest first. Raises LogError.

    Args:
        log: the log.
        project: only those of this project (its path or ID).
        limit: how many at most.
    """
    with log.reading() as connection:
        rows = connection.execute(_JOBS, {"host": log.host, "project": project, "limit": limit}).fetchall()
        pulls = read_pulls(connection, log.host)
    paid: dict[int, list[Pull]] = {}
    for pull in pulls:
        if pull.job is not None and pull.kind is not PullKind.UP_TO_DATE:
            paid.setdefault(pull.job, []).append(pull)
    return [_row(values, paid.get(number, [])) for number, *values in rows]


def _row(values: list[Any], paid: list[Pull]) -> JobRow:
    again = [pull.bytes for pull in paid if pull.kind is PullKind.AGAIN]
    return replace(
        JobRow(*values),
        pulls=len(paid),
        pulled_bytes=sum(pull.bytes for pull in paid),
        repulls=len(again),
        repulled_bytes=sum(again),
    )


_JOBS = f"""
WITH chosen AS (
    SELECT * FROM jobs
    WHERE host = $host AND ($project IS NULL OR project_id = $project OR project = $project)
    ORDER BY began DESC NULLS LAST, job DESC LIMIT $limit
), used AS (
    SELECT job, list(DISTINCT coalesce(reference, image_id) ORDER BY coalesce(reference, image_id)) AS images
    FROM job_images SEMI JOIN chosen USING (job)
    WHERE coalesce(reference, image_id) IS NOT NULL AND host = $host
        AND (role IS NULL OR role NOT IN ({sql_list(sorted(HELPER_ROLES))}))
    GROUP BY job
)
SELECT job, ci, job_id, name, project_id, project, ref, pipeline_id, url, runner, epoch_ns(began) / 1e9,
    epoch_ns(ended) / 1e9, coalesce(seconds, (epoch_ns(ended) - epoch_ns(began)) / 1e9), outcome, containers,
    coalesce(used.images, [])
FROM chosen LEFT JOIN used USING (job) ORDER BY began DESC NULLS LAST, job DESC
"""
