"""An engine that answers a byte now and then is not waited for without end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.engine.client import DockerEngine
from collector.engine.deadline import at_most, call, within
from collector.model.errors import DeadlineError, UnansweredError
from pruner.removal.free_space import free_space


@pytest.fixture
def slow_engine(tmp_path: Path) -> Iterator[str]:
    """Each answer begins at once, and never ends: a byte comes every tenth of a second."""
    path = tmp_path / "slow.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    ended = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # a client whose deadline has passed hangs up
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
            while not ended.wait(0.1):
                client.sendall(b" ")

    def accept() -> None:
        while not ended.is_set():
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"unix://{path}"
    ended.set()
    listener.close()


def test_no_call_outlasts_the_deadline(slow_engine: str) -> None:
    engine = DockerEngine(slow_engine, timeout=60.0)
    with pytest.raises(DeadlineError, match=r"deadline of .* has passed"), within(0.5):
        engine.info()
    engine.close()


def test_what_is_done_between_calls_is_not_interrupted() -> None:
    done = []
    with within(0.1):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            done.append(True)
        with pytest.raises(DeadlineError), call():
            done.clear()
    assert done
    with call():
        pass


def test_a_question_that_takes_its_share_leaves_time_for_the_rest(slow_engine: str) -> None:
    engine = DockerEngine(slow_engine, timeout=60.0)
    with within(600.0):
        for _ in range(2):
            with pytest.raises(UnansweredError, match="did not answer within"), at_most(0.2):
                engine.info()
        with call():
            pass
        # The deadline counts within such a share, too.
        with pytest.raises(DeadlineError), within(0.1), at_most(600.0):
            engine.info()
        with call():
            pass
        with pytest.raises(UnansweredError), at_most(0.0), call():
            pass
    engine.close()


def test_the_check_before_a_job_waits_no_longer_than_it_says(slow_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.removal.free_space._PATIENCE_S", 0.5)
    assert free_space(slow_engine) == ()
