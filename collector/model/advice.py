"""Commands that messages advise, in words that work for whoever reads them: with sudo only where it is needed."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from collector.model.paths import SYSTEM_LOG, default_log_path

# Accounts of people, whose engines are their own, begin there on Linux.
_FIRST_PERSON = 1000
# There while systemd runs the machine.
_SYSTEMD = Path("/run/systemd/system")


def as_root(words: str) -> str:
    """A command that only root may run, as the reader types it."""
    return words if reader() == "root" else f"sudo {words}"


def has_systemd() -> bool:
    """Whether systemd runs this machine, so that services can be enabled."""
    return _SYSTEMD.is_dir()


def on_log(words: str, log: Path, *, reads: bool = False) -> str:
    """A command on a log, as the reader types it: as himself where he may, else as the log's owner or as root.

    Args:
        words: the command without `--log`.
        log: the log.
        reads: whether it only reads the log, and asks no engine.
    """
    named = f"{words} --log {shlex.quote(str(log))}"
    person = _person(log)
    if os.geteuid() != 0 and (reads or _is_writable(log)):
        return words if log == default_log_path() else named
    if person and not reads:
        # Only its owner finds the engine.
        return named if person == reader() else f"sudo -u {person} {named}"
    return as_root(words if log == SYSTEM_LOG else named)


def how_to_read(path: Path) -> str:
    """What a user can do who may not read a log: become root, or a member of the group that may."""
    group = _group_that_reads(path.parent)
    sudo = "run this with sudo"
    return sudo if group is None else f"{sudo}, or join the group {group} ({join_group(group)}; log in again)"


def join_group(group: str) -> str:
    """The command that makes the reader a member of a group."""
    return as_root(f"usermod -aG {group} {reader()}")


def hidden_system_log() -> str:
    """Where the service's log is and how to read it, if this user may not; empty: there is none, or it can be read."""
    if os.geteuid() == 0 or not os.access(SYSTEM_LOG.parent, os.F_OK) or os.access(SYSTEM_LOG.parent, os.X_OK):
        return ""
    return f"this machine's own log is {SYSTEM_LOG}: {how_to_read(SYSTEM_LOG)}"


def how_to_get_log(log: Path) -> str:
    """What to do where there is no log."""
    suffix = service_suffix(log)
    begin = "start `collector run`"
    if suffix is not None and log.parent.is_dir() and has_systemd():
        begin = f"`systemctl status collector{suffix}.service` says whether its service runs"
    return hidden_system_log() or f"{begin}, make one with `collector import`, or name another with --log"


def _group_that_reads(folder: Path) -> str | None:
    try:
        found = folder.stat()
        if not found.st_mode & stat.S_IXGRP or found.st_gid == 0:
            return None
        return grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return None


def reader() -> str:
    """Whoever reads what is printed, by name; who ran us by sudo is a user again for the next command."""
    if os.geteuid() == 0:
        return os.environ.get("SUDO_USER") or "root"
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def service_suffix(log: Path) -> str | None:
    """What distinguishes the names of the services that keep a log: empty for the only ones; None: none keep it."""
    folder, usual = log.parent, SYSTEM_LOG.parent
    if log.name != SYSTEM_LOG.name or folder.parent != usual.parent:
        return None
    stem, suffix = folder.name[: len(usual.name)], folder.name[len(usual.name) :]
    return suffix if stem == usual.name and (not suffix or suffix[0] == "-") else None


def _is_writable(log: Path) -> bool:
    return os.access(log if log.exists() else log.parent, os.W_OK)


def _person(log: Path) -> str | None:
    """The owner of a log, if that is a person."""
    try:
        owner = log.stat().st_uid
        return pwd.getpwuid(owner).pw_name if owner >= _FIRST_PERSON else None
    except (OSError, KeyError):
        return None
