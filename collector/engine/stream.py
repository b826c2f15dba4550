"""The reader of the event stream: it drains and does nothing else.

A slow reader loses events silently and slows the daemon down for everybody, so a thread moves raw
chunks into a queue; whatever takes time happens on the other side of it.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from collector.engine.protocol import EventStream
from collector.engine.translate import read_events
from collector.model.errors import EngineError
from collector.model.untrusted import event_time_ns, read_object

# Docker queues this many events for a reader that does not read; each one beyond it is dropped unsaid.
_ENGINE_QUEUE = 1000
# Events come some milliseconds after they happen. Later ones have waited, for us.
_LATE_NS = 2 * 10**9
# An event whose line is longer is not waited for: an engine that ends no line must not fill the memory.
_MOST_LINE = 32 * 2**20


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over: the engine stopped, or it was closed; `at_ns` is when, UTC nanoseconds."""

    reason: str
    at_ns: int


class Lateness:
    """Notices from the events' own times that the whole process stood still for too long.

    A stopped process (SIGSTOP, a frozen control group, a starved machine) reads nothing, and the
    engine drops what its queue for us cannot hold. A run of late events as long as that queue shows it.

    Args:
        opened_ns: when the stream was opened, UTC nanoseconds: what is older is replayed, not late.
    """

    def __init__(self, opened_ns: int) -> None:
        self._opened_ns = opened_ns
        self._run = 0
        self._lost: tuple[int, int] | None = None

    def note(self, time_ns: int, arrived_ns: int) -> None:
        """Take the time of an event and when it arrived, UTC nanoseconds."""
        if time_ns < self._opened_ns:
            return
        if arrived_ns - time_ns < _LATE_NS:
            self._run = 0
            return
        self._run += 1
        if self._run >= _ENGINE_QUEUE:
            began = time_ns if self._lost is None else self._lost[0]
            self._lost = (began, arrived_ns)

    def take(self) -> tuple[int, int] | None:
        """The interval in which events may have been dropped, UTC nanoseconds, once; None: there is none."""
        found, self._lost = self._lost, None
        return found


class Reader:
    """Drains one event stream in a thread of its own.

    Args:
        stream: the open stream.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._chunks: queue.SimpleQueue[tuple[int, bytes] | StreamEnded] = queue.SimpleQueue()
        self._rest = bytearray()
        self.lateness = Lateness(time.time_ns())
        self._thread = threading.Thread(target=self._drain, name="event-reader", daemon=True)
        self._thread.start()

    def read(self, timeout: float) -> list[dict[str, Any]] | StreamEnded:
        """The events of the next chunk; none after `timeout` seconds without one."""
        try:
            found = self._chunks.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return []
        if isinstance(found, StreamEnded):
            return found
        arrived_ns, chunk = found
        events = self._take(chunk)
        for event in events:
            self.lateness.note(event_time_ns(event), arrived_ns)
        return events

    def wake(self) -> None:
        """Let a `read` that waits end with no events; may be called by a signal handler."""
        self._chunks.put((time.time_ns(), b""))

    def waiting(self) -> int:
        """How many chunks wait to be read."""
        return self._chunks.qsize()

    def close(self) -> None:
        """End the stream and its thread."""
        self._stream.close()
        self._thread.join(timeout=5)

    def _take(self, chunk: bytes) -> list[dict[str, Any]]:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if rest.endswith(b"}") and (event := read_object(bytes(self._rest))) is not None:
            # Not every engine ends an event with a line end at once.
            self._rest.clear()
            return [*read_events(lines), event]
        if len(self._rest) > _MOST_LINE:
            lines.append(bytes(self._rest))
            self._rest.clear()
        return read_events(lines)

    def _drain(self) -> None:
        reason = "the engine closed the event stream"
        try:
            for chunk in self._stream:
                self._chunks.put((time.time_ns(), chunk))
        except EngineError as error:
            reason = str(error)
        self._chunks.put(StreamEnded(reason, time.time_ns()))
