"""Reads a log of an older version that may not be brought to this one: on a read-only file system, or of another user.

What has to change changes in memory; all else stays where it is and is only shown under its name.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from collector.eventlog.database import limits, lock, refuse_special
from collector.eventlog.migration import upgrade, version_of
from collector.eventlog.schema import JOBS_VERSION, MIGRATIONS, TABLES
from collector.eventlog.sql import sql_text

_CHANGES = re.compile(r"(?:ALTER TABLE|INSERT INTO|UPDATE|DELETE FROM) (\w+)")


def open_older(
    path: Path, *, reachable: Path | None = None, parallel: bool = False, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a log for reading as one of this version; see `collector.eventlog.database.open_database`.

    Raises:
        LogError: it is not an event log.
        duckdb.Error: it cannot be opened.
    """
    refuse_special(path)
    config = {**limits(parallel=parallel, memory=memory), "temp_directory": ""}
    connection = duckdb.connect(":memory:", config=config)
    try:
        connection.execute(f"ATTACH {sql_text(path)} AS older (READ_ONLY)")
        _bring_forward(connection, path)
        lock(connection, reachable)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_forward(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Give an empty database this version's tables, with what the older log holds."""
    sql = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'older' AND schema_name = 'main'"
    found = {name for (name,) in connection.execute(sql).fetchall()}
    connection.execute("CREATE TABLE schema_version AS FROM older.schema_version")
    version = version_of(connection, path)
    changed = set(_CHANGES.findall("".join(MIGRATIONS[version:])))
    for name in sorted(found & TABLES):
        kind = "TABLE" if name in changed or version < JOBS_VERSION else "VIEW"
        connection.execute(f"CREATE {kind} {name} AS FROM older.{name}")
    upgrade(connection, version)
