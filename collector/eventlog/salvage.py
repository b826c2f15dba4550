"""What becomes of a damaged log: its file is set aside, and a new one begins with what can still be read of it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import duckdb

from collector.eventlog import identity
from collector.eventlog.database import (
    AUTOLOAD_OFF,
    NEW_FILE,
    aside,
    files_aside,
    in_one_line,
    is_damage,
    is_full,
    is_locked,
    made_whole,
    wal_path,
)
from collector.eventlog.header import repair
from collector.eventlog.log import EventLog
from collector.eventlog.migration import migrate, newer
from collector.eventlog.rows import insert
from collector.eventlog.schema import BASE, HOURLY, MIGRATIONS, SCHEMA_VERSION, TABLES
from collector.eventlog.settings import incomplete_until
from collector.eventlog.sql import sql_text
from collector.model.errors import LogBusyError, LogError
from collector.model.events import Event, Kind
from collector.model.units import format_count

# A disk that damages one log after the other must not be filled with them.
_MOST_ASIDE = 9
# Rows are copied in such steps; where one fails, it is halved down to the least, which is lost.
_ROWS, _LEAST_ROWS = 122_880, 2_048
_MOST_FAILURES = 1_000
# What a compaction has left of the events that it took is nowhere else; all other folds are made again of the events.
_DATA = ("image", "job", "position", "host", "setting", *BASE, *HOURLY, "event")


@dataclass(frozen=True, slots=True)
class Salvage:
    """What was done about a damaged log.

    Attributes:
        aside: the damaged file under its new name.
        events: how many of its events the new log holds.
        lost: how many of its events could not be read; None: not known.
        gap: what the new log is to say of it, and does not say yet because it holds nothing else; None: it says so.
    """

    aside: Path
    events: int
    lost: int | None
    gap: Event | None

    def __str__(self) -> str:
        """What was kept, in words."""
        lost = "an unknown number" if self.lost is None else f"{self.lost:,}"
        kept = f"{format_count(self.events, 'event')} could be read, {lost} could not"
        return f"it was set aside as {self.aside.name}, and a new log begins ({kept})"


def set_aside(log: EventLog, fault: str) -> Salvage:
    """Begin a new log in place of a damaged one, with all that can be read of it.

    Args:
        log: the log.
        fault: what is wrong with it.

    Raises:
        LogBusyError: another process holds the file.
        LogFullError: the file system has no room for the new log.
        LogError: it is another host's, of a newer version or of something else, or may not be replaced.
    """
    path = log.path
    if len(files_aside(path)) >= _MOST_ASIDE:
        raise LogError(f"{_MOST_ASIDE} damaged logs lie beside {path}: check the disk, then remove them")
    with in_one_line(path):
        before = path.stat()
        with made_whole(path, over=True) as fresh:
            found = _copied(path, fresh, fault)
            with suppress(OSError):
                os.chown(fresh, before.st_uid, before.st_gid)
            _move(path, found.aside)
    log.forget_host()
    return found


def _move(path: Path, target: Path) -> None:
    """Give the damaged file, with what was not in it yet, its new name; nothing is overwritten."""
    wal = wal_path(path)
    if wal.exists():
        os.close(os.open(wal_path(target), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        wal.rename(wal_path(target))
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:  # not every file system has hard links
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        path.rename(target)


def _copied(path: Path, fresh: Path, fault: str) -> Salvage:
    target = aside(path)
    now_ns = time.time_ns()
    with _Copy(path, fresh) as copy:
        total, has_end = copy.run()
        connection = copy.connection
        kept = connection.execute("SELECT count(*) FROM event").fetchall()[0][0]
        lost = None if total is None else total - kept
        attributes = {
            "reason": "the event log was damaged",
            "fault": fault,
            "set_aside": target.name,
            "events_kept": kept,
            "events_lost": lost,
        }
        gap = Event(now_ns, Kind.GAP, began_ns=now_ns, attributes=attributes, identity=target.name)
        if not kept:
            return Salvage(target, 0, lost, gap)
        here = identity.key_of_this_host(connection)
        identity.check(identity.known_hosts(connection), here, identity.this_machine(), path)
        for (host,) in connection.execute("SELECT DISTINCT host FROM event ORDER BY host").fetchall():
            identity.register(connection, host, is_here=host == identity.host_name())
            values = {
                "host": host,
                "now": now_ns,
                "has_end": has_end,
                "lost": lost,
                "known": incomplete_until(connection),
            }
            began_ns, ended_ns = connection.execute(_LOST, values).fetchall()[0]
            event = replace(gap, time_ns=ended_ns, began_ns=min(began_ns, ended_ns))
            insert(connection, host, {(event.time_ns, event.key): event})
    return Salvage(target, kept, lost, None)


class _Copy:
    """Copies the rows of a damaged log to a new one, both open in one connection, which each fault may end."""

    def __init__(self, source: Path, fresh: Path) -> None:
        self._source = source
        self._fresh = fresh
        self._without_wal = fresh.with_name(fresh.name + ".source")
        self._repaired = fresh.with_name(fresh.name + ".repaired")
        self._failures = 0
        # Whether the source, if its headers had to be repaired, is what it was.
        self._is_exact = True
        # Whether the last rows of the table that was copied last could not be read.
        self._lost_end = False
        self.connection = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        for path in (self._without_wal, self._repaired, wal_path(self._repaired)):
            path.unlink(missing_ok=True)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(str(self._fresh), config={**AUTOLOAD_OFF, **NEW_FILE, "threads": 1})

    def _attach(self) -> bool | None:
        """Open the damaged file; whether with all that belongs to it; None: it cannot be opened."""
        for place in (self._source, self._without_wal):
            if place == self._without_wal:
                if not wal_path(self._source).exists():
                    return None
                if not place.exists():
                    place.hardlink_to(self._source)
            try:
                self.connection.execute(f"ATTACH {sql_text(place)} AS damaged (READ_ONLY)")
            except duckdb.Error as error:
                self._renew()
                if is_locked(error):
                    raise LogBusyError(f"event log {self._source} is held by another process") from None
                if not is_damage(error, self._source):
                    raise
            else:
                return place == self._source
        return None

    def _repair_header(self) -> bool:
        """Go on with a copy of the file whose headers are as they were, as far as they can be; whether there is one."""
        shutil.copyfile(self._source, self._repaired)
        if (exact := repair(self._repaired, self._fresh)) is None:
            return False
        if wal_path(self._source).exists():
            shutil.copyfile(wal_path(self._source), wal_path(self._repaired))
        self._source, self._is_exact = self._repaired, exact
        return True

    def _renew(self) -> None:
        self.connection.close()
        self.connection = self._connect()

    def run(self) -> tuple[int | None, bool]:
        """Copy all that can be read: how many events there were, if that is known, and whether none came after them."""
        whole = self._attach()
        if whole is None and self._repair_header():
            # What cannot be opened even so is lost.
            with suppress(duckdb.Error):
                whole = self._attach()
            whole = None if whole is None else whole and self._is_exact
        version = SCHEMA_VERSION if whole is None else self._version()
        self.connection.begin()
        self.connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        for statements in MIGRATIONS[:version]:
            self.connection.execute(statements)
        self.connection.execute("INSERT INTO schema_version (version) VALUES (?)", [version])
        self.connection.commit()
        total = None
        if whole is not None:
            for table in _DATA:
                total = self._copy_table(table)
        migrate(self.connection, self._source)
        (last,) = self.connection.execute("SELECT max(seq) FROM event").fetchall()[0]
        # An event that speaks of an image that is not known any more says nothing.
        self.connection.execute("DELETE FROM event WHERE image IS NOT NULL AND image NOT IN (SELECT image FROM image)")
        self.connection.execute(
            "UPDATE event SET job = NULL, role = NULL WHERE job IS NOT NULL AND job NOT IN (SELECT job FROM job)"
        )
        (kept,) = self.connection.execute("SELECT max(seq) FROM event").fetchall()[0]
        return total, bool(whole) and not self._lost_end and kept == last

    def _version(self) -> int:
        tables = self._rows("SELECT table_name FROM duckdb_tables() WHERE database_name = 'damaged'")
        names = {name for (name,) in tables or ()}
        if names and not names & TABLES:
            raise LogError(f"{self._source} is a damaged DuckDB file of something else: name another with --log")
        found = self._rows("SELECT max(version) FROM damaged.schema_version")
        version = found[0][0] if found else None
        if not isinstance(version, int) or version < 1:
            return SCHEMA_VERSION
        if version > SCHEMA_VERSION:
            raise newer(self._source, version)
        return version

    def _copy_table(self, table: str) -> int | None:
        """Copy a table; how many rows it had."""
        columns = self._rows(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = 'damaged' AND table_name = ? INTERSECT"
            " SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND table_name = ?",
            [table, table],
        )
        counted = self._rows(f"SELECT count(*), max(rowid) FROM damaged.{table}") if columns else None
        if not columns or not counted:
            return None
        total, last = counted[0]
        names = ", ".join(name for (name,) in columns)
        waiting = [(low, low + _ROWS) for low in range(0, (-1 if last is None else last) + 1, _ROWS)][::-1]
        self._lost_end = False
        while waiting:
            low, high = waiting.pop()
            if self._failures >= _MOST_FAILURES:
                self._lost_end = True
                break
            done = self._rows(
                f"INSERT INTO {table} ({names}) SELECT {names} FROM damaged.{table} WHERE rowid >= ? AND rowid < ?",
                [low, min(high, last + 1)],
            )
            if done is None and high - low > _LEAST_ROWS:
                middle = (low + high) // 2
                waiting += [(middle, high), (low, middle)]
            elif done is None:
                self._lost_end = high > last
        return int(total)

    def _rows(self, sql: str, parameters: list[object] | None = None) -> list[tuple[Any, ...]] | None:
        """What a statement gives; None: it met the damage."""
        try:
            return self.connection.execute(sql, parameters or []).fetchall()
        except duckdb.Error as error:
            if is_full(error):
                raise
            self._failures += 1
            self._renew()
            if self._attach() is None:
                self._failures = _MOST_FAILURES
            return None


# From the last event before the first that is missing to the first after the last that is; to now where none is after
# it, and where none is missing: what did not reach the file any more is not known. Up to a number events may be missing
# on purpose: if more are lost than are missing after it, they can have been anywhere up to there.
_LOST = """
WITH held AS (SELECT seq, time FROM event WHERE host = $host),
    every AS (SELECT seq, lead(seq) OVER (ORDER BY seq) AS following FROM event),
    hole AS (SELECT seq, following FROM every WHERE following > greatest(seq + 1, $known)),
    hidden AS (SELECT $known > 0 AND $has_end AND $lost > coalesce(sum(following - seq - 1), 0) AS yes FROM hole),
    bounds AS (
        SELECT coalesce(
                if(hidden.yes OR ($known = 0 AND (SELECT min(seq) FROM event) > 1), 0, NULL),
                (SELECT min(seq) FROM hole),
                (SELECT max(seq) FROM event)) AS first,
            CASE WHEN $has_end THEN coalesce(
                (SELECT max(following) FROM hole),
                CASE WHEN hidden.yes THEN $known + 1
                    WHEN $known = 0 THEN (SELECT nullif(min(seq), 1) FROM event) END) END AS last
        FROM hidden
    )
SELECT epoch_ns(coalesce(max(time) FILTER (seq <= first), min(time))),
    coalesce(epoch_ns(min(time) FILTER (seq >= last)), $now)
FROM held, bounds
"""
