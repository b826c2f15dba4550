"""What is folded at append answers as all events do, wherever folding stops, and however it was interrupted."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.eventlog import compaction, experience, hourly
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.pace import Pace
from collector.model.events import Event, Kind
from collector.queries import tally
from collector.queries.check import check
from collector.queries.tally import Tally
from tests.collector.histories import KINDS, T0, History, S, WholeLog, answers, by_hour

STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 100_000)),
    min_size=4,
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cuts=st.lists(st.integers(1, 12), min_size=1, max_size=4), crash=st.integers(0, 3))
def test_what_is_folded_answers_as_all_events_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], cuts: list[int], crash: int
) -> None:
    log = EventLog(tmp_path_factory.mktemp("log") / "events.duckdb", host="h")
    history, running = History(), Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 3)
        patch.setattr(tally, "_STORED_EVERY", 2)
        for turn, begin in enumerate(range(0, len(steps), cuts[0])):
            for step in steps[begin : begin + cuts[turn % len(cuts)]]:
                history.take(*step)
            if turn == crash:
                _crash(log, history.events)
                running = Tally()
            log.append(history.events)
            history.events.clear()
            if log.exists():
                running.advance(log)
    if not log.exists():
        return
    assert [one for one in check(log) if one.rule == "projection"] == []
    assert answers(log) == answers(WholeLog(log.path, host="h"))
    assert by_hour(log, history.now) == by_hour(log, history.now, afresh=True)


@pytest.mark.slow
def test_habits_go_on_from_the_last_midnight(folded: EventLog) -> None:
    history = History()
    history.now += 30 * 86400 * S
    for turn in range(12):
        for kind in ("container", "container", "pulled", "observed"):
            history.take(kind, turn % 4, turn % 3, 9_000)
        folded.append(history.events)
        history.events.clear()
    (until,) = folded.query("SELECT until FROM experience")[0]
    assert until > T0 + 30 * 86400 * S
    assert folded.query("SELECT count(*) > 2, sum(uses) > 5 FROM habit") == [(True, True)]
    with folded.reading() as connection:
        assert experience.differences(connection, history.now) == []
        connection.execute("CREATE OR REPLACE TEMP TABLE habit AS SELECT * REPLACE (uses + 1 AS uses) FROM habit")
        wrong = experience.differences(connection, history.now)
    assert any("habits" in text for text in wrong)
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute("UPDATE experience SET version = 'older'")
    folded.append([Event(history.now, Kind.EVENT_UNREADABLE, attributes={"raw": "next"})])
    assert folded.query("SELECT count(*) FROM experience WHERE version = ?", [experience.VERSION]) == [(1,)]


@pytest.mark.slow
def test_habits_are_folded_through_busy_days_and_in_any_order_of_recording(
    folded: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience, "PACE", Pace(4, 4))
    history = History()
    # An inventory comes first, an import of the days before it later; more happened on a day than is folded at once.
    for days, steps in ((40, 3), (5, 9), (6, 9), (12, 9)):
        history.now = T0 + days * 86400 * S
        for turn in range(steps):
            history.take("observed" if days == 40 else "container", turn % 4, 0, 60)
        folded.append(history.events)
        history.events.clear()
    for _ in range(5):
        folded.append([Event(history.now, Kind.EVENT_UNREADABLE, attributes={"raw": str(_)})])
    (until,) = folded.query("SELECT until FROM experience")[0]
    assert folded.query("SELECT count(*) < 10 FROM event WHERE epoch_ns(time) >= ?", [until]) == [(True,)]
    with folded.reading() as connection:
        assert experience.differences(connection, history.now + 50 * 86400 * S) == []


@pytest.mark.slow
def test_a_backlog_with_a_clock_that_was_set_back_is_folded_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    for turn in range(8):
        history.take("set back" if turn == 5 else "pulled", 0, 0, 7200)
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(2, 2))
    log.append(history.events)
    reached: list[int] = []
    for turn in range(8):
        log.append([Event(history.now + turn, Kind.EVENT_UNREADABLE, attributes={"raw": str(turn)})])
        reached.append(log.query("SELECT max(seq) FROM projection WHERE version = ?", [compaction.VERSION])[0][0] or 0)
    assert reached[-1] > len(history.events)
    assert max(after - before for before, after in pairwise(reached)) <= 2
    assert [one for one in check(log) if one.rule == "projection"] == []


@pytest.mark.slow
@pytest.mark.parametrize("noticed", ["before", "after"])
def test_what_comes_after_a_clock_was_set_back_comes_after_what_was_folded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(3, 3))

    def sampled(seconds: int) -> Event:
        return Event(T0 + seconds * S, Kind.DISK_SAMPLED, bytes=seconds, attributes={"path": "/"})

    log.append([sampled(seconds) for seconds in (0, 100, 150, 200)])
    # What tells of an unobserved time would lie between them, by the times as recorded.
    set_back = Event(T0 + 60 * S, Kind.CLOCK_SET_BACK, attributes={"seconds": 140})
    gap = Event(T0 + 70 * S, Kind.GAP, began_ns=T0 + 60 * S)
    log.append([set_back, gap, sampled(80)] if noticed == "before" else [gap, sampled(80), set_back])
    for turn in range(9):
        assert [one for one in check(log) if one.rule == "projection"] == []
        log.append([Event(T0 + (90 + turn) * S, Kind.EVENT_UNREADABLE, attributes={"raw": str(turn)})])
    assert log.query("SELECT count(*) FROM compacted WHERE kind = 'gap'") == [(1,)]


def test_a_clock_set_back_since_the_last_fold_makes_no_row_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    log = EventLog(tmp_path / "events.duckdb", host="h")
    hours = [T0 + hour * hourly.HOUR_NS for hour in range(6)]
    log.append([Event(time_ns, Kind.DISK_SAMPLED, bytes=9, attributes={"path": "/"}) for time_ns in hours])
    monkeypatch.setattr(compaction, "FOLD_EVERY", 20)
    log.append([Event(hours[2] + S, Kind.CLOCK_SET_BACK, attributes={"seconds": 9})])
    assert [one for one in check(log) if one.rule == "projection"] == []
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE free_space_fall SET free = 8 WHERE slot = (SELECT min(slot) FROM free_space_fall)")
    (found,) = check(log)
    assert "folded rows of free_space_fall" in found.text


def _crash(log: EventLog, events: list[Event]) -> None:
    """Append and fold, but do not come to the end of it."""

    def failing(connection: duckdb.DuckDBPyConnection) -> None:
        fold(connection)
        raise OSError("crash")

    fold = compaction.fold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "fold", failing)
        with pytest.raises(Exception, match="crash"):
            log.append([*events, Event(T0, Kind.COLLECTOR_STARTED)])


@pytest.mark.parametrize("fault", ["Conversion Error", "Out of Memory Error"])
def test_what_cannot_be_folded_is_stored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    def failing(connection: duckdb.DuckDBPyConnection) -> None:
        if fault == "Conversion Error":
            connection.execute("SELECT CAST('x' AS INTEGER)").fetchall()
        raise duckdb.OutOfMemoryException(f"{fault}: failed to allocate a block")

    monkeypatch.setattr(compaction, "fold", failing)
    log = EventLog(tmp_path / "events.duckdb", host="h")
    assert log.append([Event(T0, Kind.GAP, began_ns=T0)], ("source", "5")) == 1
    assert log.query("SELECT count(*) FROM event") == [(1,)]
    assert log.position("source") == "5"
    assert f"is not folded: {fault}" in caplog.text


@pytest.fixture(scope="module")
def folded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log, history = EventLog(tmp_path_factory.mktemp("folded") / "events.duckdb", host="h"), History()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 2)
        patch.setattr(tally, "_STORED_EVERY", 1)
        for kind in KINDS[:-1]:
            history.take(kind, 1, 1, 60)
            log.append(history.events)
            history.events.clear()
        Tally().advance(log)
    return log.path


@pytest.fixture
def folded(folded_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """A log that is folded up to its last event but one."""
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    return EventLog(Path(shutil.copy(folded_once, tmp_path)), host="h")


@pytest.mark.slow
def test_views_show_few_events_and_all_since_a_time(folded: EventLog) -> None:
    (total,) = folded.query("SELECT count(*) FROM event")[0]
    assert folded.query("SELECT count(*) FROM event", whole_since=ONLY_KEPT)[0][0] < total
    assert folded.query("SELECT count(*) FROM event", whole_since=0.0) == [(total,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM compacted WHERE kind = 'gap'", "is missing among what is kept"),
        ("UPDATE compacted SET reference = 'other' WHERE kind = 'image_pulled'", "differs from what was recorded"),
        ("UPDATE image_count SET uses = uses + 1", "the uses counted of image number 0: "),
        ("UPDATE kind_count SET events = 0 WHERE kind = 'gap'", "the events counted of kind gap: 0 and not 1"),
        ("UPDATE position SET position = replace(position, '\"gaps\":1', '\"gaps\":2')", "total 'gaps' is not what"),
        ("UPDATE position SET position = replace(position, '\"gap\":1', '\"gap\":2')", "total 'events' is not what"),
    ],
)
def test_check_finds_what_is_folded_wrongly_and_an_append_fixes_it(folded: EventLog, damage: str, found: str) -> None:
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute(damage)
    text = "\n".join(one.text for one in check(folded) if one.rule == "projection")
    assert found in text
    folded.forget_folded()
    _check_an_append_folds_again(folded)


@pytest.mark.slow
def test_what_other_rules_made_is_made_again(folded: EventLog) -> None:
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute("UPDATE projection SET version = 'older'")
        connection.execute("DELETE FROM compacted")
    assert answers(folded) == answers(WholeLog(folded.path, host="h"))
    _check_an_append_folds_again(folded)


def _check_an_append_folds_again(log: EventLog) -> None:
    log.append([Event(T0, Kind.GAP, began_ns=T0)])
    assert log.query("SELECT count(*) > 3 FROM compacted") == [(True,)]
    assert [one for one in check(log) if one.rule == "projection"] == []
