"""The same flood of events, drained and then stored, or stored one by one as they come: ``python -m bench flood``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from bench._costs import private_engine
from bench._traffic import tag_and_untag
from collector.terminal import console
from tests.engine.engines import Engine
from tests.engine.host import Host

EVENTS = 6_000
WRITERS = 8
_START_S = 2.0
_SETTLE_S = 5.0
# A reader that waits for the disk before it reads on, as simple collectors do.
_NAIVE = """
import json, sys
import docker, duckdb
path, how = sys.argv[1:]
kept = None if how == "opened for each" else duckdb.connect(path)
for event in docker.from_env(timeout=3600).events(decode=True):
    connection = kept or duckdb.connect(path)
    connection.execute("CREATE TABLE IF NOT EXISTS event (action VARCHAR, name VARCHAR, all_of_it JSON)")
    name = event["Actor"]["Attributes"].get("name")
    connection.execute("INSERT INTO event VALUES (?, ?, ?)", [event["Action"], name, json.dumps(event)])
    if kept is None:
        connection.close()
"""


_Follow = Callable[[Engine, Path], AbstractContextManager[None]]


@dataclass(frozen=True)
class Flood:
    """What became of one flood.

    Attributes:
        reader: who read it.
        stored: events of the flood in the reader's database.
        seconds: how long the engine's clients took to make it.
    """

    reader: str
    stored: int | None
    seconds: float


def main() -> None:
    """Measure, and print a table."""
    outcomes = list(map(_measure, _READERS))
    console.print_table(
        ("READER", "STORED", "LOST", "THE FLOOD TOOK", "EVENTS A SECOND"),
        [
            (
                outcome.reader,
                "-" if outcome.stored is None else f"{outcome.stored:,}",
                "-" if outcome.stored is None else f"{1 - outcome.stored / EVENTS:.0%}",
                f"{outcome.seconds:.0f} s",
                f"{EVENTS / outcome.seconds:.0f}",
            )
            for outcome in outcomes
        ],
        right=("STORED", "LOST", "THE FLOOD TOOK", "EVENTS A SECOND"),
    )


def _measure(reader: str) -> Flood:
    """One flood on an engine of its own, read by one reader."""
    with private_engine("flood") as engine:
        client = engine.client()
        client.api.import_image_from_data(b"\0" * 1024, repository="bench", tag="1")
        client.close()
        path = engine.folder / "log" / "events.duckdb"
        follow, events = _READERS[reader]
        with follow(engine, path):
            seconds = tag_and_untag(engine, EVENTS, WRITERS)
        return Flood(reader, _stored(path, events) if events else None, seconds)


@contextmanager
def _nobody(_engine: Engine, _path: Path) -> Iterator[None]:
    yield


@contextmanager
def _collector(engine: Engine, path: Path) -> Iterator[None]:
    with Host(engine, path).collecting():
        yield
        _wait_until_still(path)


@contextmanager
def _naive(how: str, engine: Engine, path: Path) -> Iterator[None]:
    path.parent.mkdir()
    host = Host(engine, path)
    command = [sys.executable, "-c", _NAIVE, str(path), how]
    with subprocess.Popen(command, env=host.environment) as process:
        time.sleep(_START_S)
        if how == "waits":
            process.send_signal(signal.SIGSTOP)
        yield
        process.send_signal(signal.SIGCONT)
        _wait_until_still(path)
        process.kill()


def _wait_until_still(path: Path) -> None:
    """Wait until the reader writes nothing more."""

    def size() -> list[int]:
        return [file.stat().st_size for file in sorted(path.parent.glob("*"))] if path.exists() else []

    before, now = None, size()
    while before != now:
        time.sleep(_SETTLE_S)
        before, now = now, size()


def _stored(path: Path, events: str) -> int:
    """How many events of the flood a database holds."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return int(connection.execute(f"SELECT count(*) FROM event WHERE {events}").fetchall()[0][0])


_OURS = "kind = 'image_untagged' OR (kind = 'image_tagged' AND reference LIKE 'bench/%')"
_NAIVES = "action = 'untag' OR (action = 'tag' AND name LIKE 'bench/%')"
_READERS: dict[str, tuple[_Follow, str]] = {
    "none": (_nobody, ""),
    "this collector": (_collector, _OURS),
    "stores each event, file kept open": (partial(_naive, "kept open"), _NAIVES),
    "stores each event, file opened for each": (partial(_naive, "opened for each"), _NAIVES),
    "stores each event, but waits (for a lock, a disk)": (partial(_naive, "waits"), _NAIVES),
}
