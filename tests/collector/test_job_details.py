"""What is kept of a job is what the setting allows, whoever writes, and decisions go on without the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.eventlog.log import EventLog
from collector.eventlog.writer import LogWriter
from collector.model.events import Event, Kind
from collector.model.job_details import FACTS, JobDetails, keeps_label
from collector.model.jobs import GITLAB, JOB_FIELDS, JOB_LABELS
from collector.queries.check import check

S = 10**9
T0 = 1_700_000_000 * S
IMAGE = f"sha256:{1:064x}"
SECRETS = {
    JobDetails.ALL: (),
    JobDetails.IDS: ("secret-group", "secret-branch", "jane", "deadbeef", "secret-step"),
    JobDetails.NONE: (
        "secret-group",
        "secret-branch",
        "jane",
        "deadbeef",
        "secret-step",
        "47114711",
        "project-42",
        "880055",
    ),
}


def job_events() -> list[Event]:
    prefix = "com.gitlab.gitlab-runner."
    labels = {
        f"{prefix}job.id": "47114711",
        f"{prefix}project.id": "42",
        f"{prefix}pipeline.id": "880055",
        f"{prefix}job.ref": "secret-branch",
        f"{prefix}job.sha": "deadbeef",
        f"{prefix}job.url": "https://gitlab.example.org/secret-group/app/-/jobs/47114711",
        f"{prefix}type": "build",
        "com.docker.compose.project": "shop",
        "owner": "jane",
    }
    job = {
        "ci": "gitlab",
        "job_id": "47114711",
        "project_id": "42",
        "project": "secret-group/app",
        "name": "secret-step",
    }
    facts = {"labels": labels, "name": "runner-ab-project-42-concurrent-0-jane-build"}
    return [
        Event(T0, Kind.CONTAINER_CREATED, IMAGE, "app:1", "c" * 64, attributes=facts),
        Event(T0 + S, Kind.JOB_IMAGE_USED, IMAGE, "app:1", attributes={"job": job, "role": "build"}),
        Event(T0 + 2 * S, Kind.JOB_FINISHED, attributes={"job": job, "outcome": "success"}, identity="f"),
        Event(T0 + 3 * S, Kind.CONTAINER_DESTROYED, IMAGE, None, "c" * 64, None, T0),
    ]


def contents(path: Path) -> str:
    """All that a log and its spool hold, as text."""
    tables = ("event", "job", "compacted", "image")
    rows = [row for table in tables for row in EventLog(path).query(f"FROM {table}")]
    spool = path.with_name(path.name + ".spool")
    return repr(rows) + (spool.read_text(errors="replace") if spool.exists() else "")


@pytest.mark.slow
@pytest.mark.parametrize("details", JobDetails)
def test_the_log_holds_what_the_setting_allows_and_uses_stay(tmp_path: Path, details: JobDetails) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    log.job_details = details
    log.append(job_events())
    held = contents(log.path)
    assert [word for word in SECRETS[JobDetails.NONE] if word not in held] == list(SECRETS[details])
    assert log.query("SELECT sum(uses) FROM image_uses") == [(2,)]
    # The Compose project remains: it keeps services apart.
    assert log.query("SELECT count(DISTINCT ci), min(ci) FROM job") == [
        (1, "compose" if details == "none" else "gitlab")
    ]
    assert "com.docker.compose.project" in held
    assert not check(log)


def test_the_setting_holds_for_all_who_write_to_the_log_until_it_is_changed(tmp_path: Path) -> None:
    service = EventLog(tmp_path / "events.duckdb")
    service.job_details = JobDetails.NONE
    service.append([Event(T0 - S, Kind.COLLECTOR_STARTED)])
    EventLog(service.path).append(job_events())
    assert "47114711" not in contents(service.path)
    service.job_details = JobDetails.ALL
    service.append([Event(T0 - 2 * S, Kind.COLLECTOR_STARTED)])
    EventLog(service.path).append(
        [Event(T0 + 9 * S, Kind.JOB_FINISHED, attributes={"job": {"ci": "gitlab", "job_id": "47114711"}}, identity="g")]
    )
    assert "47114711" in contents(service.path)


def test_what_a_newer_program_set_allows_the_least(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    log.append([Event(T0 - S, Kind.COLLECTOR_STARTED)])
    with log._opened(read_only=False) as connection:
        connection.execute("INSERT INTO setting VALUES ('job_details', 'hashes')")
    log.append(job_events())
    assert "47114711" not in contents(log.path)


def test_the_spool_keeps_no_more_than_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    log.job_details = JobDetails.IDS
    log.append([Event(T0 - S, Kind.COLLECTOR_STARTED)])
    writer = LogWriter(log)
    writer.add(job_events())
    assert writer.save()
    held = contents(log.path)
    assert "47114711" in held
    assert "secret-group" not in held
    assert "jane" not in held


def test_a_creation_whose_labels_are_not_what_they_should_be_is_kept_all_the_same(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    log.job_details = JobDetails.IDS
    odd: list[dict[str, Any]] = [
        {"labels": "jane"},
        {"labels": {"a": 1}, "name": 7},
        {"job": {"ci": 1}, "labels": None},
        {"job": "x"},
    ]
    assert log.append([Event(T0 + n, Kind.CONTAINER_CREATED, IMAGE, attributes=one) for n, one in enumerate(odd)]) == 4
    assert "jane" not in contents(log.path)


def test_each_column_and_each_label_of_a_job_is_in_the_table() -> None:
    assert sorted(field for fact in FACTS for field in fact.fields) == sorted(JOB_FIELDS)
    dropped = {label for label in JOB_LABELS if not keeps_label(label, JobDetails.IDS)}
    named = {label for fact in FACTS if not fact.ids for label in fact.labels}
    assert dropped - named == {"io.kubernetes.cri-o.ContainerID"}
    assert f"{GITLAB}job.url" in dropped
