"""Whether there is enough free space, answered within a fraction of a second: for a runner's hook before each job.

The engine is asked for one thing only, where its data is, and without a client library: loading one
takes longer than all the rest.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

from collector.engine.places import describe
from collector.engine.surroundings import UNIX, find_engine
from collector.machine.disk import DiskSample, disks_now
from collector.model.errors import EngineError

_PATIENCE_S = 5.0
# In version 1.0 of the protocol the answer is not cut into chunks, and ends when the engine hangs up.
_QUESTION = b"GET /info HTTP/1.0\r\nHost: localhost\r\n\r\n"


def free_space(host: str | None) -> tuple[DiskSample, ...]:
    """The disks of an engine's data, that of its images first; none where they cannot be found this way.

    Args:
        host: as `collector.engine.client.DockerEngine` takes it.

    Raises:
        UsageError: the surroundings name an engine that cannot be used.
    """
    address = find_engine(host)
    if not address.is_socket:
        return ()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(address.url.removeprefix(UNIX))
            connection.sendall(_QUESTION)
            answer = b"".join(_until(connection, time.monotonic() + _PATIENCE_S))
        info = json.loads(answer.partition(b"\r\n\r\n")[2])
        return disks_now(describe(info, address.url))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, EngineError):
        return ()


def _until(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """What comes until the engine hangs up. Raises TimeoutError if that takes too long, however much comes."""
    while piece := connection.recv(65536):
        yield piece
        connection.settimeout(max(0.001, deadline - time.monotonic()))
