"""Private container engines on small disks of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import docker
import requests

from tests.engine.disk import LoopDisk
from tests.engine.leftovers import BASE, end_processes, mounts_under

Command = tuple[Sequence[str | Path], dict[str, str]]

GIB = 2**30
VARIANTS = ("docker20", "docker26", "podman")
TRIXIE = Path("/var/cache/docker-hindsight-tests/trixie")
_PATIENCE_S = 120.0


def available(variant: str) -> str | None:
    """Why a variant cannot run here; None: it can."""
    if os.geteuid() != 0:
        return "an engine, its loop disk and its containers need root"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    needed = {
        "docker20": [shutil.which("dockerd"), shutil.which("docker-registry")],
        "docker26": [_existing(TRIXIE / "usr/sbin/dockerd"), shutil.which("runc"), shutil.which("docker-registry")],
        "podman": [shutil.which("podman"), shutil.which("runc"), shutil.which("docker-registry")],
    }[variant]
    if not all(needed):
        return f"{variant} is not installed: run .ci/install-packages"
    return None


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None


class Engine:
    """A private engine: own disk, socket, processes.

    Args:
        variant: one of `VARIANTS`.
        folder: where all of it lives.
        registry: ``host:port`` of a registry to be reached without TLS.
        disk_bytes: size of its disk.
    """

    def __init__(
        self, variant: str, folder: Path, registry: str, disk_bytes: int = GIB, inodes: int | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.variant = variant
        self.folder = folder
        self.registry = registry
        self.disk = LoopDisk(folder / "disk", disk_bytes, inodes)
        self.data_root = self.disk.path / "engine"
        self.data_root.mkdir()
        self.socket = folder / "engine.sock"
        self.host = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Engine:
        """Start it and wait until it answers."""
        argv, environment = {"docker20": self._dockerd, "docker26": self._dockerd26, "podman": self._podman}[
            self.variant
        ]()
        with (self.folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            client = docker.DockerClient(base_url=self.host, timeout=30, version="1.41")
            try:
                client.ping()
            except (docker.errors.DockerException, requests.RequestException, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.variant}: {self.log()[-3000:]}") from None
                time.sleep(0.1)
            else:
                return self
            finally:
                client.close()

    def client(self) -> docker.DockerClient:
        """A new client; close it."""
        return docker.DockerClient(base_url=self.host, timeout=int(_PATIENCE_S))

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it and give everything back."""
        self.stop()
        end_processes(self.folder)
        for mount in mounts_under(self.folder):
            subprocess.run(["umount", "--lazy", mount], check=False)

    def log(self) -> str:
        """What it said."""
        return (self.folder / "engine.log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=int(_PATIENCE_S))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)
        (self.folder / "engine.pid").unlink(missing_ok=True)

    def _dockerd(self, program: str = "dockerd") -> Command:
        argv: list[str | Path] = [
            program,
            "--data-root",
            self.data_root,
            "--exec-root",
            self.folder / "exec",
            "--pidfile",
            self.folder / "engine.pid",
            "--host",
            self.host,
            "--iptables=false",
            f"--bridge={self._bridge()}",
        ]
        return argv, {}

    def _dockerd26(self) -> Command:
        config = self.folder / "daemon.json"
        config.write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
        argv, _ = self._dockerd(str(TRIXIE / "usr/sbin/dockerd"))
        path = f"{TRIXIE}/usr/sbin:{TRIXIE}/usr/bin:{os.environ['PATH']}:/usr/sbin"
        return [*argv, "--config-file", config, "--ip6tables=false"], {"PATH": path}

    def _podman(self) -> Command:
        containers = self.folder / "containers.conf"
        containers.write_text(
            '[engine]\nruntime = "runc"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n'
            f'events_logfile_path = "{self.folder}/events.log"\n'
            "[containers]\n"
            'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        )
        registries = self.folder / "registries.conf"
        registries.write_text(f'[[registry]]\nlocation = "{self.registry}"\ninsecure = true\n')
        environment = {
            "CONTAINERS_CONF": str(containers),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "TMPDIR": str(self.disk.path),
        }
        argv: list[str | Path] = [
            "podman",
            "--root",
            self.data_root,
            "--runroot",
            self.folder / "run",
            "--tmpdir",
            self.folder / "tmp",
            "--events-backend",
            "file",
            "system",
            "service",
            "--time=0",
            self.host,
        ]
        return argv, environment

    def _bridge(self) -> str:
        """``none``, unless another engine's docker0 is there: ``none`` would delete it."""
        if not Path("/sys/class/net/docker0").exists():
            return "none"
        root = next(parent for parent in self.folder.parents if parent.parent == BASE)
        name = f"dht{os.getpid()}"
        if not Path(f"/sys/class/net/{name}").exists():
            (root / "bridges").mkdir(exist_ok=True)
            (root / "bridges" / name).touch()
            subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", "198.51.100.1/24", "dev", name], check=True)
        return name
