"""Writes a log again without what is to go, and puts the new file in its place; nothing that is appended is lost.

A DuckDB file never shrinks, and what is deleted from it can still be read there, so whatever leaves a log leaves it
with its file. Events are copied a piece at a time, each with the log held for reading only while it is fetched, and
others append in between. For the last piece, and what else has changed since, those are kept out until the new file,
whole and on the disk, has the old one's name. An end at any moment before leaves the old file as it is, and one
after it the new file.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from collector.eventlog import compaction
from collector.eventlog.database import (
    AUTOLOAD_OFF,
    NEW_FILE,
    UMASK,
    alone,
    check_functions,
    in_one_line,
    is_locked,
    wal_path,
)
from collector.eventlog.exclusion import held_too_long, keeping_out_others, sync
from collector.eventlog.log import EventLog
from collector.eventlog.migration import check_tables, migrate
from collector.eventlog.pace import Pace, rest
from collector.eventlog.rows import insert
from collector.eventlog.schema import FOLDED, HOURLY, STORED_KEY
from collector.eventlog.settings import note_rewriting
from collector.eventlog.sql import sql_text
from collector.eventlog.turns import looks
from collector.eventlog.view_definitions import FUNCTIONS
from collector.model.errors import LogBusyError, LogFullError
from collector.model.events import Event
from collector.model.paths import real_path

PIECE = 50_000
"""So many events are copied at once: fewer once it takes long to fetch them."""
# Nobody waits for the new file.
_FOLDED_AT_ONCE = 200_000
# So many rows of what earlier compactions left are copied at once.
_SUMS_AT_ONCE = 100_000
# With fewer to go others are kept out for the rest.
_LAST_PIECE = 5_000
GROWTH = 0
"""What is written again for its space may become larger by so many bytes."""
_LOCK_FILE = ".rewrite-lock"
# What has to stay free in addition to the copy, bytes.
MARGIN = 64 * 2**20
_MEMORY = "512MB"
# So much is written to the log of the copy before it is moved into its file, whose last blocks are rewritten each time.
_WAL = "64MB"
# Tables that are taken over as a whole; jobs change only with events that speak of them.
_SMALL = ("image", "position", "host", "setting", "recent_use", "hourly", *HOURLY)
_WHOLE = (*_SMALL, *FOLDED, *(f"base_{table}" for table in FOLDED))
_EVENTS = f"SELECT * REPLACE (key & {STORED_KEY} AS key) FROM old.event WHERE seq > $after AND seq <= $until"
_SUMS = "FROM old.thinned_use WHERE rowid >= ? AND rowid < ?"
_JOBS_OF_SUMS = "FROM old.job WHERE job IN (SELECT unnest(jobs) FROM piece_use)"

Checkpoint = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the rows of a log; `old` is the log, and the new file is the database of the connection.

    Attributes:
        prepare: makes the temporary tables that the SQL below uses, of what the log holds at that moment.
        event: SQL of the events that the new log has of `piece`, which holds some of the old one's; without `old`,
            as those that follow, for others may append again by then.
        job: SQL of the jobs that it has of `piece_job`, which holds those that these events speak of.
        tables: what other tables have in place of all rows, as SQL: by name; with `old`, but that of `thinned_use` with
            `piece_use`, which holds some of its rows.
        record: the event that says so, by what the new file holds; None: nothing has changed, and nothing is to change.
        prepare_piece: makes, with `piece` there, the temporary tables that the SQL of events and jobs uses.
        is_for_space: whether the old file stays where the new one would be larger.
    """

    prepare: Callable[[duckdb.DuckDBPyConnection], None]
    event: str
    job: str
    tables: dict[str, str]
    record: Callable[[duckdb.DuckDBPyConnection], Event | None]
    prepare_piece: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None
    is_for_space: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was saved: bytes of the file before and after, and the longest time that others waited, seconds.

    `is_kept`: the old file stayed, for the new one was larger.
    """

    bytes_before: int
    bytes_after: int
    events_before: int
    events_after: int
    longest_hold: float
    is_kept: bool = False


def rewrite(log: EventLog, change: Change, *, pause: float = 0.0, at: Checkpoint = lambda _: None) -> Rewritten | None:
    """Write a log again with a change; None: there was nothing to change.

    Args:
        log: the log.
        change: what becomes of it.
        pause: how long to let others work between two pieces, as a multiple of the time that the last one took.
        at: called at each step with its name, for tests.

    Raises:
        LogBusyError: it is being rewritten by another process, or others held or replaced it for too long.
        LogFullError: there is no space for the copy; the log is as it was.
        LogError: the log cannot be used.
    """
    # A link to the log stays, and the new file is written where there is space for the old one.
    path = real_path(log.path)
    log.require()
    with alone(path, _LOCK_FILE, "rewritten"), in_one_line(path):
        fresh = _copy_of(path)
        _remove(fresh)
        require_space(path)
        log.settle()
        before, umask = path.stat(), os.umask(UMASK)
        try:
            return Rewriting(log, path, change, pause, at).run(before)
        finally:
            os.umask(umask)
            _remove(fresh)


def require_space(path: Path) -> None:
    """See that there is space for a copy of the log. Raises LogFullError."""
    found = os.statvfs(path.parent)
    free, size = found.f_bavail * found.f_frsize, path.stat().st_size
    if free < size + MARGIN:
        raise LogFullError(
            f"no space beside {path} for its own copy ({size / 2**20:,.0f} MiB and {MARGIN / 2**20:,.0f} MiB to spare; "
            f"{free / 2**20:,.0f} MiB are free): nothing was changed; free some"
        )


def tidy(path: Path) -> None:
    """Remove what an interrupted rewriting of a log left, which may be as large as the log. Raises LogError."""
    path = real_path(path)
    with in_one_line(path):
        fresh = _copy_of(path)
        if any(fresh.parent.glob(f"{glob.escape(fresh.name)}*")):
            with alone(path, _LOCK_FILE, "rewritten"):
                _remove(fresh)


def _copy_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.rewrite")


def _remove(fresh: Path) -> None:
    """Remove a copy, also what an interrupted rewriting left of it."""
    for one in (fresh, wal_path(fresh)):
        one.unlink(missing_ok=True)
    shutil.rmtree(fresh.with_name(fresh.name + ".tmp"), ignore_errors=True)


class Rewriting:
    """One rewriting; the connection has the new file open, and the old one attached while a piece is copied."""

    def __init__(self, log: EventLog, path: Path, change: Change, pause: float, at: Checkpoint) -> None:
        self._log, self._path, self._change, self._pause, self._at = log, path, change, pause, at
        self._fresh = _copy_of(path)
        self._reached = self._count = 0
        # What other tables held when they were taken over.
        self._taken: dict[str, tuple[Any, ...]] = {}
        self._longest, self._host = 0.0, log.host
        self._pace = Pace(min(_LAST_PIECE, PIECE), PIECE, PIECE)
        config: dict[str, str | bool | int | float | list[str]] = {**AUTOLOAD_OFF, **NEW_FILE, "threads": 1}
        config |= {"memory_limit": _MEMORY, "checkpoint_threshold": _WAL}
        self._connection = duckdb.connect(str(self._fresh), config=config)

    def run(self, before: os.stat_result) -> Rewritten | None:
        """Copy all, and put the copy in place."""
        try:
            migrate(self._connection, self._path)
            with self._attached():
                check_functions(self._connection, self._path, FUNCTIONS, "old")
                check_tables(self._connection, self._path, "old")
            while self._piece() > _LAST_PIECE:
                self._at("piece")
            self._at("copied")
            self._fold()
            self._take_sums()
            # What changes while the largest are taken over is little the second time, and less when others wait.
            for table in (*_WHOLE, *_WHOLE):
                began = time.monotonic()
                with self._attached():
                    changed = self._fetch_tables((table,))
                self._store_tables(changed)
                rest(began, self._pause)
            while self._piece() > _LAST_PIECE:
                pass
            self._connection.execute("CHECKPOINT")
            # What is on the disk already need not be written there while others wait.
            sync(self._fresh)
            self._at("folded")
            if self._change.is_for_space and (size := self._fresh.stat().st_size) > before.st_size + GROWTH:
                events = self._connection.execute("SELECT count(*) FROM event").fetchall()[0][0]
                return Rewritten(before.st_size, size, self._count, events, self._longest, is_kept=True)
            return self._finish(before)
        finally:
            self._connection.close()

    def _piece(self) -> int:
        """Copy the next piece; how many events are left."""
        began = time.monotonic()
        with self._attached(), self._pace.step() as events:
            left = self._fetch(self._reached + events)
        self._store_piece()
        self._rest(began)
        return left

    def _rest(self, began: float) -> None:
        """Let others work after what began then, monotonic seconds."""
        time.sleep(self._pause * (time.monotonic() - began))

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The old file as `old`, which keeps out whoever appends."""
        with closing(looks(self._path, self._log.wait, gives_way=True)) as moments:
            if not any(self._attach() for _ in moments):
                raise held_too_long(self._path)
        with self.holding():
            yield

    @contextmanager
    def holding(self) -> Iterator[None]:
        """With the old file attached, which it is no longer at the end."""
        began = time.monotonic()
        try:
            yield
            self._connection.execute("DETACH old")
        finally:
            self._longest = max(self._longest, time.monotonic() - began)

    def _attach(self) -> bool:
        try:
            self._connection.execute(f"ATTACH {sql_text(self._path)} AS old (READ_ONLY)")
        except duckdb.Error as error:
            if not is_locked(error):
                raise
            return False
        return True

    def _fetch(self, until: int) -> int:
        """Fetch events and the jobs that they speak of, up to a number; how many are left."""
        run = self._connection.execute
        self._change.prepare(self._connection)
        values = {"after": self._reached, "until": until}
        run(f"CREATE OR REPLACE TEMP TABLE piece AS {_EVENTS}", values)
        run("CREATE OR REPLACE TEMP TABLE piece_job AS FROM old.job WHERE job IN (SELECT job FROM piece)")
        newest = run("SELECT coalesce(max(seq), 0) FROM old.event").fetchall()[0][0]
        self._reached = min(until, newest)
        return int(newest - self._reached)

    def _store_piece(self) -> None:
        """Store what becomes of the events and jobs that were fetched."""
        run = self._connection.execute
        run("BEGIN")
        self._count += run("SELECT count(*) FROM piece").fetchall()[0][0]
        self._change.prepare_piece(self._connection)
        run("DELETE FROM job WHERE job IN (SELECT job FROM piece)")
        run(f"INSERT INTO job BY NAME FROM ({self._change.job})")
        run(f"INSERT INTO event BY NAME FROM ({self._change.event}) ORDER BY seq")
        run("COMMIT")

    def _fold(self) -> None:
        """Fold what was copied, as appends do."""
        run = self._connection.execute
        after, pace = -1, Pace(_FOLDED_AT_ONCE, _FOLDED_AT_ONCE)
        while (reached := compaction.reached(self._connection) or 0) > after:
            after, began = reached, time.monotonic()
            run("BEGIN")
            compaction.fold(self._connection, pace)
            run("COMMIT")
            self._rest(began)
        # Each step leaves what it replaced in the file, until all rows of their piece of the table have gone.
        for table in compaction.TABLES:
            run(f"CREATE OR REPLACE TEMP TABLE packed_{table} AS FROM {table}")
            run(f"DELETE FROM {table}")
        run("CHECKPOINT")
        for table in compaction.TABLES:
            run(f"INSERT INTO {table} BY NAME FROM packed_{table}")
            run(f"DROP TABLE packed_{table}")

    def _finish(self, before: os.stat_result) -> Rewritten | None:
        """Copy what is left while nobody appends, and put the new file in the old one's place."""
        path = self._path
        with keeping_out_others(self._log, path) as began:
            found = path.stat()
            if (found.st_dev, found.st_ino) != (before.st_dev, before.st_ino):
                raise LogBusyError(f"event log {path} was replaced meanwhile: nothing was changed; try again")
            if not self._attach():  # appends wait already
                raise held_too_long(self._path)
            with self.holding():
                left = 1
                while left:
                    left = self._fetch(self._reached + PIECE)
                    self._store_piece()
                self._store_tables(self._fetch_tables(_WHOLE))
                record = self._record(found)
            if record is None:
                return None
            events = self._connection.execute("SELECT count(*) FROM event").fetchall()[0][0]
            self._connection.execute("CHECKPOINT")
            self._connection.close()
            self._at("closed")
            with suppress(OSError):
                os.chown(self._fresh, found.st_uid, found.st_gid)
            self._fresh.chmod(found.st_mode & 0o777)
            sync(self._fresh)
            self._at("synced")
            self._fresh.replace(path)
            self._at("replaced")
            sync(path.parent)
        self._longest = max(self._longest, time.monotonic() - began)
        return Rewritten(found.st_size, path.stat().st_size, self._count, events, self._longest)

    def _take_sums(self) -> None:
        """Take over what earlier compactions left, a piece at a time: only a rewriting changes it."""
        run, first, newest = self._connection.execute, 0, 0
        rows = self._change.tables.get("thinned_use", "FROM piece_use")
        while first <= newest:
            began = time.monotonic()
            with self._attached():
                self._change.prepare(self._connection)
                run(f"CREATE OR REPLACE TEMP TABLE piece_use AS {_SUMS}", [first, first + _SUMS_AT_ONCE])
                newest = run("SELECT coalesce(max(rowid), 0) FROM old.thinned_use").fetchall()[0][0]
                run(f"CREATE OR REPLACE TEMP TABLE piece_job AS {_JOBS_OF_SUMS}")
            run(f"INSERT INTO job BY NAME FROM ({self._change.job}) ANTI JOIN job USING (job)")
            run(f"INSERT INTO thinned_use BY NAME FROM ({rows})")
            first += _SUMS_AT_ONCE
            rest(began, self._pause)

    def _fetch_tables(self, tables: Iterable[str]) -> list[str]:
        """Fetch what is neither events nor jobs; which of it has changed since it was fetched before."""
        run = self._connection.execute
        self._change.prepare(self._connection)
        found: dict[str, tuple[Any, ...]] = {}
        changed = []
        for table in tables:
            rows = self._change.tables.get(table, f"FROM old.{table}")
            sql = f"SELECT count(*), sum(hash(found)) FROM ({rows}) AS found"
            found[rows] = found.get(rows) or run(sql).fetchall()[0]
            if self._taken.get(table) != found[rows]:
                run(f"CREATE OR REPLACE TEMP TABLE taken_{table} AS {rows}")
                self._taken[table] = found[rows]
                changed.append(table)
        return changed

    def _store_tables(self, tables: Iterable[str]) -> None:
        """Store tables that were fetched, in place of what the new file has of them."""
        run = self._connection.execute
        run("BEGIN")
        for table in tables:
            if table == "image":  # its numbers are never given to others
                run("INSERT INTO image BY NAME FROM taken_image ANTI JOIN image USING (image)")
            else:
                run(f"DELETE FROM {table}")
                run(f"INSERT INTO {table} BY NAME FROM taken_{table}")
            run(f"DROP TABLE taken_{table}")
        run("COMMIT")

    def _record(self, old: os.stat_result) -> Event | None:
        """Record the change, if there is one."""
        run = self._connection.execute
        run("BEGIN")
        record = self._change.record(self._connection)
        if record is not None:
            newest = run("SELECT coalesce(max(seq), 0) FROM old.event").fetchall()[0][0]
            insert(self._connection, self._host, {(record.time_ns, record.key): record})
            # Numbers are never given twice, though the last event may have gone.
            run(
                "UPDATE event SET seq = ? WHERE time = make_timestamp_ns(?) AND key = ?",
                [newest + 1, record.time_ns, record.key & STORED_KEY],
            )
            note_rewriting(self._connection, (old.st_dev, old.st_ino), newest + 1)
        run("COMMIT")
        return record
