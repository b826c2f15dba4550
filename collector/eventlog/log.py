"""The event log: appends and reads."""

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
from collector.eventlog.file import LogFile
from collector.eventlog.migration import version_of
from collector.eventlog.pace import rest
from collector.eventlog.rows import insert, unseen
from collector.eventlog.schema import SCHEMA_VERSION
from collector.eventlog.settings import goes_on_from, job_details, note_no_gain
from collector.eventlog.views import show
from collector.model.advice import how_to_get_log
from collector.model.errors import LogBusyError, LogDamagedError, LogError
from collector.model.events import Event
from collector.model.job_details import JobDetails, cut_down
from collector.model.untrusted import LAST_NS

logger = logging.getLogger(__name__)

ONLY_KEPT = math.inf
"""For `EventLog.reading`: of all events but the latest only what decisions need."""
METRICS = "metrics"
"""The source of events under which `collector.queries.tally` stores how far it has come."""
# Errors of folding in a file that is sound and has space.
_UNFOLDABLE = (duckdb.DataError, duckdb.ProgrammingError, duckdb.InternalError, duckdb.OutOfMemoryException)


class EventLog(LogFile):
    """An append-only log of events in a DuckDB file.

    Args:
        path: the file; created with its folder by the first append.
        host: the key under which events are stored and read; None: this host's, whatever its name is now.
        wait: how long to wait for another process to let go of the file, seconds.
    """

    def __init__(self, path: Path, host: str | None = None, wait: float = 10.0) -> None:
        super().__init__(path, wait)
        self._host = self._given = host
        # Which job details all writers keep from the next append on; None: the same as so far.
        self.job_details: JobDetails | None = None
        # The number of the last event that this object appended.
        self._newest = 0
        # The number of the event at which the next fold is due, and up to when uses are folded, UTC nanoseconds.
        self._due = self._folded = 0
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
        `collector.eventlog.views.true_times`.

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
        how = {"reachable": reachable, "parallel": whole_since is None, "memory": memory}
        with self._opened(read_only=True, **how) as connection:
            if self._is_as_left() or version_of(connection, self.path) == SCHEMA_VERSION:
                yield self._prepared(connection, as_recorded=as_recorded, whole_since=whole_since)
                return
        with self._brought_forward(how) as connection:
            yield self._prepared(connection, as_recorded=as_recorded, whole_since=whole_since)

    @contextmanager
    def _brought_forward(self, how: dict[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
        """An older log, open for reading: brought to this version, or shown as if where it may not be written."""
        try:
            with self._opened(read_only=False):
                pass  # it is brought to this version
        except (LogBusyError, LogDamagedError):
            raise
        except LogError as error:
            logger.debug("%s: it is read as it is", error)
            opened = self._opened_as_newest(**how)
        else:
            opened = self._opened(read_only=True, **how)
        with opened as connection:
            yield connection

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

    def fold(self, until_ns: int) -> int:
        """Fold how images were used up to a time, piece by piece; returns how far it got, both UTC nanoseconds.

        Raises:
            LogError: the log cannot be used.
        """
        host, reached = self.host, -1
        while True:
            began = time.monotonic()
            with self._opened(read_only=False, gives_way=True) as connection:
                connection.begin()
                after = self._fold_one(connection, host, until_ns)
                connection.commit()
            if after is not None:
                if after >= until_ns or after <= reached:
                    return after
                reached = after
            rest(began)

    @staticmethod
    def _fold_one(connection: duckdb.DuckDBPyConnection, host: str, until_ns: int) -> int | None:
        """Fold one piece of what is behind; up to when uses are folded, UTC nanoseconds; None: others are behind."""
        before = compaction.reached(connection)
        compaction.fold(connection)
        if compaction.reached(connection) != before:
            return None
        before = hourly.reached(connection, host)
        hourly.advance(connection, host)
        if hourly.reached(connection, host) != before:
            return None
        return experience.advance(connection, host, until_ns)

    def goes_on_from(self, file: tuple[int, int]) -> bool:
        """Whether the log is another file, by device and inode, written again with all that was appended to that.

        Raises:
            LogError: it cannot be read.
        """
        with self.reading() as connection:
            newest = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
            return newest >= self._newest and goes_on_from(connection, file)

    def note_no_gain(self, at_ns: int) -> None:
        """Note that writing the log again won nothing then, UTC nanoseconds. Raises LogError."""
        with self._opened(read_only=False, gives_way=True) as connection:
            connection.begin()
            note_no_gain(connection, at_ns)
            connection.commit()

    def forget_folded(self) -> None:
        """Drop what is folded: coming appends fold it from the events again. Raises LogError."""
        with self._opened(read_only=False) as connection:
            connection.begin()
            connection.execute(compaction.FORGET)
            connection.execute("DELETE FROM position WHERE source = ?", [METRICS])
            connection.commit()
        self._due = 0
