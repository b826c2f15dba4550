"""Whose histories an open log holds, and which of them is meant."""

from __future__ import annotations

from pathlib import Path

import duckdb

from collector.eventlog.identity import key_named, not_there
from collector.eventlog.log import EventLog
from collector.model.errors import LogError


def hosts_of(connection: duckdb.DuckDBPyConnection, wanted: str | None, path: Path) -> list[str]:
    """The hosts of an open log, or the wanted one. Raises LogError if there is none."""
    return chosen(_hosts(connection), wanted if wanted is None else key_named(connection, wanted), path)


def chosen(hosts: list[str], wanted: str | None, path: Path) -> list[str]:
    """The wanted host of those that there are, or all of them. Raises LogError if there is none."""
    if not hosts:
        raise LogError(f"event log {path} holds no events yet: let the collector run for a while")
    if wanted is not None and wanted not in hosts:
        raise not_there(path, wanted, hosts)
    return hosts if wanted is None else [wanted]


def choose_host(connection: duckdb.DuckDBPyConnection, wanted: str | None, log: EventLog) -> str:
    """The host that the user means; None: the only one. Raises LogError."""
    # Listing all hosts means reading a whole column.
    wanted = wanted if wanted is None else key_named(connection, wanted)
    if wanted is not None and connection.execute("SELECT 1 FROM event WHERE host = ? LIMIT 1", [wanted]).fetchone():
        return wanted
    hosts = chosen(_hosts(connection), None, log.path)
    if wanted is None and len(hosts) == 1:
        return hosts[0]
    if wanted is None:
        raise LogError(f"event log {log.path} holds several hosts ({', '.join(hosts)}): choose one with --only-host")
    raise not_there(log.path, wanted, hosts)


def _hosts(connection: duckdb.DuckDBPyConnection) -> list[str]:
    first = connection.execute("SELECT host FROM event LIMIT 1").fetchone()
    # Most logs hold one host, as their statistics show: listing all hosts means reading a whole column.
    if first is None or not connection.execute("SELECT 1 FROM event WHERE host <> ? LIMIT 1", first).fetchone():
        return [str(host) for host in first or ()]
    return [str(row[0]) for row in connection.execute("SELECT DISTINCT host FROM event ORDER BY host").fetchall()]
