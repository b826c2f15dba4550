"""The event log: appends, reads, and the only module that opens DuckDB files.

No process keeps the file open: a writer shuts out readers and a reader shuts out writers, so each
opens it for as long as its work needs, and waits its turn.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from collector.eventlog import compaction, experience, hourly, identity
from collector.eventlog.database import (
    check_functions,
    in_one_line,
    is_locked,
    is_stub,
    made_whole,
    open_database,
    refuse_special,
    state_of,
)
from collector.eventlog.pace import LOOK_S, rest
from collector.eventlog.rows import attribute_old_events, insert, unseen
from collector.eventlog.schema import (
    COLUMNS,
    FINGERPRINT,
    FUNCTIONS,
    JOBS_VERSION,
    MIGRATIONS,
    SCHEMA_VERSION,
    TABLES,
    VIEWS,
)
from collector.eventlog.settings import goes_on_from, job_details
from collector.eventlog.views import show
from collector.model.advice import how_to_get_log
from collector.model.backoff import Backoff
from collector.model.errors import LogBusyError, LogError
from collector.model.events import Event
from collector.model.job_details import JobDetails, cut_down
from collector.model.untrusted import LAST_NS, whole

logger = logging.getLogger(__name__)

ONLY_KEPT = math.inf
"""For `EventLog.reading`: of all events but the latest only what decisions need."""
METRICS = "metrics"
"""The source of events under which `collector.queries.tally` stores how far it has come."""
# Errors of folding in a file that is sound and has space.
_UNFOLDABLE = (duckdb.DataError, duckdb.ProgrammingError, duckdb.InternalError, duckdb.OutOfMemoryException)
_LAST_VERSION = 10**9
_FIRST_RETRY_S = 0.01
# Logs as this process found or left them. To ask DuckDB for versions, tables and functions takes longer than to open
# a file, so it is asked again only when somebody else has written to it.
_LEFT: dict[Path, tuple[object, ...] | None] = {}


class EventLog:
    """An append-only log of events in a DuckDB file.

    Args:
        path: the file; created with its folder by the first append.
        host: the key under which events are stored and read; None: this host's, whatever its name is now.
        wait: how long to wait for another process to let go of the file, seconds.
    """

    def __init__(self, path: Path, host: str | None = None, wait: float = 10.0) -> None:
        self.path = path
        self._host = self._given = host
        self.wait = wait
        # Which job details all writers keep from the next append on; None: the same as so far.
        self.job_details: JobDetails | None = None
        # The number of the last event that this object appended.
        self._newest = 0
        # The number of the event at which the next fold is due, and up to when uses are folded, UTC nanoseconds.
        self._due = self._folded = 0
        self._checked: tuple[int, int] | None = None
        self._shared: duckdb.DuckDBPyConnection | None = None

    @property
    def host(self) -> str:
        """The key of this host's events, read from the log. Raises as `reading` does."""
        if self._host is None:
            if not self.exists():
                return identity.host_name()
            with self.reading():
                pass
        return str(self._host)

    def forget_host(self) -> None:
        """Look up again which host's log this is: the file was replaced."""
        self._host = self._given

    def exists(self) -> bool:
        """Whether there is a log; the stub that a full disk leaves is none. Raises LogError if one may not look."""
        with in_one_line(self.path):
            if not self.path.exists():
                return False
            refuse_special(self.path)
            return not is_stub(self.path)

    def append(self, events: Sequence[Event], mark: tuple[str, str] | None = None) -> int:
        """Store the events that are not stored yet, in order, all or none; return how many were new.

        Args:
            events: the events.
            mark: a source of events and the position in it that is reached with these; stored with them.

        Raises:
            LogBusyError: others held the file for longer than `wait`.
            LogFullError: the file system is full; what was stored before is intact.
            LogError: the file is not a log, of a newer schema, or may not be written.
        """
        if not events and mark is None:
            return 0
        with self._opened(read_only=False) as connection:
            connection.begin()
            count = self._put(connection, events, mark)
            newest = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
            try:
                self._fold_if_due(connection, newest)
            except _UNFOLDABLE as error:
                # What cannot be folded must still be stored: queries then read it from the events.
                logger.warning("event log %s: what was stored is not folded: %s", self.path, str(error).splitlines()[0])
                connection.rollback()
                connection.begin()
                self._put(connection, events, mark)
            connection.commit()
            self._newest = newest
        return count

    def _fold_if_due(self, connection: duckdb.DuckDBPyConnection, newest: int) -> None:
        """Fold one piece of what is not folded yet; most appends need not even look whether there is any."""
        if self._newest <= newest < self._due:
            return
        self._due = compaction.fold(connection)
        if not hourly.advance(connection, self.host):
            self._due = 0
        if newest < self._due:
            # Uses are folded when nothing else waits, from what the other folds have left.
            folded = experience.advance(connection, self.host)
            if folded != self._folded:
                self._folded, self._due = folded, 0

    def _put(self, connection: duckdb.DuckDBPyConnection, events: Sequence[Event], mark: tuple[str, str] | None) -> int:
        host = self._resolved(connection)
        if self._given is None:
            identity.check(identity.known_hosts(connection), host, identity.this_machine(), self.path)
        identity.register(connection, host, is_here=self._given is None)
        events = list(cut_down(events, job_details(connection, self.job_details)))
        new = unseen(connection, host, events) if events else {}
        if new:
            insert(connection, host, new)
        if mark is not None:
            connection.execute("DELETE FROM position WHERE host = ? AND source = ?", [host, mark[0]])
            connection.execute("INSERT INTO position VALUES (?, ?, ?)", [host, *mark])
        return len(new)

    def position(self, source: str) -> str | None:
        """How far a source of events was read, as noted by `append`; None: not at all. Raises LogError."""
        if not self.exists():
            return None
        rows = self.query("SELECT position FROM position WHERE host = ? AND source = ?", [self.host, source])
        return str(rows[0][0]) if rows else None

    def require(self) -> None:
        """Check that there is a log. Raises LogError, which says how to get one."""
        if not self.exists():
            raise LogError(f"no event log at {self.path}: {how_to_get_log(self.path)}")

    @contextmanager
    def reading(
        self,
        reachable: Path | None = None,
        *,
        as_recorded: bool = False,
        whole_since: float | None = None,
        memory: str | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection; close it soon: nobody can append while it is open.

        No event it shows is later than now, or than a later event recorded after the clock was set back; see
        `collector.eventlog.schema.true_times`.

        Args:
            reachable: the only folder in which queries may read and write files; None: none.
            as_recorded: show times as they were recorded nevertheless.
            whole_since: show all events from this time on (UTC seconds), and of earlier ones only those that a
                decision still needs: see `collector.eventlog.compaction`. None: show all.
            memory: how much of it queries may use, in DuckDB's words; None: as much as it likes.

        Raises:
            LogBusyError, LogError: see `append`; also when there is no log yet.
        """
        if self._shared is not None:
            yield self._prepared(self._shared, as_recorded=as_recorded, whole_since=whole_since, again=True)
            return
        self.require()
        parallel = whole_since is None
        with self._opened(read_only=True, reachable=reachable, parallel=parallel, memory=memory) as connection:
            if self._is_as_left() or _version(connection, self.path) == SCHEMA_VERSION:
                yield self._prepared(connection, as_recorded=as_recorded, whole_since=whole_since)
                return
        with self._opened(read_only=False):
            pass  # it is brought to this version
        with self._opened(read_only=True, reachable=reachable, parallel=parallel, memory=memory) as connection:
            yield self._prepared(connection, as_recorded=as_recorded, whole_since=whole_since)

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Let all readings within share one connection: the file is opened once and seen in one state."""
        with self.reading(whole_since=ONLY_KEPT) as connection:
            self._shared = connection
            try:
                yield
            finally:
                self._shared = None

    def _prepared(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        as_recorded: bool,
        whole_since: float | None,
        again: bool = False,
    ) -> duckdb.DuckDBPyConnection:
        """An open log as queries see it: with our own views, whatever views the file holds, and plausible times."""
        since_ns = None if whole_since is None else int(min(max(whole_since * 1e9, 0), LAST_NS))
        self._resolved(connection)
        return show(connection, since_ns, as_recorded=as_recorded, again=again)

    def claim(self, here: identity.Identity, *, readonly: bool = False) -> list[Event]:
        """Check that the log is this host's, and store what the host is recognised by.

        Args:
            here: what this host is recognised by.
            readonly: only look; the collector will store it.

        Returns:
            Events to append about changes of the host that the log does not know yet.

        Raises:
            LogError: it is another host's (with what to do), or cannot be used.
        """
        if not self.exists():
            return []
        self.forget_host()
        with self.reading() as connection:
            known = identity.check(identity.known_hosts(connection), self.host, here, self.path)
        if known is None:
            return []
        after = known.identity.updated(here)
        if not readonly and after != known.identity:
            self._store_host(identity.KnownHost(known.key, known.id, after))
        return [] if readonly else identity.changed(known.identity, after)

    def adopt(self, here: identity.Identity, host: str | None = None) -> tuple[identity.KnownHost, identity.KnownHost]:
        """Continue a log on another machine or engine than it was recorded on; returns the host as it was and is.

        Args:
            here: what this host is recognised by.
            host: which host's history, by key or name; None: the only one.

        Raises:
            LogError: there is no such host, or several fit; or the log cannot be used.
        """
        with self.reading() as connection:
            hosts = identity.known_hosts(connection)
        before = identity.chosen(hosts, host, self.path)
        # Whoever continues the original is another host from now on.
        after = identity.KnownHost(before.key, uuid.uuid4().hex, before.identity.updated(here))
        self._store_host(after)
        EventLog(self.path, before.key, self.wait).append(
            identity.changed(before.identity, after.identity, adopted=before.id)
        )
        self.forget_host()
        return before, after

    def _store_host(self, host: identity.KnownHost) -> None:
        with self._opened(read_only=False) as connection:
            connection.begin()
            identity.store(connection, host)
            connection.commit()

    def _resolved(self, connection: duckdb.DuckDBPyConnection) -> str:
        if self._host is None:
            self._host = identity.key_of_this_host(connection)
        return self._host

    def query(
        self,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] = (),
        *,
        as_recorded: bool = False,
        whole_since: float | None = None,
    ) -> list[tuple[Any, ...]]:
        """All rows of a query; see `reading`, also for what it raises."""
        with self.reading(as_recorded=as_recorded, whole_since=whole_since) as connection:
            return connection.execute(sql, parameters).fetchall()

    def verify(self) -> None:
        """Read all that the log holds, whose blocks have checksums: an append reads only what it needs.

        Raises:
            LogDamagedError: something cannot be read.
            LogBusyError, LogError: see `append`.
        """
        if not self.exists():
            return
        with self._opened(read_only=True, parallel=True) as connection:
            found = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            for table in sorted(TABLES & found):
                connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM {table}").fetchall()

    def fold(self, until_ns: int) -> int:
        """Fold how images were used up to a time, piece by piece; returns how far it got, both UTC nanoseconds.

        Raises:
            LogError: the log cannot be used.
        """
        host, reached = self.host, -1
        while True:
            began = time.monotonic()
            with self._opened(read_only=False) as connection:
                connection.begin()
                newest = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
                is_behind = compaction.fold(connection) <= newest
                is_behind |= not hourly.advance(connection, host)
                after = -1 if is_behind else experience.advance(connection, host, until_ns)
                connection.commit()
            if not is_behind:
                if after >= until_ns or after <= reached:
                    return after
                reached = after
            rest(began)

    def goes_on_from(self, file: tuple[int, int]) -> bool:
        """Whether the log is another file, by device and inode, written again with all that was appended to that.

        Raises:
            LogError: it cannot be read.
        """
        with self.reading() as connection:
            newest = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
            return newest >= self._newest and goes_on_from(connection, file)

    def settle(self) -> None:
        """Move everything into the file itself, at this version. Raises LogError."""
        with self._opened(read_only=False) as connection:
            connection.execute("CHECKPOINT")

    def forget_folded(self) -> None:
        """Drop what is folded: coming appends fold it from the events again. Raises LogError."""
        with self._opened(read_only=False) as connection:
            connection.begin()
            connection.execute(compaction.FORGET)
            connection.execute("DELETE FROM position WHERE source = ?", [METRICS])
            connection.commit()
        self._due = 0

    def has_current_views(self) -> bool:
        """Whether the views in the file are those of this program, or will be: reading brings an older file up to date.

        Raises as `reading` does.
        """
        with self._opened(read_only=True) as connection:
            return _version(connection, self.path) < SCHEMA_VERSION or _fingerprint(connection) == FINGERPRINT

    def schema_version(self) -> int:
        """The schema version of the file. Raises as `reading` does."""
        with self._opened(read_only=True) as connection:
            return _version(connection, self.path)

    @contextmanager
    def _opened(
        self, *, read_only: bool, reachable: Path | None = None, parallel: bool = False, memory: str | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        with in_one_line(self.path):
            if not read_only and not self.exists():
                self._make()
            connection = self._connect(read_only=read_only, reachable=reachable, parallel=parallel, memory=memory)
            try:
                is_sound = self._is_as_left() or self._examine(connection, read_only=read_only)
                yield connection
            finally:
                connection.close()
            if is_sound and not read_only:
                _LEFT[self.path] = state_of(self.path)

    def _make(self) -> None:
        """Create an empty log: a full disk gets no log rather than part of one."""
        with made_whole(self.path) as fresh, open_database(fresh, read_only=False) as connection:
            migrate(connection, self.path)

    def _is_as_left(self) -> bool:
        """Whether nobody has written to the file since this process found or left it sound."""
        state = state_of(self.path)
        return state is not None and _LEFT.get(self.path) == state

    def _examine(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool) -> bool:
        """Whether an open log is of this program's version, with its views, to which one open for writing is brought.

        Raises:
            LogError: it is no log, or a newer program's.
        """
        self._check(connection)
        if not read_only:
            migrate(connection, self.path)
        version = _version(connection, self.path)
        if version > SCHEMA_VERSION:
            raise newer(self.path, version)
        if version < SCHEMA_VERSION:
            return False
        check_tables(connection, self.path)
        is_sound = _fingerprint(connection) == FINGERPRINT
        if is_sound and read_only:
            _LEFT[self.path] = state_of(self.path)
        return is_sound

    def _check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Once for each file: check that it holds nothing but data."""
        found = self.path.stat()
        if self._checked != (found.st_dev, found.st_ino):
            check_functions(connection, self.path, FUNCTIONS)
            self._checked = (found.st_dev, found.st_ino)

    def _connect(
        self, *, read_only: bool, reachable: Path | None, parallel: bool, memory: str | None = None
    ) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.wait
        waits = Backoff(_FIRST_RETRY_S, LOOK_S)
        while True:
            try:
                before = self.path.stat().st_ino
                connection = open_database(
                    self.path, read_only=read_only, reachable=reachable, parallel=parallel, memory=memory
                )
                if self.path.stat().st_ino == before:
                    return connection
                # It was rewritten in between: whoever held the old file would append to what is no longer there.
                connection.close()
            except duckdb.IOException as error:
                if not is_locked(error):
                    raise
                delay = waits.next()
                if time.monotonic() + delay > deadline:
                    raise LogBusyError(
                        f"event log {self.path} has been held by another process for {self.wait:g} s: "
                        "end that process (`fuser` names it) or try again later"
                    ) from None
            time.sleep(delay)


def migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring an open log to this program's schema version and views, in one transaction.

    Raises:
        LogError: the log is of a newer version, or a DuckDB file with other tables.
    """
    version = _version(connection, path)
    if version > SCHEMA_VERSION:
        raise newer(path, version)
    if version == SCHEMA_VERSION and _fingerprint(connection) == FINGERPRINT:
        return
    if version == 0 and connection.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
        raise LogError(f"{path} is a DuckDB file of something else: name another with --log")
    connection.begin()
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    upgrade(connection, version)
    connection.execute(VIEWS)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?, ?)", [SCHEMA_VERSION, FINGERPRINT])
    connection.commit()


def upgrade(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring the tables of an open log from a schema version to this program's; not its views, which files hold."""
    for statements in MIGRATIONS[version:]:
        connection.execute(statements)
    if 0 < version < JOBS_VERSION:
        attribute_old_events(connection)


def check_tables(connection: duckdb.DuckDBPyConnection, path: Path, database: str | None = None) -> None:
    """Check that a log of this schema version holds its own tables, not views or tables that only look like them.

    Args:
        connection: the connection on which it is open.
        path: its file.
        database: its name there; None: the connection's own database.
    """
    of_tables = "FROM duckdb_tables() WHERE database_name = coalesce($1, current_database()) AND schema_name = 'main'"
    found = {name for (name,) in connection.execute(f"SELECT table_name {of_tables}", [database]).fetchall()}
    if not found >= TABLES:
        missing = ", ".join(sorted(TABLES - found))
        raise LogError(f"{path} is not an event log (no table {missing}): name another with --log")
    sql = (
        "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()"
        " WHERE database_name = coalesce($1, current_database()) AND schema_name = 'main'"
    )
    if other := COLUMNS.difference(connection.execute(sql, [database]).fetchall()):
        table, column, *_ = min(other)
        raise LogError(f"{path} is not an event log (column {column} of table {table}): name another with --log")


def _version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    found = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchall()
    if not found:
        return 0
    version = whole(connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0], 1, _LAST_VERSION)
    if version is None:
        raise LogError(f"{path} is not an event log (no schema version): name another with --log")
    return version


def _fingerprint(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Which views a log of this schema version holds; None: not known."""
    found = connection.execute("SELECT max(views) FROM schema_version").fetchall()[0][0]
    return None if found is None else str(found)


def newer(path: Path, version: int) -> LogError:
    """The error for a log that a newer program wrote."""
    return LogError(
        f"event log {path} has schema version {version}, this program knows {SCHEMA_VERSION}: "
        "install the newer docker-hindsight that wrote it"
    )
