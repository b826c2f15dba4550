"""What does not fit is set aside with a line, and the rest counts: damaged parts, clones and namesakes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analyzer.search.each import on_each
from analyzer.search.fleet import Simulation
from analyzer.trace.load import load_trace
from analyzer.trace.shipped import shipped_hosts
from analyzer.trace.sources import find
from collector.eventlog import identity
from collector.eventlog.log import EventLog
from collector.model.errors import LogError
from collector.shipping.ship import ship
from collector.shipping.store import MOST_OF_MANIFEST, Folder
from pruner.policy.policy import Policy
from tests.analyzer.command import analyzer
from tests.analyzer.shipping.shipped import days, part, rows, shipped
from tests.analyzer.test_fleet import assert_same


def test_a_damaged_part_is_set_aside_with_a_line_and_the_rest_counts(log: EventLog, store: Folder) -> None:
    ship(log, store)
    torn, gone, unread = (part(store, f"2023-11-{day}") for day in (15, 16, 17))
    events = store.path / torn.events("runner")
    events.write_bytes(events.read_bytes()[:-10])
    (store.path / gone.events("runner")).unlink()
    (store.path / unread.manifest("runner")).write_text("{}")
    (store.path / part(store, "2023-11-18").jobs("runner")).write_bytes(b"")
    read = shipped(store)
    assert len(rows(read)) == 8
    assert sorted(read.notes) == [
        f"{part(store, '2023-11-18').jobs('runner')} is damaged or not there: its jobs are unknown",
        f"{torn.manifest('runner')} set aside: its events are damaged or not there",
        f"{gone.manifest('runner')} set aside: its events are damaged or not there",
        f"{unread.manifest('runner')} set aside: the manifest is of another version of docker-hindsight",
    ]
    said = analyzer("simulate", "--log", str(store.path), "--baseline", "none", "--threshold", "10%")
    assert said.returncode == 0
    assert f"{gone.manifest('runner')} set aside: its events are damaged" in said.stdout + said.stderr


def test_what_else_lies_in_the_folder_ends_nothing(log: EventLog, store: Folder) -> None:
    ship(log, store)
    manifests = store.path / "manifest"
    for name in ("lost+found", "host=", "host=runner/aaaaaaaa.1-000000000001-000000000009-2023-01-01.json"):
        (manifests / name).mkdir()
    (manifests / "README").write_text("the fleet")
    link = "manifest/host=runner/bbbbbbbb.1-000000000001-000000000009-2023-01-01.json"
    (store.path / link).symlink_to("/etc/hostname")
    events = part(store, "2023-11-15").events("runner")
    (store.path / events).unlink()
    (store.path / events).mkdir()
    assert shipped_hosts(store) == ["runner"]
    read = shipped(store)
    assert len(rows(read)) == 16
    assert [note.partition(" cannot be read: ")[2] for note in read.notes if str(store.path) in note] == [
        "it is not a regular file: remove it",
        "it is a link, and links are not followed there: remove it",
    ]
    assert f"{link} set aside: the manifest is damaged" in read.notes


def test_a_manifest_without_end_is_read_to_a_limit(log: EventLog, store: Folder) -> None:
    ship(log, store)
    first = part(store, "2023-11-15")
    whole = (store.path / first.manifest("runner")).read_bytes()
    (store.path / first.manifest("runner")).write_bytes(whole + b" " * MOST_OF_MANIFEST)
    assert store.read(first.manifest("runner"), 3) == whole[:3]
    read = shipped(store)
    assert rows(read)
    assert [note for note in read.notes if "set aside" in note] == []  # blanks at its end change nothing
    (store.path / first.manifest("runner")).write_bytes(b" " * MOST_OF_MANIFEST + whole)
    read = shipped(store)
    assert rows(read)
    assert [note for note in read.notes if note.startswith(f"{first.manifest('runner')} set aside: ")] != []


def test_nothing_that_can_be_read_is_one_line(log: EventLog, store: Folder) -> None:
    ship(log, store)
    for path in (store.path / "event").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(LogError, match="holds no part of host 'runner' that can be read"):
        rows(shipped(store))
    (store.path / "empty" / "manifest").mkdir(parents=True)
    with pytest.raises(LogError, match="holds no shipped log: write one with `collector ship"):
        find([store.path / "empty"])


@pytest.mark.slow
def test_namesakes_and_adopted_clones_stay_two_hosts(
    log: EventLog, store: Folder, tmp_path: Path, become: Callable[..., None]
) -> None:
    log.claim(identity.this_machine())
    ship(log, store)
    become("runner", "m2")
    namesake = EventLog(tmp_path / "other.duckdb")
    namesake.append(days(0, 1))
    namesake.claim(identity.this_machine())
    ship(namesake, store)
    copied = EventLog(tmp_path / "copied.duckdb")
    copied.path.write_bytes(log.path.read_bytes())
    with pytest.raises(LogError, match="is that of host 'runner' on another machine: ship it from there"):
        ship(EventLog(copied.path), store)
    copied.adopt(identity.this_machine())
    ship(EventLog(copied.path), store)
    names = shipped_hosts(store)
    assert names[0] == "runner"
    assert len(names) == 3
    assert sorted(len(rows(shipped(store, name))) for name in names) == [4, 20, 21]


@pytest.mark.slow
def test_a_clone_that_nothing_keeps_apart_is_set_aside(log: EventLog, store: Folder, tmp_path: Path) -> None:
    log.claim(identity.this_machine())
    ship(log, store)
    clone = EventLog(tmp_path / "clone.duckdb")
    clone.path.write_bytes(log.path.read_bytes())
    for number in (5, 6):
        log.append(days(number, 1))
        clone.append(days(number, 1, "clone")[:2])
        ship(log, store)
        ship(clone, store)
    read = shipped(store)
    assert {row[1:] for row in rows(read)} == {row[1:] for row in rows(log)}
    assert "set aside: two machines ship as this host; on the clone run `collector adopt`" in read.notes[0]


def test_a_host_s_folders_under_another_name_are_a_copy_as_long_as_its_own_are_there(
    log: EventLog, store: Folder
) -> None:
    ship(log, store)
    for place in store.path.glob("*/host=runner"):
        shutil.copytree(place, place.with_name("host=copy"))
    found, notes = on_each(find([store.path]), Simulation((Policy(),)), workers=1)
    assert [one.host for one in found] == ["runner"]
    assert notes == [
        f"host copy is left out: 'host=copy' is a copy of host 'runner' in {store.path}: remove */host=copy there"
    ]
    for place in store.path.glob("*/host=runner"):
        shutil.rmtree(place)
    assert len(rows(shipped(store, "copy"))) == len(rows(log))


@pytest.mark.slow
def test_a_part_that_another_machine_put_there_is_set_aside(
    log: EventLog, store: Folder, tmp_path: Path, become: Callable[..., None]
) -> None:
    log.claim(identity.this_machine())
    ship(log, store)
    become("runner", "m2")
    foreign = EventLog(tmp_path / "foreign.duckdb")
    foreign.append(days(0, 1))
    foreign.claim(identity.this_machine())
    elsewhere = Folder(tmp_path / "elsewhere")
    ship(foreign, elsewhere)
    for name in elsewhere.names(""):
        if not name.endswith("owner.json"):
            store.write(name, elsewhere.read(name) or b"")
    read = shipped(store)
    assert {row[1:] for row in rows(read)} == {row[1:] for row in rows(log)}
    assert read.notes[0].endswith("set aside: it is of another machine with the same name, or of a clone")


def test_a_folder_that_was_given_another_name_is_that_host(log: EventLog, store: Folder) -> None:
    ship(log, store)
    for table in ("event", "job", "manifest"):
        (store.path / table / "host=runner").rename(store.path / table / "host=other")
    (source,) = find([store.path])
    assert_same(replace(source.load(), host="runner"), load_trace(log))
