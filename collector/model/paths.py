"""Where the event log is, as far as nobody says otherwise."""

from __future__ import annotations

import os
import stat
from pathlib import Path

DEFAULT_HOST = "unix:///var/run/docker.sock"
ENVIRONMENT_VARIABLE = "DOCKER_HINDSIGHT_LOG"


def default_log_path() -> Path:
    """Where the log is unless said otherwise: /var/lib for root, the XDG state folder for others."""
    if path := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(path)
    if os.geteuid() == 0:
        return Path("/var/lib/docker-hindsight/events.duckdb")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "docker-hindsight" / "events.duckdb"


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or leave what was there as it was: there is never half a file.

    Raises:
        OSError: it cannot be written.
    """
    target = path.resolve()
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
        # What is no file (a pipe), or in a folder that is not ours, can only be written to as it is.
        target.write_text(text, encoding="utf-8")
        return
    try:
        fresh.write_text(text, encoding="utf-8")
        if target.exists():
            fresh.chmod(stat.S_IMODE(target.stat().st_mode))
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
