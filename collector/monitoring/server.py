"""Serves the metrics over HTTP, to a limited number of clients for a limited time each."""

from __future__ import annotations

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

# A scrape takes milliseconds; who has not asked and read by then never will.
_CONNECTION_S = 10.0
_MOST_CONNECTIONS = 128


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each connection, of which none lasts for ever: a client may send a byte a second."""

    daemon_threads = True
    block_on_close = False

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


def serve(host: str, port: int, registry: CollectorRegistry) -> int:
    """Serve a registry's metrics from a thread of their own; the port.

    Args:
        host: the address to listen on.
        port: the port; 0: a free one.
        registry: what is served.

    Raises:
        OSError: the address is none, or cannot be listened on.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    server = _Server(family, address)
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_port)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
