"""Who else uses a log while it is worked on, and how long they wait: an appender, a reader, and one that plans."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import duckdb

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.events import Event, Kind
from pruner.state.inventory import read_history
from pruner.state.learning import read_experience

# Long enough that nobody gives up: how long it takes is what is asked.
_WAIT_S = 300.0
_EVERY_S = 0.2
# To open a log takes so long.
_AT_ONCE_S = 0.05


@dataclass
class Longest:
    """Of one who uses a log again and again: how often, and the longest times, seconds.

    Attributes:
        turns: how often.
        wait: until the log was open.
        wall: until all was done, the wait included.
        processor: of the processor.
        waits: each wait that was not over at once: from when until when, monotonic seconds.
    """

    turns: int = 0
    wait: float = 0.0
    wall: float = 0.0
    processor: float = 0.0
    waits: list[tuple[float, float]] = field(default_factory=list)

    def kept_out(self, holds: Sequence[tuple[float, float]]) -> float:
        """The longest part of a wait during which the log was held, seconds; `holds`: from when until when."""
        return max(
            (sum(max(0.0, min(until, end) - max(began, begin)) for begin, end in holds) for began, until in self.waits),
            default=0.0,
        )

    def __str__(self) -> str:
        return f"{self.wait:.2f} s of {self.wall:.2f} s ({self.processor:.2f} s)"


@dataclass
class Bystanders:
    """What became of those who used a log meanwhile, by what they did."""

    found: dict[str, Longest] = field(default_factory=dict)


def _append(log: EventLog) -> None:
    now = time.time_ns()
    log.append([Event(now + number, Kind.DISK_SAMPLED, bytes=10**9, attributes={"path": "/"}) for number in range(10)])


def _read(log: EventLog) -> None:
    log.query("SELECT max(seq), max(time) FROM event", whole_since=ONLY_KEPT)


def _plan(log: EventLog) -> None:
    read_history(log)
    read_experience(log, time.time())


DOING: dict[str, Callable[[EventLog], None]] = {"append": _append, "read": _read, "plan": _plan}


class _TimedLog(EventLog):
    """A log that notes how long it was waited for, seconds."""

    waited = 0.0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.waits: list[tuple[float, float]] = []

    def _connect(self, *given: Any, **how: Any) -> duckdb.DuckDBPyConnection:
        began = time.monotonic()
        try:
            return super()._connect(*given, **how)
        finally:
            now = time.monotonic()
            self.waited = max(self.waited, now - began)
            if now - began > _AT_ONCE_S:
                self.waits.append((began, now))


def _use(log: _TimedLog, do: Callable[[EventLog], None], parent: Connection) -> None:
    """Use a log until the parent sends something, then send it the longest times."""
    do(log)
    parent.send(None)
    longest = Longest()
    while not parent.poll(_EVERY_S):
        log.waited, wall, processor = 0.0, time.monotonic(), time.process_time()
        do(log)
        longest.turns += 1
        longest.wait = max(longest.wait, log.waited)
        longest.wall = max(longest.wall, time.monotonic() - wall)
        longest.processor = max(longest.processor, time.process_time() - processor)
    longest.waits = log.waits
    parent.send(longest)


@contextmanager
def bystanders(log: EventLog) -> Iterator[Bystanders]:
    """Have others use a log meanwhile; what is yielded holds how long they waited, afterwards."""
    started, all_found = {}, Bystanders()
    context = multiprocessing.get_context("fork")
    for name, do in DOING.items():
        here, there = context.Pipe()
        one = context.Process(target=_use, args=(_TimedLog(log.path, log.host, _WAIT_S), do, there), daemon=True)
        one.start()
        started[name] = one, here
    for _, here in started.values():
        if not here.poll(_WAIT_S):
            raise SystemExit("bench: nobody uses the log")
        here.recv()
    try:
        yield all_found
    finally:
        for _, here in started.values():
            here.send(None)
        for name, (one, here) in started.items():
            all_found.found[name] = here.recv()
            one.join()
