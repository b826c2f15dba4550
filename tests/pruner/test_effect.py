"""Removals are held to what was predicted of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from collector.machine.disk import DiskSample
from pruner.removal.effect import FreedSpace, settled

MIB = 2**20


def later(*free: int) -> Callable[[], DiskSample]:
    """Samples of free MiB, the last one forever."""
    left = list(free)
    return lambda: DiskSample("/disk", 1000 * MIB, (left.pop(0) if len(left) > 1 else left[0]) * MIB, 0, 0)


def test_three_removals_without_effect_stop_the_run_and_say_what_came() -> None:
    effect = FreedSpace(patience=0.0)
    assert effect.check(63 * MIB, 0, 0, later(0)) is None
    assert effect.check(64 * MIB, 0, 0, later(0)) is None
    assert effect.check(100 * MIB, 0, 9 * MIB, later(0)) is None
    output = effect.check(100 * MIB, 9 * MIB, 9 * MIB, later(9))
    assert output is not None
    assert output.startswith("3 removals were to free 264 MiB, and 9.00 MiB came: ")
    assert "\n" not in output


def test_a_removal_that_frees_what_it_should_clears_the_doubt() -> None:
    effect = FreedSpace(patience=0.0)
    for _ in range(5):
        assert effect.check(100 * MIB, 0, 0, later(0)) is None
        assert effect.check(100 * MIB, 0, 10 * MIB, later(0)) is None


@pytest.mark.slow
@pytest.mark.parametrize("settling", [2.0, 90.0])
def test_space_that_comes_late_is_waited_for(settling: float) -> None:
    assert settled(later(0, 0, 60), 0, 100 * MIB, settling, last=True).free_bytes == 60 * MIB
    # Where it may take long, nobody waits between two removals.
    between = settled(later(0, 0, 60), 0, 100 * MIB, settling, last=False)
    assert between.free_bytes == (60 * MIB if settling < 60 else 0)
    assert settled(later(0, 0, 60), 0, MIB, settling, last=True).free_bytes == 0
    effect = FreedSpace(patience=0.0)
    assert [effect.check(100 * MIB, 0, 0, later(200), settling) for _ in range(4)] == [None] * 4


@pytest.mark.slow
def test_a_file_system_that_can_be_hastened_is_waited_for_between_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hasten(path: str) -> bool:
        asked.append(path)
        return True

    monkeypatch.setattr("pruner.removal.effect.hasten", hasten)
    assert settled(later(0, 0, 60), 0, 100 * MIB, 90.0, last=False).free_bytes == 60 * MIB
    assert asked == ["/disk"] * 3
    # What others write meanwhile is not waited for as long as what comes late by itself.
    began = time.monotonic()
    monkeypatch.setattr("pruner.removal.effect._PATIENCE_S", 0.0)
    assert settled(later(0), 0, 100 * MIB, 90.0, last=True).free_bytes == 0
    assert time.monotonic() - began < 60
    asked.clear()
    effect = FreedSpace(patience=0.0)
    assert [effect.check(100 * MIB, 0, 0, later(0, 200), 90.0) for _ in range(3)] == [None] * 3
    assert asked == ["/disk"]
