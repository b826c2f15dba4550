"""Copies of logs that end at an earlier moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb

from collector.eventlog.compaction import FORGET
from collector.eventlog.log import EventLog
from collector.model.errors import LogError


def copy_of(log: EventLog, host: str, folder: Path) -> EventLog:
    """A copy of one host's part of a log in a file, wherever the log is. Raises LogError."""
    copied = EventLog(folder / "events.duckdb", host=host)
    copy_log(log, copied.path)
    with duckdb.connect(str(copied.path)) as connection:
        connection.execute("DELETE FROM event WHERE host <> ?", [host])
    return copied


def copy_log(log: EventLog, path: Path) -> None:
    """Copy the file while nobody can append; what is read from elsewhere is written to one. Raises LogError."""
    with log.reading() as connection:
        try:
            if not log.path.is_file():
                quoted = str(path).replace("'", "''")
                connection.execute(f"ATTACH '{quoted}' AS copied")
                ((database,),) = connection.execute("SELECT current_database()").fetchall()
                connection.execute(f'COPY FROM DATABASE "{database}" TO copied')
                connection.execute("DETACH copied")
                return
            shutil.copyfile(log.path, path)
            wal = log.path.with_name(log.path.name + ".wal")
            if wal.exists():
                shutil.copyfile(wal, path.with_name(path.name + ".wal"))
        except OSError as error:
            raise LogError(f"no copy of {log.path} can be made in {path.parent}: {error.strerror}") from None
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise LogError(f"no copy of {log.path} can be made in {path.parent}: {reason}") from None


def forget_from(cut: EventLog, from_ns: int) -> None:
    """Forget all that happened from a moment on."""
    with duckdb.connect(str(cut.path)) as connection:
        connection.execute("DELETE FROM event WHERE epoch_ns(time) >= ? OR host <> ?", [from_ns, cut.host])
        connection.execute(FORGET)
