"""A runner host: an engine, and our commands run on it as an operator runs them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

from collector.eventlog.log import EventLog
from tests import commands
from tests.engine import leftovers
from tests.engine.engines import Engine, tags_by_image
from tests.waiting import PATIENCE_S, Answers, wait_for

# What has not ended by itself then is killed by systemd (TimeoutStopSec of our unit).
END_S = 30.0


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The log's file while no one else has it open, nor can open it."""
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield file


@contextmanager
def _own_logging() -> Iterator[None]:
    """Let a program that is run in this process say on stderr what it logs: pytest's handlers would take it."""
    root = logging.getLogger()
    level = root.level
    try:
        with patch.object(root, "handlers", []):
            yield
    finally:
        root.setLevel(level)


@dataclass
class Host:
    """An engine with a log.

    Args:
        engine: the engine.
        log_path: the event log.
        address: where our commands find the engine; empty: at its own socket.
    """

    engine: Engine
    log_path: Path
    address: str = ""

    def __post_init__(self) -> None:
        leftovers.note_log(self.engine.folder.parent, self.log_path)
        self._answers = Answers(lambda: self.log_path)

    @property
    def log(self) -> EventLog:
        """The event log."""
        return EventLog(self.log_path, wait=PATIENCE_S)

    def command(self, *argv: str) -> list[str]:
        """The full command line of one of our commands on this host."""
        program = str(Path(sys.executable).with_name(argv[0]))
        return [program, *argv[1:], "--log", str(self.log_path)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that our commands get."""
        return {**os.environ, "DOCKER_HOST": self.address or self.engine.host, "COLUMNS": "200"}

    def run(self, *argv: str, status: int | None = 0) -> str:
        """Run one of our commands; what it printed."""
        found = self._ended(*argv)
        assert status is None or found.returncode == status, (found.returncode, found.stdout, found.stderr)
        assert "Traceback" not in found.stderr
        return found.stdout + found.stderr

    def json(self, *argv: str, statuses: Collection[int] = (0,)) -> Any:
        """Run one of our commands; the JSON that it printed."""
        found = self._ended(*argv, "--format", "json")
        assert found.returncode in statuses, (found.returncode, found.stdout, found.stderr)
        return json.loads(found.stdout)

    def _ended(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """One of our commands that has ended.

        It is run in this process, for to load what it needs takes a new one longer than most commands do; but for a
        collector, which takes signals.
        """
        if argv[:2] != ("collector", "run"):
            with patch.dict(os.environ, self.environment), _own_logging():
                return commands.run(argv[0], *argv[1:], "--log", str(self.log_path), columns=200)
        return self._ended_apart(*argv)

    def _ended_apart(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """One of our commands that has ended, as a process of its own."""
        return subprocess.run(
            self.command(*argv), capture_output=True, text=True, check=False, env=self.environment, timeout=PATIENCE_S
        )

    def start_collector(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the collector and wait until it observes."""
        path = self.engine.folder / "collector.eventlog.log"
        before = path.read_text().count("observing") if path.exists() else 0
        with path.open("ab") as log:
            process = subprocess.Popen(
                self.command("collector", "run", *options), stdout=log, stderr=log, env=self.environment
            )

        def is_following() -> bool:
            assert process.poll() is None, path.read_text()
            return path.read_text().count("observing") > before

        self.wait_for(is_following, "the collector to observe")
        return process

    @contextmanager
    def collecting(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A collector while the body runs; it ends with SIGTERM and must end well, before it would be ended."""
        process = self.start_collector(*options)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=END_S) == 0, (self.engine.folder / "collector.eventlog.log").read_text()

    def wait_for_events(self, kind: str, count: int) -> None:
        """Wait until the log holds so many events of a kind."""
        self.wait_for(lambda: self.count(kind) >= count, f"{count} events {kind}")

    def count(self, kind: str) -> int:
        """How many events of a kind the log holds."""
        ((found,),) = self.query("SELECT count(*) FROM event WHERE kind = ?", kind)
        return int(found)

    def query(self, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        """Ask the log while waiting for what it will say: see `Answers`."""
        found: list[tuple[Any, ...]] = self._answers.get((sql, parameters), lambda: self.log.query(sql, [*parameters]))
        return found

    def references(self) -> set[str]:
        """Every tag that the engine holds."""
        client = self.engine.client()
        try:
            return {tag for tags in tags_by_image(client).values() for tag in tags}
        finally:
            client.close()

    wait_for = staticmethod(partial(wait_for, every=0.1))
