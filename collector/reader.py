"""The reader of the event stream: it drains and does nothing else.

A slow reader loses events silently and slows the daemon down for everybody, so a thread moves raw
chunks into a queue; whatever takes time happens on the other side of it.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

from collector.engine import EventStream, told_in_one_line
from collector.errors import HindsightError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over: the engine stopped, or it was closed."""

    reason: str


class Reader:
    """Drains one event stream in a thread of its own.

    Args:
        stream: the open stream.
        host: the engine's address, for messages.
    """

    def __init__(self, stream: EventStream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._chunks: queue.SimpleQueue[bytes | StreamEnded] = queue.SimpleQueue()
        self._rest = b""
        self._thread = threading.Thread(target=self._drain, name="event-reader", daemon=True)
        self._thread.start()

    def read(self, timeout: float) -> list[dict[str, Any]] | StreamEnded:
        """The events of the next chunk; none after `timeout` seconds without one."""
        try:
            chunk = self._chunks.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return []
        if isinstance(chunk, StreamEnded):
            return chunk
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if self._rest.endswith(b"}") and (event := _parse(self._rest)) is not None:
            # Not every engine ends an event with a line end at once.
            self._rest = b""
            return [*_events(lines), event]
        return _events(lines)

    def waiting(self) -> int:
        """How many chunks wait to be read."""
        return self._chunks.qsize()

    def close(self) -> None:
        """End the stream and its thread."""
        self._stream.close()
        self._thread.join(timeout=5)

    def _drain(self) -> None:
        reason = "the engine closed the event stream"
        try:
            with told_in_one_line(self._host):
                for chunk in self._stream:
                    self._chunks.put(chunk)
        except HindsightError as error:
            reason = str(error)
        self._chunks.put(StreamEnded(reason))


def _events(lines: list[bytes]) -> list[dict[str, Any]]:
    found = [(_parse(line), line) for line in lines if line.strip()]
    for event, line in found:
        if event is None:
            logger.warning("unreadable event of %d bytes skipped", len(line))
    return [event for event, _ in found if event is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
