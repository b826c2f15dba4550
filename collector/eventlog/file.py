"""The log's file: opened for as long as work needs it, in turn, and made or brought to this version where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from os.path import samestat
from pathlib import Path
from typing import Any

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
from collector.eventlog.older import open_older
from collector.eventlog.schema import SCHEMA_VERSION, TABLES
from collector.eventlog.turns import PATIENCE, looks
from collector.eventlog.view_definitions import FINGERPRINT, FUNCTIONS
from collector.model.errors import LogBusyError

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
        with self._opened(read_only=False, gives_way=True) as connection:
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
    def _opened(self, *, read_only: bool, **how: Any) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open file; `gives_way` leaves it to all who wait first, more: see `open_database`."""
        with in_one_line(self.path):
            if not read_only and not self.exists():
                self._make()
            connection = self._connect(read_only=read_only, **how)
            try:
                is_sound = self._is_as_left() or self._examine(connection, read_only=read_only)
                yield connection
            finally:
                connection.close()
            if is_sound and not read_only:
                _LEFT[self.path] = state_of(self.path)

    @contextmanager
    def _opened_as_newest(self, **how: Any) -> Iterator[duckdb.DuckDBPyConnection]:
        """An older log that is to stay as it is, open for reading as one of this version; `how`: see `open_older`."""
        with in_one_line(self.path):
            connection = self._connect(open_older, **how)
            try:
                yield connection
            finally:
                connection.close()

    def _make(self) -> None:
        """Create an empty log: a full disk gets no log rather than part of one."""
        with made_whole(self.path) as fresh:
            self._fill(fresh)
            made = fresh.stat()
        if samestat(self.path.stat(), made):
            _LEFT[self.path] = state_of(self.path)

    def _fill(self, fresh: Path) -> None:
        """Make the file that is to become this log."""
        with open_database(fresh, read_only=False) as connection:
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
        self, opening: Callable[..., duckdb.DuckDBPyConnection] | None = None, *, gives_way: bool = False, **how: Any
    ) -> duckdb.DuckDBPyConnection:
        alone = not how.get("read_only", True)
        with closing(looks(self.path, self.wait, alone=alone, gives_way=gives_way)) as moments:
            for _ in moments:
                connection = self._try(opening or open_database, **how)
                if connection is not None:
                    return connection
        waited = self.wait * PATIENCE if gives_way else self.wait
        raise LogBusyError(
            f"event log {self.path} has been held by another process for {waited:g} s: "
            "end that process (`fuser` names it) or try again later"
        )

    def _try(self, opening: Callable[..., duckdb.DuckDBPyConnection], **how: Any) -> duckdb.DuckDBPyConnection | None:
        """Open the file; None: another process holds it, or is just putting another in place."""
        try:
            before = self.path.stat().st_ino
            connection = opening(self.path, **how)
        except duckdb.IOException as error:
            if not is_locked(error):
                raise
            return None
        if self.path.stat().st_ino == before:
            return connection
        # It was rewritten in between: whoever held the old file would append to what is no longer there.
        connection.close()
        return None
