"""A machine of its own with a real systemd as process 1, in namespaces; no engine is needed for it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.engine.leftovers import end_processes, remove_cgroup
from tests.waiting import Answers

ROOT = Path("/var/cache/docker-hindsight-tests/systemd-root")
TRIXIE_ROOT = ROOT.with_name("trixie-root")
_PROJECT = Path(__file__).parents[2]
_PATIENCE_S = 120.0
_PROGRAMS = "/opt/docker-hindsight/bin"
_LOG = "/var/lib/docker-hindsight/events.duckdb"
_numbers = itertools.count(1)

# What would touch the kernel that the host shares, or needs what a container lacks: a console, a network, hardware.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "podman-auto-update.service",
    "podman-auto-update.timer",
    "podman-restart.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-udevd.service",
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-logind.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
)
_BOOT = """
set -eu
root=$STATE/root
# What is written there is in memory: it goes at once with the machine.
mount -t tmpfs -o mode=755 tmpfs "$STATE/written"
mkdir "$STATE/written/work"
cp -a "$STATE/seed" "$STATE/written/upper"
mount -t overlay -o "lowerdir=$LOWER,upperdir=$STATE/written/upper,workdir=$STATE/written/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/engine" "$root$DISK"
if [ -n "$PROGRAMS" ]; then
  mkdir -p "$root/opt/docker-hindsight"
  mount --bind "$PROGRAMS" "$root/opt/docker-hindsight"
fi
mount --bind "$ENGINE" "$root/run/engine"
mount --bind "$DISK" "$root$DISK"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=docker-hindsight-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=0
"""


def unavailable(root: Path = ROOT) -> str | None:
    """Why no machine can be booted here from a root file system; None: it can."""
    if os.geteuid() != 0:
        return "a machine of its own needs root"
    if not (root / ".complete").exists():
        return f"no {root}: run .ci/install-packages"
    if _cgroup2() is None:
        return "no cgroup2 hierarchy is mounted"
    return None


def _cgroup2() -> Path | None:
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next((Path(row[4]) for row in rows if row[row.index("-") + 1] == "cgroup2"), None)


def install_package(folder: Path) -> Path:
    """Build the wheel of the tree and install it, as a user would, in an environment for the machine.

    What both need is there, in the versions that the project is locked to: nothing is fetched. It is compiled, as pip
    does it unasked: our services may not write beside the programs, and would compile all of it at each start.
    """
    programs = folder / "programs"
    at_hand = ("--no-index", "--find-links", ROOT / "srv" / "wheels")
    _uv("build", "--wheel", *at_hand, "--out-dir", folder / "wheel")
    (wheel,) = (folder / "wheel").glob("*.whl")
    _uv("venv", "--clear", "--relocatable", "--python", "/usr/bin/python3", programs)
    _uv("pip", "install", "--compile-bytecode", *at_hand, "--python", programs / "bin" / "python", wheel)
    return programs


def _uv(*argv: str | Path) -> None:
    command = [_PROJECT / "tools" / "uv", "--quiet", *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_PROJECT)
    assert done.returncode == 0, done.stderr


class Machine:
    """A booted systemd.

    Args:
        folder: where its own files are; an engine's folder and disk are seen in it, too.
        programs: the environment to be seen at /opt/docker-hindsight; None: it has none.
        engine: an engine's folder, to be seen at /run/engine.
        disk: a mount point to be seen at the same place.
        root: the root file system that it boots from; what is written there is gone with the machine.
    """

    def __init__(
        self,
        folder: Path,
        programs: Path | None,
        engine: Path,
        disk: Path,
        state_root: Path,
        root: Path = ROOT,
    ) -> None:
        for name in ("root", "written", "seed/etc/systemd/system"):
            (folder / name).mkdir(parents=True)
        for unit in _MASKED:
            (folder / "seed/etc/systemd/system" / unit).symlink_to("/dev/null")
        (folder / "seed/etc/machine-id").touch()  # each boots with an identity of its own
        self.folder = folder
        self._answers = Answers(lambda: self.path(_LOG))
        mounted = _cgroup2()
        assert mounted is not None
        self._cgroup = mounted / f"dht-{os.getpid()}-{next(_numbers)}"
        self._cgroup.mkdir()
        (state_root / "cgroups").mkdir(exist_ok=True)
        (state_root / "cgroups" / self._cgroup.name).write_text(str(self._cgroup))
        paths = {"STATE": folder, "LOWER": root, "PROGRAMS": programs or "", "ENGINE": engine, "DISK": disk}
        spaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
        enter = f"echo $$ >{self._cgroup}/cgroup.procs; exec unshare {' '.join(spaces)} --fork --kill-child"
        with (folder / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{enter} --propagation private sh -c "$BOOT" {folder}'],
                env={**os.environ, **{name: str(path) for name, path in paths.items()}, "BOOT": _BOOT},
                stdout=log,
                stderr=log,
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            state = self._state()
            if state in {"running", "degraded"}:
                break
            assert self._process.poll() is None, (self.folder / "boot.log").read_text()
            assert time.monotonic() < deadline, (state, (self.folder / "boot.log").read_text())
            time.sleep(0.2)
        assert state == "running", self.run("systemctl", "--failed")

    def _state(self) -> str:
        try:
            return self.run("systemctl", "is-system-running", status=None).strip()
        except (OSError, ValueError):
            return "no process yet"

    @property
    def pid(self) -> int:
        """The host's process ID of the machine's process 1."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, *argv: str, status: int | None = 0, patience_s: float = 300) -> str:
        """Run a command on the machine as root; what it printed. Ours are found by name."""
        if not self.pid:
            raise ValueError("no process yet")
        found = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", "env", "-i", f"PATH={_PROGRAMS}:/usr/sbin:/usr/bin", *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=patience_s,
        )
        assert status is None or found.returncode == status, (argv, found.returncode, found.stdout, found.stderr)
        return found.stdout + found.stderr

    def path(self, path: str) -> Path:
        """Where the host sees a path of the machine."""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path: str, text: str) -> None:
        """Write a file on the machine."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the machine's event log, on the machine; while waiting, too: see `Answers`."""
        script = (
            "import json, sys; from pathlib import Path; from collector.eventlog.log import EventLog;"
            f"log = EventLog(Path('{_LOG}'));"
            "print(json.dumps(log.query(sys.argv[1]) if log.exists() else [], default=str))"
        )
        said: str = self._answers.get(sql, lambda: self.run(f"{_PROGRAMS}/python", "-c", script, sql))
        return [tuple(row) for row in json.loads(said)]

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str) -> list[tuple[int, str]]:
        """Priority and text of each line that a unit's processes wrote."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--unit", unit, "--output", "json", "--no-pager").splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        return [(int(row["PRIORITY"]), str(row["MESSAGE"])) for row in rows if row.get("_SYSTEMD_UNIT") == unit]

    def stop(self) -> None:
        """End it at once, with all its processes."""
        if self._process.poll() is None and (pid := self.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        end_processes(self.folder)
        remove_cgroup(self._cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)
