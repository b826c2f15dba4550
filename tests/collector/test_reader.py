"""The reader notices from the events' own times that it stood still, and can be woken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from collector.engine.stream import Lateness, Reader

S = 10**9
OPENED = 100 * S


def test_a_run_of_late_events_as_long_as_the_engine_s_queue_is_a_loss() -> None:
    lateness = Lateness(OPENED)
    for number in range(1500):
        lateness.note(OPENED + number, OPENED + 60 * S)
    lateness.note(OPENED + 61 * S, OPENED + 61 * S)
    assert lateness.take() == (OPENED + 999, OPENED + 60 * S)
    assert lateness.take() is None


def test_fewer_or_replayed_or_punctual_events_are_none() -> None:
    lateness = Lateness(OPENED)
    for number in range(3000):
        lateness.note(OPENED - S + number, OPENED + 60 * S)  # replayed on connecting
    for number in range(3000):
        lateness.note(OPENED + number * S, OPENED + number * S + S)
    for number in range(3000):
        # Now and then one is on time: the queue was empty then.
        lateness.note(OPENED + number * S, OPENED + number * S + (3 * S if number % 900 else 0))
    assert lateness.take() is None


class SilentStream:
    """Nothing happens until it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        self._closed.wait()
        return iter(())

    def close(self) -> None:
        self._closed.set()


def test_who_waits_for_events_can_be_woken() -> None:
    reader = Reader(SilentStream())
    began = time.monotonic()
    threading.Timer(0.2, reader.wake).start()
    assert reader.read(timeout=20) == []
    assert time.monotonic() - began < 10
    reader.close()
