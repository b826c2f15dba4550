"""A small read-only page of the host's state, served by the collector where it is asked to.

It has no action, answers only GET, and only under a name that is this machine's: a page from elsewhere cannot
read it by a name of its own that it lets point here. Nothing is computed while nobody looks.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

from collector.eventlog.log import EventLog
from collector.model.errors import LogBusyError, LogError
from collector.model.untrusted import as_address, is_loopback
from collector.monitoring.server import listen_address, serve_app
from collector.queries.overview import overview

logger = logging.getLogger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_LOOKED_S = 60.0
_EVERY_S = 5.0
_CORE_SHARE = 0.02  # of a core at most is spent on it
_TIME_SHARE = 0.2  # of the collector's time at most, where others take the processors
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:@\[\]]+))(?::[0-9]{1,5})?")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURE = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


class HostPage:
    """The page of one collector.

    Args:
        log: its event log.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._state: bytes | None = None
        self._asked = float("-inf")
        self._next = 0.0
        self._names: frozenset[str] = frozenset()
        self._parts = {
            f"/{name}": (files("collector.monitoring") / "page" / name).read_bytes()
            for name in ("page.html", "page.css", "page.js")
        }
        self.wake: Callable[[], None] = lambda: None
        """Called from the server's thread when somebody looks, so that the collector need not look by itself."""

    def serve(self, address: str) -> int:
        """Serve it at ``host:port`` from a thread of its own; the port.

        Raises:
            UsageError: the address is invalid, or cannot be listened on.
        """
        host = listen_address("--page", address)[0]
        self._names = _names_of(host)
        port = serve_app("--page", address, self.app)
        if not is_loopback(host):
            logger.warning(
                "--page %s: whoever reaches that address can read this host's state without a password", address
            )
        return port

    @property
    def wanted(self) -> bool:
        """Whether somebody looks, and it is time for a new state."""
        now = time.monotonic()
        return now - self._asked < _LOOKED_S and now >= self._next

    def publish(self) -> None:
        """Look into the log; a log that is busy or damaged leaves the last state."""
        began, spent = time.monotonic(), time.process_time()
        try:
            self._state = json.dumps(overview(self._log).to_json()).encode()
        except LogBusyError:
            pass
        except LogError as error:
            logger.warning("the page is not up to date: %s", error)
        ended = time.monotonic()
        spent = time.process_time() - spent
        self._next = ended + max(_EVERY_S, spent / _CORE_SHARE, (ended - began) / _TIME_SHARE)

    def app(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        if not self._is_ours(str(environ.get("HTTP_HOST", ""))):
            return _answer(start, "421 Misdirected Request", "json", b'{"error": "not a name of this host"}\n')
        if environ["REQUEST_METHOD"] == "HEAD":
            self.app({**environ, "REQUEST_METHOD": "GET"}, start)
            return []
        if environ["REQUEST_METHOD"] != "GET":
            return _answer(start, "405 Method Not Allowed", "json", b'{"error": "read only"}\n', ("Allow", "GET, HEAD"))
        path = str(environ.get("PATH_INFO", ""))
        path = "/page.html" if path in {"", "/"} else path
        if path == "/state.json":
            self._asked = time.monotonic()
            self.wake()
            return _answer(start, "200 OK", "json", self._state or b"null\n")
        found = self._parts.get(path)
        if found is None:
            return _answer(start, "404 Not Found", "json", b'{"error": "there is no such page"}\n')
        return _answer(start, "200 OK", path.rpartition(".")[2], found)

    def _is_ours(self, given: str) -> bool:
        found = _HOST.fullmatch(given)
        if found is None:
            return False
        host = (found["six"] or found["name"]).lower().rstrip(".")
        if host in self._names:
            return True
        # An address cannot be made to point elsewhere, as a name can.
        return not self._names.isdisjoint({"0.0.0.0", "::"}) and as_address(host) is not None  # noqa: S104 - compared only


def _names_of(host: str) -> frozenset[str]:
    """What a request may call this host: where it listens, and its own names."""
    own = socket.gethostname().lower()
    return frozenset({host.lower(), "localhost", "127.0.0.1", "::1", own, socket.getfqdn().lower()} - {""})


def _answer(start: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]) -> Iterable[bytes]:
    headers = [("Content-Type", f"{_TYPES[kind]}; charset=utf-8"), ("Content-Length", str(len(body))), *_SECURE, *more]
    start(status, headers)
    return [body]
