"""A Unix socket between collector and engine, for faults that no engine makes on demand.

It passes everything through, but can cut all connections as a socket that is lost, and can keep single
events from the stream as an engine's full queue does.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

_REQUEST = re.compile(rb"^[A-Z]+ (?P<target>\S+) HTTP/1\.1\r\n")
_PIECE = 1 << 16

Condition = Callable[[bytes], bool]


def nothing(_: bytes) -> bool:
    """Drop nothing."""
    return False


class Proxy:
    """Stands before an engine's socket; used as a context manager.

    Args:
        engine: the engine's socket.
        path: the socket that clients get.
        drop: which events, as the engine writes them, never reach a client that follows the stream.
    """

    def __init__(self, engine: Path, path: Path, drop: Condition = nothing) -> None:
        self._engine = engine
        self._path = path
        self._drop = drop
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.dropped = 0
        # How long to wait after each byte of an answer, seconds.
        self.pause_s = 0.0
        # How long to wait before each removal is asked for, seconds.
        self.before_removal_s = 0.0
        self.host = f"unix://{path}"

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def idle(self) -> bool:
        """Whether nobody is connected, and the engine has ended all that it was asked through it."""
        return not self._open

    def cut(self) -> None:
        """Lose the socket and all that goes through it."""
        self._path.unlink(missing_ok=True)
        lost = [*self._open, *([self._listener] if self._listener else [])]
        self._open.clear()
        for connection in lost:
            _end(connection)

    def restore(self) -> None:
        """Listen (again)."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        ends = {client, engine}
        self._open |= ends
        try:
            with suppress(OSError, ValueError):
                engine.connect(str(self._engine))
                follows = threading.Event()
                threading.Thread(target=self._requests, args=(client, engine, follows), daemon=True).start()
                self._answers(engine, client, follows)
        finally:
            self._open -= ends
            for end in ends:
                _end(end)

    def _requests(self, client: socket.socket, engine: socket.socket, follows: threading.Event) -> None:
        # Who is killed with something unread is no end but an error.
        with suppress(OSError):
            while piece := client.recv(_PIECE):
                found = _REQUEST.match(piece)
                if found and b"/events" in found["target"] and b"until=" not in found["target"]:
                    follows.set()
                if piece.startswith(b"DELETE "):
                    time.sleep(self.before_removal_s)
                engine.sendall(piece)
        with suppress(OSError):
            # What was asked is carried out, whoever has gone; a stream has no other end.
            engine.shutdown(socket.SHUT_RDWR if follows.is_set() else socket.SHUT_WR)

    def _answers(self, engine: socket.socket, client: socket.socket, follows: threading.Event) -> None:
        while piece := engine.recv(_PIECE):
            if follows.is_set():
                self._follow(piece, engine, client)
                return
            self._pass_on(piece, client)

    def _pass_on(self, piece: bytes, client: socket.socket) -> None:
        while piece and self.pause_s:
            client.sendall(piece[:1])
            piece = piece[1:]
            until = time.monotonic() + self.pause_s
            while self.pause_s and time.monotonic() < until:
                time.sleep(0.05)
        client.sendall(piece)

    def _follow(self, begun: bytes, engine: socket.socket, client: socket.socket) -> None:
        """The answer of a stream of events: its head, then chunks of whole lines."""
        while b"\r\n\r\n" not in begun:
            begun += engine.recv(_PIECE)
        head, _, body = begun.partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        for line in _lines(body, engine):
            if self._drop(line):
                self.dropped += 1
            else:
                self._pass_on(b"%x\r\n%s\r\n" % (len(line), line), client)
        client.sendall(b"0\r\n\r\n")


def _lines(begun: bytes, engine: socket.socket) -> Iterator[bytes]:
    """The lines in a body of chunks (RFC 9112, section 7.1), with their ends."""
    with engine.makefile("rb") as rest:
        source = _Joined(begun, rest)
        text = b""
        while length := int(source.line() or b"0", 16):
            text += source.read(length)
            source.line()
            *whole, text = text.splitlines(keepends=True) or [b""]
            if text.endswith(b"\n"):
                whole, text = [*whole, text], b""
            yield from whole


class _Joined:
    """What was read already, and then what comes."""

    def __init__(self, begun: bytes, rest: BinaryIO) -> None:
        self._begun = begun
        self._rest = rest

    def read(self, count: int) -> bytes:
        piece, self._begun = self._begun[:count], self._begun[count:]
        return piece + self._rest.read(count - len(piece))

    def line(self) -> bytes:
        piece, end, after = self._begun.partition(b"\n")
        self._begun = after
        return piece + end if end else piece + self._rest.readline()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
