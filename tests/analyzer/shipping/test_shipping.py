"""Logs that come together: what is shipped is read exactly once, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analyzer.trace.load import load_trace
from analyzer.trace.parquet import export_parquet
from analyzer.trace.shipped import ShippedLog, shipped_hosts
from analyzer.trace.sources import find
from collector.eventlog import identity
from collector.eventlog.log import EventLog
from collector.eventlog.schema import SCHEMA_VERSION
from collector.model.errors import HindsightError, UsageError
from collector.model.events import Event, Kind
from collector.shipping.parts import Manifest, Name
from collector.shipping.ship import ship
from collector.shipping.store import Folder, StoreError
from tests.analyzer.shipping.shipped import ALL, COLLECTOR, DAY, Dying, days, rows, shipped
from tests.analyzer.test_fleet import assert_same
from tests.analyzer.test_loading import T0, S
from tests.needs import first_fast
from tests.waiting import wait_for


@pytest.mark.slow
def test_what_is_new_is_shipped_by_day_and_read_as_the_log(log: EventLog, store: Folder) -> None:
    (first,) = ship(log, store)
    assert (first.host, first.events, first.parts, first.notes) == ("runner", 20, 5, [])
    log.append(days(4, 1, "late"))  # a day that was shipped already
    log.append(days(5, 2))
    (second,) = ship(log, store)
    assert (second.events, second.parts, second.last) == (10, 3, 30)
    (third,) = ship(log, store)
    assert (third.events, third.parts) == (0, 0)
    assert rows(shipped(store)) == rows(log)
    assert_same(load_trace(shipped(store), "runner"), load_trace(log))
    jobs = "SELECT job, job_id, began, containers FROM jobs ORDER BY job"
    assert shipped(store).query(jobs) == log.query(jobs)
    assert identity.known_hosts(duckdb.connect(str(log.path), read_only=True)) == [
        replace(one, identity=replace(one.identity)) for one in _hosts(shipped(store))
    ]


def test_what_is_removed_while_it_is_read_is_read_again(
    log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(log, store)
    (source,) = find([store.path])
    expected = source.load()
    assert_same(expected, replace(load_trace(log), host=expected.host))
    shown = ShippedLog._prepared

    def remove_first(self: ShippedLog, *given: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        if self.in_place:
            path = min(store.path.glob("event/*/*/*.parquet"))
            path.rename(path.with_suffix(".aside"))
        return shown(self, *given, **options)

    monkeypatch.setattr(ShippedLog, "_prepared", remove_first)
    again = source.load()
    assert again.demands == expected.demands - 1
    assert any("not there" in note for note in again.assumptions)


def _hosts(log: EventLog) -> list[identity.KnownHost]:
    with log.reading() as connection:
        return identity.known_hosts(connection)


def test_each_part_has_a_manifest_that_says_what_it_is(log: EventLog, store: Folder) -> None:
    ship(log, store)
    (name, *others) = [Name.parsed(path) for path in store.names("manifest") if not path.endswith("owner.json")]
    assert name is not None
    assert len(others) == 4
    first = Manifest.from_bytes(store.read(name.manifest("runner")) or b"")
    assert (first.schema_version, first.host.key, first.host.identity.machine) == (
        SCHEMA_VERSION,
        "runner",
        "m1",
    )
    assert (first.first, first.last, first.rows, name.day) == (1, 4, 4, "2023-11-14")
    # Other tools read the parts by host and day.
    found = duckdb.execute(
        "SELECT host, day::VARCHAR, count(*) FROM read_parquet(?, hive_partitioning = true) GROUP BY ALL ORDER BY ALL",
        [str(store.path / "event/*/*/*.parquet")],
    ).fetchall()
    assert found[0] == ("runner", "2023-11-14", 4)
    assert sum(count for _, _, count in found) == 20


@pytest.mark.parametrize("writes", first_fast(9, 0, 4, 11, 13, 15))
def test_an_interruption_anywhere_is_gone_on_from_and_nothing_is_read_twice(
    log: EventLog, store: Folder, writes: int
) -> None:
    with pytest.raises(StoreError) if writes < 15 else pytest.MonkeyPatch.context():
        ship(log, Dying(store.path, writes))
    seen = rows(shipped(store)) if writes > 10 else []
    assert set(seen) <= set(rows(log))
    assert len(seen) == 4 * max(0, writes - 10)
    log.append(days(5, 1))  # meanwhile the log has grown
    ship(log, store)
    assert rows(shipped(store)) == rows(log)
    raw = duckdb.execute("SELECT count(*), count(DISTINCT seq) FROM read_parquet(?)", [str(store.path / "event/*/*/*")])
    assert raw.fetchall() == [(24, 24)]
    assert shipped(store).query("SELECT count(*) FROM jobs") == [(6,)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", first_fast(3, 1, 7))
def test_the_size_of_a_batch_changes_nothing(log: EventLog, store: Folder, batch: int) -> None:
    ship(log, store, batch=batch)
    assert rows(shipped(store)) == rows(log)
    assert shipped(store).query("SELECT count(*) FROM jobs") == [(5,)]


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_goes_on_from(tmp_path: Path, store: Folder) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    log.append(days(0, 60))
    argv = [str(COLLECTOR), "ship", str(store.path), "--log", str(log.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        wait_for(lambda: len(store.names("event")) > 10, "some parts")
        process.send_signal(signal.SIGKILL)
    subprocess.run(argv, check=True, capture_output=True)
    assert rows(shipped(store, log.host)) == rows(log)


@pytest.mark.slow
def test_a_log_that_was_begun_again_goes_on_and_each_event_counts_once(
    log: EventLog, store: Folder, tmp_path: Path
) -> None:
    log.claim(identity.this_machine())
    ship(log, store)
    log.path.unlink()
    renewed = EventLog(tmp_path / "events.duckdb")
    renewed.append(days(4, 3))  # the last of these days had been shipped already
    renewed.claim(identity.this_machine())
    ship(renewed, store)
    assert shipped_hosts(store) == ["runner"]
    read = shipped(store)
    assert len(rows(read)) == len({row[1:3] for row in rows(read)}) == 28
    assert [row[0] for row in rows(read)] == sorted(row[0] for row in rows(read))
    assert read.notes == []


@pytest.mark.slow
def test_a_log_whose_end_was_lost_is_shipped_again_with_a_note(log: EventLog, store: Folder, tmp_path: Path) -> None:
    before = tmp_path / "copy.duckdb"
    before.write_bytes(log.path.read_bytes())
    log.append(days(5, 1))
    ship(log, store)
    log.path.write_bytes(before.read_bytes())
    log.append(days(6, 1))
    (again,) = ship(log, store)
    assert "does not continue where the last part ended" in again.notes[0]
    assert ship(log, store)[0].events == 0
    read = shipped(store)
    assert len(rows(read)) == 28
    assert {row[1:] for row in rows(log)} < {row[1:] for row in rows(read)}


@pytest.mark.slow
def test_a_new_log_takes_over_though_the_clock_was_set_back(
    log: EventLog, store: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.shipping.ship.time.time_ns", lambda: T0 + 400 * DAY * S)
    ship(log, store)
    monkeypatch.setattr("collector.shipping.ship.time.time_ns", lambda: T0 + 9 * DAY * S)
    fresh = EventLog(tmp_path / "fresh.duckdb")
    for first in (5, 6):
        fresh.append(days(first, 1))
        ship(fresh, store)
    read = shipped(store)
    assert (len(rows(read)), read.notes) == (28, [])


def test_one_thread_reads_many_hosts_with_a_few_engines(
    log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.trace.kept_database._HOSTS", 2)
    ship(log, store)
    expected = rows(log)
    for _ in range(3):
        assert rows(shipped(store)) == expected
    with shipped(store).reading(as_recorded=True) as connection:
        for _ in range(3):
            assert rows(shipped(store)) == expected
        assert connection.execute(ALL).fetchall() == expected
    assert rows(shipped(store)) == expected


@pytest.mark.slow
def test_times_are_corrected_as_in_the_log_whenever_the_clock_was_set_back(log: EventLog, store: Folder) -> None:
    ship(log, store)
    # The same thread read of a host without that before.
    assert rows(shipped(store)) == rows(log)
    back = T0 + 2 * DAY * S
    log.append([Event(back, Kind.CLOCK_SET_BACK, attributes={"seconds": 1.0})])
    ship(log, store)
    times = "SELECT seq, epoch_ns(time) FROM events ORDER BY seq"
    found = shipped(store)
    for found.in_place in (False, True):
        assert found.query(times) == log.query(times)
    assert log.query(times) != [row[:2] for row in rows(log)]


def test_two_do_not_ship_one_log_at_once_and_an_export_stays_out(log: EventLog, store: Folder) -> None:
    ship(log, store)
    with pytest.raises(UsageError, match="`collector ship` writes to"):
        export_parquet(log, store.path)

    class Nested(Folder):
        def write(self, name: str, data: bytes) -> None:
            super().write(name, data)
            ship(log, store)

    log.append(days(5, 1))
    with pytest.raises(HindsightError, match="is being shipped by another process: wait for it to end"):
        ship(log, Nested(store.path))
