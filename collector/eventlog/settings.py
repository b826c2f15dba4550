"""Settings of a log that all who write to it must keep: they are stored in the log itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from collector.model.job_details import JobDetails
from collector.model.untrusted import read_object

if TYPE_CHECKING:
    import duckdb

_JOB_DETAILS = "job_details"
_REWRITTEN = "rewritten"
_NO_GAIN = "compacted_without_gain"
# Whoever has not looked for so many rewritings takes the file for another's.
_MOST_FILES = 50


def job_details(connection: duckdb.DuckDBPyConnection, wanted: JobDetails | None = None) -> JobDetails:
    """How much of jobs an open log keeps.

    Args:
        connection: the log; open for writing, in a transaction, if something is wanted.
        wanted: what it is to keep from now on; None: leave it as it is.
    """
    rows = connection.execute("SELECT value FROM setting WHERE name = ?", [_JOB_DETAILS]).fetchall()
    known = next((one for one in JobDetails if (one.value,) in rows), None)
    if wanted not in {None, known}:
        _set(connection, _JOB_DETAILS, str(wanted))
    # What cannot be read was set by a newer program: keep no more than it may have allowed.
    return wanted or known or (JobDetails.NONE if rows else JobDetails.ALL)


def note_rewriting(connection: duckdb.DuckDBPyConnection, file: tuple[int, int], seq: int) -> None:
    """Note in a rewritten log which file it goes on from.

    Args:
        connection: the new log, open for writing.
        file: device and inode of the old one.
        seq: up to which number events may be missing since.
    """
    files = [*_rewriting(connection).get("files", []), list(file)][-_MOST_FILES:]
    _set(connection, _REWRITTEN, json.dumps({"files": files, "seq": seq}))


def goes_on_from(connection: duckdb.DuckDBPyConnection, file: tuple[int, int]) -> bool:
    """Whether an open log was rewritten from a file, known by device and inode."""
    return list(file) in _rewriting(connection).get("files", [])


def incomplete_until(connection: duckdb.DuckDBPyConnection) -> int:
    """Up to which number events of an open log may be missing on purpose."""
    seq = _rewriting(connection).get("seq")
    return seq if isinstance(seq, int) else 0


def note_no_gain(connection: duckdb.DuckDBPyConnection, at_ns: int) -> None:
    """Note in a log, open for writing, that writing it again won nothing then, UTC nanoseconds."""
    _set(connection, _NO_GAIN, str(at_ns))


def no_gain_since(connection: duckdb.DuckDBPyConnection, now_ns: int) -> int | None:
    """How long ago it was last found that writing a log again wins nothing, nanoseconds; None: never."""
    sql = "SELECT TRY_CAST(value AS BIGINT) FROM setting WHERE name = ?"
    rows = connection.execute(sql, [_NO_GAIN]).fetchall()
    # A clock that has been set back says nothing.
    return now_ns - rows[0][0] if rows and rows[0][0] is not None and rows[0][0] <= now_ns else None


def _set(connection: duckdb.DuckDBPyConnection, name: str, value: str) -> None:
    connection.execute("DELETE FROM setting WHERE name = ?", [name])
    connection.execute("INSERT INTO setting VALUES (?, ?)", [name, value])


def _rewriting(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    rows = connection.execute("SELECT value FROM setting WHERE name = ?", [_REWRITTEN]).fetchall()
    found = read_object(rows[0][0]) if rows else None
    return found if found is not None and isinstance(found.get("files", []), list) else {}
