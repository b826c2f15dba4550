"""A backlog is folded in steps, between which the log is left to others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog import compaction
from collector.eventlog import log as log_module
from collector.eventlog.database import open_database
from collector.eventlog.log import EventLog
from collector.eventlog.pace import LONG_S, Pace
from tests.collector.histories import T0, History


def test_steps_become_smaller_after_a_long_one_and_larger_after_quick_ones() -> None:
    pace = Pace(100, 1000, 200)
    sizes = [pace.size]
    for seconds in (0.01, 0.01, 0.01, 2.0, 2.0, 2.0, 2.0, 0.2):
        pace.took(pace.size, seconds)
        sizes.append(pace.size)
    assert sizes == [200, 400, 800, 1000, 500, 250, 125, 100, 100]
    # A step over few events says nothing of one over many, unless even that takes long.
    pace.took(5, 0.01)
    assert pace.size == 100


def test_what_is_folded_is_left_to_whoever_waits_after_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(2, 2))
    for _ in range(8):
        history.take("pulled", 0, 0, 7200)
    log.append(history.events)
    read: list[tuple[int, ...]] = []

    def reads(_: float) -> None:
        # Nobody holds the log now: one that does not wait gets it.
        read.append(EventLog(log.path, host="h", wait=0.0).query("SELECT max(seq) FROM projection")[0])

    monkeypatch.setattr(log_module, "rest", reads)
    log.fold(history.now)
    assert len(set(read)) >= 2
    assert read == sorted(read)  # steps that fold something else leave it as it is


def test_a_backlog_is_folded_however_long_each_step_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    for _ in range(4):
        history.take("pulled", 0, 0, 90_000)
    log.append(history.events)
    rests: list[float] = []

    def rests_no_more(began: float) -> None:
        rests.append(began)
        assert len(rests) < 100

    monkeypatch.setattr(log_module, "rest", rests_no_more)
    monkeypatch.setattr("collector.eventlog.file.open_database", slowly(open_database))
    assert log.fold(history.now) > T0


def slowly(do: Callable[..., Any]) -> Callable[..., Any]:
    """What takes longer than a step should: on a busy machine to open the file does."""

    def slow(*given: Any, **more: Any) -> Any:
        time.sleep(2 * LONG_S)
        return do(*given, **more)

    return slow
