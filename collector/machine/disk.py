"""Samples of the disk that the engine's images fill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from collector.model.errors import EngineError
from collector.model.observation import EngineInfo
from collector.model.units import format_bytes


@dataclass(frozen=True, slots=True)
class DiskSample:
    """One file system at one moment, as `df` shows it to ordinary users.

    Attributes:
        path: a folder on it.
        total_bytes, free_bytes: what there is and what is available without privilege.
        total_inodes, free_inodes: the same for inodes; 0 where the file system makes them as needed.
        used_bytes: what files hold, those blocks not counted that are kept for root.
        mount: where it is mounted; empty: nobody asked.
        holds: what of an engine lies there; empty: all of it, or nobody asked.
    """

    path: str
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    used_bytes: int = field(default=0, compare=False)
    mount: str = field(default="", compare=False)
    holds: tuple[str, ...] = ()

    def attributes(self) -> dict[str, Any]:
        """What a `disk_sampled` event holds in addition to its free bytes."""
        found: dict[str, Any] = {
            "path": self.path,
            "total_bytes": self.total_bytes,
            "total_inodes": self.total_inodes,
            "free_inodes": self.free_inodes,
            "used_bytes": self.used_bytes,
        }
        if self.holds:
            found |= {"file_system": self.mount, "holds": list(self.holds)}
        return found


def sample_disk(path: str, *, canonical: bool = False) -> DiskSample:
    """Sample the file system that holds `path`.

    Engines close their data root, and sometimes folders above it, to all but root. An unprivileged
    process may still measure the file system at any place where it can reach it, if the mount table shows
    which one it is.

    Args:
        path: a folder.
        canonical: whether it is known to lead through no link: Docker reports its data root so.

    Raises:
        EngineError: the path is not on this host (an engine elsewhere), its file system can be
            reached nowhere, or nothing shows which one it is.
    """
    try:
        try:
            found = _statvfs(path)
        except PermissionError:
            found = _seen_from_outside(path, canonical=canonical)
    except OSError as error:
        raise EngineError(
            f"the engine's data root {path} cannot be measured: {error.strerror}; "
            "the collector and pruner must run on the engine's own host, and as a user who can reach the disk"
        ) from None
    return DiskSample(
        path,
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files,
        found.f_favail,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
    )


def sample_disks(engine: EngineInfo) -> tuple[DiskSample, ...]:
    """Sample each file system that holds bytes of an engine, that of its images first.

    Args:
        engine: where its bytes lie; what has no folder yet will lie with its parent.

    Raises:
        EngineError: see `sample_disk`.
    """
    data_root, canonical = engine.data_root, engine.store != "podman"
    if not engine.places:
        return (sample_disk(data_root, canonical=canonical),)
    mounts = list(_mounts())
    found: dict[tuple[str, int], tuple[DiskSample, _Mount]] = {}
    holds: dict[tuple[str, int], list[str]] = {}
    for what, folder in [*((place.holds, place.path) for place in engine.places), ("", data_root)]:
        path = _nearest(folder)
        mount = _visible_at(os.path.realpath(path), mounts)
        sample = sample_disk(path, canonical=canonical and PurePosixPath(path).is_relative_to(data_root))
        # A quota of a project shows its folders as a smaller disk on the same device.
        key = (mount.device, sample.total_bytes)
        if what:
            found.setdefault(key, (sample, mount))
            holds.setdefault(key, []).append(what)
        elif key in found:
            # The folder that people know stands for its disk.
            found[key] = (replace(found[key][0], path=data_root), mount)
    if len(found) == 1:
        return tuple(sample for sample, _ in found.values())
    return tuple(
        replace(sample, mount=_whole(sample.path, mount, mounts).point, holds=tuple(dict.fromkeys(holds[key])))
        for key, (sample, mount) in found.items()
    )


def _whole(path: str, mount: _Mount, mounts: list[_Mount]) -> _Mount:
    """The mount of the whole file system that a path lies on, where there is one: engines mount parts of it again."""
    real = PurePosixPath(os.path.realpath(path))
    whole = [one for one in mounts if one.device == mount.device and one.root == "/" and real.is_relative_to(one.point)]
    return max(whole, key=lambda one: len(one.point), default=mount)


def disk_of(path: str, disks: Sequence[DiskSample]) -> DiskSample | None:
    """Which of several disks a folder lies on; None: on none of them."""
    if len(disks) == 1:
        return disks[0]
    mounts = list(_mounts())
    device = _visible_at(os.path.realpath(path), mounts).device
    return next((disk for disk in disks if _visible_at(disk.mount, mounts).device == device), None)


def contradiction(disks: Sequence[DiskSample], held: int) -> str | None:
    """Why images cannot lie where they are thought to: they hold more than is used there. None: they can.

    Args:
        disks: all disks of the engine, that of the images first.
        held: bytes that images hold at least.
    """
    places = [disk for disk in disks if not disk.holds or {"images", "content"} & set(disk.holds)]
    used = sum(disk.used_bytes for disk in places)
    mounts = list(_mounts())
    compresses = any(_visible_at(os.path.realpath(disk.path), mounts).kind in _COMPRESSING for disk in places)
    share = _MOST_COMPRESSION if compresses else _TOLERANCE
    if compresses and held > used * share + _SMALL:
        # What was written a moment ago is not counted yet there.
        os.sync()
        used = sum(sample_disk(disk.path, canonical=True).used_bytes for disk in places)
    if held <= used * share + _SMALL:
        return None
    where = " and ".join(disk.path for disk in places)
    return f"images hold {format_bytes(held)}, but only {format_bytes(used)} are used on the disk of {where}"


def settling_time(path: str) -> float:
    """How long after a removal the file system of a folder may take until it shows the space as free, seconds.

    XFS frees in the background, within a moment; btrfs, unless it is hastened, only some time after
    its transaction, every 30 s, has ended.
    """
    return _SETTLING_S.get(_visible_at(os.path.realpath(path), list(_mounts())).kind, 2.0)


def disks_now(engine: EngineInfo) -> tuple[DiskSample, ...]:
    """As `sample_disks`, with what was written and removed a moment ago, which btrfs counts late.

    Raises:
        EngineError: see `sample_disk`.
    """
    disks = sample_disks(engine)
    hastened = [disk for disk in disks if hasten(disk.path)]
    return sample_disks(engine) if hastened else disks


def hasten(path: str) -> bool:
    """Have a file system that frees late free now what was removed on it, before it is sampled; whether it does.

    btrfs then ends its transaction and wakes the thread that cleans up removed subvolumes: the space shows within a
    second instead of half a minute. Where none of its folders may be opened, and on others, nothing is done.
    """
    mounts = list(_mounts())
    there = _visible_at(os.path.realpath(path), mounts)
    if there.kind != "btrfs":
        return False
    for folder in (path, *(mount.point for mount in mounts if mount.device == there.device)):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(descriptor, _BTRFS_IOC_SYNC)
            finally:
                os.close(descriptor)
            return True
    return False


_BTRFS_IOC_SYNC = 0x9408  # linux/btrfs.h: _IO(0x94, 8)
_SETTLING_S = {"btrfs": 90.0, "zfs": 30.0, "bcachefs": 30.0}
# What sizes and blocks may differ by; file systems that compress and share blocks hold more than they use.
_TOLERANCE, _MOST_COMPRESSION, _SMALL = 1.25, 10.0, 64 * 2**20
_COMPRESSING = frozenset({"btrfs", "zfs", "bcachefs", "f2fs"})


def _nearest(folder: str) -> str:
    """The folder, or the one above if it is not there yet."""
    return (
        folder if os.path.lexists(folder) or not os.access(Path(folder).parent, os.X_OK) else str(Path(folder).parent)
    )


def _statvfs(path: str) -> os.statvfs_result:
    return os.statvfs(path)


def _seen_from_outside(path: str, *, canonical: bool) -> os.statvfs_result:
    """The file system of a folder that may not be reached, from another place on it. Raises OSError."""
    mounts = list(_mounts())
    there = _visible_at(path, mounts)
    # What is closed may be a link to anywhere, and what systemd hides from a service looks closed, too.
    if there.hides:
        raise PermissionError(errno.EACCES, _HIDDEN)
    if there.point != "/" or canonical:
        # A folder above it that can be reached shares a quota that the mount point may not have.
        for folder in map(str, PurePosixPath(path).parents):
            if _visible_at(folder, mounts) is not there:
                break
            with contextlib.suppress(OSError):
                return os.statvfs(folder)
        for mount in reversed(mounts):
            # A mount point that another mount hides would show the other's file system.
            if mount.device == there.device and _visible_at(mount.point, mounts) is mount:
                with contextlib.suppress(OSError):
                    return os.statvfs(mount.point)
    raise PermissionError(errno.EACCES, "Permission denied")


_HIDDEN = "hidden from this service by ProtectHome= (see --user-engine and --data-root of `pruner install-units`)"


@dataclass(frozen=True, slots=True, eq=False)
class _Mount:
    point: str
    device: str
    root: str
    kind: str

    @property
    def hides(self) -> bool:
        """Whether it only hides what is there (ProtectHome=, InaccessiblePaths= of a service)."""
        return "systemd/inaccessible" in self.root


# In a chroot the mount table may show none that holds what is there.
_NO_MOUNT = _Mount("/", "", "/", "")


def _visible_at(path: str, mounts: list[_Mount]) -> _Mount:
    """The mount that holds a path: the innermost, and of several over each other the last."""
    holding = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point), default=_NO_MOUNT)


def _mounts() -> Iterator[_Mount]:
    """The mounts that this process sees, in the order in which they were made (proc_pid_mountinfo(5))."""
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes())


def parse_mounts(table: bytes) -> Iterator[_Mount]:
    """The mounts of a mount table; of a line that cannot be read nothing is known."""
    # The kernel escapes line feeds in names, but not what only Python takes for the end of a line.
    for line in table.split(b"\n"):
        fields = os.fsdecode(line).split(" ")
        if "-" not in fields[_OPTIONAL:-1]:
            continue
        root, point = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[k]) for k in (3, 4))
        yield _Mount(point, fields[2], root, fields[fields.index("-", _OPTIONAL) + 1])


# Mount ID, parent, device, root, mount point and options come first; then optional fields up to a hyphen.
_OPTIONAL = 6
_ESCAPED = re.compile(r"\\([0-7]{3})")
