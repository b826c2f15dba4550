"""Event logs as Hive-partitioned Parquet, written and read: what a fleet shares.

The folder holds ``event/host=HOST/day=YYYY-MM-DD/*.parquet``, ``job/host=HOST/*.parquet`` and
``host/host=HOST/*.parquet``, which says whose history it is, so that two hosts of one name stay two. Of a log that was
compacted there is also ``TABLE/host=HOST/*.parquet`` for each table of what became of old events.
Image IDs stand in the events themselves, since each log numbers images its own way, and so does the
schema version, for logs of several versions meet in one folder.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import duckdb

from analyzer.trace.hosts import chosen, hosts_of
from collector.eventlog.database import AUTOLOAD_OFF
from collector.eventlog.identity import known_hosts
from collector.eventlog.log import EventLog
from collector.eventlog.migration import migrate
from collector.eventlog.schema import BASE, IDENTITY_VERSION, MIGRATIONS, SCHEMA_VERSION
from collector.eventlog.sql import sql_text
from collector.model.errors import LogError, LogFullError, UsageError
from collector.model.untrusted import whole
from collector.shipping.parts import EVENTS, JOBS, MANIFESTS

HOSTS = "host"
_HOST = "host="
_COPY_EVENTS = f"""
    COPY (
        SELECT event.* EXCLUDE (image) REPLACE ($name AS host), image_id, {SCHEMA_VERSION} AS schema_version,
            strftime(time, '%Y-%m-%d') AS day
        FROM event LEFT JOIN image USING (image) WHERE host = $host ORDER BY seq
    ) TO {{folder}} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (host, day), WRITE_PARTITION_COLUMNS true)
"""
_COPY_JOBS = """
    COPY (SELECT * REPLACE ($name AS host) FROM job WHERE host = $host ORDER BY job)
    TO {folder} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (host), WRITE_PARTITION_COLUMNS true)
"""
_COPY_HOSTS = _COPY_JOBS.replace("job", "host")
# What a compaction left of old events, with image IDs where there are images.
_COPY_BASE = """
    COPY (SELECT {columns} FROM {table} {join} WHERE host = $host) TO {{folder}}
    (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (host), WRITE_PARTITION_COLUMNS true)
"""
_WITHOUT_IMAGE = "base_experience"
_COPIES = {EVENTS: _COPY_EVENTS, JOBS: _COPY_JOBS, HOSTS: _COPY_HOSTS} | {
    table: _COPY_BASE.format(
        table=table,
        columns="* REPLACE ($name AS host)" if table == _WITHOUT_IMAGE else "* EXCLUDE (image) REPLACE ($name AS host)",
        join="" if table == _WITHOUT_IMAGE else "JOIN image USING (image)",
    )
    for table in BASE
}
# What each row of a table has for itself alone; the name of a table means all of its columns.
_KEYS = {EVENTS: "seq", JOBS: "job", HOSTS: "id"} | {table: table for table in BASE}
_ID_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """One host's share of an export."""

    host: str
    events: int
    days: int
    bytes: int


def export_parquet(log: EventLog, folder: Path, host: str | None = None) -> list[Exported]:
    """Write a log's hosts, or one of them, into a folder of Parquet.

    What the folder holds of a host is replaced as a whole, once the new files are written; other
    hosts' files stay.

    Raises:
        LogError: the log cannot be read, knows no such host, or holds no events.
        UsageError: the folder cannot be written to, or holds something else.
    """
    try:
        str(folder).encode()  # DuckDB stumbles over names that are not UTF-8
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--parquet: {folder} is a file: name a folder")
        if (folder / MANIFESTS).is_dir():
            raise UsageError(f"--parquet: `collector ship` writes to {folder}: name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as place:
            with log.reading(reachable=folder) as connection:
                hosts = hosts_of(connection, host, log.path)
                counts = [
                    _write(connection, name, folder, Path(place) / str(number)) for number, name in enumerate(hosts)
                ]
            for number in range(len(hosts)):
                _put_in_place(Path(place) / str(number), folder)
    except LogFullError:
        raise LogFullError(f"no space left in {folder} for the export: free some, or name another folder") from None
    except UnicodeEncodeError:
        raise UsageError(f"--parquet: {folder} is not UTF-8: name another folder") from None
    except OSError as error:
        raise UsageError(f"--parquet: {folder} cannot be written to: {error.strerror or error}") from None
    return counts


def _write(connection: duckdb.DuckDBPyConnection, host: str, folder: Path, place: Path) -> Exported:
    events = place / EVENTS
    place.mkdir()
    name = _free_name(connection, host, folder)
    for table, copy in _COPIES.items():
        connection.execute(copy.format(folder=sql_text(place / table)), {"host": host, "name": name})
    count = connection.execute("SELECT count(*) FROM event WHERE host = ?", [host]).fetchall()[0][0]
    size = sum(path.stat().st_size for path in place.rglob("*.parquet"))
    return Exported(name, int(count), len(list(events.glob("*/day=*"))), size)


def _free_name(connection: duckdb.DuckDBPyConnection, host: str, folder: Path) -> str:
    """What a host is called in a folder: by its key, unless another host is called so there already."""
    own = next((one for one in known_hosts(connection) if one.key == host), None)
    if own is None or not list((folder / HOSTS).glob(f"{_HOST}*/*.parquet")):
        return host
    # The log's own connection reaches the folder only by its literal name, which a pattern of files is not.
    with duckdb.connect() as reader:
        there = {one.key: one for one in known_hosts(reader, _scan([Path(_literal(str(folder / HOSTS))) / "*"], HOSTS))}
    distinct = f"{host} ({own.id[:_ID_SHOWN]})"
    namesake = there.get(host)
    if distinct in there or (namesake and namesake.id != own.id and namesake.identity.doubt(own.identity)):
        return distinct
    return host


def _put_in_place(new: Path, folder: Path) -> None:
    """Swap the new partitions for those of the same host."""
    for table in (EVENTS, JOBS, HOSTS):
        (folder / table).mkdir(exist_ok=True)
    for name in sorted(partition.name for partition in (new / EVENTS).glob(f"{_HOST}*")):
        for table in _COPIES:
            target, partition = folder / table / name, new / table / name
            if target.exists():
                target.rename(new / f"old-{table}")
            if partition.exists():
                target.parent.mkdir(exist_ok=True)
                partition.rename(target)
    shutil.rmtree(new)


def parquet_hosts(folder: Path, wanted: str | None = None) -> list[str]:
    """The hosts whose logs a folder holds, or the wanted one.

    Raises:
        LogError: the folder holds no exported log, or none of that host.
    """
    hosts = sorted({_host_of(path) for path in (folder / EVENTS).glob(f"{_HOST}*")})
    if not hosts:
        raise LogError(f"folder {folder} holds no exported log: write one with `analyzer export --parquet {folder}`")
    return chosen(hosts, wanted, folder)


class ParquetLog(EventLog):
    """One host's exported log, read as if it were the file: same tables, same views.

    Args:
        path: the folder of the export.
        host: whose log.
    """

    def __init__(self, path: Path, host: str) -> None:
        super().__init__(path, host)

    @contextmanager
    def reading(
        self,
        reachable: Path | None = None,  # noqa: ARG002 - it is in memory, and may reach all
        *,
        as_recorded: bool = False,  # noqa: ARG002 - it was exported with true times
        whole_since: float | None = None,  # noqa: ARG002 - and whole
        memory: str | None = None,  # noqa: ARG002 - what it takes it has already
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the log's tables and views, in memory.

        Raises:
            LogError: files are damaged, of a newer schema, or of several schemas.
        """
        try:
            with duckdb.connect(config={**AUTOLOAD_OFF}) as connection:
                _open(connection, self.path, self.host)
                yield connection
        except duckdb.Error as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            fault = f" cannot be read: {first_line}: export it again"
            raise LogError.about(self.host, f"exported log {self.path}", fault) from None


def _open(connection: duckdb.DuckDBPyConnection, folder: Path, host: str) -> None:
    """Make the log's tables in memory, as they were when exported, and bring them to this program's schema."""
    version = _version(connection, folder, host)
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO schema_version VALUES (?)", [version])
    for statements in MIGRATIONS[:version]:
        connection.execute(statements)
    stored = _stored(folder, EVENTS, host)
    connection.execute(
        "INSERT INTO image SELECT row_number() OVER (ORDER BY min(seq)) - 1, image_id"
        f" FROM {stored} WHERE image_id IS NOT NULL GROUP BY image_id"
    )
    connection.execute(
        "INSERT INTO event BY NAME SELECT e.* EXCLUDE (image_id, schema_version, day), image.image"
        f" FROM {stored} AS e LEFT JOIN image USING (image_id) ORDER BY seq"
    )
    if jobs := _stored(folder, JOBS, host):
        connection.execute(f"INSERT INTO job BY NAME FROM {jobs}")
    if version >= IDENTITY_VERSION and (hosts := _stored(folder, HOSTS, host)):
        connection.execute(f"INSERT INTO host BY NAME FROM {hosts}")
    for table in BASE:
        if rows := _stored(folder, table, host):
            join = "" if table == _WITHOUT_IMAGE else "JOIN image USING (image_id)"
            extra = "" if table == _WITHOUT_IMAGE else "EXCLUDE (image_id)"
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * {extra} FROM {rows} {join}")
    migrate(connection, folder)
    for table, key in _KEYS.items():
        if connection.execute(f"SELECT 1 FROM {table} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").fetchall():
            fault = f" in {folder} has rows of {table} twice: was a file copied? export it again"
            raise LogError.about(host, "the export", fault)


def _version(connection: duckdb.DuckDBPyConnection, folder: Path, host: str) -> int:
    """The schema version of a host's files. Raises LogError if it is newer than ours, or if there are several."""
    found = connection.execute(
        f"SELECT DISTINCT schema_version FROM {_stored(folder, EVENTS, host)} ORDER BY 1"
    ).fetchall()
    versions = [whole(row[0], 1, 10**9) for row in found]
    if len(versions) != 1 or versions[0] is None:
        listed = " and ".join(str(version or "unknown") for version in versions) or "none"
        fault = f" in {folder} mixes schema versions ({listed}): export it again"
        raise LogError.about(host, "the export", fault)
    if versions[0] > SCHEMA_VERSION:
        fault = f" in {folder} has schema version {versions[0]}, this program knows {SCHEMA_VERSION}: install the newer"
        raise LogError.about(host, "the export", f"{fault} docker-hindsight that wrote it")
    return versions[0]


def _stored(folder: Path, table: str, host: str) -> str:
    """A host's rows of a table, as SQL that can be selected from; empty if there are no files."""
    places = [path for path in (folder / table).glob(f"{_HOST}*") if _host_of(path) == host]
    if not any(path.match("*.parquet") for place in places for path in place.rglob("*")):
        return ""
    scan = _scan([Path(_literal(str(place))) for place in places], table)
    return f"(SELECT * REPLACE ({sql_text(host)} AS host) FROM {scan})"


def _host_of(place: Path) -> str:
    return unquote(place.name.removeprefix(_HOST))


def _scan(places: Sequence[Path], table: str) -> str:
    """The files below some folders of hosts; the names of these are patterns."""
    levels = "*/*.parquet" if table == EVENTS else "*.parquet"
    listed = ", ".join(sql_text(f"{place}/{levels}") for place in places)
    # The files hold the partitions' columns, too. Of a path DuckDB takes each `a=b` for a column, whoever named it.
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)"


def _literal(path: str) -> str:
    """A path as a glob that means itself alone."""
    return re.sub(r"([*?[])", r"[\1]", path)
