"""Runs that could remove nothing are recorded, the first at once and repeats together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from collector.eventlog.log import EventLog
from collector.machine.disk import DiskSample
from collector.machine.prune_runs import Fruitless, PruneRuns, leave_runs, read_runs, runs_path
from collector.model.errors import EngineError, LogError
from collector.model.events import Event, Kind
from collector.queries.check import check
from collector.queries.status import status
from pruner.planning.held_back import HeldBack
from pruner.removal import standstill
from pruner.removal.executor import Outcome
from pruner.report.history import fruitless
from tests.commands import printed

T0 = 1_700_000_000.0
FACTS = {"trigger": "timer"}
GIB = 2**30
NOTHING = Outcome((), (), 0, DiskSample("/", 10 * GIB, GIB, 0, 0), reached=False, rounds=0)
ENOUGH = replace(NOTHING, reached=True)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="runner")
    made.append([Event(int(T0 * 1e9), Kind.COLLECTOR_STARTED)])
    return made


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> list[HeldBack]:
    """What stands in the way in all plans."""
    held = [HeldBack("min_age", 4, 12 * GIB, ""), HeldBack("held", 1, 3 * GIB, "")]
    monkeypatch.setattr(standstill, "held_back", lambda _: held)
    return held


@pytest.fixture
def note(log: EventLog, rules: list[HeldBack]) -> Callable[..., None]:
    def end(minute: float, outcome: Outcome | EngineError = NOTHING) -> None:
        moment = T0 + 60 * minute

        def store(event: Event) -> None:
            log.append([replace(event, time_ns=int(moment * 1e9))])

        plan = object() if rules else None
        output = replace(outcome, plan=plan) if isinstance(outcome, Outcome) else outcome  # type: ignore[arg-type]
        standstill.note(log.path, store, output, FACTS, moment)

    return end


def prunes(log: EventLog) -> list[tuple[str, int]]:
    return log.query(
        "SELECT attributes ->> '$.outcome', CAST(attributes ->> '$.runs' AS INTEGER) FROM event"
        " WHERE kind = 'prune_finished' ORDER BY seq"
    )


@pytest.mark.slow
def test_a_day_of_standing_still_is_an_event_an_hour(log: EventLog, note: Callable[..., None]) -> None:
    for minute in range(0, 24 * 60, 5):
        note(minute)
    assert len(prunes(log)) == 24
    (one,) = fruitless(log)
    assert (one.runs, one.since, one.until) == (288, T0, T0 + 60 * (24 * 60 - 5))
    assert one.reasons == "min_age 12.0 GiB, held 3.00 GiB"
    found = status(log, T0 + 24 * 3600)
    assert found.standstill is not None
    assert (found.standstill.runs, found.target_reached) == (288, None)
    assert check(log) == []


def test_its_end_records_what_was_not_yet(log: EventLog, note: Callable[..., None]) -> None:
    for minute in (0, 5, 10):
        note(minute)
    assert prunes(log) == [("target not reached", 1)]
    note(15, ENOUGH)
    assert prunes(log) == [("target not reached", 1), ("target not reached", 2)]
    found = read_runs(log.path)
    assert (found.total, found.reached, found.row, found.waiting) == (3, T0 + 15 * 60, None, {})
    note(20)
    assert [one.runs for one in fruitless(log)] == [3, 1]


def test_another_reason_is_news_but_not_each_time(
    log: EventLog, note: Callable[..., None], rules: list[HeldBack]
) -> None:
    other = [HeldBack("local_images", 1, GIB, "")]
    for minute in range(0, 60, 5):
        rules[:], other = other, rules[:]
        note(minute)
    assert len(prunes(log)) == 2
    assert sorted((one.runs, one.reasons) for one in fruitless(log)) == [
        (6, "local_images 1.00 GiB"),
        (6, "min_age 12.0 GiB, held 3.00 GiB"),
    ]


@pytest.mark.slow
def test_reasons_that_are_new_each_time_do_not_fill_the_log(
    log: EventLog, note: Callable[..., None], rules: list[HeldBack]
) -> None:
    for number in range(50):
        rules[:] = [HeldBack(f"rule {number}", 1, GIB, "")]
        note(number)
    assert len(prunes(log)) == 7
    assert sum(one.runs for one in fruitless(log)) == 50


def test_errors_are_reported_in_their_words(log: EventLog, note: Callable[..., None]) -> None:
    note(0, EngineError("the engine does not answer"))
    note(5, EngineError("the engine does not answer"))
    assert prunes(log) == [("failed", 1)]
    (one,) = fruitless(log)
    assert (one.runs, one.reasons) == (2, "the engine does not answer")


def test_what_is_left_beside_the_log_may_be_anything(log: EventLog, note: Callable[..., None]) -> None:
    for text in ("", "[]", "{", '{"row": 3}', '{"waiting": [1]}', '{"total": 1e999}', "\0" * 100):
        runs_path(log.path).write_text(text)
        assert read_runs(log.path) == PruneRuns()
    note(0)
    assert read_runs(log.path).total == 1


def test_a_run_ends_well_where_nothing_can_be_recorded(
    log: EventLog, rules: list[HeldBack], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Event) -> None:
        raise LogError("no space")

    assert rules
    standstill.note(log.path, refuse, replace(NOTHING, plan=object()), FACTS, T0)  # type: ignore[arg-type]
    assert "cannot record that this run removed nothing: no space" in caplog.text
    assert read_runs(log.path) == PruneRuns()


def test_what_was_left_is_read_as_it_was(log: EventLog) -> None:
    one = Fruitless(T0, T0 + 1, 2, ({"rule": "held", "count": 1, "bytes": 3},), None)
    left = PruneRuns(7, T0, one, {"held": T0}, {"held": one})
    leave_runs(log.path, left)
    assert read_runs(log.path) == left


def test_history_says_how_many_runs_removed_nothing(log: EventLog, note: Callable[..., None]) -> None:
    for minute in range(0, 60, 5):
        note(minute)
    shown_by = partial(printed, "pruner", "history", "--log", str(log.path))
    shown = " ".join(shown_by().split())
    assert "12 runs from " in shown
    assert "removed nothing: min_age 12.0 GiB, held 3.00 GiB" in shown
    output = json.loads(shown_by("--format", "json"))
    assert [one["runs"] for one in output["fruitless"]] == [12]
