"""Recent uses of a repository are as many by what was counted when uses were folded as by all events."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.eventlog import compaction, experience, recent_uses
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.events import Event, Kind
from tests.collector.histories import T0, History, S

pytestmark = pytest.mark.slow
DAY = 86400
KINDS = ("container", "container", "pulled", "late job", "late job", "job", "observed", "tagged", "unknown end")


@pytest.fixture(scope="module")
def counted_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A log whose uses of 40 days are folded, but for the last of them; and the time of the last."""
    log, history = EventLog(tmp_path_factory.mktemp("counted") / "events.duckdb", host="h"), History()
    noise = random.Random(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 2)
        for _ in range(8):
            for _ in range(25):
                history.take(noise.choice(KINDS), noise.randrange(4), noise.randrange(4), noise.randrange(34_000))
            log.append(history.events)
            history.events.clear()
    return log.path, history.now


@pytest.fixture
def counted(counted_once: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EventLog, int]:
    """That log, and the time."""
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    path, now = counted_once
    return EventLog(Path(shutil.copy(path, tmp_path)), host="h"), now


def habits(log: EventLog, now: int, *, afresh: bool = False) -> dict[str, int]:
    """How often the most used repository of each image was used recently."""
    with log.reading(whole_since=None if afresh else ONLY_KEPT) as connection:
        rows, _ = experience.read(connection, log.host, now, afresh=afresh)
    return {row[0]: row[-1] for row in rows}


def rows(log: EventLog) -> list[tuple[Any, ...]]:
    """What is counted."""
    return log.query("FROM recent_use ORDER BY ALL")


@pytest.mark.parametrize("days", [0, 1, 5, 27, 28, 60])
def test_what_was_counted_and_what_came_since_are_as_many_as_all(counted: tuple[EventLog, int], days: int) -> None:
    log, now = counted
    (until,) = log.query("SELECT until FROM experience")[0]
    sql = "SELECT min(until), max(until), sum(uses) > 20, min(day) >= ?, max(day) < ? FROM recent_use"
    day = until // recent_uses.DAY_NS
    assert log.query(sql, [day - recent_uses.RECENT_DAYS, day]) == [(until, until, True, True, True)]
    assert max(habits(log, now).values()) > 10
    now += days * DAY * S
    assert habits(log, now) == habits(log, now, afresh=True)


@pytest.mark.parametrize("older", ["DELETE FROM recent_use", "UPDATE recent_use SET version = 'older', uses = 1000"])
def test_what_an_older_version_left_is_counted_by_the_next_append(counted: tuple[EventLog, int], older: str) -> None:
    log, now = counted
    known, before = rows(log), habits(log, now)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(older)
    assert habits(log, now) == before
    log = EventLog(log.path, host="h")
    log.append([Event(now, Kind.EVENT_UNREADABLE, attributes={"raw": "next"})])
    assert rows(log) == known
    assert habits(log, now) == before


def test_what_was_counted_does_not_count_once_the_clock_was_set_back(
    counted: tuple[EventLog, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now = counted
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE recent_use SET uses = uses + 1000")
    assert max(habits(log, now).values()) > 1000
    with log.reading() as connection:
        assert any("habits" in text for text in experience.differences(connection, now))
    monkeypatch.setattr(compaction, "FOLD_EVERY", 10_000)
    back = now - 10 * DAY * S
    EventLog(log.path, host="h").append([Event(back, Kind.CLOCK_SET_BACK, attributes={"seconds": 9})])
    assert habits(log, now) == habits(log, now, afresh=True)


def test_uses_before_the_log_began_are_not_recent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    log, image = EventLog(tmp_path / "events.duckdb", host="h"), "sha256:" + "a" * 64
    noon = T0 // (DAY * S) * DAY * S + DAY // 2 * S
    seen = {"references": ["app:1"], "digests": [], "size": 1, "layers": []}
    log.append([Event(noon, Kind.IMAGE_OBSERVED, image, "app:1", attributes=seen)])
    for number, began in enumerate((noon - 60 * S, noon + 60 * S)):
        gone = Event(noon + 120 * S + number, Kind.CONTAINER_DESTROYED, image, None, f"{number:064x}", None, began)
        log.append([gone])
    now = noon + 3 * DAY * S
    log.append([Event(now + k, Kind.DISK_SAMPLED, bytes=1) for k in range(9)])
    assert rows(log) == [("h", recent_uses.VERSION, recent_uses.DAY_NS * (now // (DAY * S)), 0, noon // (DAY * S), 1)]
    assert habits(log, now) == habits(log, now, afresh=True) == {image: 1}
