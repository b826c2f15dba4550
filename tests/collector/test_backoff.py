from __future__ import annotations

from collector.model.backoff import Backoff


def test_waits_double_up_to_the_last_and_begin_again() -> None:
    waits = Backoff(0.5, 3.0)
    assert [waits.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    waits.reset()
    assert waits.next() == 0.5
    assert Backoff(9.0, 3.0).next() == 3.0
