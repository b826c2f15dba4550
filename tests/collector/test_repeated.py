"""What events repeat of their jobs is stored once, and is there again for whoever reads the events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.eventlog import compaction, rewrite
from collector.eventlog.log import EventLog
from collector.eventlog.retention import compact
from collector.model.events import Event, JsonObject, Kind
from collector.model.jobs import GITLAB, SYSTEMS

LABELS = {
    f"{GITLAB}job.id": "7",
    f"{GITLAB}job.ref": "main",
    f"{GITLAB}job.url": "https://gitlab.example.org/mesa/mesa/-/jobs/7",
    f"{GITLAB}project.id": "3",
    f"{GITLAB}type": "build",
    f"{GITLAB}managed": "true",
    "team": "drivers",
}
REPORT = {"ci": "gitlab", "job_id": "7", "project_id": "3", "name": "build"}


def created(number: int, attributes: JsonObject) -> Event:
    return Event(number, Kind.CONTAINER_CREATED, "sha256:a", "debian", f"c{number}", attributes=attributes)


def stored(log: EventLog) -> list[dict[str, Any]]:
    return [json.loads(text) for (text,) in log.query("SELECT attributes FROM event ORDER BY seq")]


def shown(log: EventLog) -> list[dict[str, Any]]:
    return [json.loads(text) for (text,) in log.query("SELECT attributes FROM events ORDER BY seq")]


def test_what_a_jobs_row_says_is_stored_there_only(log: EventLog) -> None:
    said: list[JsonObject] = [{"labels": LABELS, "name": "runner-x-project-3-concurrent-0", "job": "build"}]
    said += [{"job": REPORT, "role": "build", "source": "job log"}]
    log.append([created(1, said[0]), Event(2, Kind.JOB_IMAGE_USED, "sha256:a", "debian", attributes=said[1])])
    container, report = stored(log)
    left = {f"{GITLAB}managed": "true", "team": "drivers"}
    assert {label: value for label, value in container["labels"].items() if value is not None} == left
    assert container["labels"].keys() == LABELS.keys()
    assert (container["job"], container["name"]) == (None, said[0]["name"])
    assert report == {"job": dict.fromkeys(REPORT), "role": None, "source": "job log"}
    assert shown(log) == said


def test_what_differs_from_the_jobs_row_stays_with_the_event(log: EventLog) -> None:
    said: list[JsonObject] = [{"labels": LABELS}, {"labels": {**LABELS, f"{GITLAB}job.ref": "other"}}]
    said += [{"job": {**REPORT, "ref": "third"}, "role": "service"}]
    log.append([created(1, said[0])])
    log.append([created(2, said[1]), Event(3, Kind.JOB_IMAGE_USED, "sha256:a", "debian", attributes=said[2])])
    first, second, third = stored(log)
    branches = [first["labels"][f"{GITLAB}job.ref"], second["labels"][f"{GITLAB}job.ref"], third["job"]["ref"]]
    assert branches == [None, "other", "third"]
    assert shown(log) == said


def test_what_is_said_where_others_say_it_stays(log: EventLog) -> None:
    """As by a job source of a container, or by labels in a report."""
    said: list[JsonObject] = [{"job": REPORT, "role": "build"}, {"labels": LABELS, "job": "build", "role": "build"}]
    log.append([created(1, said[0]), Event(2, Kind.JOB_IMAGE_USED, "sha256:a", "debian", attributes=said[1])])
    assert stored(log)[0] == said[0]
    assert shown(log) == said


def test_what_other_events_say_of_a_job_stays(log: EventLog) -> None:
    said: list[JsonObject] = [{"labels": LABELS, "job": "build"}]
    log.append([created(1, {"labels": LABELS}), Event(2, Kind.IMAGE_TAGGED, "sha256:a", "debian", attributes=said[0])])
    assert stored(log)[1] == shown(log)[1] == said[0]


def test_labels_by_which_services_are_known_stay(log: EventLog) -> None:
    compose = {"com.docker.compose.project": "shop", "com.docker.compose.service": "db"}
    buildkite = {"com.buildkite.job_id": "b1", "com.docker.compose.service": "build"}
    log.append([created(1, {"labels": compose}), created(2, {"labels": buildkite})])
    assert [row["labels"] for row in stored(log)] == [compose, {**buildkite, "com.buildkite.job_id": None}]
    assert [row["labels"] for row in shown(log)] == [compose, buildkite]


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"x":null', f'"{GITLAB}job.id":null', "null", "7", "\\", '"', "ä\u2028'"]
)


@pytest.mark.parametrize("system", SYSTEMS, ids=[f"{system.ci}-{'-'.join(system.needs)}" for system in SYSTEMS])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_events_read_are_those_appended(
    tmp_path_factory: pytest.TempPathFactory, system: Any, data: st.DataObject
) -> None:
    names = [*(label for labels in system.fields.values() for label in labels), system.role or "x", "y"]
    labels = st.dictionaries(st.sampled_from(names), VALUES)
    needed = {system.fields[field][0]: "7" for field in system.needs}
    said = [
        {"labels": {**needed, **one}, "name": None}
        for one in data.draw(st.lists(labels, min_size=5, max_size=20), "labels")
    ]
    log = EventLog(tmp_path_factory.mktemp("log") / "events.duckdb", host="h")
    log.append([created(number, one) for number, one in enumerate(said, 1)])
    assert shown(log) == said


@pytest.mark.slow
def test_events_that_outlive_others_of_their_job_keep_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 20)
    monkeypatch.setattr(rewrite, "PIECE", 200)
    monkeypatch.setattr(rewrite, "_LAST_PIECE", 5)
    monkeypatch.setattr(rewrite, "GROWTH", 2**30)
    log, now = EventLog(tmp_path / "events.duckdb", host="h"), 1_790_000_000
    events = []
    for n in range(300):
        # Of these uses of one day the first is kept, of job 7; the other of this job becomes a sum, in another piece.
        labels = {**LABELS, f"{GITLAB}job.id": "7" if n in {0, 250} else str(100 + n)}
        began = (now - 100 * 86400 + 2 * n) * 10**9
        events += [
            Event(began, Kind.CONTAINER_CREATED, "sha256:a", "debian", f"c{n}", attributes={"labels": labels}),
            Event(began + 10**9, Kind.CONTAINER_DESTROYED, "sha256:a", "debian", f"c{n}", began_ns=began),
        ]
    days = [Event((now - day * 86400) * 10**9, Kind.COLLECTOR_STARTED) for day in range(99, 0, -1)]
    for first in range(0, len(events), 50):
        log.append(events[first : first + 50])
    log.append(days)
    before = dict(log.query("SELECT seq, attributes FROM events"))
    assert compact(log, 30 * 86400.0, now=now).removed > 500
    left = log.query("SELECT seq, attributes FROM events WHERE kind <> 'log_compacted'")
    assert any(labels is not None and '"7"' in labels for _, labels in left)
    assert [(seq, before[seq]) for seq, _ in left] == left
