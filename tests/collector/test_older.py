"""A log of an older version on a file system that is read-only is read as if it had been brought to this version."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.repeated import sql_restored
from collector.eventlog.schema import MIGRATIONS
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from tests.collector.histories import KINDS, History
from tests.needs import cannot_run, first_fast

VIEWS = ("last_use", "image_uses", "jobs", "job_images", "present_images", "image_names", "uses", "disk", "gaps")

# They left in each event what it repeats of its job.
AS_BEFORE = f"""SELECT e.* REPLACE ({sql_restored("e", "j")} AS attributes)
    FROM new.event AS e LEFT JOIN new.job AS j ON j.job = e.job"""


def older(new: Path, place: Path, version: int) -> None:
    """The same log as an older version would have written it."""
    with duckdb.connect(str(place)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (?)", [version])
        for statements in MIGRATIONS[:version]:
            connection.execute(statements)
        connection.execute(f"ATTACH '{new}' AS new (READ_ONLY)")
        sql = "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = ? GROUP BY ALL"
        (database,) = connection.execute("SELECT current_database()").fetchall()[0]
        for table, columns in connection.execute(sql, [database]).fetchall():
            rows = f"FROM ({AS_BEFORE})" if table == "event" else f"FROM new.{table}"
            if table in {"event", "image", "job", "position", "host"}:
                connection.execute(f"INSERT INTO {table} BY NAME SELECT {', '.join(columns)} {rows}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        cannot_run("to mount a file system needs root")
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def asked(log: EventLog) -> dict[str, Any]:
    """What the views say of all events and of what decisions need."""
    found = {}
    for since in (None, ONLY_KEPT):
        with log.reading(whole_since=since) as connection:
            for view in VIEWS:
                rows = connection.execute(f"SELECT * EXCLUDE (host) FROM {view}").fetchall()
                found[f"{view} {since}"] = sorted(map(repr, rows))
    return found


@pytest.mark.parametrize("version", first_fast(12, 1, 2, 3, 6, 8, 9))
def test_an_older_log_is_read_where_nothing_can_be_written(tmp_path: Path, folder: Path, version: int) -> None:
    history = History()
    for turn in range(40):
        history.take(KINDS[turn % (len(KINDS) - 1)], turn % 4, turn % 3, 600)
    new = EventLog(tmp_path / "new.duckdb")
    new.append(history.events)
    path = folder / "events.duckdb"
    older(new.path, path, version)
    whole = EventLog(Path(shutil.copy(path, tmp_path / "copy.duckdb")))
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    log = EventLog(path)
    found = asked(log)
    assert found == asked(whole)
    assert found["last_use None"]
    assert found["jobs None"]
    assert log.schema_version() == version
    assert sorted(one.name for one in folder.iterdir()) == [path.name]
    with log.reading() as connection, pytest.raises(duckdb.Error, match="disabled"):
        connection.execute("SELECT * FROM read_csv('/etc/passwd')")
    with pytest.raises(LogError, match=r"is read-only: make it writable$"):
        log.append([Event(history.now, Kind.COLLECTOR_STOPPED)])


def test_a_file_without_a_log_s_tables_is_no_older_log(folder: Path) -> None:
    path = folder / "events.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE schema_version AS SELECT 9 AS version")
        connection.execute("CREATE VIEW event AS SELECT 1 AS seq")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(LogError):
        EventLog(path).query("SELECT count(*) FROM event")
