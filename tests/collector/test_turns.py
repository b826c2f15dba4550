"""Who waits for a log gets it before work that takes it again and again takes its next step."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog import rewrite as rewriting
from collector.eventlog.database import open_database
from collector.eventlog.forget import forget_project
from collector.eventlog.log import EventLog
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


def test_work_for_long_gives_way_to_whoever_waits_and_takes_its_turn_then(tmp_path: Path) -> None:
    path = tmp_path / "events.duckdb"
    with closing(looks(path, 60.0)) as reader, closing(looks(path, 60.0)) as other:
        for _ in range(2):  # both looked, and wait since
            next(reader)
            next(other)
        work = looks(path, 60.0, gives_way=True)
        begun = begins(work)
        assert not begun.wait(0.2)
        reader.close()
        assert not begun.wait(0.2)
    assert begun.wait(30.0)
    # Whoever comes now looks as often as before, and work that waits has had its turn.
    with closing(looks(path, 60.0)) as reader:
        next(reader)
        next(reader)
    work.close()


def test_work_for_long_is_patient_and_takes_its_chances_in_the_end(tmp_path: Path) -> None:
    with closing(looks(tmp_path / "a", 60.0)) as reader:
        next(reader)
        next(reader)
        began = time.monotonic()
        assert list(looks(tmp_path / "a", 0.02, gives_way=True))
        assert time.monotonic() - began >= 0.02 * PATIENCE / 2


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
    waiting = os.open(log.path.parent, os.O_RDONLY)
    held, steps = [True], list[bool]()

    def noted(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **more: Any) -> Any:
            steps.append(held[0])
            return do(*given, **more)

        return step

    def leave() -> None:
        held[0] = False
        os.close(waiting)

    monkeypatch.setattr(rewriting, "PIECE", 10)
    fcntl.flock(waiting, fcntl.LOCK_SH)
    timer = threading.Timer(0.3, leave)
    timer.start()
    if of == "piece":
        monkeypatch.setattr(rewriting._Rewriting, "_attach", noted(rewriting._Rewriting._attach))
        forget_project(log, "7")
    else:
        monkeypatch.setattr("collector.eventlog.file.open_database", noted(open_database))
        log.fold(time.time_ns())
    timer.join()
    assert steps
    assert not any(steps)


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
