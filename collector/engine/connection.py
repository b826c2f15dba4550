"""The connection to an engine: how it is made, and what its faults are called here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import docker
import docker.api.client
import docker.errors
import docker.utils.config
import requests
import urllib3

from collector.engine import deadline
from collector.engine.surroundings import Address, read_json
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError, UnansweredError
from collector.model.paths import DEFAULT_HOST
from collector.model.untrusted import cut, mapping

_TRIES = 5
_RETRY_S = 0.1
# Of what an engine, or a proxy before it, says: a page of HTML is not a message.
_MOST_WORDS = 1000
_VERSION = re.compile(r"[1-9][0-9]*\.[0-9]+")
_HEADER = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+:[\t -~]*")
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
    kind = _LocalClient if address.is_loopback else _Client
    with as_engine_error(address.url):
        try:
            return kind(address.url, version="auto", timeout=cast("int", timeout), tls=_tls(address))
        except ValueError as error:
            raise EngineError(
                f"'{address.url}' is not the address of an engine ({error}): give --host or DOCKER_HOST one "
                f"such as {DEFAULT_HOST}"
            ) from None


class EngineStream:
    """docker-py's stream of events, whose faults are ours."""

    def __init__(self, stream: Any, host: str) -> None:
        self._stream = stream
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        with as_engine_error(self._host):
            for chunk in self._stream:
                # What something between us and the engine has put together is one text.
                yield chunk if isinstance(chunk, bytes) else str(chunk).encode()

    def close(self) -> None:
        """End it."""
        self._stream.close()


class _Client(docker.APIClient):
    """A client to which an error is one, whatever shape its answer has."""

    def _raise_for_status(self, response: Any) -> None:
        try:
            cast("Any", super())._raise_for_status(response)  # noqa: SLF001 - the one place where all errors are made
        except (LookupError, TypeError, AttributeError) as error:
            # The base class takes each answer that is JSON for an object with a text `message`.
            kind = (
                docker.errors.NotFound if response.status_code == requests.codes.not_found else docker.errors.APIError
            )
            raise kind(str(error.__context__), response=response, explanation=response.text) from None

    def _retrieve_server_version(self) -> str:
        """The newest version of the interface that the engine speaks.

        The answer to a ping has it in a header. Asked for its version, an engine starts a program for each part of
        itself, and Podman one more to find the package that each is of: together they take it 0.2 s.
        """
        base = cast("Any", super())
        try:
            found = base._get(f"{self.base_url}/_ping").headers.get("Api-Version", "")  # noqa: SLF001 - with its headers
        except requests.RequestException as error:
            raise docker.errors.DockerException(f"Error while fetching server API version: {error}") from error
        return found if _VERSION.fullmatch(found) else str(base._retrieve_server_version())  # noqa: SLF001 - as usual


def _general_config(path: str | None = None) -> dict[str, Any]:
    """What docker-py is to know of the user's config.json: headers that all requests carry.

    It would read the file itself, wait for a pipe there, and fail over members of another shape than it expects.
    """
    found = cast("str | None", docker.utils.config.find_config_file(path))
    headers = mapping(read_json(Path(found)).get("HttpHeaders")) if found else {}
    sound = {
        name: value
        for name, value in headers.items()
        if isinstance(value, str) and _HEADER.fullmatch(f"{name}:{value.strip()}")
    }
    # Without a login, it looks for one in the file. None is needed: nothing is pulled or pushed.
    return {"auths": {"none": {}}, "HttpHeaders": sound}


# No argument of a client leads past it.
docker.api.client.config = SimpleNamespace(load_general_config=_general_config)  # type: ignore[attr-defined]


class _LocalClient(_Client):
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
    words = f"a listing failed {_TRIES} times: {missing.explanation}"
    raise docker.errors.APIError(words, response=missing.response, explanation=words) from missing


@contextmanager
def as_engine_error(host: str) -> Iterator[None]:
    """Turn docker-py's and the transport's faults into an `EngineError` that says what to do."""
    try:
        with deadline.call():
            yield
    except docker.errors.APIError as error:
        refused = EngineNotFoundError if isinstance(error, docker.errors.NotFound) else EngineRefusedError
        words = cut(" ".join(str(error.explanation or error).split()), _MOST_WORDS)
        raise refused(host, words, error.status_code) from error
    except requests.Timeout as error:
        raise UnansweredError(f"the engine at {host} did not answer in time: {error}") from error
    except requests.JSONDecodeError as error:
        raise _unreadable(host, error) from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise EngineError(_unreachable(host, error)) from error
    except urllib3.exceptions.HTTPError as error:
        raise EngineError(_unreachable(host, error)) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(host, error) from error


def _unreadable(host: str, error: Exception) -> UnansweredError:
    return UnansweredError(f"the engine at {host} gave an answer that cannot be read: {cut(str(error), 200)}")


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
