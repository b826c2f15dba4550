"""The reader notices from the events' own times that it stood still."""

from __future__ import annotations

from collector.reader import Lateness

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
