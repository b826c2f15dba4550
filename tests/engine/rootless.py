"""Engines without root: of a user made for them, with sockets and data where such a user has them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.engine.engines import Command, Engine, available
from tests.engine.host import Host
from tests.engine.leftovers import BASE, remove_user

# /run is a copy there, whose links lead to the host's. Asked for its version the engine would ask rootlesskit about its
# network, and fall over where that is the host's.
_DOCKERD = 'rm -f /run/docker /run/containerd /run/xtables.lock; ROOTLESSKIT_STATE_DIR=/nowhere exec "$@"'


def unavailable(variant: str) -> str | None:
    """Why a variant cannot run without root here; None: it can."""
    if (reason := available(variant)) is not None:
        return reason
    missing = [name for name in ("newuidmap", "rootlesskit", "useradd") if shutil.which(name) is None]
    return f"engines without root lack {', '.join(missing)}: run .ci/install-packages" if missing else None


class RootlessEngine(Engine):
    """An engine that an unprivileged user runs, with home and runtime folder closed to all others.

    Args:
        variant: one of `tests.engine.engines.VARIANTS`.
        folder: where all of it lives.
        registry: ``host:port`` of a registry to be reached without TLS.
    """

    def __init__(self, variant: str, folder: Path, registry: str) -> None:
        super().__init__(variant, folder, registry)
        self.home, self.runtime = self.disk.path / "home", folder / "run"
        self.user = _make_user(folder, self.home)
        kept = ("containers", "storage") if self.is_podman else ("docker",)
        self.data_root = self.home.joinpath(".local", "share", *kept)
        self.socket = self.runtime / ("podman/podman.sock" if self.is_podman else "docker.sock")
        self.host = f"unix://{self.socket}"
        for made in (self.data_root, self.socket.parent):
            made.mkdir(parents=True, exist_ok=True)
        for closed in (self.home, self.runtime):
            closed.chmod(0o700)
        for path in (folder, *self.home.rglob("*"), self.home, *self.runtime.rglob("*"), self.runtime):
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def as_user(self, *argv: str | Path) -> list[str | Path]:
        """A command as the engine's user runs it, with what a login sets."""
        return [
            *("setpriv", "--reuid", self.user.pw_name, "--regid", self.user.pw_name, "--init-groups"),
            *("env", f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.runtime}", *argv),
        ]

    def _run(self, command: Command) -> subprocess.Popen[bytes]:
        argv, environment = command
        return super()._run((self.as_user(*argv), environment))

    def _dockerd(self) -> Command:
        argv, environment = super()._dockerd()
        kit = ("rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run", "--propagation=rslave")
        return [*kit, "sh", "-c", _DOCKERD, "sh", *argv, "--rootless"], environment

    def podman(self, *argv: str | Path) -> Command:
        """A command of Podman's own, on the same storage as the service."""
        command, environment = super().podman(*argv)
        return command, environment | {"TMPDIR": str(self.home)}

    def remove(self) -> None:
        """End it, and give everything back, its user, too."""
        super().remove()
        remove_user(self.user.pw_name)


def _make_user(folder: Path, home: Path) -> pwd.struct_passwd:
    root = next(parent for parent in folder.parents if parent.parent == BASE)
    name = f"dht{os.getpid()}"
    (root / "users").mkdir(exist_ok=True)
    (root / "users" / name).touch()
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    return pwd.getpwnam(name)


@dataclass
class UserHost(Host):
    """A host whose commands are run by the user of its rootless engine.

    Args:
        programs: an environment with our commands that the user can reach.
    """

    programs: Path = Path()

    def command(self, *argv: str) -> list[str]:
        """The full command line of one of our commands as the user runs it."""
        assert isinstance(self.engine, RootlessEngine)
        program = self.programs / "bin" / argv[0]
        return [*map(str, self.engine.as_user(program, *argv[1:])), "--log", str(self.log_path)]

    def _ended(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self._ended_apart(*argv)
