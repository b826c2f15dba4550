"""Brings a log's tables and views to this program's version, and checks that they are what they should be."""

from __future__ import annotations

from pathlib import Path

import duckdb

from collector.eventlog.rows import attribute_old_events
from collector.eventlog.schema import COLUMNS, JOBS_VERSION, MIGRATIONS, SCHEMA_VERSION, TABLES
from collector.eventlog.view_definitions import FINGERPRINT, VIEWS
from collector.model.errors import LogError
from collector.model.untrusted import whole

_LAST_VERSION = 10**9


def migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring an open log to this program's schema version and views, in one transaction.

    Raises:
        LogError: the log is of a newer version, or a DuckDB file with other tables.
    """
    version = version_of(connection, path)
    if version > SCHEMA_VERSION:
        raise newer(path, version)
    if version == SCHEMA_VERSION and fingerprint_of(connection) == FINGERPRINT:
        return
    if version == 0 and connection.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
        raise LogError(f"{path} is a DuckDB file of something else: name another with --log")
    connection.begin()
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    upgrade(connection, version)
    connection.execute(VIEWS)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?, ?)", [SCHEMA_VERSION, FINGERPRINT])
    connection.commit()


def upgrade(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring the tables of an open log from a schema version to this program's; not its views, which files hold."""
    for statements in MIGRATIONS[version:]:
        connection.execute(statements)
    if 0 < version < JOBS_VERSION:
        attribute_old_events(connection)


def check_tables(connection: duckdb.DuckDBPyConnection, path: Path, database: str | None = None) -> None:
    """Check that a log of this schema version holds its own tables, not views or tables that only look like them.

    Args:
        connection: the connection on which it is open.
        path: its file.
        database: its name there; None: the connection's own database.
    """
    of_tables = "FROM duckdb_tables() WHERE database_name = coalesce($1, current_database()) AND schema_name = 'main'"
    found = {name for (name,) in connection.execute(f"SELECT table_name {of_tables}", [database]).fetchall()}
    if not found >= TABLES:
        missing = ", ".join(sorted(TABLES - found))
        raise LogError(f"{path} is not an event log (no table {missing}): name another with --log")
    sql = (
        "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()"
        " WHERE database_name = coalesce($1, current_database()) AND schema_name = 'main'"
    )
    if other := COLUMNS.difference(connection.execute(sql, [database]).fetchall()):
        table, column, *_ = min(other)
        raise LogError(f"{path} is not an event log (column {column} of table {table}): name another with --log")


def version_of(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The schema version of an open log; 0: it has none. Raises LogError where it is not a log's."""
    found = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchall()
    if not found:
        return 0
    version = whole(connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0], 1, _LAST_VERSION)
    if version is None:
        raise LogError(f"{path} is not an event log (no schema version): name another with --log")
    return version


def fingerprint_of(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Which views a log of this schema version holds; None: not known."""
    found = connection.execute("SELECT max(views) FROM schema_version").fetchall()[0][0]
    return None if found is None else str(found)


def newer(path: Path, version: int) -> LogError:
    """The error for a log that a newer program wrote."""
    return LogError(
        f"event log {path} has schema version {version}, this program knows {SCHEMA_VERSION}: "
        "install the newer docker-hindsight that wrote it"
    )
