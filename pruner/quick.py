"""Whether there is enough free space, told within a fraction of a second: for a runner's hook before each job.

Nothing but the standard library is loaded: the engine is asked for one thing, where its data is.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from urllib.parse import urlsplit

from collector.disk import DiskSample, sample_disk
from collector.errors import EngineError
from collector.paths import DEFAULT_HOST

_PATIENCE_S = 5.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self._path)


def free_space(host: str | None) -> DiskSample | None:
    """The disk of an engine's data, or None where it cannot be told this way.

    Args:
        host: as `collector.engine.Engine` takes it; None: DOCKER_HOST, else the usual socket.
    """
    address = urlsplit(host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST)
    if address.scheme != "unix":
        return None
    connection = _UnixConnection(address.path)
    try:
        connection.request("GET", "/info")
        return sample_disk(str(json.load(connection.getresponse())["DockerRootDir"]))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException, EngineError):
        return None
    finally:
        connection.close()
