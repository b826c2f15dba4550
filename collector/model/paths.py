"""Where the event log is, as far as nobody says otherwise."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

DEFAULT_HOST = "unix:///var/run/docker.sock"
ENVIRONMENT_VARIABLE = "DOCKER_HINDSIGHT_LOG"


def default_log_path() -> Path:
    """Where the log is unless said otherwise: /var/lib for root, the XDG state folder for others."""
    if path := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(path)
    if os.geteuid() == 0:
        return Path("/var/lib/docker-hindsight/events.duckdb")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "docker-hindsight" / "events.duckdb"


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or leave what was there as it was: there is never half a file.

    A link is followed, as the user named it; the file that it leads to keeps its mode and owner.

    Raises:
        OSError: it cannot be written.
    """
    target = path.resolve()
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


def open_own(path: Path, flags: int, mode: int = 0o640) -> int:
    """Open a file of ours beside the log: a descriptor.

    Whatever else has its name is left alone: a link is not followed, and a pipe or device is not waited for.

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
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link, and links are not followed there: remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file: remove it")
    return descriptor


def _new_mode() -> int:
    """The mode of a file that this process makes without saying which."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
