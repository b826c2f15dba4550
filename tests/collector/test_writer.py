"""Nothing is lost on the way to the log: locks, damaged spools, full disks."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from collector.eventlog.database import memory_spool_path, spool_path
from collector.eventlog.log import EventLog
from collector.eventlog.spool import Spool, waiting_for
from collector.eventlog.writer import LogWriter
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from tests.held import held
from tests.needs import first_fast, first_row_fast


def events(first: int, last: int) -> list[Event]:
    return [Event(i, Kind.IMAGE_PULLED, reference=f"a:{i}", attributes={"n": i}) for i in range(first, last + 1)]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="h", wait=0.05)
    made.append(events(1, 1))
    return made


def stored(log: EventLog, which: str = "true") -> list[int]:
    return [row[0] for row in log.query(f"SELECT epoch_ns(time) FROM events WHERE {which} ORDER BY seq")]


def test_a_locked_log_is_waited_for_in_memory(log: EventLog) -> None:
    writer = LogWriter(log)
    with held(log.path):
        writer.add(events(2, 50))
        assert not writer.flush()
        assert writer.pending == 49
    writer.add(events(51, 60))
    assert writer.flush()
    assert stored(log) == list(range(1, 61))


def test_a_long_lock_spools_and_order_is_kept(log: EventLog) -> None:
    writer = LogWriter(log, memory_limit=10)
    with held(log.path):
        writer.add(events(2, 20))
        assert not writer.flush()
        assert writer.pending == 0
        assert writer.spool.waiting() == 19
        writer.add(events(21, 25))
        assert not writer.flush()
    assert writer.flush()
    assert stored(log) == list(range(1, 26))
    assert writer.spool.waiting() == 0


def test_what_a_process_leaves_in_the_spool_the_next_one_appends(log: EventLog) -> None:
    writer = LogWriter(log)
    with held(log.path):
        writer.add(events(2, 9))
        assert writer.close()
    assert LogWriter(log).flush()
    assert stored(log) == list(range(1, 10))


def test_a_damaged_spool_keeps_the_whole_aside_and_uses_what_is_readable(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(spool_path(log.path))
    spool.write(events(2, 4))
    data = spool.path.read_bytes()
    spool.path.write_bytes(data.replace(b'"a:3"', b'"a:3'))
    with caplog.at_level(logging.WARNING):
        assert LogWriter(log).flush()
    assert stored(log) == [1, 2, 4, 4]
    # What the line said happened between its neighbours, and is not lost unsaid.
    assert log.query("SELECT epoch_ns(began), epoch_ns(ended) FROM gaps") == [(2, 4)]
    assert "1 unreadable lines" in caplog.text
    kept = list(spool.path.parent.glob("*.damaged-*"))
    assert len(kept) == 1
    assert b'"a:3' in kept[0].read_bytes()
    assert LogWriter(log).flush()


@pytest.mark.parametrize("spare", first_fast(4096, 0))
@pytest.mark.parametrize(
    ("harm", "kept", "gaps"),
    first_row_fast(
        # A block that the disk gave back empty, at the beginning and in between.
        (lambda data: b"\0" * 200 + data[200:], [4, 5, 6], [(1, 4)]),
        (lambda data: data[:200] + b"\0" * 200 + data[400:], [2, 5, 6], [(2, 5)]),
        # Line ends that were lost, and a last line that was cut off.
        (lambda data: data.replace(b"\n", b" ", 2), [5, 6], [(1, 5)]),
        (lambda data: data[:-20], [2, 3, 4, 6], [(4, 6)]),
    ),
)
def test_a_spool_that_is_damaged_anywhere_costs_the_lines_that_are_and_a_gap(
    log: EventLog, harm: Callable[[bytes], bytes], kept: list[int], gaps: list[tuple[int, int]], spare: int
) -> None:
    spool = Spool(spool_path(log.path), 0)
    spool.write(events(2, 5))
    spool.path.write_bytes(harm(spool.path.read_bytes().rstrip(b"\0")) + b"\0" * spare)
    assert Spool(spool.path).waiting() > 0
    # Whoever adds to it spoils no line.
    Spool(spool.path).write(events(6, 6))
    assert LogWriter(log).flush()
    assert log.query("SELECT epoch_ns(time) FROM events WHERE kind <> 'gap' ORDER BY seq") == [
        (1,),
        *((one,) for one in kept),
    ]
    assert log.query("SELECT epoch_ns(began), epoch_ns(ended) FROM gaps") == gaps
    assert spool.waiting() == 0


@pytest.mark.parametrize("written", first_fast(*range(4)))
@pytest.mark.parametrize("part", first_fast(0.4, 0.0, 1.0))
def test_a_spool_whose_emptying_was_cut_short_says_nothing_twice_and_no_gap(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, written: int, part: float
) -> None:
    done, write = 0, os.pwrite

    def killed(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal done
        done += 1
        if done > written:
            if len(data) > 1:
                write(descriptor, data[: int(part * len(data))], offset)
            raise KeyboardInterrupt
        return write(descriptor, data, offset)

    spool = Spool(spool_path(log.path), size=2**12)
    spool.write(events(2, 5))
    monkeypatch.setattr(os, "pwrite", killed)
    with suppress(KeyboardInterrupt):
        LogWriter(log).flush()
    monkeypatch.setattr(os, "pwrite", write)
    assert spool.waiting() == (0 if written else 4)
    if part:
        spool.write(events(6, 6))
    assert LogWriter(log).flush()
    kept = range(1, 7 if part else 6)
    assert log.query("SELECT epoch_ns(time) FROM events ORDER BY seq") == [(one,) for one in kept]
    assert not list(log.path.parent.glob("*.damaged-*"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A disk on which nothing can be allocated or written, beside a folder in memory."""
    write = os.pwrite
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr("collector.eventlog.database.SHARED_MEMORY", memory)

    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def written(descriptor: int, data: bytes, offset: int) -> int:
        if memory not in Path(f"/proc/self/fd/{descriptor}").readlink().parents:
            refused()
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "posix_fallocate", refused)
    monkeypatch.setattr(os, "pwrite", written)
    return memory


def test_what_finds_no_room_on_the_disk_waits_in_memory_and_survives_the_process(
    log: EventLog, full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(log.path):
        writer = LogWriter(log)
        writer.add(events(2, 3))
        assert writer.save()
        assert writer.spooled == 2
    assert "until this machine restarts at most" in caplog.text
    (folder,) = full.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert waiting_for(log.path) == 2
    assert LogWriter(log).flush()
    assert stored(log) == [1, 2, 3]


@pytest.mark.usefixtures("full")
def test_what_others_lay_into_shared_memory_is_no_spool(log: EventLog) -> None:
    spool = memory_spool_path(log.path)
    spool.parent.mkdir(mode=0o755)
    os.mkfifo(spool)
    writer = LogWriter(log)
    writer.add(events(2, 2))
    assert waiting_for(log.path) == writer.spooled == 0
    assert not writer.save()
    assert writer.pending == 1
    assert LogWriter(log).spooled == 0


def test_a_folder_in_memory_that_others_may_write_to_is_left_alone(log: EventLog, full: Path) -> None:
    (full / f"docker-hindsight-{os.geteuid()}").mkdir()
    (full / f"docker-hindsight-{os.geteuid()}").chmod(0o777)
    writer = LogWriter(log)
    writer.add(events(2, 2))
    assert not writer.save()
    assert writer.pending == 1


def test_room_for_some_events_is_used_without_room_for_the_whole_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    spool = Spool(tmp_path / "spool")
    spool.write(events(1, 2))
    with spool.draining() as waiting:
        assert waiting == events(1, 2)


def test_memory_that_runs_out_is_a_gap_and_not_silence(log: EventLog) -> None:
    writer = LogWriter(log, memory_limit=1000, hard_limit=10)
    with held(log.path):
        writer.add(events(2, 21))
        assert not writer.flush()
    assert writer.flush()
    assert stored(log) == [*range(1, 12), 21]
    assert log.query("SELECT epoch_ns(began), epoch_ns(ended) FROM gaps") == [(12, 21)]


def test_the_spool_is_allocated_beforehand(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", size=2**20)
    spool.reserve()
    assert spool.path.stat().st_blocks * 512 >= 2**20
    spool.write(events(1, 100))
    assert spool.path.stat().st_size == 2**20
    with spool.draining() as waiting:
        assert waiting == events(1, 100)
    assert spool.waiting() == 0
    assert spool.path.stat().st_blocks * 512 >= 2**20


def test_a_drain_that_fails_keeps_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write(events(1, 3))
    with pytest.raises(LogError), spool.draining():
        raise LogError("not now")
    assert spool.waiting() == 3


def test_an_impossible_spool_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="cannot be opened"):
        Spool(tmp_path / "file" / "spool").write(events(1, 1))


@pytest.mark.slow
def test_a_spool_held_by_a_stopped_process_is_not_waited_for_forever(log: EventLog) -> None:
    writer = LogWriter(log)
    writer.spool.write(events(2, 3))
    script = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held',flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, writer.spool.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        writer.add(events(4, 5))
        assert not writer.keep()
        assert writer.oldest_ns == 4
        holder.communicate("\n")
    assert writer.keep()
    assert writer.pending == 0
    assert stored(log) == [1, 2, 3, 4, 5]


def test_a_log_that_was_removed_or_replaced_is_noticed(log: EventLog) -> None:
    writer = LogWriter(log)
    assert not writer.renewed()
    assert writer.keep()
    assert not writer.renewed()
    log.path.rename(log.path.with_name("moved"))
    assert writer.renewed()
    log.append(events(7, 7))
    assert writer.renewed()
    assert writer.keep()
    assert not writer.renewed()


def test_a_log_that_goes_between_the_look_and_the_append_is_noticed_by_the_next(log: EventLog) -> None:
    writer = LogWriter(log)
    for _ in range(2):
        assert not writer.renewed()
        assert writer.keep()
    assert not writer.renewed()
    # The file system could give the number of a deleted file to the next at once.
    log.path.rename(log.path.with_name("moved"))
    writer.add(events(7, 7))
    assert writer.keep()
    assert (writer.behind, writer.renewed()) == (True, True)
    assert writer.keep()
    assert (writer.behind, writer.renewed()) == (False, False)


def test_what_is_wrong_with_the_log_is_said_once_and_so_is_its_end(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LogWriter(log)
    whole = log.path.read_bytes()
    log.path.write_text("name,size\n" * 2000)
    writer.add(events(2, 4))
    with caplog.at_level(logging.INFO):
        assert not writer.keep()
        assert not writer.keep()
        assert caplog.text.count("is not a DuckDB file") == 1
        log.path.write_bytes(whole[:14000])
        assert not writer.keep()
        assert writer.damage is not None
        log.path.write_bytes(whole)
        assert writer.keep()
        assert caplog.text.count("takes events again") == 1
    assert stored(log) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    first_fast(
        {"time_ns": 2**70},
        {"time_ns": -1},
        {"time_ns": True},
        {"time_ns": "5"},
        {"began_ns": 2**63 - 1},
        {"bytes": 2**64},
        {"bytes": 1.5},
        {"image": ["a"]},
        {"reference": "\ud800"},
        {"kind": "of_a_newer_program"},
        {"attributes": None},
    ),
)
def test_a_spool_line_with_an_impossible_value_blocks_no_other(log: EventLog, change: dict[str, object]) -> None:
    writer = LogWriter(log)
    writer.add(events(2, 3))
    assert writer.save()
    data = writer.spool.path.read_bytes().rstrip(b"\0")
    bad = json.dumps({**events(4, 4)[0].to_json(), **change}).encode() + b"\n"
    writer.spool.path.write_bytes(bad + b"[" * 100_000 + b"\n" + data)
    assert writer.flush()
    assert stored(log) == [1, 2, 2, 3]
    assert log.query("SELECT epoch_ns(began), epoch_ns(ended) FROM gaps") == [(1, 2)]
    assert len(list(log.path.parent.glob("*.damaged-*"))) == 1
