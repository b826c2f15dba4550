"""Where the event log is, as far as nobody says otherwise."""

from __future__ import annotations

import os
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
