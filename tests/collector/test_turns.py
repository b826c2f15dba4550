"""Who waits for a log gets it before work that takes it again and again takes its next step."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog import file, turns
from collector.eventlog import rewrite as rewriting
from collector.eventlog.database import open_database
from collector.eventlog.forget import forget_project
from collector.eventlog.log import EventLog
from collector.eventlog.rewrite import Rewriting
from collector.eventlog.turns import PATIENCE, looks
from collector.model.events import Event, Kind


def begins(looking: Any) -> threading.Event:
    """What is set once there was a moment to look."""
    begun = threading.Event()

    def look() -> None:
        next(looking)
        begun.set()

    threading.Thread(target=look, daemon=True).start()
    return begun


def waits(path: Path, *, alone: bool) -> Any:
    """Somebody who looked and waits since, until closed."""
    looking = looks(path, 60.0, alone=alone)
    next(looking)
    next(looking)
    return looking


def test_work_lets_all_go_first_who_came_before_its_step_and_nobody_who_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_COURTESY_S", 0.0)
    path = tmp_path / "events.duckdb"
    with closing(waits(path, alone=True)) as first, closing(waits(path, alone=False)) as reader:
        monkeypatch.setattr(turns, "_COURTESY_S", 60.0)
        begun = begins(work := looks(path, 60.0, alone=True, gives_way=True))
        assert not begun.wait(0.2)
        first.close()
        assert not begun.wait(0.2)
        with closing(looks(path, 60.0, alone=True)) as later:
            came = begins(later)  # it waits, too, for those who came before
            reader.close()
            assert begun.wait(30.0)
            assert not came.is_set()
            work.close()
            assert came.wait(30.0)


def test_readers_wait_for_an_append_that_came_before_but_not_for_each_other_nor_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.duckdb"
    with closing(waits(path, alone=False)):
        assert begins(looks(path, 60.0)).wait(30.0)
        assert begins(looks(path, 60.0, gives_way=True)).wait(30.0)
    monkeypatch.setattr(turns, "_COURTESY_S", 3.0)
    with closing(waits(path, alone=True)):
        came = time.monotonic()
        begun = begins(looks(path, 60.0))
        assert begun.wait(30.0)  # whoever is slow to come keeps nobody out
        assert time.monotonic() - came > 2.0
        assert begins(looks(path, 60.0)).wait(1.0)


def test_work_for_long_is_patient_and_takes_its_chances_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_COURTESY_S", 0.1)
    with closing(waits(tmp_path / "a", alone=True)):
        began = time.monotonic()
        assert next(looks(tmp_path / "a", 60.0, gives_way=True)) is None
        assert time.monotonic() - began >= 0.1
        began = time.monotonic()
        assert list(looks(tmp_path / "a", 0.1, gives_way=True))
        assert time.monotonic() - began >= 0.1 * PATIENCE / 2


def test_a_folder_that_cannot_be_locked_keeps_nobody_out(tmp_path: Path) -> None:
    assert next(looks(tmp_path / "none" / "a", 60.0, gives_way=True)) is None
    assert len(list(looks(tmp_path / "none" / "a", 0.02))) > 1


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    log = EventLog(tmp_path / "events.duckdb", host="h", wait=60.0)
    job = {"job": {"ci": "gitlab", "job_id": "1", "project_id": "7"}, "role": "build"}
    log.append([Event(n, Kind.JOB_IMAGE_USED, f"sha256:{n:064x}", "a:1", attributes=job) for n in range(1, 40)])
    return log


@pytest.mark.parametrize("of", ["piece", "backlog"])
def test_no_step_begins_while_somebody_waits(log: EventLog, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    waiting = waits(log.path, alone=True)
    held, steps, timers = [True], list[bool](), list[threading.Timer]()

    def leave() -> None:
        held[0] = False
        waiting.close()

    def looked(*given: Any, gives_way: bool = False, **more: Any) -> Any:
        if gives_way and not timers:
            timers.append(threading.Timer(0.3, leave))
            timers[0].start()
        for moment in looks(*given, gives_way=gives_way, **more):
            if gives_way:
                steps.append(held[0])
            yield moment

    # What is no step of work does not wait here.
    monkeypatch.setattr(turns, "_is_behind", lambda _, times, **__: held[0] and not times[0])
    monkeypatch.setattr(turns, "_COURTESY_S", 60.0)
    monkeypatch.setattr(rewriting, "PIECE", 10)
    monkeypatch.setattr(rewriting, "looks", looked)
    monkeypatch.setattr(file, "looks", looked)
    if of == "piece":
        forget_project(log, "7")
    else:
        log.fold(time.time_ns())
    assert steps
    assert not any(steps)


def test_nobody_is_kept_out_while_what_was_fetched_is_stored(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    appended, steps, store = list[int](), list[str](), Rewriting._store_tables

    def stores(self: Rewriting, tables: list[str]) -> None:
        if "folded" not in steps and tables:  # later all are kept out
            now = 100 + len(appended)
            event = Event(now, Kind.EVENT_UNREADABLE, attributes={"raw": ""})
            appended.append(EventLog(log.path, host="h", wait=0.0).append([event]))
        store(self, tables)

    monkeypatch.setattr(Rewriting, "_store_tables", stores)
    forget_project(log, "7", at=steps.append)
    assert appended
    assert log.query("SELECT count(*) FROM event WHERE kind = 'event_unreadable'") == [(sum(appended),)]


def test_a_log_that_is_replaced_while_it_is_opened_is_opened_again(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def replaced(path: Path, **how: Any) -> Any:
        nonlocal count
        count += 1
        connection = open_database(path, **how)
        if count == 1:
            Path(shutil.copy(path, path.with_suffix(".new"))).replace(path)
        return connection

    monkeypatch.setattr("collector.eventlog.file.open_database", replaced)
    assert log.query("SELECT count(*) FROM event") == [(39,)]
    assert count == 2
