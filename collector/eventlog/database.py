"""The DuckDB file under the log: made whole or not at all, and opened so that nothing in it can act."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from collector.model.advice import how_to_read
from collector.model.errors import LogBusyError, LogDamagedError, LogError, LogFullError
from collector.model.paths import open_foreign, open_own, real_path

UMASK = 0o027
"""The log is 0640: it shows which projects run which images."""
_NO_SPACE = "No space left on device"
_DAMAGED = ("Could not read enough bytes", "orrupt", "checksum", "Checksum", "Failure while replaying WAL")
_DAMAGES = (duckdb.InternalException, duckdb.SerializationException, duckdb.FatalException)
_NOT_DUCKDB = "not a valid DuckDB database file"
_LOCKED_ELSEWHERE = "Could not set lock"
_IN_PLAIN_WORDS = {
    os.strerror(errno.EISDIR): "{path} is a folder and no event log: name the log itself with --log",
    os.strerror(errno.EROFS): "the file system of the event log {path} is read-only: make it writable",
}
# What the system refuses says nothing of the file, whatever DuckDB makes of it.
_REFUSALS = tuple(
    os.strerror(number)
    for number in (
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    )
)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only a folder that is ours alone is used there
DAMAGED = ".damaged-"
_HEADERS = 3 * 4096
_MAGIC = b"DUCK"
_MAGIC_AT = 8
# A log may come from elsewhere: it is data. No view, function or setting in it may read a file or load code.
AUTOLOAD_OFF = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_LOCKS = {"enable_external_access": "false", "lock_configuration": "true"}
# What a new file is like: one that the oldest supported DuckDB reads, compressed as well as that can, in blocks small
# enough for tables of a few rows. A file keeps what it was made with until it is written again.
NEW_FILE = {"storage_compatibility_version": "v1.4.0", "default_block_size": "65536"}
# What a log holds, wherever its header is lost; no other file does.
_SIGNS = (b"schema_version", b"event_seq")
_PIECE = 2**20
# A file of more than these is a sparse one, which has no end.
_MOST_ZEROS = 2**30


def wal_path(path: Path) -> Path:
    """Where DuckDB keeps what is committed and not yet in the file."""
    return path.with_name(path.name + ".wal")


def state_of(path: Path) -> tuple[object, ...] | None:
    """What changes whenever anybody writes to a file or to its write-ahead log; None: not known."""
    states: list[object] = []
    for place in (path, wal_path(path)):
        try:
            found = place.stat()
        except FileNotFoundError:
            states.append(None)
        except OSError:
            return None
        else:
            states.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(states) if states[0] else None


def spool_path(log_path: Path) -> Path:
    """Where the spool of a log is: beside it."""
    return log_path.with_name(log_path.name + ".spool")


def memory_spool_path(log_path: Path) -> Path:
    """Where a second spool of a log is, for a disk without room for the first: in memory, till the machine restarts.

    Its folder is this user's alone, which whoever writes there has to check.
    """
    name = hashlib.sha256(os.fsencode(real_path(log_path))).hexdigest()[:16]
    return SHARED_MEMORY / f"docker-hindsight-{os.geteuid()}" / f"{name}.spool"


def refuse_special(path: Path) -> None:
    """Refuse what DuckDB would wait for, or read without end. Raises LogError and OSError."""
    for place, advice in ((path, "name the log itself with --log"), (wal_path(path), "move it away")):
        if _is_special(place):
            raise LogError(f"{place} is a pipe, device or socket, not an event log: {advice}")


def _is_special(place: Path) -> bool:
    # Asked once: whoever closes the log removes its write-ahead log, at any moment.
    try:
        mode = place.stat().st_mode
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return False
        raise
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_database(
    path: Path, *, read_only: bool, reachable: Path | None = None, parallel: bool = False, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Open the file.

    Args:
        path: the file, which exists.
        read_only: whether others may read it at the same time.
        reachable: the only folder that queries may read and write files in; None: none.
        parallel: whether to start a thread for each core, which costs time and memory that only a long log is worth.
        memory: how much of it queries may use, in DuckDB's words; None: as much as it likes.
    """
    refuse_special(path)
    config = {**limits(parallel=parallel, memory=memory), **NEW_FILE}
    connection = duckdb.connect(str(path), read_only=read_only, config=config)
    try:
        # Only now: what a database is opened with is applied in no order, and a lock refuses what comes after it.
        lock(connection, reachable)
    except BaseException:
        connection.close()
        raise
    return connection


def limits(*, parallel: bool, memory: str | None) -> dict[str, str | bool | int | float | list[str]]:
    """DuckDB's settings for what reading a log may take; see `open_database`. No code is loaded for it."""
    threads = {} if parallel else {"threads": 1}
    # Nothing is written to the disk instead.
    bounded = {} if memory is None else {"memory_limit": memory, "temp_directory": ""}
    return {**AUTOLOAD_OFF, **threads, **bounded}


def lock(connection: duckdb.DuckDBPyConnection, reachable: Path | None) -> None:
    """Let what an open database holds reach no file outside a folder; None: none at all."""
    if reachable is not None:
        connection.execute("SET allowed_directories = ?", [[str(reachable)]])
    for setting, value in _LOCKS.items():
        connection.execute(f"SET {setting} = {value}")


def is_stub(path: Path) -> bool:
    """Whether a file is what a full disk leaves of a log that was never made: a part of its headers or nothing."""
    try:
        with open_foreign(path) as file:
            head = file.read(_HEADERS)
        wal = wal_path(path)
        if len(head) >= _HEADERS or (wal.exists() and wal.stat().st_size):
            return False
    except OSError:
        return False
    return not head.strip(b"\0") or head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


@contextmanager
def made_whole(path: Path, *, over: bool = False) -> Iterator[Path]:
    """Where to make a new file that takes its place when it is whole, unless another process was quicker.

    Args:
        path: its place.
        over: take the place of the file that is there.
    """
    before = os.umask(UMASK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new-{os.getpid()}-{time.monotonic_ns()}")
        try:
            yield fresh
            if wal_path(path).exists() and not path.exists():
                # It belonged to a file that somebody has removed.
                wal_path(path).rename(aside(wal_path(path)))
            if over:
                fresh.replace(path)
            else:
                _put_in_place(fresh, path)
        finally:
            for rest in (fresh, wal_path(fresh)):
                rest.unlink(missing_ok=True)
    finally:
        os.umask(before)


def _put_in_place(fresh: Path, path: Path) -> None:
    if is_stub(path):
        fresh.replace(path)
        return
    try:
        path.hardlink_to(fresh)
    except FileExistsError:
        return
    except OSError:  # not every file system has hard links
        if not path.exists():
            fresh.rename(path)


def aside(path: Path) -> Path:
    """The name under which a damaged file is kept."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken = [path.with_name(f"{path.name}{DAMAGED}{when}{more}") for more in ("", *(f"-{n}" for n in range(2, 100)))]
    return next((one for one in taken if not one.exists()), taken[-1])


@contextmanager
def alone(path: Path, suffix: str, doing: str) -> Iterator[None]:
    """Shut out others who would do the same with a log at the same time.

    Args:
        path: the log.
        suffix: of the lock's file, beside it.
        doing: what is done with the log, as a participle.

    Raises:
        LogBusyError: somebody does.
        LogError: the lock cannot be used.
    """
    place = path.with_name(path.name + suffix)
    with in_one_line(path):
        descriptor = open_own(place, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogBusyError(f"event log {path} is being {doing} by another process: wait for it to end") from None
        yield
    finally:
        os.close(descriptor)


def files_aside(path: Path) -> list[Path]:
    """The damaged files that were set aside of a log, the oldest first."""
    prefix = path.name + DAMAGED
    try:
        found = [one for one in path.parent.iterdir() if one.name.startswith(prefix) and one.suffix != ".wal"]
    except OSError:
        return []
    return sorted(found)


def check_functions(
    connection: duckdb.DuckDBPyConnection, path: Path, ours: frozenset[str], database: str | None = None
) -> None:
    """See that a file from elsewhere does not bring functions of its own, which would stand before DuckDB's.

    Args:
        connection: where it is open.
        path: the file.
        ours: the functions that it may have.
        database: what it is called there; None: it is the connection's own.

    Raises:
        LogError: it does.
    """
    found = connection.execute(
        "SELECT function_name FROM duckdb_functions() WHERE NOT internal"
        " AND database_name = coalesce(?, current_database())",
        [database],
    ).fetchall()
    if not ours.issuperset(name for (name,) in found):
        raise LogError(f"{path} defines functions of its own, which an event log never does: name another with --log")


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Turn DuckDB's and the system's faults into ours."""
    try:
        str(path).encode()  # DuckDB stumbles over names that are not UTF-8
        yield
    except PermissionError as error:
        raise _forbidden(path, error.filename) from None
    except OSError as error:
        said = _in_plain_words(str(error)) or f"event log {{path}} cannot be used: {error.strerror or error}"
        raise LogError(said.format(path=path)) from None
    except UnicodeEncodeError:
        raise LogError(
            f"event log {path} has a name that is not UTF-8: rename it, or name another with --log"
        ) from None
    except duckdb.Error as error:
        text = str(error)
        first_line = text.splitlines()[0] if text else type(error).__name__
        if _NO_SPACE in text:
            raise LogFullError(f"no space left for the event log {path}: free some") from None
        if "Permission denied" in text:
            raise _forbidden(path, path) from None
        if plainly := _in_plain_words(text):
            raise LogError(plainly.format(path=path)) from None
        damaged = is_damage(error, path)
        if _NOT_DUCKDB in text and not damaged:
            raise LogError(f"{path} is not a DuckDB file: move it away or name another with --log") from None
        if damaged:
            raise LogDamagedError(path, first_line) from None
        raise LogError(f"event log {path} cannot be used: {first_line}") from None


def _in_plain_words(text: str) -> str | None:
    """What to say of an error of DuckDB's about a path; None: nothing plainer is known."""
    return next((said for sign, said in _IN_PLAIN_WORDS.items() if sign in text), None)


def _forbidden(path: Path, place: object) -> LogError:
    return LogError(
        f"no permission on {place} for the event log {path}: {how_to_read(path)}, or name another with --log"
    )


def is_damage(error: duckdb.Error, path: Path) -> bool:
    """Whether the file itself is at fault, judging by DuckDB's error and the file.

    What is not ours, is held by another process, or may not be read or written is not damaged.
    """
    text = str(error).replace(str(path), "")
    if is_locked(error) or any(refusal in text for refusal in _REFUSALS):
        return False
    if _NOT_DUCKDB in text:
        return _was_ours(path)
    return (isinstance(error, _DAMAGES) or any(sign in text for sign in _DAMAGED)) and not _is_text(path)


def is_locked(error: duckdb.Error) -> bool:
    """Whether another process holds the file."""
    return _LOCKED_ELSEWHERE in str(error)


def is_full(error: duckdb.Error) -> bool:
    """Whether the file system has no room."""
    return _NO_SPACE in str(error)


def _is_text(path: Path) -> bool:
    """Whether a file begins as no log does: a header is zeros for the most part."""
    try:
        with open_foreign(path) as file:
            head = file.read(_HEADERS)
    except OSError:
        return True
    return b"\0" not in head


def _was_ours(path: Path) -> bool:
    """Whether a file without DuckDB's header was an event log: nothing but zeros, or with traces of our tables."""
    if _is_text(path):
        return False
    found: set[bytes] = set()
    is_zero, end, searched = True, b"", 0
    try:
        with open_foreign(path) as file:
            while piece := file.read(_PIECE):
                is_zero = is_zero and not piece.strip(b"\0")
                searched += len(piece)
                if is_zero and searched > _MOST_ZEROS:
                    return False
                found |= {sign for sign in _SIGNS if sign in end + piece}
                end = piece[-max(map(len, _SIGNS)) :]
                if len(found) == len(_SIGNS):
                    return True
    except OSError:
        return False
    return is_zero
