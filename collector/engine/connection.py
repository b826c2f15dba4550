"""The connection to an engine: how it is made, and what its faults are called here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import docker
import docker.errors
import requests
import urllib3

from collector.engine import deadline
from collector.engine.surroundings import Address
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError, UnansweredError
from collector.model.paths import DEFAULT_HOST
from collector.model.untrusted import cut

_TRIES = 5
_RETRY_S = 0.1
T = TypeVar("T")
# What an engine answers of one thing that it cannot show, or that cannot be read; all others it may.
REFUSED = (docker.errors.APIError, ValueError, RecursionError)


def connect(address: Address, timeout: float) -> docker.APIClient:
    """A connected client.

    Args:
        address: of the engine.
        timeout: seconds to wait for an answer.

    Raises:
        EngineError: there is no engine, or it is not an address of one.
    """
    kind = _LocalClient if address.is_loopback else docker.APIClient
    with as_engine_error(address.url):
        try:
            return kind(address.url, version="auto", timeout=cast("int", timeout), tls=_tls(address))
        except ValueError as error:
            raise EngineError(
                f"'{address.url}' is not the address of an engine ({error}): give --host or DOCKER_HOST one "
                f"such as {DEFAULT_HOST}"
            ) from None


class Stream:
    """docker-py's stream of events, whose faults are ours."""

    def __init__(self, stream: Any, host: str) -> None:
        self._stream = stream
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        with as_engine_error(self._host):
            yield from self._stream

    def close(self) -> None:
        """End it."""
        self._stream.close()


class _LocalClient(docker.APIClient):
    """A client of this host: no proxy leads there, and looking for one costs as much as a question does."""

    @property
    def trust_env(self) -> bool:
        """Never: the base class sets it, which changes nothing."""
        return False

    @trust_env.setter
    def trust_env(self, _: bool) -> None:
        pass


def _tls(address: Address) -> docker.TLSConfig | bool:
    if address.certificates is None:
        return False
    ca, certificate, key = (str(address.certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return docker.TLSConfig(
        client_cert=(certificate, key), ca_cert=ca if address.verify else None, verify=address.verify
    )


def again(listing: Callable[[], T]) -> T:
    """A listing that is repeated when it fails over something that was removed while it was made.

    The containerd store answers 404 for the whole list then.
    """
    for _ in range(_TRIES):
        try:
            return listing()
        except docker.errors.NotFound as error:
            missing = error
            time.sleep(_RETRY_S)
    raise docker.errors.DockerException(f"a listing failed {_TRIES} times: {missing.explanation}") from missing


@contextmanager
def as_engine_error(host: str) -> Iterator[None]:
    """Turn docker-py's and the transport's faults into an `EngineError` that says what to do."""
    try:
        with deadline.call():
            yield
    except docker.errors.APIError as error:
        refused = EngineNotFoundError if isinstance(error, docker.errors.NotFound) else EngineRefusedError
        raise refused(host, str(error.explanation or error), error.status_code) from error
    except requests.Timeout as error:
        raise UnansweredError(f"the engine at {host} did not answer in time: {error}") from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise EngineError(_unreachable(host, error)) from error
    except urllib3.exceptions.HTTPError as error:
        raise EngineError(_unreachable(host, error)) from error
    except (ValueError, RecursionError) as error:
        raise UnansweredError(
            f"the engine at {host} gave an answer that cannot be read: {cut(str(error), 200)}"
        ) from error


def _unreachable(host: str, error: Exception) -> str:
    text = str(error)
    path = Path(host.removeprefix("unix://"))
    if host.startswith("unix://") and ("FileNotFoundError" in text or not path.exists()):
        return f"no engine socket at {path}: start the engine or name another with --host or DOCKER_HOST"
    if "PermissionError" in text or "Permission denied" in text:
        return f"no permission on the engine socket {path}: run as root or as a member of its group (docker)"
    if "ConnectionRefusedError" in text or "Connection refused" in text:
        return f"no engine answers at {host}: start it or name another with --host or DOCKER_HOST"
    return f"the engine at {host} cannot be reached: {text.splitlines()[0] if text else type(error).__name__}"
