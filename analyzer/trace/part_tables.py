"""The log's tables made of shipped parts, or parts that stand where they are in place of tables."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

import duckdb

from collector.eventlog import identity
from collector.eventlog.migration import upgrade
from collector.eventlog.schema import MIGRATIONS, STORED_KEY, TABLES_VERSION
from collector.eventlog.sql import sql_text
from collector.model.events import Kind
from collector.shipping import parts
from collector.shipping.parts import Manifest, Name

# More files than that are opened once and copied, rather than opened by each query.
_MOST_IN_PLACE = 48


@dataclass(frozen=True, slots=True)
class Part:
    """A part that counts, and where its files are on this machine."""

    name: Name
    manifest: Manifest
    events: str
    jobs: str | None


def fill(connection: duckdb.DuckDBPyConnection, found: list[Part], host: str, *, may_stay: bool) -> bool:
    """Make the log's tables as they were when each part was written, and bring them to this program's schema.

    Returns:
        Whether all times are known to be true as they were recorded.
    """
    in_place = may_stay and _can_stay(found)
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    reached = 0
    for _, parts_of_stream in groupby(found, key=lambda part: part.name.stream):
        of_stream = list(parts_of_stream)
        offsets = _offsets(connection) if reached else (0, 0)
        for version, rows in groupby(of_stream, key=lambda part: part.manifest.schema_version):
            for statements in MIGRATIONS[reached:version]:
                connection.execute(statements)
            reached = max(reached, version)
            if not in_place:
                _insert_events(connection, list(rows), host, offsets)
        if not in_place:
            _insert_jobs(connection, of_stream, host, offsets)
    connection.execute("INSERT INTO schema_version (version) VALUES (?)", [reached])
    upgrade(connection, reached)
    if in_place:
        _show_in_place(connection, found, host)
    known = found[-1].manifest.host
    connection.execute("DELETE FROM host")
    identity.store(connection, identity.KnownHost(host, known.id, known.identity))
    return in_place and _are_true(connection, found)


def _can_stay(found: list[Part]) -> bool:
    """Whether parts are as tables would be: all of one log, in order, and of columns that are still the same."""
    return (
        len(found) <= _MOST_IN_PLACE
        and len({part.name.stream for part in found}) == 1
        and all(one.manifest.last < other.manifest.first for one, other in pairwise(found))
        and all(part.manifest.schema_version >= TABLES_VERSION for part in found)
    )


def _show_in_place(connection: duckdb.DuckDBPyConnection, found: list[Part], host: str) -> None:
    """Let parts of one log take the place of the tables of events and jobs."""
    name = sql_text(host)
    events = _scan([part.events for part in found])
    _insert_images(connection, events)
    # Each query that names events binds this again, so there is nothing in it to be expanded.
    stored = {"key": f"key & {STORED_KEY}", "host": name}
    columns = connection.execute("DESCRIBE event").fetchall()
    listed = ", ".join(f"CAST({stored.get(column, column)} AS {kind}) AS {column}" for column, kind, *_ in columns)
    rows = f"SELECT {listed} FROM {events} LEFT JOIN image USING (image_id) WHERE {{where}}"
    connection.execute(f"INSERT INTO event {rows.format(where=parts.OF_OTHERS)}")
    connection.execute("ALTER TABLE event RENAME TO few_events")
    connection.execute(f"CREATE VIEW event AS FROM few_events UNION ALL {rows.format(where=parts.OF_CONTAINERS)}")
    if files := [part.jobs for part in found if part.jobs is not None]:
        scan = _scan(files, alike=len({part.manifest.schema_version for part in found}) == 1)
        _show_jobs(connection, scan, name, has_several=len(files) > 1)


def _show_jobs(connection: duckdb.DuckDBPyConnection, scan: str, host: str, *, has_several: bool) -> None:
    """Let the newest row of each job take the place of the table of jobs."""
    newest = ""
    if has_several:
        # Few jobs have several rows: leaving older ones out is faster for each query than finding the newest of all.
        connection.execute(
            f"CREATE TABLE old_job AS WITH found AS MATERIALIZED (SELECT job, file_index FROM {scan})"
            " SELECT job, file_index FROM found JOIN (SELECT job, max(file_index) AS newest FROM found GROUP BY job"
            " HAVING count(*) > 1) USING (job) WHERE file_index < newest"
        )
        newest = " ANTI JOIN old_job USING (job, file_index)"
    connection.execute(f"DROP TABLE job; CREATE VIEW job AS SELECT * REPLACE ({host} AS host) FROM {scan}{newest}")


def _are_true(connection: duckdb.DuckDBPyConnection, found: list[Part]) -> bool:
    """Whether no time of parts that are shown in place needs `collector.eventlog.views.true_times`.

    What that looks through all events for is here known from the parts' statistics.
    """
    latest = connection.execute(f"SELECT epoch_ns(max(time)) FROM {_scan([part.events for part in found])}").fetchone()
    corrected = connection.execute("SELECT 1 FROM few_events WHERE kind = ? LIMIT 1", [Kind.CLOCK_SET_BACK]).fetchone()
    return corrected is None and (latest is None or latest[0] is None or latest[0] <= time.time_ns())


def _offsets(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """From which numbers on events and jobs of the next stream are counted."""
    (row,) = connection.execute(
        "SELECT (SELECT coalesce(max(seq), 0) FROM event), (SELECT coalesce(max(job) + 1, 0) FROM job)"
    ).fetchall()
    return int(row[0]), int(row[1])


def _insert_events(
    connection: duckdb.DuckDBPyConnection,
    found: list[Part],
    host: str,
    offsets: tuple[int, int],
) -> None:
    """Insert the events of parts of one schema version, whatever host they name."""
    columns = _columns_of_events(connection)
    # Read twice rather than kept in between: image IDs alone are read in no time.
    scan = _scan([part.events for part in found])
    _insert_images(connection, scan)
    # A new log may repeat what was shipped of the one before it.
    new = f" WHERE NOT EXISTS (FROM event WHERE (event.time, event.key) = (e.time, e.key) AND seq <= {offsets[0]})"
    in_order = all(one.manifest.last < other.manifest.first for one, other in pairwise(found))
    in_order = in_order and not any(one.name.is_merged for one in found)
    job = f", job + {offsets[1]} AS job" if "job" in columns else ""
    rest = f"{new if offsets[0] else ''}{'' if in_order else ' ORDER BY seq'}"
    connection.execute(
        f"INSERT INTO event BY NAME SELECT e.* EXCLUDE (image_id) REPLACE (seq + {offsets[0]} AS seq{job}),"
        f" $host AS host, image.image FROM ({_stored(columns, scan)}) AS e LEFT JOIN image USING (image_id){rest}",
        {"host": host},
    )


def _columns_of_events(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Those that parts have, too, in the same form."""
    return [name for name, *_ in connection.execute("DESCRIBE event").fetchall() if name not in {"host", "image"}]


def _stored(columns: Iterable[str], scan: str) -> str:
    """SQL of events as they are stored today; image IDs stand in place of numbers."""
    return f"SELECT {', '.join(columns)}, image_id FROM (SELECT * REPLACE (key & {STORED_KEY} AS key) FROM {scan})"


def _insert_images(connection: duckdb.DuckDBPyConnection, scan: str) -> None:
    """Number the images of some events that have no number yet."""
    connection.execute(
        "INSERT INTO image SELECT row_number() OVER (ORDER BY image_id) + (SELECT coalesce(max(image), -1) FROM image),"
        f" image_id FROM (SELECT DISTINCT image_id FROM {scan})"
        " WHERE image_id IS NOT NULL AND image_id NOT IN (SELECT image_id FROM image)"
    )


def _insert_jobs(connection: duckdb.DuckDBPyConnection, found: list[Part], host: str, offsets: tuple[int, int]) -> None:
    if jobs := _newest_jobs(found, offsets[1]):
        connection.execute(f"INSERT INTO job BY NAME {jobs}", {"host": host})


def _newest_jobs(found: list[Part], offset: int) -> str:
    """SQL of the newest row of each job: parts are in the order in which they were shipped; empty: there are none."""
    files = [part.jobs for part in found if part.jobs is not None]
    if not files:
        return ""
    scan = _scan(files, alike=len({part.manifest.schema_version for part in found}) == 1)
    newest = (
        f" SEMI JOIN (SELECT job, max(file_index) AS file_index FROM {scan} GROUP BY job) AS newest"
        " USING (job, file_index)"
    )
    shown = f"SELECT * REPLACE (job + {offset} AS job, $host AS host) FROM {scan}"
    return f"{shown}{newest if len(files) > 1 else ''}"


def _scan(files: list[str], *, alike: bool = True) -> str:
    """SQL of files; where they have the same columns, none is opened twice."""
    listed = ", ".join(map(sql_text, files))
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = {not alike})"
