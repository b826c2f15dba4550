"""Settings of a log that all who write to it must keep: they are stored in the log itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collector.model.job_details import JobDetails

if TYPE_CHECKING:
    import duckdb

_JOB_DETAILS = "job_details"


def job_details(connection: duckdb.DuckDBPyConnection, wanted: JobDetails | None = None) -> JobDetails:
    """How much of jobs an open log keeps.

    Args:
        connection: the log; open for writing, in a transaction, if something is wanted.
        wanted: what it is to keep from now on; None: leave it as it is.
    """
    rows = connection.execute("SELECT value FROM setting WHERE name = ?", [_JOB_DETAILS]).fetchall()
    known = next((one for one in JobDetails if (one.value,) in rows), None)
    if wanted not in {None, known}:
        connection.execute("DELETE FROM setting WHERE name = ?", [_JOB_DETAILS])
        connection.execute("INSERT INTO setting VALUES (?, ?)", [_JOB_DETAILS, str(wanted)])
    # What cannot be read was set by a newer program: keep no more than it may have allowed.
    return wanted or known or (JobDetails.NONE if rows else JobDetails.ALL)
