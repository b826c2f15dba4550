"""Logs that come together: what is shipped is read exactly once, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from obstore.exceptions import BaseError

from analyzer.search.each import on_each
from analyzer.search.fleet import Simulation
from analyzer.trace.load import load_trace
from analyzer.trace.parquet import export_parquet
from analyzer.trace.shipped import ShippedLog, shipped_hosts
from analyzer.trace.sources import find
from analyzer.trace.trace import Trace
from collector.eventlog import identity
from collector.eventlog.log import EventLog
from collector.eventlog.schema import SCHEMA_VERSION
from collector.model.errors import HindsightError, LogError, UsageError
from collector.model.events import Event, Kind
from collector.shipping import merge, parts
from collector.shipping.bucket import Bucket
from collector.shipping.parts import Manifest, Name
from collector.shipping.ship import ship
from collector.shipping.store import MOST_OF_MANIFEST, Folder, StoreError, open_store
from pruner.policy.policy import Policy
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import assert_same
from tests.analyzer.test_loading import T0, S, observed, sample
from tests.needs import cannot_run, first_fast
from tests.object_store import KEY, SECRET, ObjectStore
from tests.waiting import wait_for

DAY = 86400
ALL = (
    "SELECT seq, epoch_ns(time), key, kind, image_id, attributes FROM event LEFT JOIN image USING (image) ORDER BY seq"
)
JOBS = "SELECT * FROM job ORDER BY job"
COLLECTOR = Path(sys.executable).with_name("collector")


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this host another: its name, its machine."""

    def other(name: str, machine: str | None = "m1") -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        monkeypatch.setattr(identity, "_machine_ids", lambda: (machine, None))

    other("runner")
    return other


def days(first: int, count: int, tag: str = "c") -> list[Event]:
    """So many days with a job each, from a day on."""
    found: list[Event] = []
    for day in range(first, first + count):
        at = T0 + day * DAY * S
        labels = {"com.gitlab.gitlab-runner.job.id": str(day), "com.gitlab.gitlab-runner.managed": "true"}
        made = Event(at, Kind.CONTAINER_CREATED, image="a", container=f"{tag}{day}", attributes={"labels": labels})
        found += [made, replace(made, time_ns=at + S, kind=Kind.CONTAINER_DIED), sample(day * DAY + 2, free=70)]
        found.append(observed(day * DAY + 3, "a"))
    return found


@pytest.fixture
def log(tmp_path: Path, become: Callable[..., None]) -> EventLog:  # noqa: ARG001 - first of all
    made = EventLog(tmp_path / "events.duckdb")
    made.append(days(0, 5))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "fleet")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    made = ObjectStore(tmp_path_factory.mktemp("s3"))
    yield made
    made.kill()


def rows(log: EventLog) -> list[tuple[Any, ...]]:
    found, jobs = log.query(ALL, as_recorded=True), log.query(JOBS)
    if isinstance(log, ShippedLog):
        log.in_place = True
        assert log.query(ALL, as_recorded=True) == found
        assert log.query(JOBS) == jobs
        log.in_place = False
    return found


def shipped(store: Any, host: str = "runner") -> ShippedLog:
    return ShippedLog(store, host)


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


class Dying(Folder):
    """A folder that can be written to so many times only."""

    def __init__(self, path: Path, writes: int) -> None:
        super().__init__(path)
        self.left = writes

    def write(self, name: str, data: bytes) -> None:
        if self.left == 0:
            raise StoreError("gone")
        self.left -= 1
        super().write(name, data)

    def remove(self, name: str) -> None:
        if self.left == 0:
            raise StoreError("gone")
        self.left -= 1
        super().remove(name)


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


def merged(store: Folder) -> list[str]:
    return [f"{one.first}-{one.last}" for one in parts.listed(store.names("manifest")) if one.is_merged]


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
    assert interrupted.notes[0].endswith("counts no longer and cannot be removed: gone")
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
def test_through_a_real_object_store_that_is_killed_in_between(
    log: EventLog, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    url = "s3://fleet/killed"
    store = open_store(url)
    monkeypatch.setattr("collector.shipping.bucket._RETRIES", {"max_retries": 0})
    write, count = open_store(url), 0

    class Killing:
        name = url

        def __getattr__(self, called: str) -> Any:
            return getattr(write, called)

        def write(self, name: str, data: bytes) -> None:
            nonlocal count
            count += 1
            if count == 12:
                s3.kill()
            write.write(name, data)

    with pytest.raises(StoreError, match="the server of s3://fleet/killed does not answer"):
        ship(log, Killing())
    s3.start()
    assert len(rows(shipped(store))) == 4
    ship(log, store)
    assert ship(log, store)[0].events == 0
    assert rows(shipped(store)) == rows(log)
    assert shipped_hosts(store) == ["runner"]
    there = analyzer("simulate", "--log", url, "--baseline", "none", "--threshold", "10%", "--format", "json")
    here = analyzer("simulate", "--log", str(log.path), "--baseline", "none", "--threshold", "10%", "--format", "json")
    assert there.stderr == here.stderr == ""
    assert there.stdout == here.stdout
    monkeypatch.setattr(merge, "LEAST", 4)
    for _ in range(2):
        ship(log, store, remove_merged_after_s=0)
    assert [name for name in store.names("") if name.startswith(("event", "job"))] == []
    assert rows(shipped(store)) == rows(log)
    store.remove("not/there")
    verified = analyzer("verify", "--log", url)
    assert verified.stderr == f"analyzer: event log {url} holds no prune of host runner\n"


@pytest.mark.slow
def test_a_full_object_store_is_reported_in_one_line_and_gone_on_from(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], check=True)
    monkeypatch.setattr("collector.shipping.bucket._RETRIES", {"max_retries": 0})
    try:
        s3 = ObjectStore(disk)
        try:
            for name, value in s3.environment.items():
                monkeypatch.setenv(name, value)
            store = open_store("s3://fleet")
            with pytest.raises(StoreError, match="for example because its disk is full"):
                ship(log, store)
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            ship(log, store)
            assert rows(shipped(store)) == rows(log)
        finally:
            s3.kill()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_folder_is_reported_in_one_line_and_gone_on_from(log: EventLog, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    store = Folder(tmp_path / "disk")
    store.path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", store.path], check=True)
    try:
        with pytest.raises(StoreError, match=r"no space left in .*: free some; the next run continues from here"):
            ship(log, store)
        subprocess.run(["mount", "-o", "remount,size=4m", store.path], check=True)
        ship(log, store)
        assert rows(shipped(store)) == rows(log)
        assert list((store.path / ".incoming").iterdir()) == []
    finally:
        subprocess.run(["umount", store.path], check=True)


@pytest.mark.slow
def test_credentials_come_from_a_file_and_are_never_reported(
    log: EventLog, s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "ship.env"
    file.write_text("# the store\n" + "".join(f'{name}="{value}"\n' for name, value in s3.environment.items()))
    argv = [str(COLLECTOR), "ship", "s3://fleet/file", "--log", str(log.path), "--credentials", str(file)]

    def said(status: int) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env={**os.environ, "RUST_LOG": "debug"}
        )
        assert done.returncode == status, done
        assert SECRET not in done.stdout + done.stderr
        assert "wrong-secret" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    # This process poses as another machine; a new one is itself.
    assert "is that of host 'runner' on another machine: ship it from there" in said(1)
    argv[4] = str(tmp_path / "own.duckdb")
    EventLog(Path(argv[4]), host="own").append(days(0, 1))
    assert "own: 4 new events in 1 part (" in said(0)
    file.write_text(file.read_text().replace(SECRET, "wrong-secret"))
    assert "refuses access (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID" in said(1)
    file.write_text(file.read_text().replace(KEY, "unknown-key-0001"))
    assert "refuses access (InvalidAccessKeyId)" in said(1)
    file.write_text("AWS_SECRET_ACCESS_KEY: wrong-secret\n")
    assert said(2) == f"collector: --credentials: line 1 of {file} is not AWS_NAME=VALUE\n"
    for address in ("nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://a b/"):
        file.write_text(f"AWS_ENDPOINT_URL={address}\n")
        assert said(2) == "collector: AWS_ENDPOINT_URL is not a URL such as https://s3.example.org\n"
    argv[4] = str(tmp_path / "missing.duckdb")
    file.write_text("".join(f"{name}={value}\n" for name, value in s3.environment.items()))
    assert "no event log at" in said(1)
    assert not list(tmp_path.glob("missing*"))


NO_KEYS = "needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("Error performing PUT http://169.254.169.254/latest/api/token in 1ms - 403 Forbidden", NO_KEYS),
        ("Error performing PUT http://169.254.169.254/latest/api/token - error sending request", NO_KEYS),
        ("after 6 retries - Server returned non-2xx status code: 503 Unavailable: <html>", "503: try again later$"),
        ("Server returned non-2xx status code: 418 I'm a teapot: <html>", "418: is it an S3-compatible store"),
        ("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", r"refuses access \(SignatureDoesNotMatch\)"),
        ("Received redirect without LOCATION, this normally indicates", "in another region: set AWS_REGION$"),
        ("status code: 400 Bad Request: <Code>AuthorizationHeaderMalformed</Code>", "region: set AWS_REGION$"),
    ],
)
def test_what_a_server_answers_is_one_line_with_advice(monkeypatch: pytest.MonkeyPatch, error: str, line: str) -> None:
    store = Bucket("s3://fleet", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    def fail(*_: object, **__: object) -> None:
        raise BaseError(error)

    monkeypatch.setattr("obstore.get", fail)
    with pytest.raises(StoreError, match=line):
        store.read("a")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "aws_secret_access_key", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_what_cannot_be_sent_is_named_without_its_value(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name.upper()} holds a line break or another control character"):
        Bucket("s3://fleet", {name: "sec\nret"})
    with pytest.raises(UsageError, match=r'^s3://fleet: .*"\.\.\."') as failed:
        Bucket("s3://fleet", {"aws_skip_signature": SECRET})
    assert SECRET not in str(failed.value)
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL is not a URL such as"):
        Bucket("s3://fleet", {"AWS_ENDPOINT_URL": ""})


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("", "where to ship to is empty: name a folder"),
        ("gs://bucket/a", r"gs:// is not supported: name a folder or s3://"),
        ("s3://", "'s3://' is not s3://BUCKET/PREFIX"),
        (f"s3://{KEY}:{SECRET}@fleet/a", r"^s3:// with credentials in it: set AWS_ACCESS_KEY_ID and [A-Z_]+ instead$"),
        ("s3://UPPER/a", "'s3://UPPER/a' is not s3://BUCKET/PREFIX"),
        ("s3:/bucket/a", "neither a folder of this machine nor s3://BUCKET/PREFIX"),
        ("store:/srv/fleet", r"neither a folder of this machine .*: './store:/srv/fleet'"),
    ],
)
def test_bad_places_are_reported(place: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        open_store(place)


def part(store: Folder, day: str) -> Name:
    found = [name for path in store.names("manifest") if (name := Name.parsed(path)) and name.day == day]
    return found[0]


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


@pytest.mark.slow
def test_times_are_corrected_as_in_the_log_whenever_the_clock_was_set_back(log: EventLog, store: Folder) -> None:
    ship(log, store)
    back = T0 + 2 * DAY * S
    log.append([Event(back, Kind.CLOCK_SET_BACK, attributes={"seconds": 1.0})])
    ship(log, store)
    times = "SELECT seq, epoch_ns(time) FROM events ORDER BY seq"
    found = shipped(store)
    for found.in_place in (False, True):
        assert found.query(times) == log.query(times)
    assert log.query(times) != [row[:2] for row in rows(log)]


def test_a_folder_that_was_given_another_name_is_that_host(log: EventLog, store: Folder) -> None:
    ship(log, store)
    for table in ("event", "job", "manifest"):
        (store.path / table / "host=runner").rename(store.path / table / "host=other")
    (source,) = find([store.path])
    assert_same(replace(source.load(), host="runner"), load_trace(log))


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


@pytest.mark.slow
def test_any_name_of_a_host_survives(tmp_path: Path, store: Folder, s3: ObjectStore, monkeypatch: Any) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    odd = "ci/runner=1 'ü'%41.example"
    monkeypatch.setattr(merge, "LEAST", 1)
    log = EventLog(tmp_path / "odd.duckdb", host=odd)
    log.append(days(0, 1))
    traces: list[Trace] = []
    for place in (str(store.path), "s3://fleet/odd"):
        for _ in range(3):
            ship(log, open_store(place), remove_merged_after_s=0)
        assert len(open_store(place).names("")) == 4
        (source,) = find([place])
        assert source.host == odd
        traces.append(source.load())
    assert_same(*traces)
    assert_same(traces[0], load_trace(log))
