"""The systemd units that run collector and pruner on a host, and the files that go with them."""

from __future__ import annotations

import grp
import os
import pwd
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from collector.job_sources.follow import JOURNAL_GROUP
from collector.machine import reserve
from collector.model import environment
from collector.model.errors import UsageError
from collector.model.paths import read_bounded

DEFAULT_USER = "docker-hindsight"
ENGINE_GROUP = "docker"
_TEMPLATES = (
    ("collector", "collector.service"),
    ("collector", "collector-ship.service"),
    ("collector", "collector-ship.timer"),
    ("pruner", "pruner.service"),
    ("pruner", "pruner.timer"),
    ("pruner", "pruner.path"),
)
_STARTED = ("collector.service", "pruner.timer", "pruner.path")
# Started by who has said where to.
_OPTIONAL = ("collector-ship.timer",)
_UNIT_FOLDER = Path("etc/systemd/system")
MARK = "# Installed by `pruner install-units`: change it with `systemctl edit`, not here.\n"
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - nothing is written there
_USUAL_FOLDERS = (Path("/var/lib/docker"), Path("/var/lib/containerd"), Path("/var/lib/containers/storage"))
# What a shell would not take as it is.
_SPECIAL = re.compile(r"([^\w@%+=:,./-])")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class UserEngine:
    """A user who runs an engine of his own, without root.

    Attributes:
        name: the user's name.
        number, group: the user's and his group's numbers.
        home: his home folder.
    """

    name: str
    number: int
    group: int
    home: Path

    @property
    def runtime(self) -> Path:
        """The folder of his sockets, which is there while he is logged in or lingers."""
        return Path(f"/run/user/{self.number}")

    def socket(self, root: Path) -> str:
        """The address of his engine: Podman's if only that is there, else Docker's."""
        docker, podman = self.runtime / "docker.sock", self.runtime / "podman" / "podman.sock"
        below = [path for path in (docker, podman) if os.path.lexists(root / path.relative_to("/"))]
        return f"unix://{(below or [docker])[0]}"

    @property
    def data_roots(self) -> tuple[Path, ...]:
        """Where his engines keep their data, unless configured otherwise."""
        share = self.home / ".local" / "share"
        return share / "docker", share / "containers" / "storage"


@dataclass(frozen=True, slots=True)
class Installation:
    """Where and how units run our commands.

    Attributes:
        root: the root file system that is written to; another than ``/``: nothing is run there.
        programs: the folder of the commands, as that system will see it.
        user: whom the services run as.
        group: the group that may use the engine's socket; None: none is needed or there.
        instance: name of one engine among several on this host; empty: the only one.
        host: the engine's address; empty: the usual socket.
        visible: folders that must be seen although home folders and /tmp are hidden.
        owner: the user whose own (rootless) engine it is, and whom the services run as; None: the system's.
        data_root: where the engine keeps its data, if stated; None: at its usual place.
        journal_group: the group that may read the system's journal; None: there is none.
    """

    root: Path
    programs: Path
    user: str = DEFAULT_USER
    group: str | None = ENGINE_GROUP
    instance: str = ""
    host: str = ""
    visible: tuple[Path, ...] = ()
    owner: UserEngine | None = None
    data_root: Path | None = None
    journal_group: str | None = JOURNAL_GROUP

    @property
    def live(self) -> bool:
        """Whether it is this running system."""
        return self.root == Path("/")

    @property
    def suffix(self) -> str:
        """What distinguishes this instance's units and files from others'."""
        return f"-{self.instance}" if self.instance else ""

    @property
    def state(self) -> str:
        """The folder of the log, under /var/lib."""
        return f"docker-hindsight{self.suffix}"

    @property
    def policy(self) -> Path:
        """The policy file, on the installed system."""
        return Path("/etc/docker-hindsight") / f"{self.instance or 'policy'}.toml"

    @property
    def engine_folders(self) -> tuple[Path, ...]:
        """Where the engine's bytes may lie: as stated at the installation, else the usual places."""
        if self.owner is not None:
            return ()
        return (self.data_root,) if self.data_root else () if self.instance else _USUAL_FOLDERS

    @property
    def units(self) -> tuple[str, ...]:
        """The names of all units."""
        return tuple(self._named(unit) for _, unit in _TEMPLATES)

    @property
    def started(self) -> tuple[str, ...]:
        """The units that are enabled; the others are started by these."""
        return tuple(self._named(unit) for unit in _STARTED)

    @property
    def stopped(self) -> tuple[str, ...]:
        """The units that may have been enabled, also by the operator."""
        return (*self.started, *(self._named(unit) for unit in _OPTIONAL))

    def _named(self, unit: str) -> str:
        stem, _, kind = unit.partition(".")
        return f"{stem}{self.suffix}.{kind}"

    def files(self) -> dict[Path, str]:
        """All files but the policy, by path under the root, with their text."""
        found = {
            _UNIT_FOLDER / self._named(unit): MARK + self._filled(_template(package, unit))
            for package, unit in _TEMPLATES
        }
        if self.user != "root" and self.owner is None:
            found[Path("etc/sysusers.d") / f"{self.state}.conf"] = MARK + self._sysusers()
        if self.user != "root":
            found[Path("etc/tmpfiles.d") / f"{self.state}.conf"] = MARK + self._tmpfiles()
        return found

    def _sysusers(self) -> str:
        lines = [f'u {self.user} - "docker-hindsight" /var/lib/{self.state}']
        if self.group:
            lines.append(f"m {self.user} {self.group}")
        return "\n".join(lines) + "\n"

    def _tmpfiles(self) -> str:
        owner = f"{self.user} {self.user if self.owner is None else self.owner.group}"
        return (
            f"d /var/lib/{self.state} 0750 {owner}\n"
            # It is there before the disk is full.
            f"f /var/lib/{self.state}/events.duckdb.wake 0640 {owner}\n"
        )

    def _filled(self, template: str) -> str:
        values = {
            "BIN": _escaped(str(self.programs)),
            "OF": f" {self.instance}" if self.instance else "",
            "SUFFIX": self.suffix,
            "STATE": self.state,
            "POLICY": f" --policy {self.policy}" if self.instance else "",
            "ENVIRONMENT": self._environment(),
            "ADOPT": self._adopt(),
            "SLOTS": self._slots(),
            "RESERVE": self._reserve(),
            "RUN_AS": self._run_as(),
            "JOURNAL": self._journal(),
            "HOME": "tmpfs" if any(is_under(path, _HOMES) for path in self.visible) else "yes",
            "NETWORK": self._network(),
            "PATHS": self._paths(),
        }
        filled = re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template)
        return re.sub(r"\n{3,}", "\n\n", filled)

    def _environment(self) -> str:
        lines = [
            f"# What this host adds: DOCKER_HOST, COLLECTOR_OPTIONS, PRUNER_OPTIONS in /etc/default/{self.state}.",
            f"Environment=DOCKER_HINDSIGHT_LOG=/var/lib/{self.state}/events.duckdb",
            "Environment=COLLECTOR_OPTIONS= PRUNER_OPTIONS=",
        ]
        if self.host:
            lines.append(f'Environment="DOCKER_HOST={_escaped(self.host)}"')
        lines.append(f"EnvironmentFile=-/etc/default/{self.state}")
        return "\n".join(lines)

    def _adopt(self) -> str:
        if self.user == "root":
            return ""
        return (
            "# Files that root's own runs of the commands left there would shut the service out.\n"
            f"ExecStartPre=+/bin/chown --recursive --no-dereference --from=root {self.user}: /var/lib/{self.state}"
        )

    @property
    def reserves(self) -> dict[Path, Path]:
        """The service's own folder on each file system that may hold the engine's bytes, by where it sees it."""
        return {
            Path(f"/run/{self.state}-reserve.{number}"): folder / reserve.FOLDER
            for number, folder in enumerate(self.engine_folders)
        }

    @property
    def reserve_script(self) -> str:
        """What root does to keep space back on the engine's own file systems, if the log is on another.

        What is there is never touched again: it is the service's, and root follows no link that a service laid.
        """
        folders = " ".join(_SPECIAL.sub(r"\\\1", str(folder)) for folder in self.engine_folders)
        return (
            f'umask 077; for folder in {folders}; do [ -d "$folder" ] || continue; '
            f'[ "$(stat -L -c %d "$folder")" != "$(stat -L -c %d /var/lib/{self.state})" ] || continue; '
            f'own="$folder/{reserve.FOLDER}"; mkdir "$own" 2>/dev/null || continue; '
            'free=$(df -B1 --output=avail "$folder" | tail -n 1); '
            f'if [ "$free" -ge {reserve.EASE * reserve.DEFAULT_SIZE} ]; then '
            f'fallocate -l {reserve.DEFAULT_SIZE} "$own/{reserve.NAME}"; fi; '
            f'chown -R {self.user}: "$own"; done'
        )

    def _reserve(self) -> str:
        """Space kept back on the engine's own file system: root lays it, and from then on it is the service's own."""
        if not self.reserves:
            return ""
        # As systemd takes it.
        script = self.reserve_script.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace("'", "\\x27")
        return "\n".join(
            [
                "# An engine writes before it removes. Root makes a folder on the engine's own disk, if the log is on",
                "# another, with space kept back in it: the service gives it up when there is next to none.",
                f"ExecStartPre=-+/bin/sh -c '{script}'",
                *(f"BindPaths=-{_escaped(str(own))}:{seen}" for seen, own in self.reserves.items()),
                f"Environment={environment.RESERVE}={':'.join(map(str, self.reserves))}",
            ]
        )

    def _slots(self) -> str:
        """Root reads the number of job slots at each start: the file holds tokens, and the service may not read it."""
        if self.user == "root":
            return ""
        slots_file = f"/run/{self.state}.slots"
        # As systemd takes it: dollar signs and backslashes doubled.
        script = (
            f'umask 022; rm -f {slots_file}; [ -r "$$RUNNER_CONFIG" ] || exit 0; '
            'slots=$$(sed -En -e "/^[[:space:]]*[[]/q" '
            '-e "s/^[[:space:]]*concurrent[[:space:]]*=[[:space:]]*([0-9]+).*/\\\\1/p" "$$RUNNER_CONFIG"); '
            f'echo "{environment.JOB_SLOTS}=$${{slots:-1}}:$$RUNNER_CONFIG" >{slots_file}'
        )
        return "\n".join(
            [
                "# GitLab Runner's configuration holds tokens and is root's alone: root reads the number of job slots,",
                "# and nothing else. Another place of it is set as RUNNER_CONFIG, where the policy names it, too.",
                "Environment=RUNNER_CONFIG=/etc/gitlab-runner/config.toml",
                f"ExecStartPre=-+/bin/sh -c '{script}'",
                f"EnvironmentFile=-{slots_file}",
            ]
        )

    def _run_as(self) -> str:
        lines = [f"User={self.user}"]
        if self.owner is not None:
            return "\n".join(["# As the owner of the engine, whose socket and data are his alone.", *lines])
        if self.user == "root":
            lines.insert(0, "# As root, for the engine's socket is root's alone; without any of root's capabilities.")
        if self.user != "root" and self.group:
            lines += ["# The engine's socket is this group's.", f"SupplementaryGroups={self.group}"]
        return "\n".join(lines)

    def _journal(self) -> str:
        if self.journal_group is None:
            return ""
        return f"# It follows GitLab Runner's lines in the journal.\nSupplementaryGroups={self.journal_group}"

    def _network(self) -> str:
        if self.host and not self.host.startswith("unix:"):
            return "# The engine is reached by TCP.\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"
        return "# The engine's socket only.\nRestrictAddressFamilies=AF_UNIX\nPrivateNetwork=yes"

    def _paths(self) -> str:
        shown = [path for path in self.visible if is_under(path, HIDDEN)]
        if not shown:
            return ""
        lines = [f"BindReadOnlyPaths=-{_escaped(str(path))}" for path in shown]
        return "\n".join(["# What is hidden otherwise and needed.", *lines])


def installation(
    root: Path = Path("/"),
    programs: Path | None = None,
    user: str = DEFAULT_USER,
    instance: str = "",
    host: str = "",
    data_root: Path | None = None,
    user_engine: str | None = None,
) -> Installation:
    """What to install, completed from this Python and that root file system.

    Raises:
        UsageError: a name that cannot be one, a user who is not there, or no such folder, or none with our commands.
    """
    owner = None
    if not root.is_dir():
        raise UsageError(f"--root: there is no folder {root}")
    if user_engine is not None:
        owner = _user_engine(root.absolute(), user_engine)
        user, instance, host = owner.name, instance or owner.name, host or owner.socket(root.absolute())
    for what, name in (("--user", user), ("--instance", instance or "x")):
        if not _NAME.fullmatch(name):
            raise UsageError(f"{what}: '{name}' is not a name (lower case letters, digits, - . _)")
    own = Path(sys.prefix)
    root, programs = root.absolute(), (programs or own / "bin").absolute()
    if not (root / programs.relative_to("/") / "collector").exists() and not (programs / "collector").exists():
        raise UsageError(f"--bin: there is no command `collector` in {programs}")
    needed = [own, Path(sys.base_prefix)] if programs == own / "bin" else [programs]
    visible = [*needed, *([data_root] if data_root else [])]
    if owner is not None:
        # The folder above it, or the service would see the one of a login that has ended forever.
        visible += [owner.runtime.parent, *owner.data_roots]
    group = ENGINE_GROUP if owner is None and _has_group(root, ENGINE_GROUP) else None
    journal = JOURNAL_GROUP if _has_group(root, JOURNAL_GROUP) else None
    shown = tuple(dict.fromkeys(visible))
    return Installation(root, programs, user, group, instance, host, shown, owner, data_root, journal)


def _user_engine(root: Path, name: str) -> UserEngine:
    """A user of that root file system. Raises UsageError if there is none of this name."""
    try:
        if root == Path("/"):
            found = pwd.getpwnam(name)
            return UserEngine(found.pw_name, found.pw_uid, found.pw_gid, Path(found.pw_dir))
        rows = read_bounded(root / "etc/passwd", errors="replace").splitlines()
        row = next(fields for line in rows if (fields := line.split(":"))[0] == name)
        return UserEngine(name, int(row[2]), int(row[3]), Path(row[5]))
    except (KeyError, OSError, StopIteration, ValueError, IndexError):
        raise UsageError(f"--user-engine: there is no user '{name}' on that system") from None


def _template(package: str, unit: str) -> str:
    return (resources.files(package) / "systemd" / unit).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    """As systemd reads it: no specifiers, no white space that would end a word."""
    return text.replace("\\", "\\\\").replace("%", "%%").replace(" ", "\\x20")


def is_under(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path lies in one of these folders."""
    return any(path.is_relative_to(folder) for folder in folders)


def _has_group(root: Path, name: str) -> bool:
    if root != Path("/"):
        try:
            groups = read_bounded(root / "etc/group", errors="replace")
        except OSError:
            return False
        return any(line.startswith(f"{name}:") for line in groups.splitlines())
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False
