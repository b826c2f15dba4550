"""Where the event log is, as far as nobody says otherwise."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from collector.model import environment

DEFAULT_HOST = "unix:///var/run/docker.sock"
MOST_BYTES = 16 * 2**20
_NULL = os.makedev(1, 3)


SYSTEM_LOG = Path("/var/lib/docker-hindsight/events.duckdb")
"""The log of the machine's own service."""


def default_log_path() -> Path:
    """Where the log is unless said otherwise: the service's for root, a user's own in the XDG state folder.

    A user without one who may read the service's, as a member of its group, means that.
    """
    if path := os.environ.get(environment.LOG):
        return Path(path)
    if os.geteuid() == 0:
        return SYSTEM_LOG
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    own = Path(state).expanduser() / "docker-hindsight" / "events.duckdb"
    return SYSTEM_LOG if not os.path.lexists(own) and os.access(SYSTEM_LOG, os.R_OK) else own


def open_foreign(path: Path) -> BinaryIO:
    """Open a file that others may replace, to be read.

    Links are followed, and ``/dev/null`` is an empty file, as the system's tools have it.

    Raises:
        OSError: it cannot be opened, or is not a file: a pipe would have us wait, and a device may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) or found.st_rdev == _NULL:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
    raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is not a regular file", os.fspath(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """What is in a file that others may replace, `most` bytes at most.

    Raises:
        OSError: it cannot be read, holds more, or is not a file.
    """
    with open_foreign(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return data


def read_bounded(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of such a file. Raises OSError as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(path).decode(encoding, errors)


def real_path(path: Path) -> Path:
    """Where a path leads, absolute and without links; `Path.resolve` raises where links lead in a circle."""
    return Path(os.path.realpath(path))


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or leave what was there as it was: there is never half a file.

    A link is followed, as the user named it; the file that it leads to keeps its mode and owner.

    Raises:
        OSError: it cannot be written.
    """
    target = real_path(path)
    if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
        # What is not a file (a pipe), or in a folder that is not ours, can only be written to as it is.
        target.write_text(text, encoding="utf-8")
        return
    replace_file(target, text.encode(), _new_mode())


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put a file in the place of what has its name, whole or not at all; if that is a link, in place of the link.

    What is written first has a name that nobody can have laid a link under, and is never shared.

    Args:
        path: the file.
        data: what is to be in it.
        mode: its permissions, if there is none yet; else it keeps those it has, and its owner.

    Raises:
        OSError: it cannot be written; then what was there is as it was.
    """
    # Made with O_EXCL, O_NOFOLLOW and mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=".docker-hindsight.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                known = path.lstat()
                if stat.S_ISREG(known.st_mode):
                    mode = stat.S_IMODE(known.st_mode)
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), known.st_uid, known.st_gid)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def rewrite_file(path: Path, data: bytes, mode: int) -> None:
    """Put a file in the place of another; on a full disk write into the blocks that it has already.

    A reader may then see a torn text. Data of always the same length leave no tail of what was there.

    Raises:
        OSError: neither can be done.
    """
    try:
        replace_file(path, data, mode)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not path.exists():
            raise
        with os.fdopen(open_own(path, os.O_WRONLY), "wb") as file:
            file.write(data)


def allocate(descriptor: int, size: int) -> None:
    """Have the file system hold so many bytes for a file.

    Raises:
        OSError: there is not enough space; then the file holds no more than before.
    """
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        # It has taken all that was left, and the last blocks are for whoever frees some.
        os.ftruncate(descriptor, before)
        raise


def open_own(path: Path | str, flags: int, mode: int = 0o640) -> int:
    """Open a file of ours beside the log: a descriptor.

    Whatever else has its name is left alone: a link is not followed, a pipe or device is not waited for, and what has
    another name, too, is not written to.

    Args:
        path: the file.
        flags: as of `os.open`.
        mode: its permissions, if it is made now.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and Path(path).is_symlink():
            raise OSError(errno.ELOOP, "it is a link, and links are not followed there: remove it") from None
        raise
    found = os.fstat(descriptor)
    wrong = None
    if not stat.S_ISREG(found.st_mode):
        wrong = OSError(errno.EINVAL, "it is not a regular file: remove it")
    elif found.st_nlink > 1 and flags & os.O_ACCMODE != os.O_RDONLY:
        wrong = OSError(errno.EMLINK, "it has another name, too (a hard link): remove it")
    if wrong is not None:
        os.close(descriptor)
        raise wrong
    return descriptor


def _new_mode() -> int:
    """The mode of a file that this process makes without saying which."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
