"""Whether there is enough free space, told within a fraction of a second: for a runner's hook before each job.

The engine is asked for one thing only, where its data is, and without a client library: loading one
takes longer than all the rest.
"""

from __future__ import annotations

import json
import os
import socket

from collector.machine.disk import DiskSample, sample_disk
from collector.model.errors import EngineError
from collector.model.paths import DEFAULT_HOST

_PATIENCE_S = 5.0
_UNIX = "unix://"
# In version 1.0 of the protocol the answer is not cut into chunks, and ends when the engine hangs up.
_QUESTION = b"GET /info HTTP/1.0\r\nHost: localhost\r\n\r\n"


def free_space(host: str | None) -> DiskSample | None:
    """The disk of an engine's data, or None where it cannot be told this way.

    Args:
        host: as `collector.engine.client.DockerEngine` takes it; None: DOCKER_HOST, else the usual socket.
    """
    address = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    if not address.startswith(_UNIX):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(address.removeprefix(_UNIX))
            connection.sendall(_QUESTION)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return sample_disk(str(json.loads(answer.partition(b"\r\n\r\n")[2])["DockerRootDir"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, EngineError):
        return None
