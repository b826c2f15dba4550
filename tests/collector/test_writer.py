"""Nothing is lost on the way to the log: locks, damaged spools, full disks."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.errors import LogError
from collector.events import Event, Kind
from collector.log import EventLog
from collector.spool import Spool
from collector.writer import LogWriter, spool_path


def events(first: int, last: int) -> list[Event]:
    return [Event(i, Kind.IMAGE_PULLED, reference=f"a:{i}", attributes={"n": i}) for i in range(first, last + 1)]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="h", wait=0.05)
    made.append(events(1, 1))
    return made


@contextmanager
def held(log: EventLog) -> Iterator[None]:
    script = "import duckdb,sys; c=duckdb.connect(sys.argv[1]); print('held',flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, log.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        yield
        holder.stdin.close()


def stored(log: EventLog) -> list[int]:
    return [row[0] for row in log.query("SELECT epoch_ns(time) FROM events ORDER BY seq")]


def test_a_locked_log_is_waited_for_in_memory(log: EventLog) -> None:
    writer = LogWriter(log)
    with held(log):
        writer.add(events(2, 50))
        assert not writer.flush()
        assert writer.pending == 49
    writer.add(events(51, 60))
    assert writer.flush()
    assert stored(log) == list(range(1, 61))


def test_a_long_lock_spools_and_order_is_kept(log: EventLog) -> None:
    writer = LogWriter(log, memory_limit=10)
    with held(log):
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
    with held(log):
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
    assert stored(log) == [1, 2, 4]
    assert "1 unreadable lines" in caplog.text
    kept = list(spool.path.parent.glob("*.damaged-*"))
    assert len(kept) == 1
    assert b'"a:3' in kept[0].read_bytes()
    assert LogWriter(log).flush()


def test_memory_that_runs_out_is_a_gap_and_not_silence(log: EventLog) -> None:
    writer = LogWriter(log, memory_limit=1000, hard_limit=10)
    with held(log):
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
    with spool.draining() as (waiting, damaged):
        assert (waiting, damaged) == (events(1, 100), 0)
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
