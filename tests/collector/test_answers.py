"""Whatever an engine, or a proxy before it, answers in whatever shape: one line of ours, and never "nothing"."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from collector.engine import connection
from collector.model.errors import EngineError, EngineRefusedError, UnansweredError
from collector.model.observation import ListedImage
from pruner.removal.client import DockerRemovingEngine

IMAGE = ListedImage("sha256:" + "a" * 64, ("a:1",), (), 3)
INFO = {"DockerRootDir": "/x", "Driver": "overlay2"}


class Answering(socketserver.ThreadingUnixStreamServer):
    """An engine that answers every question but who it is with the same status and body."""

    daemon_threads = True
    status, body = 200, b""

    def handle_error(self, *_: Any) -> None:
        """A client that has seen enough hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        status, body = self.server.status, self.server.body
        for path, answer in (("/version", {"ApiVersion": "1.41", "Version": "20"}), ("/info", INFO)):
            if self.path.endswith(path):
                status, body = 200, json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - http.server looks for them


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[DockerRemovingEngine, Answering]]:
    server = Answering(str(tmp_path / "engine.sock"), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    engine = DockerRemovingEngine(f"unix://{tmp_path}/engine.sock", timeout=30)
    yield engine, server
    engine.close()
    server.shutdown()
    server.server_close()


def questions(engine: DockerRemovingEngine) -> dict[str, Callable[[], object]]:
    return {
        "images": engine.images,
        "observe": lambda: engine.observe(IMAGE),
        "resolve": lambda: engine.resolve("a:1"),
        "created_from": lambda: engine.created_from("c"),
        "containers": engine.containers,
        "container_detail": lambda: engine.container_detail("c"),
        "volumes": engine.volumes,
        "disk_usage": engine.disk_usage,
        "buffered_events": lambda: engine.buffered_events(10**9, 2 * 10**9),
        "stream": lambda: list(engine.stream(None)),
        "remove_image": lambda: engine.remove_image("a:1"),
        "tag": lambda: engine.tag(IMAGE.image, "a", "1"),
        "remove_container": lambda: engine.remove_container("c"),
        "remove_volume": lambda: engine.remove_volume("v"),
        "prune_build_cache": lambda: engine.prune_build_cache(1.0, 1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'"x"', b"[null]", b'{"message": 3}', b"\xff", b"{"])
@pytest.mark.parametrize("status", [200, 404, 500])
def test_no_answer_is_more_than_a_fault(
    answering: tuple[DockerRemovingEngine, Answering], status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_RETRY_S", 0.0)
    engine, server = answering
    server.status, server.body = status, body
    found = UnansweredError if status == 200 else EngineRefusedError
    for name, question in questions(engine).items():
        try:
            question()
        except EngineError as raised:
            error = raised
        else:
            continue
        assert isinstance(error, found), name
        assert "\n" not in str(error)


@pytest.mark.parametrize("body", [b"{}", b'"x"', b"3", b"\xff"])
def test_a_listing_that_cannot_be_read_is_not_an_empty_one(
    answering: tuple[DockerRemovingEngine, Answering], body: bytes
) -> None:
    engine, server = answering
    server.body = body
    for name in ("images", "containers", "container_detail", *(("volumes", "disk_usage") if body != b"{}" else ())):
        if name == "container_detail" and body == b"{}":
            continue
        with pytest.raises(UnansweredError, match="cannot be read"):
            questions(engine)[name]()


def test_a_page_of_html_is_not_a_message(answering: tuple[DockerRemovingEngine, Answering]) -> None:
    engine, server = answering
    server.status, server.body = 502, b"<html>\n<h1>Bad gateway</h1>\n" + b"x" * 10**5 + b"</html>"
    with pytest.raises(EngineRefusedError, match="answered: <html> <h1>Bad gateway") as raised:
        engine.images()
    assert len(str(raised.value)) < 2000


def test_events_that_come_as_one_text_are_read(answering: tuple[DockerRemovingEngine, Answering]) -> None:
    """Some proxies collect the stream before they pass it on."""
    engine, server = answering
    event = {"Type": "image", "Action": "pull", "Actor": {"ID": "a:1"}, "timeNano": 10**9 + 5}
    server.body = json.dumps(event).encode() + b"\n"
    assert engine.buffered_events(10**9, 2 * 10**9) == [event]
    assert b"".join(engine.stream(None)) == server.body
