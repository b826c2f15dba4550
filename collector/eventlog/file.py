"""The log's file: opened for as long as work needs it, in turn, and made or brought to this version where needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

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
from collector.eventlog.migration import check_tables, fingerprint_of, migrate, newer, version_of
from collector.eventlog.pace import LOOK_S
from collector.eventlog.schema import SCHEMA_VERSION, TABLES
from collector.eventlog.view_definitions import FINGERPRINT, FUNCTIONS
from collector.model.backoff import Backoff
from collector.model.errors import LogBusyError

_FIRST_RETRY_S = 0.01
# Logs as this process found or left them. To ask DuckDB for versions, tables and functions takes longer than to open
# a file, so it is asked again only when somebody else has written to it.
_LEFT: dict[Path, tuple[object, ...] | None] = {}


class LogFile:
    """The file of a log, which nobody keeps open: a writer shuts out readers and a reader shuts out writers.

    Args:
        path: the file; created with its folder by the first append.
        wait: how long to wait for another process to let go of the file, seconds.
    """

    def __init__(self, path: Path, wait: float) -> None:
        self.path = path
        self.wait = wait
        self._checked: tuple[int, int] | None = None

    def exists(self) -> bool:
        """Whether there is a log; the stub that a full disk leaves is none. Raises LogError if one may not look."""
        with in_one_line(self.path):
            if not self.path.exists():
                return False
            refuse_special(self.path)
            return not is_stub(self.path)

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

    def settle(self) -> None:
        """Move everything into the file itself, at this version. Raises LogError."""
        with self._opened(read_only=False) as connection:
            connection.execute("CHECKPOINT")

    def has_current_views(self) -> bool:
        """Whether the views in the file are those of this program, or will be: reading brings an older file up to date.

        Raises as `reading` does.
        """
        with self._opened(read_only=True) as connection:
            return version_of(connection, self.path) < SCHEMA_VERSION or fingerprint_of(connection) == FINGERPRINT

    def schema_version(self) -> int:
        """The schema version of the file. Raises as `reading` does."""
        with self._opened(read_only=True) as connection:
            return version_of(connection, self.path)

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
            LogError: it is not a log, or a newer program's.
        """
        self._check(connection)
        if not read_only:
            migrate(connection, self.path)
        version = version_of(connection, self.path)
        if version > SCHEMA_VERSION:
            raise newer(self.path, version)
        if version < SCHEMA_VERSION:
            return False
        check_tables(connection, self.path)
        is_sound = fingerprint_of(connection) == FINGERPRINT
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
