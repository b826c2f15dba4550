"""Which pulls and jobs failed, as job sources report it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.model.units import format_count, format_time

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Failures:
    """What failed within some time.

    Attributes:
        pulls: pulls that failed, for whatever reason, and images that a failed job asked for and that never came.
        pulls_on_full_disk: those of them of which a full disk was the reason.
        jobs_on_full_disk: jobs that failed because a disk was full, in a pull or later.
        latest: when a job or pull last failed on a full disk, UTC seconds; None: none did.
        reference: the image that the latest of these pulls was for; None: not known.
    """

    pulls: int = 0
    pulls_on_full_disk: int = 0
    jobs_on_full_disk: int = 0
    latest: float | None = None
    reference: str | None = None

    def __str__(self) -> str:
        """In one line; empty where nothing failed on a full disk."""
        if self.latest is None:
            return ""
        jobs = format_count(self.jobs_on_full_disk, "job")
        pulls = format_count(self.pulls_on_full_disk, "failed pull")
        image = f" ({self.reference})" if self.reference else ""
        return f"{jobs} failed on a full disk, {pulls} among the causes, the latest {format_time(self.latest)}{image}"


def read_failures(connection: duckdb.DuckDBPyConnection, host: str, since: float = 0.0) -> Failures:
    """What failed on a host from a time on, UTC seconds."""
    return Failures(*connection.execute(_FAILURES, {"host": host, "since": int(since * 1e9)}).fetchall()[0])


def failed_pulls_by_job(connection: duckdb.DuckDBPyConnection, host: str) -> list[tuple[int | None, int | None]]:
    """The log's numbers of job and image of each failed pull."""
    rows = connection.execute("SELECT job, image FROM failed_pulls WHERE host = ?", [host]).fetchall()
    return [(job, image) for job, image in rows]


_FAILURES = """
WITH pull AS (
    SELECT * FROM failed_pulls WHERE host = $host AND epoch_ns(time) >= $since
), full_disk AS (
    SELECT job, time, reference FROM pull WHERE disk_full
    UNION ALL
    SELECT job, time, NULL FROM event
    WHERE host = $host AND kind = 'job_finished' AND attributes ->> '$.disk_full' = 'true' AND epoch_ns(time) >= $since
)
SELECT (SELECT count(*) FROM pull), (SELECT count(*) FROM pull WHERE disk_full),
    count(DISTINCT job), epoch_ns(max(time)) / 1e9, arg_max(reference, time) FILTER (reference IS NOT NULL)
FROM full_disk
"""
