"""Where an engine's bytes lie: which folders hold images, containers, volumes and build cache.

The engine reports its data root. Under the containerd store images lie in the root of a containerd, which may be
another folder on another disk: only the processes' arguments and configuration files show it. All of it can be
read without privilege, unless /proc is hidden or a file is closed.
"""

from __future__ import annotations

import glob
import os
import re
import socket
import struct
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.engine.surroundings import UNIX, read_json
from collector.model import environment
from collector.model.errors import EngineError
from collector.model.observation import EngineInfo, Place
from collector.model.paths import read_bounded
from collector.model.untrusted import mapping, text, texts

IMAGES, CONTENT, CONTAINERS, VOLUMES, BUILD_CACHE = "images", "content", "containers", "volumes", "build cache"
# That import each other: more than any host has.
_MOST_FILES = 100
_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_DEFAULT_ADDRESS = "/run/containerd/containerd.sock"
_DEFAULT_ROOT = "/var/lib/containerd"
_DEFAULT_CONFIG = Path("/etc/containerd/config.toml")
_DAEMON_CONFIG = Path("/etc/docker/daemon.json")
_DEFAULT_DATA_ROOT = "/var/lib/docker"
_PROC = Path("/proc")
_PEER_WAIT_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred


@dataclass(frozen=True, slots=True)
class _Process:
    number: int
    parent: int
    argv: tuple[str, ...]

    def option(self, *names: str) -> str | None:
        """The last value that an option was given: ``--name value`` or ``--name=value``."""
        found = None
        for position, word in enumerate(self.argv[1:], 1):
            name, equals, value = word.partition("=")
            if name in names:
                found = value if equals else next(iter(self.argv[position + 1 :]), None)
        return found


def uses_containerd(info: Mapping[str, Any]) -> bool:
    """Whether images are in a containerd and not in the engine's own store, from the engine's /info."""
    return _SNAPSHOTTER in str(info.get("DriverStatus"))


def describe(info: Mapping[str, Any], address: str) -> EngineInfo:
    """What an engine says of itself, with where its bytes lie.

    Args:
        info: the answer to its /info.
        address: where it was asked.

    Raises:
        EngineError: see `find_places`.
    """
    if not text(info.get("DockerRootDir")):
        raise EngineError(f"what answers at {address} is not a container engine: it names no data root")
    podman = is_podman(info)
    store = "podman" if podman else "containerd" if uses_containerd(info) else str(info.get("Driver"))
    return EngineInfo(
        data_root=text(info["DockerRootDir"]),
        store=store,
        version=text(info.get("ServerVersion")),
        # Podman makes up another ID each time.
        engine_id=None if podman else text(info.get("ID")) or None,
        places=find_places(info, address, podman=podman),
        kernel=text(info.get("KernelVersion")),
        machine=text(info.get("Name")),
    )


def find_places(info: Mapping[str, Any], address: str, *, podman: bool) -> tuple[Place, ...]:
    """All folders that hold bytes of an engine, images first.

    Args:
        info: the answer to the engine's /info.
        address: where it was asked.
        podman: whether it is Podman.

    Raises:
        EngineError: the root of its containerd cannot be found; the message says what to set.
    """
    root, driver = str(info["DockerRootDir"]), str(info.get("Driver") or "")
    source = "the engine's data root, as it says"
    if uses_containerd(info):
        containerd, how = containerd_root(info, address)
        images = [
            Place(IMAGES, f"{containerd}/{_SNAPSHOTTER}.{driver}", how),
            Place(CONTENT, f"{containerd}/io.containerd.content.v1.content", how),
        ]
    elif podman:
        images = [Place(IMAGES, f"{root}/{driver}", source)]
    else:
        images = [Place(IMAGES, f"{root}/{driver}", source), Place(BUILD_CACHE, f"{root}/buildkit", source)]
    containers = f"{root}/{driver}-containers" if podman else f"{root}/containers"
    return (*images, Place(CONTAINERS, containers, source), Place(VOLUMES, f"{root}/volumes", source))


def is_podman(info: Mapping[str, Any]) -> bool:
    """Whether it is Podman, as far as its /info shows."""
    return "BuildahVersion" in info or "SwapFree" in info


def containerd_root(info: Mapping[str, Any], address: str) -> tuple[str, str]:
    """The root of an engine's containerd, and how it was found. Raises EngineError if it cannot be found."""
    if root := os.environ.get(environment.CONTAINERD_ROOT):
        return root, f"set by {environment.CONTAINERD_ROOT}"
    own = f"{info['DockerRootDir']}/containerd/daemon"
    peer = peer_of(address)
    processes = list(_processes(peer, _owners(info)))
    daemon = _daemon(processes, info, peer)
    socket_path = text(mapping(info.get("Containerd")).get("Address")) or _asked_for(daemon)
    if (
        socket_path is None
        and daemon is not None
        and any(one.parent == daemon.number for one in _containerds(processes))
    ):
        return own, "the engine runs a containerd of its own"
    if socket_path is None:
        if not os.path.exists(_DEFAULT_ADDRESS) or os.path.exists(own):  # noqa: PTH110 - what is closed is not there
            return own, "the engine's own containerd: none of the system is there"
        socket_path = _DEFAULT_ADDRESS
    found = _root_of(processes, socket_path.removeprefix(UNIX), own)
    if found is None:
        raise EngineError(
            f"images are kept by the containerd at {socket_path}, and its root cannot be found: set "
            f"{environment.CONTAINERD_ROOT} to it (`root` in its configuration, usually {_DEFAULT_ROOT})"
        )
    return found


def _asked_for(daemon: _Process | None) -> str | None:
    """The containerd that the engine is set to use, by its arguments or its configuration file."""
    if daemon is not None and (given := daemon.option("--containerd")):
        return given
    config = Path(daemon.option("--config-file") or _DAEMON_CONFIG) if daemon is not None else _DAEMON_CONFIG
    return text(read_json(config).get("containerd")) or None


def _root_of(processes: Sequence[_Process], address: str, own: str) -> tuple[str, str] | None:
    """The root of the containerd that listens at an address, and how it was found."""
    wanted = os.path.realpath(address)
    for process in _containerds(processes):
        config_path = Path(process.option("--config", "-c") or _DEFAULT_CONFIG)
        config = _configuration(config_path)
        listens = process.option("--address", "-a") or text(mapping(config.get("grpc")).get("address"))
        if os.path.realpath((listens or _DEFAULT_ADDRESS).removeprefix(UNIX)) != wanted:
            continue
        if root := process.option("--root") or text(config.get("root")):
            return root, f"root of the containerd at {address} (process {process.number}, {config_path})"
        if config or not _is_closed(config_path):
            return _DEFAULT_ROOT, f"the usual root of a containerd (process {process.number} names no other)"
    if wanted == os.path.realpath(_DEFAULT_ADDRESS) and not _is_closed(_DEFAULT_CONFIG):
        return text(
            _configuration(_DEFAULT_CONFIG).get("root")
        ) or _DEFAULT_ROOT, f"as {_DEFAULT_CONFIG} says, or by default"
    # The engine's own containerd has its socket beside the engine's other files of its run.
    if address.endswith("/docker/containerd/containerd.sock"):
        return own, "the engine runs a containerd of its own"
    return None


def _daemon(processes: Sequence[_Process], info: Mapping[str, Any], peer: int | None) -> _Process | None:
    """The process of a Docker engine; None: it is hidden from us, or there are several like it."""
    daemons = [process for process in processes if Path(process.argv[0]).name == "dockerd"]
    if found := [process for process in daemons if process.number == peer]:
        return found[0]
    root = os.path.realpath(text(info["DockerRootDir"]))
    found = [process for process in daemons if (own := _data_root(process)) and Path(root).is_relative_to(own)]
    return found[0] if len(found) == 1 else None


def _data_root(daemon: _Process) -> str:
    config = read_json(Path(daemon.option("--config-file") or _DAEMON_CONFIG))
    root = daemon.option("--data-root", "-g", "--graph") or text(config.get("data-root")) or _DEFAULT_DATA_ROOT
    return os.path.realpath(root)


def peer_of(address: str) -> int | None:
    """The process that listens at a socket, as the kernel knows it; 1 where systemd does for it."""
    if not address.startswith(UNIX):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PEER_WAIT_S)
            connection.connect(address.removeprefix(UNIX))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(credentials)[0])


def process_name(number: int) -> str:
    """What a process is called; empty: it is hidden from us."""
    try:
        return Path(f"/proc/{number}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _containerds(processes: Sequence[_Process]) -> list[_Process]:
    return [process for process in processes if Path(process.argv[0]).name == "containerd"]


def _owners(info: Mapping[str, Any]) -> frozenset[int]:
    """Users whose processes may be an engine's: root, this one, and whoever owns its data root."""
    try:
        return frozenset({0, os.geteuid(), os.stat(str(info["DockerRootDir"])).st_uid})  # noqa: PTH116 - may be closed
    except OSError:
        return frozenset({0, os.geteuid()})


def _processes(peer: int | None, owners: Collection[int]) -> Iterator[_Process]:
    """The processes of engines that we may see.

    A job may call itself what it likes: only the process that listens at the engine's socket, and those of `owners`
    that are in no container, count.
    """
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
            if not argv or Path(argv[0]).name not in {"dockerd", "containerd"}:
                continue
            if int(folder.name) != peer and (folder.stat().st_uid not in owners or _is_contained(folder)):
                continue
            # The name, in brackets, may hold anything.
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            yield _Process(int(folder.name), int(parent), tuple(argv))
        except OSError:
            continue


def _is_contained(folder: Path) -> bool:
    """Whether a process has another number than ours of it, too, as those in containers have. Raises OSError."""
    status = (folder / "status").read_text(errors="replace").splitlines()
    numbers = next((line.split()[1:] for line in status if line.startswith("NSpid:")), [])
    return len(numbers) > 1


def _configuration(path: Path, seen: set[str] | None = None) -> dict[str, Any]:
    """A containerd's configuration with the files that it imports, each once; as there, those count more."""
    seen = {os.path.realpath(path)} if seen is None else seen
    config = _toml(path)
    for pattern in texts(config.get("imports")):
        for name in sorted(glob.glob(os.path.join(path.parent, pattern))):  # noqa: PTH118, PTH207 - it may be absolute
            if (place := os.path.realpath(name)) not in seen and len(seen) < _MOST_FILES:
                seen.add(place)
                found = _configuration(Path(name), seen)
                grpc = mapping(config.get("grpc")) | mapping(found.get("grpc"))
                config |= {key: value for key, value in found.items() if value} | {"grpc": grpc}
    return config


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(path))
    except (OSError, ValueError, RecursionError):
        return {}


def _is_closed(path: Path) -> bool:
    """Whether a file may be there and say something that we may not read."""
    try:
        return path.exists() and not os.access(path, os.R_OK)
    except OSError:
        return True


# Images come and go while they are looked for.
_LOOKED_AT = 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def is_kept_under(places: Sequence[Place], store: str, images: Sequence[str]) -> bool | None:
    """Whether any of some images is really kept where its bytes are thought to lie; None: we may not look.

    Args:
        places: where bytes are thought to lie.
        store: the kind of image store.
        images: image IDs of the engine.
    """
    by_kind = {place.holds: Path(place.path) for place in places}
    folder, pattern = by_kind[IMAGES].parent, "image/{driver}/imagedb/content/sha256/{digits}"
    if store == "containerd":
        folder, pattern = by_kind[CONTENT], "blobs/sha256/{digits}"
    elif store == "podman":
        pattern = "{driver}-images/{digits}"
    driver, looked = by_kind[IMAGES].name, False
    for image in images[:_LOOKED_AT]:
        if match := _DIGEST.fullmatch(image):
            try:
                os.lstat(folder / pattern.format(driver=driver, digits=match[1]))
            except FileNotFoundError:
                looked = True
            except OSError:
                return None
            else:
                return True
    return False if looked else None
