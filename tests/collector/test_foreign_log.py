"""A log from elsewhere, or one that is not whole, is data: it runs nothing, and is refused or replaced."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from collector.eventlog.log import EventLog
from collector.eventlog.schema import COLUMNS
from collector.model.errors import LogError, LogFullError
from collector.model.events import Event, Kind
from tests.collector.test_log import IMAGE, log  # noqa: F401 - a fixture


def test_a_newer_log_is_refused_and_untouched(log: EventLog) -> None:  # noqa: F811
    log.append([Event(1, Kind.GAP)])
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
    before = log.path.read_bytes()
    for use in (lambda: log.append([Event(2, Kind.GAP)]), lambda: log.query("SELECT 1")):
        with pytest.raises(LogError, match="schema version 999, this program knows"):
            use()
    assert log.path.read_bytes() == before


def test_a_file_of_something_else_is_refused_and_untouched(log: EventLog) -> None:  # noqa: F811
    log.path.parent.mkdir()
    log.path.write_text("name,size\n" * 1000)
    with pytest.raises(LogError, match="is not a DuckDB file"):
        log.append([Event(2, Kind.GAP)])
    assert log.path.read_text() == "name,size\n" * 1000
    log.path.unlink()
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("CREATE TABLE mine (a INTEGER)")
    with pytest.raises(LogError, match="is a DuckDB file of something else"):
        log.append([Event(2, Kind.GAP)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("DELETE FROM schema_version", "no schema version"),
        ("UPDATE schema_version SET version = -1", "no schema version"),
        ("ALTER TABLE event ALTER COLUMN kind TYPE BLOB", "column kind of table event"),
        ("ALTER TABLE event ALTER COLUMN time DROP NOT NULL", "column time of table event"),
        ("ALTER TABLE job DROP COLUMN name", "column name of table job"),
        ("DROP TABLE setting", "no table setting"),
    ],
)
def test_a_file_whose_tables_are_others_is_not_a_log(log: EventLog, change: str, wrong: str) -> None:  # noqa: F811
    log.append([Event(1, Kind.IMAGE_TAGGED, image=IMAGE, reference="a:1")])
    with duckdb.connect(str(log.path)) as connection:
        assert (
            COLUMNS.intersection(
                connection.execute(
                    "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()"
                ).fetchall()
            )
            == COLUMNS
        )
        connection.execute(change)
    for use in (lambda: log.query("FROM events"), lambda: log.append([Event(2, Kind.IMAGE_TAGGED)])):
        with pytest.raises(LogError, match=f"is not an event log .{wrong}"):
            use()


@pytest.mark.parametrize("trick", ["event", "last_use"])
def test_a_log_from_elsewhere_is_data_and_runs_no_code(log: EventLog, tmp_path: Path, trick: str) -> None:  # noqa: F811
    secret = tmp_path / "secret"
    secret.write_text("not to be shown")
    log.append([Event(1, Kind.IMAGE_TAGGED, image=IMAGE, reference="a:1")])
    with duckdb.connect(str(log.path)) as connection:
        if trick == "event":
            connection.execute("ALTER TABLE event RENAME TO moved")
            connection.execute(
                "CREATE OR REPLACE VIEW event AS SELECT * REPLACE (content AS reference)"
                f" FROM moved, read_text('{secret}')"
            )
        else:
            connection.execute(
                f"CREATE OR REPLACE VIEW last_use AS SELECT content AS evidence FROM read_text('{secret}')"
            )
    if trick == "event":
        for sql in ("SELECT reference FROM event", "FROM last_use"):
            with pytest.raises(LogError, match="is not an event log"):
                log.query(sql)
    else:
        assert log.query("SELECT evidence FROM last_use") == [("tagged",)]
    for sql in (
        f"FROM read_text('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'written'}'",
        "LOAD httpfs",
        "SET threads = 1",
    ):
        with pytest.raises(LogError):
            log.query(sql)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("where", ["PRAGMA force_checkpoint", "PRAGMA disable_checkpoint_on_shutdown"])
def test_functions_of_a_log_from_elsewhere_are_refused(log: EventLog, where: str) -> None:  # noqa: F811
    log.append([Event(1, Kind.GAP)])
    assert log.query("SELECT epoch_ns(time) FROM event") == [(1,)]
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(where)
        connection.execute("CREATE MACRO epoch_ns(x) AS 5")
    with pytest.raises(LogError, match="defines functions of its own"):
        EventLog(log.path, host="runner-1").query("SELECT 1")


@pytest.mark.parametrize("size", [0, 100, 4096, 8192])
def test_what_a_full_disk_left_of_a_log_is_replaced(log: EventLog, size: int) -> None:  # noqa: F811
    log.append([Event(1, Kind.GAP)])
    stub = log.path.read_bytes()[:size]
    log.path.write_bytes(stub)
    assert log.append([Event(2, Kind.GAP)]) == 1
    assert log.query("SELECT epoch_ns(time) FROM event") == [(2,)]
    assert [path.name for path in log.path.parent.iterdir()] == [log.path.name]


def test_a_log_is_made_whole_or_not_at_all(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def full(*_: object) -> None:
        raise duckdb.IOException("Could not write file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("collector.eventlog.file.migrate", full)
        with pytest.raises(LogFullError):
            log.append([Event(1, Kind.GAP)])
        assert list(log.path.parent.iterdir()) == []
    assert log.append([Event(1, Kind.GAP)]) == 1
