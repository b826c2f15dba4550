"""Removals are held to what was predicted of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from collector.machine.disk import DiskSample
from pruner.removal.effect import Effect, settled

MIB = 2**20


def later(*free: int) -> Callable[[], DiskSample]:
    """Samples of free MiB, the last one for ever."""
    left = list(free)
    return lambda: DiskSample("/disk", 1000 * MIB, (left.pop(0) if len(left) > 1 else left[0]) * MIB, 0, 0)


def test_three_removals_without_effect_stop_the_run_and_say_what_came() -> None:
    effect = Effect(patience=0.0)
    assert effect.check(63 * MIB, 0, 0, lambda: 0) is None
    assert effect.check(64 * MIB, 0, 0, lambda: 0) is None
    assert effect.check(100 * MIB, 0, 9 * MIB, lambda: 0) is None
    output = effect.check(100 * MIB, 9 * MIB, 9 * MIB, lambda: 9 * MIB)
    assert output is not None
    assert output.startswith("3 removals were to free 264 MiB, and 9.00 MiB came: ")
    assert "\n" not in output


def test_a_removal_that_frees_what_it_should_clears_the_doubt() -> None:
    effect = Effect(patience=0.0)
    for _ in range(5):
        assert effect.check(100 * MIB, 0, 0, lambda: 0) is None
        assert effect.check(100 * MIB, 0, 10 * MIB, lambda: 0) is None


@pytest.mark.parametrize("settling", [2.0, 90.0])
def test_space_that_comes_late_is_waited_for(settling: float) -> None:
    assert settled(later(0, 0, 60), 0, 100 * MIB, settling, last=True).free_bytes == 60 * MIB
    # Where it may take long, nobody waits between two removals.
    between = settled(later(0, 0, 60), 0, 100 * MIB, settling, last=False)
    assert between.free_bytes == (60 * MIB if settling < 60 else 0)
    assert settled(later(0, 0, 60), 0, MIB, settling, last=True).free_bytes == 0
    effect = Effect(patience=0.0)
    assert [effect.check(100 * MIB, 0, 0, lambda: 200 * MIB, settling) for _ in range(4)] == [None] * 4
