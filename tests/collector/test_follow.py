"""The collector follows a runner's log: as lines come, through rotation, faults and restarts, each fact once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collector import doctor
from collector.eventlog.log import EventLog
from collector.job_sources import follow
from collector.job_sources.follow import STATE, Followed, Follower
from collector.job_sources.ingest import ingest, store_batch
from collector.job_sources.reading import StoredLog
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from tests.collector.test_daemon import Watched, watched  # noqa: F401 - a fixture
from tests.waiting import wait_for

AT = 1_795_507_200


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    monkeypatch.setattr(follow, "_LOOK_S", 0.01)
    monkeypatch.setattr(follow, "_FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(follow, "_LAST_RETRY_S", 0.01)
    return EventLog(tmp_path / "events.duckdb", wait=60.0)


def began(job: int) -> str:
    """A runner's line in its own words."""
    return json.dumps(
        {"msg": "Checking for jobs... received", "job": job, "project": 7, "time": "2026-11-24T08:00:00Z"}
    )


def write(path: Path, *jobs: int, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(map(began, jobs)) + end)


def jobs(log: EventLog) -> list[int]:
    """The jobs that the log says have begun, as often as it says so."""
    if not log.exists():
        return []
    rows = log.query("SELECT job_id FROM event JOIN job USING (host, job) WHERE kind = 'job_started' ORDER BY seq")
    return [int(job) for (job,) in rows]


class Following:
    """A follower and who stores what it finds, in this thread."""

    def __init__(self, log: EventLog, choice: str) -> None:
        self.log = log
        self.follower = Follower(choice, lambda: None)

    def take(self) -> list[int]:
        while (batch := self.follower.waiting()) is not None:
            store_batch(self.log, batch)
            self.follower.taken()
        return jobs(self.log)

    @property
    def state(self) -> Followed | None:
        self.take()
        return Followed.from_position(self.log.position(STATE))


@contextmanager
def following(log: EventLog, choice: Path | str) -> Iterator[Following]:
    made = Following(log, str(choice))
    made.follower.resume(log.position(made.follower.key or ""))
    made.follower.start()
    try:
        yield made
    finally:
        made.follower.close()
        made.take()


def rename(path: Path) -> None:
    path.rename(path.with_name(path.name + ".1"))
    path.touch()


def rename_and_remove(path: Path) -> None:
    path.unlink()
    path.touch()


def copy_and_truncate(path: Path) -> None:
    path.with_name(path.name + "-20261124").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [rename, rename_and_remove, copy_and_truncate, truncate])
def test_lines_are_taken_as_they_come_also_when_the_file_is_rotated(
    log: EventLog, tmp_path: Path, rotate: Callable[[Path], None]
) -> None:
    path = tmp_path / "runner.log"
    write(path, 1)
    with following(log, path) as one:
        wait_for(lambda: one.take() == [1], "what was there")
        write(path, 2)
        wait_for(lambda: one.take() == [1, 2], "what came")
        rotate(path)
        write(path, 3, 4)
        wait_for(lambda: one.take() == [1, 2, 3, 4], "what came into the new file")
        assert one.state == Followed(str(path), None)


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
def test_what_came_before_a_rotation_while_nobody_looked_is_read_too(
    log: EventLog, tmp_path: Path, rotate: Callable[[Path], None]
) -> None:
    path = tmp_path / "runner.log"
    write(path, 1)
    with following(log, path) as one:
        wait_for(lambda: one.take() == [1], "what was there")
    write(path, 2)
    rotate(path)
    write(path, 3)
    with following(log, path) as one:
        wait_for(lambda: one.take() == [1, 2, 3], "what came meanwhile")
    # The command goes on from there, too.
    write(path, 4)
    assert ingest(log, StoredLog(path)).new == 1


def test_half_a_line_waits_for_its_other_half(log: EventLog, tmp_path: Path) -> None:
    """Half of a job's number is another job."""
    path = tmp_path / "runner.log"
    text = "Checking for jobs... received                     job=1"
    path.write_text(began(9) + "\n" + text)
    with following(log, path) as one:
        wait_for(lambda: one.take() == [9], "what has ended")
        with path.open("a") as file:
            file.write("2 project=7\n")
        wait_for(lambda: one.take() == [9, 12], "the whole line")


def test_of_a_long_log_the_first_look_takes_the_end(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runner.log"
    write(path, *range(100, 200))
    monkeypatch.setattr(follow, "_FIRST_LOOK_BYTES", 10 * len(began(100)))
    with following(log, path) as one:
        wait_for(lambda: one.take()[-1:] == [199], "its end")
        assert 5 < len(one.take()) <= 10


def test_what_stands_in_the_way_is_said_once_and_ends_by_itself(
    log: EventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / "runner.log"
    with following(log, path) as one, caplog.at_level("INFO"):
        wait_for(lambda: one.state, "the fault")
        assert one.state == Followed(
            str(path), f"{path} cannot be read (No such file or directory): is it the right file?"
        )
        path.parent.mkdir()
        os.mkfifo(path)
        wait_for(lambda: one.state and "not a regular file" in str(one.state.fault), "another fault")
        fresh = tmp_path / "fresh"
        fresh.write_bytes(b"\xff\x00" * 1000 + b"\n" + b"[" * 100_000 + b"\n")
        write(fresh, 5)
        fresh.replace(path)
        wait_for(lambda: one.take() == [5], "the lines")
        assert one.state == Followed(str(path), None)
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [str(path), str(path), "following"]


def test_a_file_that_may_not_be_read_is_reported_with_what_to_do(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runner.log"
    write(path, 1)

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, following(log, path) as one:
        patched.setattr("collector.job_sources.reading.os.open", refused)
        wait_for(lambda: one.state and one.state.fault, "the fault")
        assert one.state is not None
        assert f"{path} may not be read: let " in str(one.state.fault)


JOURNALCTL = """#!/bin/sh
echo "$@" >>{folder}/asked
[ ! -e {folder}/refuse ] || exit 1
exec tail --lines=+1 --follow {folder}/journal
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal as a file of its exported entries, and a journalctl that follows it, whatever it is asked."""
    monkeypatch.setattr(follow, "_LOOK_S", 0.01)
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(JOURNALCTL.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "machine-id").write_text("m\n")
    monkeypatch.setattr(follow, "_MACHINE_ID", tmp_path / "machine-id")
    monkeypatch.setattr(follow, "_JOURNALS", (tmp_path / "journals",))
    monkeypatch.setattr(follow, "_UNIT_FOLDERS", (tmp_path / "units",))
    path = tmp_path / "journal"
    path.touch()
    return path


def keep_journal(folder: Path) -> None:
    (folder / "journals" / "m").mkdir(parents=True)
    (folder / "journals" / "m" / "system.journal").touch()


def enter(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        for job in numbers:
            stamp = str((AT + job) * 10**6)
            file.write(
                json.dumps({"MESSAGE": began(job), "__REALTIME_TIMESTAMP": stamp, "__CURSOR": f"s={job}"}) + "\n"
            )


def test_the_journal_is_followed_from_the_last_entry_taken(log: EventLog, journal: Path, tmp_path: Path) -> None:
    keep_journal(tmp_path)
    enter(journal, 1)
    with following(log, "journal") as one:
        wait_for(lambda: one.take() == [1], "what was there")
        enter(journal, 2)
        wait_for(lambda: one.take() == [1, 2], "what came")
    # It ends with the follower.
    with following(log, "journal") as one:
        enter(journal, 3)
        wait_for(lambda: one.take() == [1, 2, 3], "what came after a restart, each once")
        assert one.state == Followed("the journal of gitlab-runner.service", None)
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith(
        "--unit=gitlab-runner.service --output=json --output-fields=MESSAGE,"
        "_SOURCE_REALTIME_TIMESTAMP --follow --no-tail --since=-6h"
    )
    assert second.endswith("--after-cursor=s=2")


@pytest.mark.slow
def test_a_journal_that_cannot_be_read_is_reported_until_it_can(
    log: EventLog, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(journal, 1)
    with following(log, "auto") as one:
        # No runner is a service here: nothing to follow, and nothing wrong.
        wait_for(lambda: one.state, "the first look")
        assert one.state == Followed(None, None)
        (tmp_path / "units").mkdir()
        (tmp_path / "units" / "gitlab-runner.service").touch()
        wait_for(lambda: one.state and "no journal is kept here" in str(one.state.fault), "no journal")
        with monkeypatch.context() as patched:
            patched.setattr("collector.job_sources.follow.os.access", lambda path, _: "journals" not in str(path))
            keep_journal(tmp_path)
            wait_for(lambda: one.state and "the group systemd-journal" in str(one.state.fault), "no permission")
            (tmp_path / "refuse").touch()
        wait_for(lambda: one.state and "ended with status 1" in str(one.state.fault), "a journalctl that ends")
        assert one.take() == []
        (tmp_path / "refuse").unlink()
        wait_for(lambda: one.take() == [1], "the entries")
        wait_for(lambda: one.state == Followed("the journal of gitlab-runner.service", None), "no fault")


def test_what_was_followed_before_does_not_pass_for_what_is_followed(log: EventLog, tmp_path: Path) -> None:
    with following(log, tmp_path / "missing") as one:
        wait_for(lambda: one.state and one.state.fault, "the fault")
    with following(log, "none") as one:
        assert one.state == Followed(None, None)


def test_nobody_waits_for_a_log_that_nobody_can_take(log: EventLog, tmp_path: Path) -> None:
    """The thread reads on only as what it found is taken, and ends at once all the same."""
    path = tmp_path / "runner.log"
    write(path, *range(50_000))
    with following(log, path) as one:
        wait_for(lambda: one.follower.waiting() is not None, "the first lines")
        first = one.follower.waiting()
        assert one.follower.waiting() is first
    assert not [thread for thread in threading.enumerate() if thread.name == "runner-log"]
    assert len(jobs(log)) < 50_000


@pytest.mark.slow
def test_the_collector_stores_what_the_runner_says_while_it_watches(watched: Watched, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "runner.log"
    write(path, 1)

    def stored() -> list[int]:
        return [int(event.attributes["job"]["job_id"]) for event in watched.rows(Kind.JOB_STARTED)]

    with watched.collecting(runner_log=str(path)):
        wait_for(lambda: stored() == [1], "what was there")
        write(path, 2)
        wait_for(lambda: stored() == [1, 2], "what came")
    write(path, 3)
    with watched.collecting(runner_log=str(path)):
        wait_for(lambda: stored() == [1, 2, 3], "what came meanwhile")
        # Also while the engine is away.
        watched.engine.fail("info", times=10**6)
        watched.engine.stop()
        write(path, 4)
        wait_for(lambda: stored() == [1, 2, 3, 4], "what came without an engine")
    assert jobs(watched.log) == [1, 2, 3, 4]
    assert {event.attributes["source"] for event in watched.rows(Kind.JOB_STARTED)} == {"runner log"}


@pytest.mark.slow
def test_the_doctor_says_whether_the_runner_is_followed(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_UNIT_FOLDERS", (tmp_path / "units",))
    now_ns = time.time_ns()
    log.append([Event(now_ns, Kind.COLLECTOR_STARTED)])

    def said() -> list[tuple[str, str]]:
        return [(finding.state.value, f"{finding.answer}: {finding.detail}") for finding in doctor._runner_log(log)]

    def note(name: str | None, fault: str | None) -> None:
        log.append([], (STATE, json.dumps({"name": name, "fault": fault})))

    assert said() == []
    labels = {f"com.gitlab.gitlab-runner.{key}": "5" for key in ("job.id", "project.id")}
    created = Event(now_ns, Kind.CONTAINER_CREATED, image="i", container="c", attributes={"labels": labels})
    log.append([created])
    ((state, text),) = said()
    assert (state, text.partition(" in")[0]) == ("blind", "not followed: 1 job")
    assert "--runner-log" in text
    note("the journal", "it may not be read: do this")
    assert said() == [("blind", "not readable: it may not be read: do this")]
    note("the journal", None)
    assert said()[0][1].startswith("says nothing: the journal, where 1 job of the last day left no line")
    path = tmp_path / "runner.log"
    path.write_text(json.dumps({"msg": "Job succeeded", "job": 5, "time": datetime.now(UTC).isoformat()}) + "\n")
    assert ingest(log, StoredLog(path)).new == 1
    ((state, text),) = said()
    assert (state, text.partition("; ")[0]) == ("ok", "followed: the journal")


def test_what_can_be_no_file_is_refused_at_the_start(tmp_path: Path) -> None:
    for choice in ("", str(tmp_path)):
        with pytest.raises(UsageError, match="is not a file: name the runner's log, or auto, journal or none"):
            Follower(choice, lambda: None)
    Follower(str(tmp_path / "comes" / "later.log"), lambda: None)
