"""Writes the units of an installation, starts them, and takes them away again."""

from __future__ import annotations

import pwd
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collector.machine import reserve
from collector.model.advice import as_root, has_systemd
from collector.model.errors import HindsightError
from collector.model.paths import read_bounded, replace_file
from pruner.install.units import ENGINE_GROUP, HIDDEN, MARK, Installation, is_under
from pruner.policy.file import to_toml
from pruner.policy.policy import Policy

_PACKAGED_UNITS = Path("usr/lib/systemd/system")


class InstallError(HindsightError):
    """Units cannot be written or started here."""


def install(wanted: Installation, *, enable: bool = False, dry_run: bool = False) -> list[str]:
    """Write all files, make the user, and (if asked) start the units; what was done, a line each.

    A policy that is there is left as it is.

    Raises:
        InstallError: no permission, or a file of the same name that is not ours.
    """
    steps = _Steps(dry_run)
    for path, text in wanted.files().items():
        _check_ours(wanted.root / path)
        steps.write(wanted.root / path, text)
    policy = wanted.root / wanted.policy.relative_to("/")
    if not policy.exists():
        steps.write(policy, to_toml(Policy()))
    if wanted.live:
        services = _service_commands(wanted, enable=enable)
        steps.run(_user_commands(wanted))
        if not dry_run:
            steps.done += _lay_reserves(wanted)
        steps.run(services)
    return steps.done


def uninstall(wanted: Installation, *, dry_run: bool = False) -> list[str]:
    """Stop the units and remove what `install` wrote, but for log, policy and user; what was done.

    Raises:
        InstallError: no permission.
    """
    steps = _Steps(dry_run)
    present = [wanted.root / path for path in wanted.files() if _is_ours(wanted.root / path)]
    if not present:
        return []
    live = wanted.live and _running_systemd()
    if live:
        steps.run([["systemctl", "disable", "--now", *wanted.stopped]])
    for path in present:
        steps.remove(path)
    if live and not dry_run:
        _run(["systemctl", "daemon-reload"])
    for folder in wanted.engine_folders:
        own = wanted.root / folder.relative_to("/") / reserve.FOLDER
        if own.is_dir() and not own.is_symlink():
            steps.remove(own)
    return steps.done


@dataclass
class _Steps:
    """What is done, or with `dry_run` only said; a line each in `done`. All raise InstallError."""

    dry_run: bool
    done: list[str] = field(default_factory=list)

    def run(self, commands: Iterable[Sequence[str]]) -> None:
        for argv in commands:
            self.done.append(("would run " if self.dry_run else "ran ") + " ".join(argv))
            if not self.dry_run:
                _run(argv)

    def write(self, path: Path, text: str) -> None:
        self.done.append(("would write " if self.dry_run else "wrote ") + str(path))
        if self.dry_run:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode(), 0o644)
            path.chmod(0o644)
        except OSError as error:
            raise InstallError(f"{path} cannot be written: {error.strerror}; run as root, or name a --root") from None

    def remove(self, path: Path) -> None:
        self.done.append(("would remove " if self.dry_run else "removed ") + str(path))
        if self.dry_run:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            return
        try:
            path.unlink()
        except OSError as error:
            raise InstallError(f"{path} cannot be removed: {error.strerror}") from None


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
    above = () if is_under(wanted.programs, HIDDEN) else tuple(reversed(wanted.programs.parents))
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
    tmpfiles = [["systemd-tmpfiles", "--create", f"/etc/tmpfiles.d/{wanted.state}.conf"]]
    found = tmpfiles if shutil.which("systemd-tmpfiles") else []
    if wanted.owner is not None:
        return found
    if shutil.which("systemd-sysusers"):
        return [["systemd-sysusers", f"/etc/sysusers.d/{wanted.state}.conf"], *found]
    if _has_user(wanted.user):
        return found
    groups = ["--groups", wanted.group] if wanted.group else []
    shell = ["--shell", "/usr/sbin/nologin"]
    home = ["--home-dir", f"/var/lib/{wanted.state}"]
    return [["useradd", "--system", "--user-group", *shell, *home, *groups, wanted.user], *found]


def _is_ours(path: Path) -> bool:
    try:
        return read_bounded(path).startswith(MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _check_ours(path: Path) -> None:
    if path.exists() and not _is_ours(path):
        raise InstallError(f"{path} exists and was not written by `pruner install-units`: move it away first")


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
    return has_systemd() and shutil.which("systemctl") is not None


def _has_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
