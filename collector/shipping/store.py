"""Where shipped logs come together: a folder, or a bucket of an S3-compatible store.

Both are kept alike: files under names with slashes, each written whole or not at all. Nothing is renamed there, and
nothing removed but on request, so a runner's credentials need only read, list and write.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from collector.model.errors import HindsightError, UsageError
from collector.model.paths import open_own, read_bounded

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INCOMING = ".incoming"
"""Where files are on their way into a folder."""
_MODE = 0o666  # as far as the umask allows
S3 = "s3://"
# What others wrote into a shared store is not read without end, bytes.
MOST, MOST_OF_MANIFEST = 2**31, 2**20


class StoreError(HindsightError):
    """The place where logs come together cannot be used as it is."""


class UnreadableError(StoreError):
    """One file there cannot be read, whatever becomes of the others."""


class StoreFullError(StoreError):
    """It has no room for what is to be written."""


class Store(Protocol):
    """Named files, each written whole or not at all. Every method raises StoreError if the place cannot be used."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def names(self, prefix: str) -> list[str]:
        """The names of all files below a prefix, such as ``manifest/host=a``, in order."""

    def folders(self, prefix: str) -> list[str]:
        """The names directly below a prefix that are not files, without the prefix, in order."""

    def read(self, name: str, most: int = MOST) -> bytes | None:
        """The contents of a file, so many bytes of it at most; None: there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name."""

    def claim(self, name: str, data: bytes) -> bytes:
        """Write a file unless there is one; what is in it then."""

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""


def open_store(place: str, credentials: Path | None = None) -> Store:
    """The store of a folder or URL.

    Args:
        place: a folder, or ``s3://bucket/prefix``.
        credentials: a file of credentials for S3; None: they are taken from the environment.

    Raises:
        UsageError: the URL or the file of credentials is invalid.
        StoreError: the URL cannot be used.
    """
    if place.startswith(S3):
        try:
            from collector.shipping.bucket import Bucket  # noqa: PLC0415 - obstore, an extra
        except ImportError:
            raise UsageError(f"{place}: obstore is not installed: install 'docker-hindsight[s3]'") from None
        return Bucket(place, _settings(credentials) if credentials else None)
    if not place:
        raise UsageError("where to ship to is empty: name a folder or s3://BUCKET/PREFIX (in the service: SHIP_TO)")
    if "://" in place:
        raise UsageError(f"{place.partition('://')[0]}:// is not supported: name a folder or s3://BUCKET/PREFIX")
    if ":" in place.partition("/")[0]:
        raise UsageError(
            f"'{place}' is neither a folder of this machine nor s3://BUCKET/PREFIX (a folder of that name: './{place}')"
        )
    if credentials is not None:
        raise UsageError(f"--credentials is for S3, and {place} is a folder")
    return Folder(Path(place))


def _settings(path: Path) -> Mapping[str, str]:
    """The lines NAME=VALUE of a file, as systemd's EnvironmentFile has them. Raises UsageError."""
    try:
        lines = read_bounded(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--credentials: {path} cannot be read: {reason}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not name.strip().upper().startswith("AWS_"):
            # The line itself may hold a secret.
            raise UsageError(f"--credentials: line {number} of {path} is not AWS_NAME=VALUE")
        found[name.strip().upper()] = value.strip().strip("\"'")
    return found


class Folder:
    """A folder, which may be on a network's file system.

    Args:
        path: the folder; made with the first file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """See `Store`."""
        return str(self.path)

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        with self._in_one_line():
            # Not by `Path`: it takes many times as long as the listing.
            above = f"{self.path}/"
            files = (os.path.join(top, name) for top, _, names in os.walk(above + prefix) for name in names)  # noqa: PTH118
            return sorted(file.removeprefix(above) for file in files)

    def folders(self, prefix: str) -> list[str]:
        """See `Store`."""
        with self._in_one_line():
            place = self.path / prefix
            return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []

    def read(self, name: str, most: int = MOST) -> bytes | None:
        """See `Store`."""
        with self._in_one_line():
            try:
                descriptor = open_own(f"{self.path}/{name}", os.O_RDONLY)
            except FileNotFoundError:
                return None
            except OSError as error:
                if isinstance(error, NotADirectoryError) and not self.path.is_dir():
                    raise  # not this file, the place is at fault
                raise UnreadableError(f"{self.path}/{name} cannot be read: {error.strerror or error}") from None
            with os.fdopen(descriptor, "rb") as file:
                # As much memory as is asked for is taken at first.
                return file.read(min(most, os.fstat(descriptor).st_size + 1))

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with self._in_one_line(), self._incoming(name, data) as fresh:
            fresh.replace(self.path / name)

    def claim(self, name: str, data: bytes) -> bytes:
        """See `Store`."""
        with self._in_one_line():
            with self._incoming(name, data) as fresh:
                try:
                    (self.path / name).hardlink_to(fresh)
                except FileExistsError:
                    pass
                except OSError:  # not every file system has hard links
                    if not (self.path / name).exists():
                        fresh.replace(self.path / name)
            return self.read(name) or b""

    def remove(self, name: str) -> None:
        """See `Store`."""
        with self._in_one_line():
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def _incoming(self, name: str, data: bytes) -> Iterator[Path]:
        """A file with these contents on its way, in a folder that no reader looks into."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / INCOMING).mkdir(exist_ok=True)
        # One process ships a log at a time; the name distinguishes hosts that share the folder.
        fresh = self.path / INCOMING / name.replace("/", "+")[-200:]
        try:
            # Others may write here, too: what they left under the name is neither followed nor written to.
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield fresh
        finally:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFullError(
                    f"no space left in {self.path}: free some; the next run continues from here"
                ) from None
            named = error.filename2 or error.filename or self.path
            reason = error.strerror or error
            raise StoreError(f"{named} cannot be used: {reason}: name a folder that can be written to") from None
