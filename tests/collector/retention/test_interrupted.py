"""A compaction that ends early, whatever ends it, leaves the old log or the new one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import duckdb
import pytest

from collector.eventlog import rewrite as rewriting
from collector.eventlog.log import EventLog
from collector.eventlog.retention import compact, parse_keep, whole_since_ns
from collector.model.errors import LogFullError, UsageError
from collector.queries.check import check
from collector.queries.status import status
from collector.shipping.ship import ship
from collector.shipping.store import StoreError, open_store
from tests.collector.retention.thinned import DAY, KEEP, Crash, S, filled
from tests.engine.disk import LoopDisk
from tests.kills import kill_after
from tests.needs import cannot_run


@pytest.mark.slow
@pytest.mark.parametrize("step", ["copied", "synced", "replaced"])
def test_an_end_at_any_step_leaves_the_old_log_or_the_new_one(log: EventLog, now: float, step: str) -> None:
    before = log.query("SELECT count(*) FROM event")

    def crash(at: str) -> None:
        if at == step:
            raise Crash

    with pytest.raises(Crash):
        compact(log, KEEP, now=now, at=crash)
    if step != "replaced":
        assert log.query("SELECT count(*) FROM event") == before
        assert compact(log, KEEP, now=now).removed > 0
    assert whole_since_ns(log) is not None
    assert check(log) == []


@pytest.mark.slow
def test_what_cannot_be_done_is_one_line_and_nothing_is_lost(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_keep("forever") == math.inf
    for text in ("29d", "x", "0"):
        with pytest.raises(UsageError, match="--keep"):
            parse_keep(text)
    data = log.query("SELECT * FROM event ORDER BY seq")
    monkeypatch.setattr(rewriting, "MARGIN", 2**60)
    with pytest.raises(LogFullError, match="nothing was changed"):
        compact(log, KEEP, now=now)
    assert log.query("SELECT * FROM event ORDER BY seq") == data


@pytest.mark.slow
def test_a_disk_that_fills_while_the_copy_is_written_leaves_the_log_as_it_was(
    log: EventLog, now: float, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    monkeypatch.setattr(rewriting, "MARGIN", -(2**60))
    disk = state_root / "small"
    disk.mkdir()
    size = log.path.stat().st_size * 5 // 4
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        small = EventLog(disk / "events.duckdb", host="h")
        small.path.write_bytes(log.path.read_bytes())
        data = small.query("SELECT * FROM event ORDER BY seq")
        with pytest.raises(LogFullError) as raised:
            compact(small, KEEP, now=now)
        assert "\n" not in str(raised.value)
        assert small.query("SELECT * FROM event ORDER BY seq") == data
        assert [path.name for path in disk.iterdir() if path.name.startswith(".events")] == []
        assert check(small) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["folded", "closed"])
def test_a_disk_that_is_full_at_the_end_leaves_the_old_log_or_the_new_one(
    log: EventLog, now: float, state_root: Path, step: str
) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    disk = LoopDisk(state_root / f"full-{step}", 128 * 2**20)
    try:
        small = EventLog(disk.path / "events.duckdb", host="h")
        small.path.write_bytes(log.path.read_bytes())
        data = small.query("SELECT * FROM event ORDER BY seq")

        def fill(at: str) -> None:
            if at == step:
                disk.fill_to(0)

        # The new file needs no more space once it is complete.
        is_old = step == "folded"
        with pytest.raises(LogFullError, match="free some") if is_old else nullcontext():
            compact(small, KEEP, now=now, at=fill)
        assert (whole_since_ns(small) is None) is is_old
        assert (small.query("SELECT * FROM event ORDER BY seq") == data) is is_old
        assert [path.name for path in disk.path.iterdir() if path.name.startswith(".events")] == []
        disk.unfill()
        assert check(small) == []
    finally:
        subprocess.run(["umount", disk.path], check=True)


@pytest.mark.slow
def test_a_compaction_that_is_killed_at_any_moment_loses_nothing(log: EventLog, now: float) -> None:
    before = log.query("SELECT count(*) FROM event")[0][0]
    script = (
        "import sys; from pathlib import Path; from collector.eventlog import rewrite;"
        "from collector.eventlog.log import EventLog; from collector.eventlog.retention import compact;"
        "rewrite.PIECE, rewrite._LAST_PIECE, rewrite.GROWTH = 90, 5, 2**30; print('.', flush=True);"
        "compact(EventLog(Path(sys.argv[1]), host='h'), float(sys.argv[2]), now=float(sys.argv[3]))"
    )
    for pause in (0.1, 0.3):
        kill_after(pause, script, str(log.path), str(KEEP), str(now))
        assert check(log) == []
        is_whole = whole_since_ns(log) is None
        assert (log.query("SELECT count(*) FROM event")[0][0] == before) is is_whole
    compact(log, KEEP, now=now)
    assert whole_since_ns(log) == int(now - KEEP) // DAY * DAY * S


@pytest.mark.slow
def test_an_archive_has_what_a_compaction_thins_or_nothing_is_thinned(tmp_path: Path) -> None:
    log, now = filled(tmp_path / "log", 3)
    before = log.query("SELECT count(*) FROM event")[0][0]
    archive = tmp_path / "archive"
    archive.touch()
    with pytest.raises(StoreError):
        compact(log, KEEP, now=now, archive=lambda: ship(log, open_store(str(archive))))
    assert log.query("SELECT count(*) FROM event")[0][0] == before
    assert whole_since_ns(log) is None
    archive.unlink()
    compact(log, KEEP, now=now, archive=lambda: ship(log, open_store(str(archive))))
    assert log.query("SELECT count(*) FROM event WHERE kind <> 'log_compacted'")[0][0] < before
    shipped = [str(path) for path in (archive / "event").rglob("*.parquet")]
    assert duckdb.execute("SELECT count(DISTINCT seq) FROM read_parquet(?)", [shipped]).fetchall() == [(before,)]
    assert status(log, now).whole_since == (whole_since_ns(log) or 0) / S
    program = [sys.executable, "-c", "from collector.entry import collector; collector()", "compact"]
    done = subprocess.run(
        [*program, "--log", str(log.path), "--archive", str(archive)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
