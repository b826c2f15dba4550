"""Everything that a test run starts is under one folder, so that the next run can remove what is left.

A folder belongs to the process that made it. When that process is gone, `sweep` ends every process
whose command line or root file system names the folder, unmounts what is mounted in it, frees its
loop devices and deletes it. Nothing outside such a folder is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from collector.eventlog.database import SHARED_MEMORY, memory_spool_path

BASE = Path("/tmp/dh-tests")  # noqa: S108 - sockets need short paths; the names in it are random
_PATIENCE_S = 60.0


@contextlib.contextmanager
def state_root() -> Iterator[Path]:
    """A folder for all that the body starts, and goes with it; what earlier, killed runs left goes first."""
    sweep()
    root = make_state_root()
    try:
        yield root
    finally:
        remove(root)


def make_state_root() -> Path:
    """A new folder that belongs to this process."""
    root = BASE / f"{os.getpid()}-{start_ticks(os.getpid())}-{secrets.token_hex(3)}"
    root.mkdir(parents=True)
    return root


def start_ticks(pid: int) -> str | None:
    """When a process was started (a recycled process ID has another time); None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def sweep() -> list[Path]:
    """Remove the folders whose owners are gone, with all that runs or is mounted in them; which they were."""
    swept = []
    with _alone():
        for root in sorted(BASE.glob("*-*-*")):
            pid, ticks, _ = root.name.split("-")
            if start_ticks(int(pid)) != ticks:
                remove(root)
                swept.append(root)
    return swept


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Test runs begin at the same time, and each sweeps: one after the other."""
    BASE.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(BASE, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove(root: Path) -> None:
    """End, unmount, free and delete all of a folder."""
    if BASE not in root.parents:
        raise ValueError(f"{root} is not a state root")
    end_processes(root)
    for mount in mounts_under(root):
        subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)
    for device in loop_devices_of(root):
        subprocess.run(["losetup", "--detach", device], check=False)
    for bridge in (root / "bridges").glob("*"):
        subprocess.run(["ip", "link", "delete", bridge.name], check=False)
    for marker in (root / "cgroups").glob("*"):
        remove_cgroup(Path(marker.read_text()))
    for marker in (root / "users").glob("*"):
        remove_user(marker.name)
    for marker in (root / "logs").glob("*"):
        _remove_memory_spool(Path(marker.read_text()))
    deadline = time.monotonic() + _PATIENCE_S
    while root.exists() and time.monotonic() < deadline:
        shutil.rmtree(root, ignore_errors=True)
        time.sleep(0.05)


def end_processes(root: Path) -> None:
    """End every process of a folder, and wait until they are gone."""
    _end_all(lambda: processes_of(root))


def _end_all(listed: Callable[[], list[int]]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (found := listed()) and time.monotonic() < deadline:
        for pid in found:
            _kill(pid)
        time.sleep(0.05)


def remove_user(name: str) -> None:
    """End all that a user of ours runs, and remove the user."""
    try:
        number = pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    _end_all(lambda: _processes_of_user(number))
    subprocess.run(["userdel", name], check=False, capture_output=True)
    (SHARED_MEMORY / f"libpod_rootless_lock_{number}").unlink(missing_ok=True)


def note_log(root: Path, log_path: Path) -> None:
    """Have what a log may leave in shared memory removed with the folder."""
    (root / "logs").mkdir(exist_ok=True)
    (root / "logs" / secrets.token_hex(8)).write_text(str(log_path))


def _remove_memory_spool(log_path: Path) -> None:
    spool = memory_spool_path(log_path)
    spool.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        spool.parent.rmdir()


def _processes_of_user(number: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == number:
                found.append(int(entry.name))
    return found


def remove_cgroup(path: Path) -> None:
    """Remove an empty control group with all below it."""
    for folder in sorted(path.rglob("*/"), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def processes_of(root: Path) -> list[int]:
    """Processes that were started with the folder on their command line, or whose root is inside it."""
    marker = str(root).encode()
    own = {os.getpid(), os.getppid()}
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid not in own and _concerns(pid, marker)]


def mounts_under(root: Path) -> list[str]:
    """Mount points in the folder, the innermost first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mount for mount in reversed(mounts) if mount.startswith(f"{root}/")]


def loop_devices_of(root: Path) -> list[str]:
    """Loop devices whose backing file is in the folder."""
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"], capture_output=True, text=True, check=False
    )
    rows = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [row[0] for row in rows if len(row) > 1 and row[1].startswith(f"{root}/")]


def _concerns(pid: int, marker: bytes) -> bool:
    try:
        if marker in Path(f"/proc/{pid}/cmdline").read_bytes():
            return True
        mounts = Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    # A container's process: its root is an overlay of folders in ours.
    return any(line.split()[4] == b"/" and marker in line for line in mounts)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
