"""Private container engines on small disks of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.constants import MINIMUM_DOCKER_API_VERSION

from tests.engine.disk import LoopDisk
from tests.engine.leftovers import BASE, end_processes, mounts_under

Command = tuple[Sequence[str | Path], dict[str, str]]

GIB = 2**30
_LATER = Path("/var/cache/docker-hindsight-tests/engines")  # by .ci/fetch-engines
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine as it is set up.

    Attributes:
        program: ``dockerd`` or ``podman``.
        suite: the Debian suite whose packages it is of; None: that of this machine.
        store: whether it has the containerd image store.
        separate: whether containerd is a process of its own with its root on another disk, as Debian's and Docker's
            packages set it up.
    """

    program: str
    suite: str | None = None
    store: bool = False
    separate: bool = False

    def find(self, name: str) -> str | None:
        """A program of its suite, else one of this machine; None: there is none."""
        folders = [_LATER / self.suite / part for part in _FOLDERS] if self.suite else []
        found = next((str(folder / name) for folder in folders if (folder / name).exists()), None)
        needs_own = self.suite is not None and name in {self.program, "containerd", "conmon", "netavark"}
        return found if found or needs_own else shutil.which(name)


_FOLDERS = ("usr/sbin", "usr/bin", "usr/lib/podman")
VARIANTS = {
    "docker20": Variant("dockerd"),
    "docker26": Variant("dockerd", "trixie", store=True),
    "docker26-separate": Variant("dockerd", "trixie", store=True, separate=True),
    "docker28": Variant("dockerd", "forky", store=True),
    "podman": Variant("podman"),
    "podman54": Variant("podman", "trixie"),
    "podman58": Variant("podman", "forky"),
}
# One of each kind of store; what depends on more than that is tried on all variants.
STORES = ("docker20", "docker26", "podman")


def available(variant: str) -> str | None:
    """Why a variant cannot run here; None: it can."""
    if os.geteuid() != 0:
        return "an engine, its loop disk and its containers need root"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    setup = VARIANTS[variant]
    needed = [setup.program, "runc", *(["containerd"] if setup.program == "dockerd" else ["conmon"])]
    missing = [name for name in needed if setup.find(name) is None]
    if shutil.which("docker-registry") is None:
        missing.append("docker-registry")
    if missing:
        return f"{variant} lacks {', '.join(missing)}: run .ci/install-packages"
    return None


def tags_by_image(client: docker.DockerClient) -> dict[str, list[str]]:
    """The tags of each image that an engine lists, by ID, in one answer: docker-py's own list asks for each image.

    Some engines list an image without a tag under a digest or as ``<none>:<none>``.
    """
    return {
        str(row["Id"]): sorted(tag for tag in row["RepoTags"] or () if "@" not in tag and tag != "<none>:<none>")
        for row in client.api.images()
    }


class Engine:
    """A private engine: own disk, socket, processes.

    Args:
        variant: one of `VARIANTS`.
        folder: where all of it lives.
        registry: ``host:port`` of a registry to be reached without TLS.
        disk_bytes: size of its disk.
        inodes: how many its disk gets; None: as many as usual.
        tcp: an address at which Docker answers, too.
        hidden: whether Docker's data root is another folder for it than for us, as on another machine.
    """

    def __init__(
        self,
        variant: str,
        folder: Path,
        registry: str,
        disk_bytes: int = GIB,
        inodes: int | None = None,
        *,
        tcp: str = "",
        hidden: bool = False,
        file_system: str = "ext4",
    ) -> None:
        folder.mkdir(parents=True)
        self.variant = variant
        self.setup = VARIANTS[variant]
        self.folder = folder
        self.registry = registry
        self.disk = LoopDisk(folder / "disk", disk_bytes, inodes, file_system)
        self.data_root = self.disk.path / "engine"
        self.data_root.mkdir()
        self.socket = folder / "engine.sock"
        self.host = f"unix://{self.socket}"
        # Where the bytes of images lie.
        self.image_disk = LoopDisk(folder / "content", disk_bytes, inodes) if self.setup.separate else self.disk
        self._tcp, self._hidden = tcp, hidden
        self._interface = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman."""
        return self.setup.program == "podman"

    def start(self) -> Engine:
        """Start it and wait until it answers."""
        if self.setup.separate:
            self._containerd = self._run(self._separate_containerd())
        self._process = self._run(
            self.podman("system", "service", "--time=0", self.host) if self.is_podman else self._dockerd()
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.variant}: {self.log()[-3000:]}")
            time.sleep(0.1)
        return self

    @contextmanager
    def running(self) -> Iterator[Engine]:
        """Started, and removed in the end, whatever happens."""
        try:
            yield self.start()
        finally:
            self.remove()

    def _run(self, command: Command) -> subprocess.Popen[bytes]:
        argv, environment = command
        with (self.folder / "engine.log").open("ab") as log:
            return subprocess.Popen(argv, env={**os.environ, **environment}, stdout=log, stderr=log)

    def _answers(self) -> bool:
        client = docker.APIClient(base_url=self.host, timeout=30, version=MINIMUM_DOCKER_API_VERSION)
        try:
            # Newer engines refuse versions of the interface that older ones need: this says which is theirs.
            self._interface = client.get(f"{client.base_url}/_ping", timeout=30).headers["Api-Version"]
        except (requests.RequestException, OSError, KeyError):
            return False
        finally:
            client.close()
        return True

    def client(self) -> docker.DockerClient:
        """A new client; close it."""
        return docker.DockerClient(base_url=self.host, timeout=int(_PATIENCE_S), version=self._interface)

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
        for process in (self._process, self._containerd):
            if process is None:
                continue
            process.send_signal(number)
            try:
                process.wait(timeout=int(_PATIENCE_S))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = self._containerd = None
        self.socket.unlink(missing_ok=True)
        (self.folder / "engine.pid").unlink(missing_ok=True)

    def _program(self, name: str) -> str:
        found = self.setup.find(name)
        assert found is not None, f"{name} is not installed"
        return found

    @property
    def _path(self) -> dict[str, str]:
        """An environment in which its own suite's programs come first."""
        own = [str(_LATER / self.setup.suite / folder) for folder in _FOLDERS[:2]] if self.setup.suite else []
        return {"PATH": ":".join([*own, os.environ["PATH"], "/usr/sbin"])}

    def _dockerd(self) -> Command:
        argv: list[str | Path] = [
            self._program("dockerd"),
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
        if self.setup.store:
            config = self.folder / "daemon.json"
            config.write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
            argv += ["--config-file", config, "--ip6tables=false"]
        if self.setup.separate:
            argv += ["--containerd", self.containerd_socket]
        if self._tcp:
            argv += ["--host", self._tcp]
        if self._hidden:
            (self.disk.path / "elsewhere").mkdir(exist_ok=True)
            script = f'mount --bind "{self.disk.path}/elsewhere" "{self.data_root}"; exec "$@"'
            argv = ["unshare", "--mount", "sh", "-c", script, "sh", *argv]
        return argv, self._path

    @property
    def containerd_socket(self) -> Path:
        """Where a separate containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Where a separate containerd keeps content and snapshots: on the disk of images."""
        return self.image_disk.path / "containerd"

    def _separate_containerd(self) -> Command:
        config = self.folder / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self.containerd_root}"\nstate = "{self.folder}/containerd"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.containerd_socket}"\n'
        )
        return [self._program("containerd"), "--config", config], self._path

    def podman(self, *argv: str | Path) -> Command:
        """A command of Podman's own, on the same storage as the service."""
        own = ""
        if self.setup.suite:
            own = (
                f'conmon_path = ["{self._program("conmon")}"]\n'
                f'helper_binaries_dir = ["{Path(self._program("netavark")).parent}"]\n'
            )
        containers = self.folder / "containers.conf"
        containers.write_text(
            '[engine]\nruntime = "runc"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n'
            f'events_logfile_path = "{self.folder}/events.log"\n{own}'
            f'[engine.runtimes]\nrunc = ["{self._program("runc")}"]\n'
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
        command: list[str | Path] = [
            self._program("podman"),
            "--root",
            self.data_root,
            "--runroot",
            self.folder / "run",
            "--tmpdir",
            self.folder / "tmp",
            "--events-backend",
            "file",
            *argv,
        ]
        return command, {**self._path, **environment}

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
