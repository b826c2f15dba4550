"""Uses and their ends that were reported late, or ahead of time, count as if they had been reported in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.eventlog import compaction, experience
from collector.eventlog.log import EventLog
from collector.eventlog.pace import Pace
from collector.model.events import Event, Kind
from collector.queries.check import check
from tests.collector.histories import IMAGES, T0, S

pytestmark = pytest.mark.slow
DAY = 86400 * S
MIDNIGHT = T0 // DAY * DAY


def use(log: EventLog, number: int, at: int) -> None:
    """Append a use of a minute."""
    container = f"{number:064x}"
    log.append(
        [
            Event(at, Kind.CONTAINER_CREATED, IMAGES[0], container=container),
            Event(at + 60 * S, Kind.CONTAINER_DESTROYED, IMAGES[0], None, container, None, at),
        ]
    )


def test_late_uses_count_that_another_fold_has_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 4)
    log = EventLog(tmp_path / "events.duckdb", host="h")
    seen = {"references": ["app:1"], "digests": [], "size": 1, "layers": []}
    log.append([Event(MIDNIGHT, Kind.IMAGE_OBSERVED, IMAGES[0], "app:1", attributes=seen)])
    for number in range(24):
        use(log, number, MIDNIGHT + number * DAY // 4 + S)
    ((until,),) = log.query("SELECT until FROM experience")
    with monkeypatch.context() as patch:
        patch.setattr(experience, "_FOLDS", 10**6)
        for number in range(24, 27):
            use(log, number, MIDNIGHT + 2 * DAY + number * 600 * S)
        for second in range(6):
            log.append([Event(MIDNIGHT + 6 * DAY + second, Kind.DISK_SAMPLED, bytes=1)])
    late = "SELECT count(*) FROM event ANTI JOIN compacted USING (seq) WHERE seq > 49 AND time < make_timestamp_ns(?)"
    assert log.query(late, [until], as_recorded=True) > [(2,)]
    assert log.query("SELECT until FROM experience") == [(until,)]
    assert check(log) == []
    for number in range(27, 39):
        use(log, number, MIDNIGHT + (number - 3) * DAY // 4 + S)
    assert log.query("SELECT until FROM experience") > [(until,)]
    assert check(log) == []


def test_a_late_end_counts_of_a_container_that_was_open_when_uses_were_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    log, container = EventLog(tmp_path / "events.duckdb", host="h"), "a" * 64
    log.append([Event(MIDNIGHT + S, Kind.CONTAINER_CREATED, IMAGES[0], container=container)])
    for second in range(12):
        log.append([Event(MIDNIGHT + 5 * DAY // 2 + second * S, Kind.DISK_SAMPLED, bytes=1)])
    assert log.query("SELECT until FROM experience, open_use") == [(MIDNIGHT + 2 * DAY,)]
    log.append([Event(MIDNIGHT + DAY, Kind.CONTAINER_DESTROYED, IMAGES[0], None, container, None, MIDNIGHT + S)])
    assert check(log) == []


def test_uses_count_that_were_recorded_ahead_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(experience, "PACE", Pace(1, 3, 1))
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append([Event(MIDNIGHT, Kind.COLLECTOR_STARTED)])
    job = {"ci": "gitlab", "job_id": "1", "project_id": "1"}
    used = Event(MIDNIGHT + 10 * DAY, Kind.JOB_IMAGE_USED, IMAGES[0], "app:1", attributes={"job": job, "role": "build"})
    log.append([used])
    log.append([Event(MIDNIGHT + DAY + 10 * S, Kind.CLOCK_SET_BACK, attributes={"seconds": 9})])
    for quarter in range(14):
        log.append([Event(MIDNIGHT + DAY + (quarter + 1) * DAY // 4, Kind.DISK_SAMPLED, bytes=1)])
    assert log.query("SELECT until FROM experience") == [(MIDNIGHT + 4 * DAY,)]
    assert log.query("SELECT uses FROM habit") == [(1,)]
    assert check(log) == []
