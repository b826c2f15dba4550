"""Uses that were reported late count, whichever of what is folded is the first to take account of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.eventlog import compaction, experience
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.queries.check import check
from tests.collector.histories import IMAGES, T0, S

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
