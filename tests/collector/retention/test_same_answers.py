"""What is older than is to be kept becomes sums, and decisions and explanations are the same as before."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analyzer.trace.load import DiskOverride, load_trace
from analyzer.trace.parquet import ParquetLog, export_parquet
from collector.eventlog import compaction, experience, hourly, identity
from collector.eventlog.database import NEW_FILE
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.pace import Pace
from collector.eventlog.retention import compact, whole_since_ns
from collector.eventlog.salvage import set_aside
from collector.eventlog.schema import BASE, STORED_KEY
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.queries.check import check
from collector.queries.tally import Tally
from tests.collector.histories import IMAGES, T0, History
from tests.collector.retention.thinned import DAY, KEEP, MIX, STEPS, Crash, S, asked, hours

DISK = DiskOverride(100, 10)


@pytest.mark.slow
def test_decisions_and_explanations_are_the_same_after_compactions(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asked(log, now)
    assert compact(log, KEEP + 2.5 * DAY, now=now).removed > 0
    assert compact(log, KEEP, now=now).removed > 0
    assert asked(log, now) == before
    assert check(log) == []
    assert whole_since_ns(log) == int(now - KEEP) // DAY * DAY * S
    assert compact(log, KEEP, now=now).removed == 0
    # What is folded can be lost, and is made again of the base and the events since.
    log.forget_folded()
    log.append([Event(int(now * S), Kind.COLLECTOR_STARTED)])
    assert asked(log, now)["habits"] == before["habits"]
    assert check(log) == []
    # Neither other rules nor an event of then count again by the hour what has become sums.
    monkeypatch.setattr(hourly, "PACE", Pace(60, 60))
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE hourly SET version = 'older'")
    assert hours(log, now) == before["hours"]
    late = Event(int((now - KEEP - 2.8 * DAY) * S), Kind.DISK_SAMPLED, bytes=0, attributes={"path": "/"})
    for second, event in enumerate([late] * 9):
        log.append([replace(event, time_ns=event.time_ns + second * S)])
    assert log.query("SELECT version FROM hourly") == [(hourly.VERSION,)]
    assert hours(log, now) == before["hours"]
    assert check(log) == []


@pytest.mark.slow
def test_a_time_before_the_last_fold_goes_by_what_a_compaction_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience, "_FOLDS", 1)
    log, midnight = EventLog(tmp_path / "events.duckdb", host="h"), T0 // (DAY * S) * DAY * S

    def use(number: int, *logs: EventLog) -> None:
        """Two hours after the use before; the 25th and later ones after two months."""
        at = midnight + (number * DAY // 12 + 60 * DAY * (number > 24)) * S
        image, container = IMAGES[number % 2], f"{number:064x}"
        gone = Event(at + 60 * S, Kind.CONTAINER_DESTROYED, image, None, container, None, at)
        for one in logs:
            one.append([Event(at, Kind.CONTAINER_CREATED, image, container=container), gone])

    for number in range(60):
        use(number, log)
    whole = EventLog(Path(shutil.copy(log.path, tmp_path / "whole.duckdb")), host="h")
    assert compact(log, KEEP, now=midnight / S + 65 * DAY).removed > 0
    assert log.query("SELECT sum(len(jobs)) > 10 FROM thinned_use") == [(True,)]
    ((until,),) = log.query("SELECT until FROM base_experience")
    for number in range(60, 120):
        use(number, log, whole)

    def habits(log: EventLog) -> list[Any]:
        with log.reading(whole_since=ONLY_KEPT) as connection:
            return sorted(experience.read(connection, "h", until + DAY * S)[0])

    assert log.query("SELECT until > ? FROM experience", [until + 2 * DAY * S]) == [(True,)]
    assert habits(log) == habits(whole)


# What a simulation goes by: each image's first and last use of a day, and its longest idle time on it.
IDLE = """
WITH used AS (
    SELECT image, epoch_ns(coalesce(began, time)) AS began, epoch_ns(time) AS ended FROM event WHERE image NOTNULL
        AND (kind = 'job_image_used' OR kind = 'container_destroyed' AND began NOTNULL)
    UNION ALL SELECT image, epoch_ns(began), epoch_ns(ended) FROM thinned_use WHERE len(jobs) > 0
)
SELECT image, day, min(began), max(ended), max(idle) FROM (
    SELECT *, began // 86400000000000 AS day,
        began - max(ended) OVER (PARTITION BY image, began // 86400000000000 ORDER BY began, ended
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS idle FROM used
) GROUP BY image, day ORDER BY image, day
"""


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(
        st.lists(
            st.tuples(st.sampled_from(MIX), st.integers(0, 3), st.integers(0, 3), st.sampled_from((1, 60, 3000))),
            min_size=1,
            max_size=20,
        ),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS)), min_size=1, max_size=2),
)
# An hour of which only some events were folded when it was cut.
@example(
    days=[
        [
            *(("container", 2, 0, 3000), ("pulled", 2, 3, 3000), ("container", 2, 0, 3000), ("container", 2, 1, 3000)),
            *(("pulled", 3, 1, 3000), ("tagged", 3, 1, 60), ("container", 2, 3, 60), ("pulled", 1, 2, 1)),
            *(("deleted", 2, 3, 60), ("container", 3, 1, 1)),
        ]
    ],
    cuts=[(1, "folded")],
)
def test_what_decisions_need_is_the_same_wherever_a_history_is_cut(
    tmp_path_factory: pytest.TempPathFactory, days: list[Any], cuts: list[tuple[int, str]]
) -> None:
    log, history, running = EventLog(tmp_path_factory.mktemp("log") / "events.duckdb", host="h"), History(), Tally()
    for day in [*days, [("container", 0, 0, 60), ("restart", 0, 0, 60)]]:
        for step in day:
            history.take(*step)
        history.now += (31 if day is days[-1] else 1) * DAY * S
        log.append(history.events)
        history.events.clear()
        running.advance(log)
    now = history.now / S + 1
    before, idle = asked(log, now), log.query(IDLE)
    for keep, step in cuts:

        def crash(at: str, step: str = step) -> None:
            if at == step:
                raise Crash

        with suppress(Crash):
            compact(log, KEEP + keep * DAY, now=now, at=crash)
        compact(log, KEEP + keep * DAY, now=now)
    assert asked(log, now) == before
    assert log.query(IDLE) == idle
    assert check(log) == []


@pytest.mark.slow
def test_a_log_of_an_older_version_is_written_again_with_all_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    events = [Event(n * S, Kind.IMAGE_PULLED, image="sha256:" + f"{n % 9:064x}") for n in range(1, 200)]
    with monkeypatch.context() as older:
        older.setitem(NEW_FILE, "default_block_size", "262144")
        log.append(events)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(f"UPDATE event SET key = key + {STORED_KEY + 1}")
    before = log.query("SELECT * EXCLUDE (key), key & ? FROM event", [STORED_KEY])
    assert compact(log, math.inf, least_s=DAY).bytes_after == log.path.stat().st_size  # there is little to win
    assert log.query("SELECT count(*) FROM event") == [(199,)]
    found = compact(log, math.inf)
    assert found.removed == 0
    assert found.whole_since is None
    assert found.bytes_after == log.path.stat().st_size < found.bytes_before
    assert log.query(f"SELECT * EXCLUDE (key), key FROM event WHERE kind <> '{Kind.LOG_COMPACTED}'") == before
    assert log.append(events) == 0
    assert check(log) == []


@pytest.mark.slow
def test_what_a_compaction_left_of_its_events_is_in_a_log_that_is_salvaged(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "host_name", lambda: "h")

    def left() -> tuple[Any, ...]:
        return hours(log, now), *(log.query(f"FROM {table} ORDER BY ALL") for table in ("image_uses", *BASE))

    assert compact(log, KEEP, now=now).removed > 0
    before = left()
    assert before[0][0][0]
    set_aside(log, "a test")
    assert left() == before
    log.append([Event(int(now * S) + n, Kind.EVENT_UNREADABLE, attributes={"raw": str(n)}) for n in range(60)])
    assert compaction_reached(log)
    assert left() == before
    assert check(log) == []


def compaction_reached(log: EventLog) -> int | None:
    """The number of the last event that is folded."""
    with log.reading() as connection:
        return compaction.reached(connection)


@pytest.mark.slow
def test_the_analyzer_loads_what_is_left_and_says_so(log: EventLog, now: float, tmp_path: Path) -> None:
    before = load_trace(log, None, DISK)
    compact(log, KEEP, now=now)
    after = load_trace(log, None, DISK)
    assert any("complete from" in text for text in after.assumptions)
    assert after.image_ids == before.image_ids
    assert 0 < len(after.time) <= len(before.time)
    # An export is as whole as the log.
    export_parquet(log, tmp_path / "export")
    exported = load_trace(ParquetLog(tmp_path / "export", "h"), None, DISK)
    assert [exported.time.tolist(), exported.image_ids] == [after.time.tolist(), after.image_ids]
    with ParquetLog(tmp_path / "export", "h").reading() as connection:
        assert connection.execute("SELECT count(*) > 0 FROM base_habit").fetchall() == [(True,)]
    for table in ("thinned_use", "base_habit"):
        (file,) = (tmp_path / "export" / table).rglob("*.parquet")
        copy = file.with_stem("copy")
        copy.write_bytes(file.read_bytes())
        with pytest.raises(LogError, match=f"has rows of {table} twice"):
            load_trace(ParquetLog(tmp_path / "export", "h"), None, DISK)
        copy.unlink()


@pytest.mark.slow
def test_what_another_version_folded_is_estimated_and_said(
    log: EventLog, now: float, caplog: pytest.LogCaptureFixture
) -> None:
    compact(log, KEEP, now=now)
    with log._opened(read_only=False) as connection:
        connection.execute("UPDATE base_experience SET version = 'x'; UPDATE experience SET version = 'x'")
    habits = asked(log, now)["habits"]
    assert "estimated" in caplog.text
    assert habits[0]
