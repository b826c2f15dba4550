"""A damaged log is set aside whole, and a new one begins with what can be read of it; nothing else is touched."""

from __future__ import annotations

import logging
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.doctor import State, examine
from collector.eventlog import salvage
from collector.eventlog.database import files_aside, wal_path
from collector.eventlog.identity import host_name
from collector.eventlog.log import EventLog
from collector.eventlog.salvage import set_aside
from collector.eventlog.schema import MIGRATIONS
from collector.model.errors import LogBusyError, LogDamagedError, LogError, LogFullError
from collector.model.events import Event, Kind
from collector.monitoring.metrics import Live, Metrics
from collector.queries.check import check
from collector.queries.status import status
from pruner.policy.file import policy_from
from pruner.removal import run
from tests.collector.test_daemon import QUICK, Watched
from tests.fake_engine import FakeEngine
from tests.fake_holdings import MIB
from tests.held import held
from tests.needs import first_fast
from tests.waiting import wait_for

HEADERS, BLOCK = 3 * 4096, 2**18
COUNT = 5_000
IMAGES = [f"sha256:{number:064x}" for number in range(20)]
BEGAN_NS = 1_700_000_000 * 10**9


def filled(path: Path, count: int = COUNT) -> EventLog:
    log = EventLog(path, wait=0.2)
    noise = random.Random(1)
    log.append(
        [
            Event(
                BEGAN_NS + number * 10**9,
                Kind.CONTAINER_CREATED if number % 7 else Kind.DISK_SAMPLED,
                image=IMAGES[number % 20] if number % 7 else None,
                container=f"{noise.getrandbits(256):064x}" if number % 7 else None,
                bytes=number,
                attributes={"labels": {"com.gitlab.gitlab-runner.job.id": str(number // 100)}},
            )
            for number in range(count)
        ]
    )
    return log


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filled(tmp_path_factory.mktemp("whole") / "events.duckdb").path.read_bytes()


@pytest.fixture
def log(tmp_path: Path, whole: bytes) -> EventLog:
    path = tmp_path / "log" / "events.duckdb"
    path.parent.mkdir()
    path.write_bytes(whole)
    path.chmod(0o640)
    return EventLog(path, wait=0.2)


def damages(whole: bytes) -> dict[str, bytes]:
    """The file as faults of disks and file systems leave it."""
    noise = random.Random(2)
    found = {f"cut at {size}": whole[:size] for size in (HEADERS + 1,)}
    found |= {f"cut by {less}": whole[:-less] for less in (1,)}
    found["zeros only"], found["headers zeroed"] = bytes(len(whole)), bytes(HEADERS) + whole[HEADERS:]
    for place in (8, 9000, *(noise.randrange(HEADERS, len(whole)) for _ in range(2))):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << noise.randrange(8)
        found[f"a bit flipped at {place}"] = bytes(flipped)
    for begin in range(HEADERS, HEADERS + 5 * BLOCK, BLOCK):
        found[f"block {begin} zeroed"] = whole[:begin] + bytes(BLOCK) + whole[begin + BLOCK :]
    return found


@pytest.mark.slow
def test_whatever_the_damage_nothing_is_lost_that_can_be_read(log: EventLog, whole: bytes) -> None:
    with duckdb.connect(str(log.path), read_only=True) as connection:
        rows = set(connection.execute("SELECT seq, time, key, recorded, kind, container FROM event").fetchall())
    kept_all, checked = 0, False
    for name, data in damages(whole).items():
        for path in log.path.parent.iterdir():
            path.unlink()
        log.path.write_bytes(data)
        log.forget_host()
        try:
            log.verify()
            log.append([Event(1, Kind.GAP, began_ns=1)])
        except LogDamagedError as error:
            found = set_aside(log, error.fault)
        else:
            continue  # what was hit is not in use
        assert found.aside.read_bytes() == data, name
        assert [found.aside] == files_aside(log.path), name
        assert sorted(path.name for path in log.path.parent.iterdir()) == [log.path.name, found.aside.name], name
        log.verify()
        assert stat.S_IMODE(log.path.stat().st_mode) == 0o640
        with log.reading(as_recorded=True) as connection:
            kept = set(connection.execute("SELECT seq, time, key, recorded, kind, container FROM event").fetchall())
            gaps = connection.execute("SELECT reason, epoch_ns(began), epoch_ns(ended) FROM gaps").fetchall()
        assert len(kept & rows) == found.events, name
        if found.events:
            ((reason, began, ended),) = gaps
            assert reason == "the event log was damaged"
            assert BEGAN_NS <= began <= ended <= time.time_ns(), name
            # All that is missing lies within the gap.
            missing = {row[0] for row in rows - kept}
            times = [BEGAN_NS + (seq - 1) * 10**9 for seq in missing]
            assert all(began <= moment + 10**9 and moment - 10**9 <= ended for moment in times), name
            checked = checked or not check(log)
        else:
            assert found.gap is not None
            assert kept == set(), name
        kept_all += found.events == COUNT
        assert log.append([Event(time.time_ns(), Kind.IMAGE_PULLED, image=IMAGES[0])]) == 1, name
    assert kept_all >= 1
    assert checked


@pytest.mark.slow
def test_what_is_not_damaged_is_never_set_aside(log: EventLog, whole: bytes, tmp_path: Path) -> None:
    def untouched(match: str, data: bytes | None = None) -> None:
        before = log.path.read_bytes()
        for use in (log.verify, lambda: log.append([Event(1, Kind.GAP)]), lambda: set_aside(log, "x")):
            with pytest.raises(LogError, match=match) as caught:
                use()
            assert not isinstance(caught.value, LogDamagedError)
            if data is not None:
                break  # whoever asks learns it before anything is set aside
        assert log.path.read_bytes() == before
        assert files_aside(log.path) == []

    for foreign in (b"name,size\n" * 5000, b"12345678DUCK" + b"x" * 20_000, b"PK\x03\x04" + bytes(50) + b"y" * 20_000):
        log.path.write_bytes(foreign)
        # A collector that was started with it has left a spool.
        log.path.with_name(log.path.name + ".spool").write_bytes(b"")
        untouched("not a DuckDB file|cannot be used", foreign)
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(LogError, match="is a folder and no event log"):
        log.verify()
    log.path.rmdir()
    log.path.write_bytes(whole)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
    untouched("schema version 999")
    log.path.write_bytes(whole)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE host SET machine = 'another'")
    with pytest.raises(LogError, match="on another machine"):
        set_aside(EventLog(log.path), "x")
    assert files_aside(log.path) == []
    with held(log.path):
        with pytest.raises(LogBusyError):
            log.verify()
        with pytest.raises(LogBusyError):
            set_aside(log, "x")
    assert files_aside(log.path) == []
    # Signs of damage in the name of the log's folder are none in the log.
    odd = EventLog(tmp_path / "Corrupt checksum" / "events.duckdb")
    odd.append([Event(1, Kind.GAP, began_ns=1)])
    with pytest.MonkeyPatch.context() as patch:
        error = duckdb.IOException(f'Cannot open file "{odd.path}": Input/output error')
        patch.setattr("collector.eventlog.file.open_database", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(LogError, match="cannot be used") as caught:
            odd.verify()
        assert not isinstance(caught.value, LogDamagedError)


def test_a_damaged_write_ahead_log_costs_its_own_events_only(log: EventLog) -> None:
    script = (
        "import duckdb,os,sys; c=duckdb.connect(sys.argv[1]); "
        "c.execute('INSERT INTO image VALUES (1000, ?)', ['sha256:' + 'f' * 64]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(log.path)], check=True)
    wal = wal_path(log.path)
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wal.write_bytes(data)
    with pytest.raises(LogDamagedError) as caught:
        log.verify()
    found = set_aside(log, caught.value.fault)
    assert found.events == COUNT
    assert wal_path(found.aside).read_bytes() == data
    assert not wal.exists()
    assert log.query("SELECT count(*) FROM gaps") == [(1,)]
    assert files_aside(log.path) == [found.aside]


@pytest.mark.slow
def test_a_damaged_header_costs_nothing(log: EventLog, whole: bytes) -> None:
    """A byte, a word or a sector in the headers: the checksums say what was there, or the other copy does."""
    noise = random.Random(3)
    # The latest of the two copies counts, and what was in it cannot be taken from the other.
    latest = max((4096, 8192), key=lambda at: int.from_bytes(whole[at + 8 : at + 16], "little"))
    other = 12288 - latest
    places = [
        *((at, 1) for at in (0, 7, 9, 16, 60, 4096, 4105, 4121, 8193, 8200, 8217, 8230, 12287)),
        *((noise.randrange(HEADERS), 1) for _ in range(6)),
        *((latest + 512, 8), (other, 512), (0, 4096), (other, 4096)),
    ]
    for at, length in places:
        for path in log.path.parent.iterdir():
            path.unlink()
        damaged = bytearray(whole)
        damaged[at : at + length] = (byte ^ noise.randrange(1, 256) for byte in whole[at : at + length])
        log.path.write_bytes(damaged)
        log.forget_host()
        with pytest.raises(LogDamagedError) as caught:
            log.verify()
        found = set_aside(log, caught.value.fault)
        assert (found.events, found.lost) == (COUNT, 0), (at, length)
        assert found.aside.read_bytes() == damaged


@pytest.mark.parametrize("version", first_fast(7, 1, 2, 6))
def test_an_older_log_is_salvaged_as_what_it_was(tmp_path: Path, version: int) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (?)", [version])
        for statements in MIGRATIONS[:version]:
            connection.execute(statements)
        connection.execute("INSERT INTO image VALUES (0, ?)", [IMAGES[0]])
        connection.execute(
            "INSERT INTO event (seq, time, key, recorded, host, kind, image)"
            " VALUES (1, make_timestamp_ns(5), 9, make_timestamp_ns(6), ?, 'image_pulled', 0)",
            [host_name()],
        )
    assert set_aside(log, "tried").events == 1
    assert log.query("SELECT kind, image_id FROM events WHERE host = ? ORDER BY seq", [host_name()]) == [
        ("image_pulled", IMAGES[0]),
        ("gap", None),
    ]


def test_nothing_is_overwritten_and_a_bad_disk_is_not_filled(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20261129T100000Z")
    whole = log.path.read_bytes()
    monkeypatch.setattr(salvage, "_MOST_ASIDE", 3)
    for number in range(3):
        log.path.write_bytes(whole[: HEADERS + number])
        set_aside(log, "cut")
    assert sorted(path.stat().st_size - HEADERS for path in files_aside(log.path)) == [0, 1, 2]
    with pytest.raises(LogError, match="3 damaged logs lie beside"):
        set_aside(log, "cut")


def test_a_full_disk_leaves_the_damaged_log_where_it_is(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise duckdb.IOException("Could not write file: No space left on device")

    monkeypatch.setattr(salvage, "migrate", full)
    with pytest.raises(LogFullError):
        set_aside(log, "x")
    assert [path.name for path in log.path.parent.iterdir()] == [log.path.name]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched(tmp_path)
    made.engine.disk_patched(monkeypatch)
    return made


def damage(path: Path, keep: int = HEADERS + 2000) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.slow
def test_a_collector_that_finds_its_log_damaged_begins_a_new_one_and_says_so_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    image = watched.engine.add_image("a:1", verb=None)
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.DISK_SAMPLED), "the first sample")
    damage(watched.log.path)
    watched.log.appended.clear()
    with caplog.at_level(logging.INFO), watched.collecting():
        wait_for(lambda: watched.rows(Kind.DISK_SAMPLED), "a sample")
        container = watched.engine.add_container("a:1")
        wait_for(lambda: watched.rows(Kind.CONTAINER_CREATED), "the container")
    assert caplog.text.count("was damaged") == 1
    (aside,) = files_aside(watched.log.path)
    assert aside.stat().st_size == HEADERS + 2000
    assert watched.log.query("SELECT image_id FROM present_images JOIN image USING (image)") == [(image,)]
    assert [row.attributes.get("inferred") for row in watched.rows(Kind.IMAGE_OBSERVED)] == [None]
    assert [row.container for row in watched.rows(Kind.CONTAINER_CREATED)] == [container]
    assert watched.log.query("SELECT reason FROM gaps") == [("the event log was damaged",)]
    assert status(watched.log).damaged_logs == [str(aside)]


@pytest.mark.slow
@pytest.mark.parametrize("found_by", first_fast("append", "look"))
def test_a_running_collector_notices_damage(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    connect, is_cut = EventLog._connect, threading.Event()

    def cut_before(log: EventLog, **how: Any) -> Any:
        """In place, as a disk does it; while the collector has the file open, it would write it again as it was."""
        if not is_cut.is_set():
            is_cut.set()
            damage(log.path)
        return connect(log, **how)

    engine = watched.engine
    image = engine.add_image("a:1", verb=None)
    schedule = QUICK
    if found_by == "look":
        schedule = type(QUICK)(disk=3600.0, inventory=0.2, containers=3600.0, flush=0.01, heartbeat=0.05)
    with caplog.at_level(logging.INFO), watched.collecting(schedule):
        first = engine.add_container("a:1")
        wait_for(lambda: watched.rows(Kind.CONTAINER_STARTED), "the container")
        monkeypatch.setattr(EventLog, "_connect", cut_before)
        if found_by == "append":
            engine.add_container("a:1")
        wait_for(lambda: files_aside(watched.log.path), "the damage to be found")
        last = engine.add_container("a:1")
        wait_for(lambda: last in [row.container for row in watched.rows(Kind.CONTAINER_CREATED)], "the latest event")
    assert caplog.text.count("was damaged") == 1
    assert "removed or replaced" not in caplog.text
    present = watched.log.query("SELECT image_id FROM present_images JOIN image USING (image)")
    assert present == [(image,)]
    living = {row[0] for row in watched.log.query("SELECT container FROM uses WHERE evidence = 'container'")}
    assert living == set(engine.container_table)
    assert first in living
    assert watched.log.query("SELECT DISTINCT reason FROM gaps") == [("the event log was damaged",)]


def test_doctor_and_metrics_show_what_was_set_aside(log: EventLog, tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path / "data")
    engine.folder.mkdir()
    damage(log.path)
    (found,) = [one for one in examine(engine, log) if one.subject == "event log"]
    assert (found.state, found.answer) == (State.FAULT, "damaged")
    set_aside(log, "cut")
    assert "1 file set aside" in [one.answer for one in examine(engine, log) if one.subject == "damaged logs"]
    metrics = Metrics(log)
    metrics.publish(Live())
    (family,) = [one for one in metrics.collect() if one.name == "docker_hindsight_damaged_logs"]
    assert [sample.value for sample in family.samples] == [1.0]


def test_the_pruner_goes_on_without_a_damaged_log_and_says_so(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(tmp_path / "data", total=100 * MIB)
    engine.folder.mkdir()
    engine.disk_patched(monkeypatch)
    old = engine.add_image("a:1", age=30 * 86400.0, verb=None)
    damage(log.path)
    before = log.path.read_bytes()
    policy = policy_from({"threshold": "100%", "min_age": "auto"}, "t")
    (made,) = run.make_plans(engine, log, policy)
    assert " is damaged: `collector run` sets it aside" in made.inventory.warnings[0]
    assert [removal.key for removal in made.removals] == [old]
    with caplog.at_level(logging.WARNING):
        outcome = run.run(engine, log, policy, "t")
    assert [removal.key for removal, _ in outcome.removed] == [old]
    assert caplog.text.count(" is damaged") == 1
    # Only the collector replaces it: then the log takes what the prune has said meanwhile.
    assert log.path.read_bytes() == before
    set_aside(log, "cut")
    run.run(engine, log, policy, "t")
    assert log.query("SELECT image_id FROM events WHERE kind = 'item_removed'") == [(old,)]
