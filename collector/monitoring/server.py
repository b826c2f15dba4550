"""Serves metrics and the host's page over HTTP, to a limited number of clients for a limited time each."""

from __future__ import annotations

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from collector.model.errors import UsageError

# A scrape takes milliseconds; who has not asked and read by then never will.
_CONNECTION_S = 10.0
_MOST_CONNECTIONS = 128
_PORTS = range(1, 65536)


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each connection, of which none lasts forever: a client may send a byte a second."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS  # with fewer, a burst of clients waits for seconds to be let in

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no further thread can be started
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it, in time or not at all."""
        deadline = threading.Timer(_CONNECTION_S, _end, [request])
        deadline.daemon = True
        try:
            deadline.start()
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is not worth a line."""


class _Handler(WSGIRequestHandler):
    """Answers without a word on stderr."""

    timeout = _CONNECTION_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Scrapes are not worth a line."""


def listen_address(option: str, address: str) -> tuple[str, int]:
    """Where to listen, of ``host:port``.

    Raises:
        UsageError: it is not that.
    """
    host, colon, port = address.rpartition(":")
    if (
        not colon
        or not (port.isascii() and port.isdigit() and len(port) < len("100000"))
        or (int(port) and int(port) not in _PORTS)
    ):
        raise UsageError(f"{option}: '{address}' is not host:port (such as 127.0.0.1:9633)")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - as it was asked for


def serve_app(option: str, address: str, app: Any) -> int:
    """Serve a WSGI application from a thread of its own; the port.

    Args:
        option: what asked for it, for messages.
        address: where to listen, ``host:port``; port 0: a free one.
        app: what is served.

    Raises:
        UsageError: the address is invalid, or cannot be listened on.
    """
    host, port = listen_address(option, address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        server = _Server(family, place)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option}: cannot listen on {address}: {reason}") from None
    server.set_app(app)
    threading.Thread(target=server.serve_forever, name=option.strip("-"), daemon=True).start()
    return int(server.server_port)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
