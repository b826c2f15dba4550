"""Writes the systemd units that run collector and pruner on this host, and takes them away again."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from collector.job_sources.follow import JOURNAL_GROUP
from collector.machine import reserve
from collector.model import environment
from collector.model.advice import as_root
from collector.model.errors import HindsightError, UsageError
from collector.model.paths import read_bounded, replace_file
from pruner.policy.file import to_toml
from pruner.policy.policy import Policy

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
_PACKAGED_UNITS = Path("usr/lib/systemd/system")
_MARK = "# Installed by `pruner install-units`: change it with `systemctl edit`, not here.\n"
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - nothing is written there
_USUAL_FOLDERS = (Path("/var/lib/docker"), Path("/var/lib/containerd"), Path("/var/lib/containers/storage"))
# What a shell would not take as it is.
_SPECIAL = re.compile(r"([^\w@%+=:,./-])")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class InstallError(HindsightError):
    """Units cannot be written or started here."""


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
            _UNIT_FOLDER / self._named(unit): _MARK + self._filled(_template(package, unit))
            for package, unit in _TEMPLATES
        }
        if self.user != "root" and self.owner is None:
            found[Path("etc/sysusers.d") / f"{self.state}.conf"] = _MARK + self._sysusers()
        if self.user != "root":
            found[Path("etc/tmpfiles.d") / f"{self.state}.conf"] = _MARK + self._tmpfiles()
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
            "HOME": "tmpfs" if any(_under(path, _HOMES) for path in self.visible) else "yes",
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
        """Root reads the number of job slots at each start: the file bears tokens, and the service may not read it."""
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
                "# GitLab Runner's configuration bears tokens and is root's alone: root reads the number of job slots,",
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
        shown = [path for path in self.visible if _under(path, _HIDDEN)]
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
        UsageError: a name that cannot be one, a user who is not there, or no folder with our commands.
    """
    owner = None
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
        # The folder above it, or the service would see the one of a login that has ended for ever.
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


def install(wanted: Installation, *, enable: bool = False, dry_run: bool = False) -> list[str]:
    """Write all files, make the user, and (if asked) start the units; what was done, a line each.

    A policy that is there is left as it is.

    Raises:
        InstallError: no permission, or a file of the same name that is not ours.
    """
    done = []
    for path, text in wanted.files().items():
        _check_ours(wanted.root / path)
        done.append(_write(wanted.root / path, text, dry_run=dry_run))
    policy = wanted.root / wanted.policy.relative_to("/")
    if not policy.exists():
        done.append(_write(policy, to_toml(Policy()), dry_run=dry_run))
    if wanted.live:
        services = _service_commands(wanted, enable=enable)
        done += _all_run(_user_commands(wanted), dry_run=dry_run)
        done += [] if dry_run else _lay_reserves(wanted)
        done += _all_run(services, dry_run=dry_run)
    return done


def _all_run(commands: Iterable[Sequence[str]], *, dry_run: bool) -> list[str]:
    """Run commands, each after the other; what was done, a line each. Raises InstallError."""
    done = []
    for argv in commands:
        done.append(("would run " if dry_run else "ran ") + " ".join(argv))
        if not dry_run:
            _run(argv)
    return done


def uninstall(wanted: Installation, *, dry_run: bool = False) -> list[str]:
    """Stop the units and remove what `install` wrote, but for log, policy and user; what was done.

    Raises:
        InstallError: no permission.
    """
    done = []
    present = [path for path in wanted.files() if _is_ours(wanted.root / path)]
    live = wanted.live and _running_systemd()
    if present and live:
        argv = ["systemctl", "disable", "--now", *wanted.stopped]
        done.append(("would run " if dry_run else "ran ") + " ".join(argv))
        if not dry_run:
            _run(argv)
    for path in present:
        done.append(f"{'would remove' if dry_run else 'removed'} {wanted.root / path}")
        if not dry_run:
            try:
                (wanted.root / path).unlink()
            except OSError as error:
                raise InstallError(f"{wanted.root / path} cannot be removed: {error.strerror}") from None
    if present and live and not dry_run:
        _run(["systemctl", "daemon-reload"])
    for folder in wanted.engine_folders if present else ():
        own = wanted.root / folder.relative_to("/") / reserve.FOLDER
        if own.is_dir() and not own.is_symlink():
            done.append(f"{'would remove' if dry_run else 'removed'} {own}")
            if not dry_run:
                shutil.rmtree(own, ignore_errors=True)
    return done


def next_steps(wanted: Installation, *, enabled: bool) -> list[str]:
    """What the operator does next, a line each."""
    steps = []
    if any((wanted.root / _PACKAGED_UNITS / unit).exists() for unit in wanted.units):
        undo = as_root("pruner uninstall-units")
        steps.append(f"these units hide those of the package in /{_PACKAGED_UNITS}: `{undo}` removes them")
    if wanted.owner is not None:
        lingering = as_root(f"loginctl enable-linger {wanted.owner.name}")
        steps.append(f"{wanted.owner.name}'s engine runs without a login, too, after: {lingering}")
    elif wanted.user != "root" and wanted.group is None:
        steps.append(
            f"there is no group '{ENGINE_GROUP}': let user {wanted.user} use the engine's socket, "
            "or install with --user root"
        )
    if wanted.user != "root" and wanted.owner is None and (closed := _closed_to_others(wanted)):
        advice = "install again under `umask 022`, or open it and all in it to others"
        steps.append(f"{closed} is closed to user {wanted.user}, whom the services run as: {advice}")
    if not enabled:
        started = as_root(f"systemctl enable --now {' '.join(wanted.started)}")
        steps += [f"look at {wanted.policy}, and try it on this host: {_plan(wanted)}", f"start with: {started}"]
    steps.append(f"see what they do with: journalctl -u 'collector{wanted.suffix}' -u 'pruner{wanted.suffix}'")
    return steps


def _closed_to_others(wanted: Installation) -> Path | None:
    """What of the way to the programs only root may use, as an installation under umask 077 leaves it; None: none.

    Of what a service sees elsewhere than where it is, as below home folders, the folders above do not count.
    """
    above = () if _under(wanted.programs, _HIDDEN) else tuple(reversed(wanted.programs.parents))
    for path in (*above, wanted.programs, wanted.programs / "collector"):
        try:
            if not path.stat().st_mode & stat.S_IXOTH:
                return path
        except OSError:
            continue
    return None


def _plan(wanted: Installation) -> str:
    """The command that shows what these services would remove."""
    words = ["pruner", "plan"]
    if wanted.instance:
        words += ["--policy", str(wanted.policy), "--log", f"/var/lib/{wanted.state}/events.duckdb"]
    if wanted.host:
        words += ["--host", wanted.host]
    return as_root(shlex.join(words))


def _service_commands(wanted: Installation, *, enable: bool) -> list[list[str]]:
    found = []
    if _running_systemd():
        found.append(["systemctl", "daemon-reload"])
        if enable:
            found.append(["systemctl", "enable", "--now", *wanted.started])
    elif enable:
        raise InstallError("systemd does not run here, so nothing can be enabled: leave out --enable")
    return found


def _lay_reserves(wanted: Installation) -> Iterable[str]:
    """Keep space back on the engine's disks now, before they are full; the units do it for engines that come later."""
    before = [own for own in wanted.reserves.values() if own.exists()]
    if wanted.reserves:
        _run(["/bin/sh", "-c", f"{wanted.reserve_script}; true"])
    yield from (f"made {own}" for own in wanted.reserves.values() if own not in before and own.exists())


def _user_commands(wanted: Installation) -> list[list[str]]:
    if wanted.user == "root":
        return []
    if wanted.owner is not None and shutil.which("systemd-tmpfiles"):
        return [["systemd-tmpfiles", "--create", f"/etc/tmpfiles.d/{wanted.state}.conf"]]
    found = []
    if shutil.which("systemd-sysusers"):
        found.append(["systemd-sysusers", f"/etc/sysusers.d/{wanted.state}.conf"])
    elif not _has_user(wanted.user):
        groups = ["--groups", wanted.group] if wanted.group else []
        shell = ["--shell", "/usr/sbin/nologin"]
        home = ["--home-dir", f"/var/lib/{wanted.state}"]
        found.append(["useradd", "--system", "--user-group", *shell, *home, *groups, wanted.user])
    if shutil.which("systemd-tmpfiles"):
        found.append(["systemd-tmpfiles", "--create", f"/etc/tmpfiles.d/{wanted.state}.conf"])
    return found


def _template(package: str, unit: str) -> str:
    return (resources.files(package) / "systemd" / unit).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    """As systemd reads it: no specifiers, no white space that would end a word."""
    return text.replace("\\", "\\\\").replace("%", "%%").replace(" ", "\\x20")


def _under(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_ours(path: Path) -> bool:
    try:
        return read_bounded(path).startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _check_ours(path: Path) -> None:
    if path.exists() and not _is_ours(path):
        raise InstallError(f"{path} is there and was not written by `pruner install-units`: move it away first")


def _write(path: Path, text: str, *, dry_run: bool) -> str:
    if dry_run:
        return f"would write {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), 0o644)
        path.chmod(0o644)
    except OSError as error:
        raise InstallError(f"{path} cannot be written: {error.strerror}; run as root, or name a --root") from None
    return f"wrote {path}"


def _run(argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except OSError as error:
        raise InstallError(f"{argv[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InstallError(f"`{' '.join(argv)}` ended with status {done.returncode}: {said}")


def _running_systemd() -> bool:
    """As sd_booted(3)."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


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


def _has_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
