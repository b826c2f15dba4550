"""The connection to one engine: docker-py's client, calls that it lacks, and the shapes of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from collector.engine.connection import connect
from collector.engine.surroundings import find_engine
from collector.model.untrusted import objects

if TYPE_CHECKING:
    import docker


class EngineApi:
    """One container engine behind Docker's API.

    Args:
        host: ``unix:///path`` or ``tcp://host:port``; None: as the docker command line finds it.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, host: str | None, timeout: float) -> None:
        self.address = find_engine(host)
        self.host = self.address.url
        self._timeout = timeout
        self._client: docker.APIClient | None = None

    @property
    def api(self) -> docker.APIClient:
        """The connected client. Raises EngineError if there is no engine."""
        if self._client is None:
            self._client = connect(self.address, self._timeout)
        return self._client

    def close(self) -> None:
        """Let go of all connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def request(self, path: str, parameters: dict[str, Any], *, method: str = "get", version: str | None = None) -> Any:
        """The answer to a call that docker-py does not have; it raises what docker-py does.

        Args:
            path: beneath the version of the interface.
            parameters: of the query.
            method: ``get`` or ``post``.
            version: of the interface; None: as agreed with the engine.
        """
        api = cast("Any", self.api)
        url = f"{api.base_url}/{version or f'v{api.api_version}'}/{path}"
        answer = getattr(api, method)(url, params=parameters, timeout=self._timeout)
        api._raise_for_status(answer)  # noqa: SLF001 - docker-py's own faults, which `as_engine_error` knows
        return answer


def as_object(found: object) -> dict[str, Any]:
    """An answer that is an object. Raises ValueError: what cannot be read is unknown, not empty."""
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - as of all that cannot be read
    return found


def as_rows(found: object) -> list[dict[str, Any]]:
    """The rows of a listing, of which some engines make null when there are none. Raises ValueError."""
    if found is not None and not isinstance(found, list):
        raise ValueError("it is not a list")
    return objects(found)
