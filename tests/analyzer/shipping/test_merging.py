"""Many parts become one: what is merged is read exactly once, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import pytest

from analyzer.trace.load import load_trace
from collector.eventlog.log import EventLog
from collector.eventlog.schema import SCHEMA_VERSION
from collector.shipping import merge, parts
from collector.shipping.parts import Manifest
from collector.shipping.ship import ship
from collector.shipping.store import Folder, StoreError
from tests.analyzer.shipping.shipped import Dying, days, merged, part, rows, shipped
from tests.analyzer.test_fleet import assert_same
from tests.needs import first_fast


@pytest.mark.slow
@pytest.mark.parametrize("writes", first_fast(2, 0, 1, 3))
def test_many_parts_are_merged_and_an_interruption_anywhere_is_gone_on_from(
    log: EventLog, store: Folder, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 6)
    for first in (5, 7):
        ship(log, store)
        log.append(days(first, 2, "same"))
    with pytest.raises(StoreError):
        ship(log, Dying(store.path, writes))
    assert merged(store) == (["1-28"] if writes == 3 else [])
    assert len(rows(shipped(store))) == 28
    ship(log, store)
    log.append(days(3, 6, "late"))  # days that were shipped already
    ship(log, store)
    log.append(days(9, 1))
    ship(log, store)
    assert len(merged(store)) == 2
    read = shipped(store)
    assert rows(read) == rows(log)
    assert read.notes == []
    assert_same(load_trace(read, "runner"), load_trace(log))
    jobs = "SELECT job, job_id, began, containers FROM jobs ORDER BY job"
    assert read.query(jobs) == log.query(jobs)
    before = sorted(store.names(""))
    ship(log, store)
    assert sorted(store.names("")) == before
    # Merged parts are merged in the same way.
    monkeypatch.setattr(merge, "LEAST_MERGED", 2)
    with pytest.raises(StoreError):
        ship(log, Dying(store.path, min(writes, 2)))
    assert (rows(shipped(store)), len(merged(store))) == (rows(log), 2)
    ship(log, store)
    (wide,) = parts.widest(parts.listed(store.names("manifest")))
    assert wide.last == max(one.last for one in parts.listed(store.names("manifest")) if one.is_merged)
    assert rows(shipped(store)) == rows(log)
    assert shipped(store).query(jobs) == log.query(jobs)


@pytest.mark.slow
def test_merged_parts_become_one_whose_removal_of_the_others_is_gone_on_from(
    log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship_merging_twice(log, store, monkeypatch)
    ship(log, store)
    assert merged(store) == ["1-20", "1-28", "1-36", "21-28", "29-36"]  # one merged counts as one of the next
    (wide,) = parts.widest(parts.listed(store.names("manifest")))
    manifest = Manifest.from_bytes(store.read(wide.manifest("runner")) or b"")
    assert (manifest.first, manifest.last, manifest.rows, len(manifest.days)) == (1, 36, 36, 9)
    assert manifest.until_ns is not None
    assert manifest.until_ns > manifest.shipped_ns
    listed_before = store.names("manifest/host=runner")
    read = shipped(store)
    for removals in (1, 4):
        (found,) = ship(log, Dying(store.path, removals), remove_merged_after_s=0)
        assert (found.events, len(found.notes)) == (0, 1)
        assert (rows(read), read.notes) == (rows(log), [])
    ship(log, store, remove_merged_after_s=0)
    assert merged(store) == ["1-36"]
    assert len(store.names("")) == 4
    stale = iter([listed_before])
    monkeypatch.setattr(read, "_store", Folder(store.path))
    monkeypatch.setattr(read._store, "names", lambda prefix: next(stale, None) or store.names(prefix))
    assert (rows(read), read.notes) == (rows(log), [])


def test_parts_of_another_schema_a_damaged_one_and_a_gap_are_not_merged_across(
    log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 99)
    for first in range(5, 12):
        ship(log, store)
        log.append(days(first, 1))
    ship(log, store)
    names = [one for one in parts.listed(store.names("manifest")) if one.last > 20]
    for one in names[:3]:
        manifest = Manifest.from_bytes(store.read(one.manifest("runner")) or b"")
        store.write(one.manifest("runner"), replace(manifest, schema_version=SCHEMA_VERSION - 1).to_bytes())
    (store.path / names[4].events("runner")).write_bytes(b"damaged")
    monkeypatch.setattr(merge, "LEAST", 2)
    ship(log, store)
    assert merged(store) == ["1-20", "21-32", "41-48"]
    monkeypatch.setattr(merge, "LEAST_MERGED", 2)
    ship(log, store)
    assert merged(store) == ["1-20", "21-32", "41-48"]
    read = shipped(store)
    assert [row[0] for row in rows(read)] == [row[0] for row in rows(log) if not 37 <= row[0] <= 40]


def test_merged_events_are_in_order_whatever_days_they_are_of(
    log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 2)
    # Numbers of one batch by day: the first day has some in the middle, the second some after it, the third the rest.
    for day in (3, 1, 2, 3, 0):
        log.append(days(day, 1, f"late{day}"))
    ship(log, store)
    ship(log, store)
    (whole,) = [one for one in parts.listed(store.names("manifest")) if one.is_merged]
    file = str(store.path / whole.events("runner"))
    found = duckdb.execute("SELECT starts_with(kind, 'container_'), seq FROM read_parquet(?)", [file]).fetchall()
    # Few questions are about containers, of which most events are: the others are found in one place.
    assert found == sorted(found)
    assert {is_of_container for is_of_container, _ in found} == {False, True}
    assert sorted(seq for _, seq in found) == [row[0] for row in rows(log)]
    assert len(found) > 20
    assert rows(shipped(store)) == rows(log)


def ship_merging_twice(log: EventLog, store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship three times, so that two merged parts are merged again."""
    monkeypatch.setattr(merge, "LEAST", 2)
    monkeypatch.setattr(merge, "LEAST_MERGED", 2)
    for first in (5, 7):
        ship(log, store)
        log.append(days(first, 2))
    ship(log, store)


@pytest.mark.slow
@pytest.mark.parametrize("removals", first_fast(6, 0, 9, 14))
def test_parts_are_removed_once_merged_and_an_interruption_anywhere_is_gone_on_from(
    log: EventLog, store: Folder, removals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 4)
    ship(log, store)
    listed_before = store.names("manifest/host=runner")
    ship(log, store, remove_merged_after_s=3600)
    assert len(store.names("manifest/host=runner")) == len(listed_before) + 1  # some may read them still
    (interrupted,) = ship(log, Dying(store.path, removals), remove_merged_after_s=0)
    assert len(interrupted.notes) == 1
    assert interrupted.notes[0].endswith("is no longer needed and cannot be removed: gone")
    reader = shipped(store)
    assert (rows(reader), reader.notes) == (rows(log), [])
    log.append(days(5, 1))
    (found,) = ship(log, store, remove_merged_after_s=0)
    assert (found.events, found.notes) == (4, [])
    kept = store.names("")
    assert len([name for name in kept if name.startswith(("event", "job", "merged"))]) == 4
    assert (rows(reader), reader.notes) == (rows(log), [])
    assert reader.query("SELECT count(*) FROM jobs") == [(6,)]
    # Who listed before the parts were merged and lost lists again.
    stale = iter([listed_before])
    monkeypatch.setattr(reader, "_store", Folder(store.path))
    monkeypatch.setattr(reader._store, "names", lambda prefix: next(stale, None) or store.names(prefix))
    assert (rows(reader), reader.notes) == (rows(log), [])
    # A merged part that is damaged replaces nothing.
    log.append(days(6, 5))
    for _ in range(2):
        ship(log, store)
    newest = max(one for one in parts.listed(store.names("manifest")) if one.is_merged)
    (store.path / newest.events("runner")).write_bytes(b"damaged")
    ship(log, store, remove_merged_after_s=0)
    assert rows(shipped(store)) == rows(log)


@pytest.mark.parametrize("harm", first_fast("events", "jobs", "manifest", "a day"))
def test_where_a_merged_part_is_damaged_its_days_count(
    log: EventLog, store: Folder, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 4)
    ship(log, store)
    day = part(store, "2023-11-16")
    if harm == "a day":
        (store.path / day.events("runner")).write_bytes(b"")
    ship(log, store)
    if harm == "a day":
        assert merged(store) == []
        return
    (whole,) = [one for one in parts.listed(store.names("manifest")) if one.is_merged]
    (store.path / getattr(whole, harm)("runner")).write_bytes(b"{}")
    read = shipped(store)
    assert rows(read) == rows(log)
    assert len(read.notes) == 1
    assert "merged" in read.notes[0]
    assert "the parts that it holds are read instead" in read.notes[0]


@pytest.mark.parametrize("harm", first_fast("events", "jobs", "manifest"))
def test_where_a_part_merged_twice_is_damaged_the_merged_ones_in_it_count(
    log: EventLog, store: Folder, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship_merging_twice(log, store, monkeypatch)
    assert merged(store) == ["1-20", "1-28", "21-28"]
    (wide,) = parts.widest(parts.listed(store.names("manifest")))
    (store.path / getattr(wide, harm)("runner")).write_bytes(b"{}")
    for one in parts.listed(store.names("manifest")):
        if not one.is_merged and wide.covers(one):
            (store.path / one.events("runner")).unlink()
    read = shipped(store)
    assert rows(read) == rows(log)
    assert len(read.notes) == 1
    assert "1-000000000028-merged.json set aside" in read.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["manifest", "events"])
def test_what_cannot_be_read_there_keeps_nothing_new_from_being_shipped(
    log: EventLog, store: Folder, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "LEAST", 4)
    ship(log, store)
    for day in ("2023-11-15", "2023-11-18"):
        place = store.path / getattr(part(store, day), which)("runner")
        place.unlink()
        place.symlink_to("/dev/null")
    log.append(days(5, 1))
    (found,) = ship(log, store, remove_merged_after_s=0)
    assert found.events >= 4
    assert {row[2] for row in rows(log)[-4:]} <= {row[2] for row in rows(shipped(store))}
