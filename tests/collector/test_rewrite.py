"""A log is written again without what is to go; nothing else is lost, whenever it is interrupted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from collector.eventlog import rewrite as rewriting
from collector.eventlog.database import alone, in_one_line
from collector.eventlog.forget import forget_image, forget_project
from collector.eventlog.log import EventLog
from collector.eventlog.salvage import set_aside
from collector.eventlog.spool import Spool
from collector.eventlog.writer import LogWriter
from collector.model.errors import LogBusyError, LogError, LogFullError, UsageError
from collector.model.events import Event, Kind
from collector.queries.check import check
from collector.queries.story import stories
from tests.collector.histories import IMAGES
from tests.kills import kill_after
from tests.needs import first_fast

S = 10**9
T0 = 1_700_000_000 * S
STEPS = ("piece", "copied", "folded", "closed", "synced", "replaced")


class Crash(BaseException):
    """What a fake crash raises: nothing handles it."""


def job_events(image: str, project: str, number: int, count: int = 3) -> list[Event]:
    """Some jobs of a project that use an image."""
    found = []
    for one in range(count):
        at, job_id = T0 + number * 3600 * S + one * 60 * S, str(number * 1000 + one)
        prefix = "com.gitlab.gitlab-runner."
        labels = {
            f"{prefix}job.id": job_id,
            f"{prefix}project.id": str(number),
            f"{prefix}job.url": f"https://gitlab.example.org/{project}/-/jobs/{job_id}",
        }
        facts = {"labels": labels, "name": f"runner-ab-project-{number}-concurrent-0-build", "volumes": ["f" * 64]}
        job = {"ci": "gitlab", "job_id": job_id, "project_id": str(number), "project": project}
        container = f"{number * 1000 + one:064x}"
        found += [
            Event(at, Kind.CONTAINER_CREATED, image, f"{project}:1", container, attributes=facts),
            Event(at + 5 * S, Kind.CONTAINER_DESTROYED, image, None, container, None, at),
            Event(at + 6 * S, Kind.JOB_IMAGE_USED, image, "app:1", attributes={"job": job, "role": "build"}),
            Event(at + 7 * S, Kind.JOB_FINISHED, attributes={"job": job, "outcome": "success"}, identity=f"f{job_id}"),
        ]
    return found


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """Two projects with an image each, and a prune that names both."""
    monkeypatch.setattr(rewriting, "PIECE", 10)
    monkeypatch.setattr(rewriting, "_LAST_PIECE", 2)
    log = EventLog(tmp_path / "events.duckdb", wait=20.0)
    plan = {
        "prune": "p",
        "plan": [{"image": IMAGES[0], "name": "secret/app:1"}, {"name": "runner-ab-project-42-concurrent-0-cache"}],
        "why": "kept for a job of secret/app",
    }
    log.append(
        [
            Event(T0 - S, Kind.COLLECTOR_STARTED),
            *job_events(IMAGES[0], "secret/app", 42),
            *job_events(IMAGES[1], "other/secret/app", 7),
            Event(T0 + 10**6 * S, Kind.PRUNE_STARTED, attributes=plan),
            Event(T0 + 10**6 * S + 1, Kind.ITEM_REMOVED, IMAGES[0], attributes={"prune": "p"}),
            Event(T0 + 10**6 * S + 2, Kind.PRUNE_FINISHED, attributes={"prune": "p"}),
        ]
    )
    return log


def rows(log: EventLog) -> list[tuple[object, ...]]:
    return log.query("SELECT * EXCLUDE (recorded) FROM event ORDER BY seq")


@pytest.mark.slow
def test_a_project_is_gone_from_the_file_and_the_uses_of_its_images_stay(log: EventLog) -> None:
    uses = log.query("SELECT image_id, last_use, evidence, uses FROM last_use ORDER BY ALL")
    before = log.query("SELECT count(*) FROM event")[0][0]
    found = forget_project(log, "secret/app")
    assert (found.jobs, found.events) == (3, 9)
    for secret in (b"https://gitlab.example.org/secret/app", b"project-42", b"42001"):
        assert secret not in log.path.read_bytes()
    text = repr(log.query("FROM event")) + repr(log.query("FROM job"))
    assert "kept for a job of forgotten" in text
    assert "other/secret/app" in text
    assert log.query("SELECT image_id, last_use, evidence, uses FROM last_use ORDER BY ALL") == uses
    assert log.query("SELECT count(*) FROM event")[0][0] == before - 3 + 1
    (facts,) = log.query(f"SELECT attributes FROM event WHERE kind = '{Kind.DATA_FORGOTTEN}'")
    assert "secret" not in facts[0]
    assert check(log) == []
    size = log.path.stat()
    assert forget_project(log, "secret/app").events == 0
    assert log.path.stat().st_ino == size.st_ino


@pytest.mark.slow
def test_an_image_is_gone_from_the_file_also_where_others_speak_of_it(log: EventLog) -> None:
    log.append([Event(T0 + 10**6 * S + 9, Kind.BASE_USED, IMAGES[1], attributes={"by": IMAGES[0]})])
    found = forget_image(log, IMAGES[0][7:])
    assert found.images == (IMAGES[0],)
    assert IMAGES[0][7:].encode() not in log.path.read_bytes()
    with pytest.raises(UsageError, match="no image"):
        stories(log, IMAGES[0])
    assert stories(log, IMAGES[1])
    assert check(log) == []
    assert forget_image(log, IMAGES[0]).events == 0


@pytest.mark.slow
def test_what_only_sentences_and_unreadable_events_say_goes_too(log: EventLog) -> None:
    image, name = f"sha256:{'5ec' * 21}0", "registry.example.org/hidden/tool"
    at = T0 + 10**6 * S
    slot, url = "runner-ab-project-42-concurrent-0-cache", "https://gitlab.example.org/secret/app/-/jobs/42001"
    raw = json.dumps({"Attributes": {"com.gitlab.gitlab-runner.project.id": "42", "name": slot, "image": f"{name}:1"}})
    said = f'conflict: "{name}:1" is used by "{slot}" for {url}: image {image[7:19]}, see {name}:1. {name}:1'
    said += " waits for job 42001, not job 420015"
    log.append(
        [
            Event(at + 3, Kind.IMAGE_OBSERVED, image, f"{name}:1", attributes={"references": [f"{name}:1"]}),
            Event(at + 4, Kind.ITEM_FAILED, None, slot, attributes={"prune": "p", "error": said}),
            Event(at + 5, Kind.EVENT_UNREADABLE, attributes={"raw": raw}),
            Event(at + 6, Kind.PULL_FAILED, None, f"{name}:9", attributes={"error": f"no space for {name}:9"}),
            Event(at + 7, Kind.GAP, began_ns=at, attributes={"reason": f"{name}:1-rc of {name}-2 was pulled"}),
        ]
    )
    assert forget_image(log, name).images == (image,)
    text = repr(log.query("FROM event"))
    for secret in (f"{name}:1 ", f"{name}:9", image[7:19]):
        assert secret not in text
    assert f"{name}-2" in text
    assert forget_project(log, "secret/app").jobs == 3
    text = repr(log.query("FROM event"))
    for secret in (slot, url, "jobs/42001", "42001,"):
        assert secret not in text
    assert "job 420015" in text
    assert check(log) == []


def test_a_glob_and_an_id_name_projects_and_nothing_is_done_on_trial(log: EventLog) -> None:
    before = rows(log)
    assert [forget_project(log, one, dry_run=True).jobs for one in ("secret/*", "42", "*/secret/*", "x", "4")] == [
        *(3, 3, 3, 0, 0)
    ]
    assert rows(log) == before


def test_numbers_are_never_given_twice(log: EventLog) -> None:
    newest = log.query("SELECT max(seq) FROM event")[0][0]
    log.append([Event(T0 + 10**7 * S, Kind.IMAGE_PULLED, IMAGES[2], "last:1")])
    forget_image(log, "last:1")
    assert log.query("SELECT max(seq) FROM event")[0][0] == newest + 2


def test_what_waits_in_the_spool_goes_too(log: EventLog) -> None:
    Spool(log.path.with_name("events.duckdb.spool")).write(job_events(IMAGES[0], "secret/app", 42, 5)[-4:])
    assert forget_project(log, "secret/app").jobs == 4
    assert b"secret/app" not in log.path.with_name("events.duckdb.spool").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("step", first_fast(*STEPS))
def test_a_crash_at_any_step_leaves_the_old_log_or_the_new_one(log: EventLog, step: str) -> None:
    before = rows(log)

    def crash(at: str) -> None:
        if at == step:
            raise Crash

    with pytest.raises(Crash):
        forget_project(log, "secret/app", at=crash)
    if step == "replaced":
        assert log.query("SELECT count(*) FROM job")[0][0] == 3
    else:
        assert rows(log) == before
    # Whatever lies about is removed by the next call.
    log.path.with_name(f".{log.path.name}.rewrite").write_bytes(b"half")
    forget_project(log, "secret/app")
    assert log.query("SELECT count(*) FROM job")[0][0] == 3
    assert check(log) == []
    assert sorted(path.name for path in log.path.parent.iterdir() if "rewrite" in path.name) == [
        "events.duckdb.rewrite-lock"
    ]


@pytest.mark.slow
def test_what_is_appended_at_any_step_is_in_the_new_log(log: EventLog) -> None:
    added: list[str] = []

    def append(at: str) -> None:
        if at in {"piece", "copied", "folded"}:
            event = Event(T0 + (len(added) + 1) * 10**6 * S + 7, Kind.IMAGE_PULLED, IMAGES[3], f"new:{len(added)}")
            subprocess.run([sys.executable, "-c", _APPEND.format(log.path, event.time_ns, event.reference)], check=True)
            added.append(str(event.reference))

    forget_project(log, "secret/app", at=append)
    assert len(added) >= 3
    held = {name for (name,) in log.query("SELECT reference FROM event WHERE kind = 'image_pulled'")}
    assert held == set(added)
    assert check(log) == []


_APPEND = """
from pathlib import Path
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
EventLog(Path('{}'), wait=20.0).append([Event({}, Kind.IMAGE_PULLED, 'sha256:' + 'a' * 64, '{}')])
"""


def test_the_collector_goes_on_with_the_new_file_and_with_no_other(log: EventLog) -> None:
    writer = LogWriter(log)
    writer.add([Event(T0 + 2 * 10**6 * S, Kind.COLLECTOR_STARTED)])
    assert writer.keep()
    copy = log.path.read_bytes()
    forget_project(EventLog(log.path), "secret/app")
    assert not writer.renewed()
    writer.add([Event(T0 + 3 * 10**6 * S, Kind.COLLECTOR_STARTED)])
    assert writer.keep()
    restored = log.path.with_name("restored")
    restored.write_bytes(copy)
    restored.replace(log.path)
    assert writer.renewed()


def test_what_was_removed_on_purpose_is_no_loss_where_a_log_is_salvaged(log: EventLog) -> None:
    forget_project(log, "secret/app")
    last = log.query("SELECT epoch_ns(max(time)) FROM event")[0][0]
    found = set_aside(log, "test")
    assert (found.lost, found.gap) == (0, None)
    assert log.query("SELECT epoch_ns(began) FROM event WHERE kind = 'gap'") == [(last,)]


def test_without_space_for_its_own_copy_nothing_is_done(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.path.read_bytes()
    monkeypatch.setattr(rewriting, "MARGIN", 2**60)
    with pytest.raises(LogFullError, match="nothing was changed"):
        forget_project(log, "secret/app")
    assert log.path.read_bytes() == before


def test_a_link_to_a_log_stays_and_the_file_that_it_leads_to_is_written_again(log: EventLog, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "events.duckdb"
    link.symlink_to(log.path)
    before = log.path.stat().st_ino
    assert forget_project(EventLog(link), "secret/app").jobs == 3
    assert link.readlink() == log.path
    assert log.path.stat().st_ino != before
    assert [path.name for path in folder.iterdir()] == [link.name]


def test_a_log_on_a_read_only_file_system_is_one_line(log: EventLog) -> None:
    text = f'IO Error: Cannot open file "{log.path}": {os.strerror(errno.EROFS)}'
    with pytest.raises(LogError, match=r"is read-only: make it writable$"), in_one_line(log.path):
        raise duckdb.IOException(text)


def test_two_do_not_rewrite_one_log(log: EventLog) -> None:
    with alone(log.path, ".rewrite-lock", "rewritten"), pytest.raises(LogBusyError, match="rewritten by another"):
        forget_project(log, "secret/app")


@pytest.mark.slow
def test_a_log_that_is_killed_again_and_again_while_it_is_rewritten_loses_nothing(log: EventLog) -> None:
    """A real end at any moment, also within what DuckDB and the system do."""
    before = len(rows(log))
    script = (
        "import sys; from pathlib import Path; from collector.eventlog.log import EventLog;"
        "from collector.eventlog.forget import forget_project; print('.', flush=True);"
        "forget_project(EventLog(Path(sys.argv[1])), 'secret/app')"
    )
    for pause in (0.0, 0.05, 0.1, 0.2):
        kill_after(pause, script, os.fspath(log.path))
        assert len(rows(log)) in {before, before - 2}
        assert check(log) == []
    forget_project(log, "secret/app")
    assert len(rows(log)) == before - 2
