"""Which engine is meant, as the docker command line finds it: environment, contexts, the usual sockets.

In the standard library only, for a runner's hook asks before each job.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from collector.model.errors import UsageError
from collector.model.paths import DEFAULT_HOST, MOST_BYTES, read_bounded
from collector.model.untrusted import is_loopback, mapping, read_object, text

UNIX = "unix://"
_CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
_PORT, _TLS_PORT = 2375, 2376
_BARE = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d+")  # host:port


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is asked.

    Attributes:
        url: ``unix:///path`` or ``tcp://host:port``.
        how: what says so.
        certificates: folder with ca.pem, cert.pem and key.pem; None: without TLS.
        verify: whether the engine's certificate is checked.
    """

    url: str
    how: str
    certificates: Path | None = None
    verify: bool = True

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket in the file system."""
        return self.url.startswith(UNIX)

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this host on the way there: no proxy may be asked."""
        return self.is_socket or is_loopback(urlsplit(self.url).hostname or "")


def find_engine(given: str | None = None) -> Address:
    """The engine that is meant: the given one, DOCKER_HOST, DOCKER_CONTEXT, the current context, the usual sockets.

    Args:
        given: an address; None: as the surroundings say.

    Raises:
        UsageError: an address of a kind that cannot be used, or a context that is not there.
    """
    environment = os.environ
    if given:
        return _checked(given, "--host or DOCKER_HOST", environment)
    if host := environment.get("DOCKER_HOST"):
        return _checked(host, "DOCKER_HOST", environment)
    folder = _config_folder(environment)
    name, how = environment.get("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
    if not name and folder is not None:
        name, how = read_json(folder / "config.json").get("currentContext"), f"currentContext in {folder}/config.json"
    if name and name != "default" and folder is not None:
        return _context(str(name), how, folder)
    return _usual(environment)


def _usual(environment: Mapping[str, str]) -> Address:
    """The system's socket; where there is none that this user may use, that of an engine of the user's own."""
    system = DEFAULT_HOST.removeprefix(UNIX)
    if os.access(system, os.R_OK | os.W_OK):
        return Address(DEFAULT_HOST, "the usual socket")
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    for name in ("docker.sock", "podman/podman.sock"):
        if os.path.lexists(path := Path(runtime) / name):
            return Address(f"{UNIX}{path}", "the socket of the user's own engine")
    return Address(DEFAULT_HOST, "the usual socket")


def _context(name: str, how: str, folder: Path) -> Address:
    key = hashlib.sha256(name.encode()).hexdigest()
    path = folder / "contexts" / "meta" / key / "meta.json"
    endpoint = mapping(mapping(read_json(path).get("Endpoints")).get("docker"))
    host = text(endpoint.get("Host"))
    if not host:
        raise UsageError(
            f"{how} names the context '{name}', which {path} does not contain: "
            "`docker context use default`, or set DOCKER_HOST"
        )
    certificates = folder / "contexts" / "tls" / key / "docker"
    return _address(
        host, f"context '{name}' ({how})", certificates if os.path.isdir(certificates) else None,  # noqa: PTH112 - it may be closed
        verify=not endpoint.get("SkipTLSVerify"),
    )  # fmt: skip


def _checked(host: str, how: str, environment: Mapping[str, str]) -> Address:
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    folder = environment.get("DOCKER_CERT_PATH") or _config_folder(environment) if verify else None
    folder = folder or environment.get("DOCKER_CERT_PATH") if environment.get("DOCKER_TLS") else folder
    return _address(host, how, Path(folder) if folder else None, verify=verify)


def _address(host: str, how: str, certificates: Path | None, *, verify: bool) -> Address:
    host = host.strip()
    # The docker command takes it so, too.
    scheme, _, rest = (f"tcp://{host}" if _BARE.fullmatch(host) else host).partition("://")
    if scheme == "ssh":
        raise UsageError(
            f"{how}: {host} leads to an engine on another host: run collector and pruner there "
            "(`ssh HOST collector run`), for they measure the disk that the images lie on"
        )
    if scheme in {"http", "https"} and rest:
        scheme = "tcp"
    if scheme not in {"unix", "tcp"} or not rest.strip("/"):
        raise UsageError(f"{how}: '{host}' is not an engine's address: unix:///path or tcp://host:port")
    if scheme == "unix":
        return Address(f"{UNIX}{rest.rstrip('/')}", how)
    try:
        parts = urlsplit(f"tcp://{rest}")
        port = parts.port or (_PORT if certificates is None else _TLS_PORT)
    except ValueError as error:
        raise UsageError(f"{how}: '{host}' is not an engine's address ({error}): tcp://host:port") from None
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    if certificates is not None:
        missing = [file for file in _CERTIFICATES if not _is_short_file(certificates / file)]
        if missing:
            raise UsageError(
                f"{how}: no {', '.join(missing)} to be read in {certificates}: set DOCKER_CERT_PATH to the folder of "
                "the engine's certificates, or unset DOCKER_TLS_VERIFY"
            )
    return Address(f"tcp://{name}:{port}{parts.path}", how, certificates, verify)


def _is_short_file(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES and os.access(path, os.R_OK)


def _config_folder(environment: Mapping[str, str]) -> Path | None:
    if folder := environment.get("DOCKER_CONFIG"):
        return Path(folder)
    try:
        return Path.home() / ".docker"
    except RuntimeError:  # a user without a home folder
        return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where it cannot be read."""
    try:
        return read_object(read_bounded(path)) or {}
    except (OSError, ValueError):
        return {}
