"""Jobs: recognised by labels of every CI system, typed in the log, exact on captured runs."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.eventlog.schema import MIGRATIONS
from collector.model.events import Event, Kind
from collector.model.jobs import Job, job_of, project_of
from tests.collector.test_older import AS_BEFORE
from tests.collector.test_translate import Names, capture

G = "com.gitlab.gitlab-runner."
JOB_A = "sha256:31e2ea7e7243d47d6805b2e2d592553700b413b75442adf3d53c3577a04a2e2e"
JOB_B = "sha256:c489b5263c200061222498ff9651e19b7886f901d2249e137731043bec7c1373"
SERVICE = "sha256:1ab97e21f0d22f01f8b79721a8ba30b887dcccc38b599f94066d6f5f52f11890"


def recorded(log: EventLog, name: str) -> EventLog:
    """A log of a captured run."""
    translator = Translator(Names())
    log.append([event for line in capture(name) for event in translator.translate(line)])
    return log


@pytest.mark.parametrize(
    ("name", "containers", "expected"),
    [
        (
            "a",
            {"build": 3, "service": 1, "predefined": 6, "cache-init": 6, "wait": 1},
            [
                ("1001", "build", JOB_A),
                ("1002", "build", JOB_A),
                ("1003", "build", JOB_B),
                ("1003", "service", SERVICE),
            ],
        ),
        (
            "v12",
            {"build": 3, "service": 1, "predefined": 18, "cache": 4, "wait": 1},
            [
                ("1001", "build", JOB_A),
                ("1002", "build", JOB_A),
                ("1003", "build", JOB_B),
                ("1003", "service", SERVICE),
            ],
        ),
        ("race-if-not-present", {"build": 1, "predefined": 2, "cache-init": 2}, [("2001", "build", JOB_A)]),
        # The image was removed before the build container was made: the job failed without one.
        ("race-never", {"predefined": 2, "cache-init": 2}, []),
    ],
)
def test_every_start_of_a_captured_run_is_its_jobs(
    log: EventLog, name: str, containers: dict[str, int], expected: list[tuple[str, str, str]]
) -> None:
    recorded(log, name)
    assert dict(log.query("SELECT role, count(*) FROM job_containers GROUP BY role")) == containers
    found = log.query(
        "SELECT job_id, role, image_id FROM job_images WHERE role IN ('build', 'service') ORDER BY job_id, role"
    )
    assert found == expected
    unattributed = log.query("SELECT count(*) FROM event WHERE kind = 'container_created' AND job IS NULL")
    assert unattributed == [(0,)]


def test_a_captured_job_is_known_with_all_its_labels(log: EventLog) -> None:
    recorded(log, "a")
    rows = log.query(
        "SELECT ci, job_id, project_id, project, pipeline_id, ref, sha, url, runner, containers, images,"
        " ended > began, living FROM (SELECT *, ended IS NULL AS living FROM jobs) ORDER BY job_id"
    )
    assert [row[1] for row in rows] == ["1001", "1002", "1003"]
    url = "http://127.0.0.1:5088/mesa/mesa/-/jobs/1003"
    assert rows[2] == (
        *("gitlab", "1003", "7", "mesa/mesa", "99", "main", "a" * 40, url, "abcdefgh", 7, 2, True, False),
    )


def test_one_query_says_which_project_uses_which_image(log: EventLog) -> None:
    recorded(log, "v12")
    rows = log.query(
        "SELECT project_id, reference, count(DISTINCT job_id) FROM job_images WHERE role = 'build'"
        " GROUP BY ALL ORDER BY reference"
    )
    # The names of images come from inventories, which a captured stream has none of.
    assert rows == [("7", None, 3)]


@pytest.mark.parametrize(
    ("labels", "name", "expected", "role"),
    [
        (
            {
                **{
                    f"{G}{key}": value
                    for key, value in {"build.id": "5", "build.ref_name": "v1", "type": "build"}.items()
                },
                f"{G}build.sha": "c0ffee",
                f"{G}project.id": "7",
            },
            "runner-x-project-7-concurrent-0-build",
            Job("gitlab", "5", "7", ref="v1", sha="c0ffee"),
            "build",
        ),
        (
            {
                f"{G}job.id": "6",
                f"{G}job.url": "https://git.example.org/a/b/c/-/jobs/6",
                f"{G}runner.system_id": "s_1",
                f"{G}type": "service",
            },
            "",
            Job("gitlab", "6", project="a/b/c", url="https://git.example.org/a/b/c/-/jobs/6", system_id="s_1"),
            "service",
        ),
        (
            {
                "com.buildkite.job_id": "0190-a",
                "com.buildkite.pipeline_slug": "app",
                "com.buildkite.pipeline_name": "The App",
                "com.buildkite.build_number": "12",
                "com.buildkite.agent_name": "agent-1",
                "com.buildkite.step_key": "test",
            },
            "",
            Job("buildkite", "0190-a", "app", "The App", "12", runner="agent-1", name="test"),
            "build",
        ),
        ({"com.nirima.jenkins.plugins.docker.JenkinsId": "master-1"}, "", Job("jenkins", runner="master-1"), "agent"),
        (
            {"com.docker.compose.project": "shop", "com.docker.compose.service": "db"},
            "shop-db-1",
            Job("compose", project_id="shop", project="shop"),
            "db",
        ),
        (
            {"9dbb4f": "", "org.example.kind": "base"},
            "0a1b2c3d4e5f60718293a4b5c6d7e8f9_node20bookworm_1f2e3d",
            Job("github", runner="9dbb4f"),
            "job",
        ),
        (
            {
                "io.kubernetes.pod.name": "web-1",
                "io.kubernetes.pod.namespace": "prod",
                "io.kubernetes.pod.uid": "u-1",
                "io.kubernetes.container.name": "POD",
            },
            "",
            Job("kubernetes", "u-1", "prod", "prod", name="web-1"),
            "sandbox",
        ),
        ({}, "k8s_app_web-1_prod_u-1_0", Job("kubernetes", "u-1", "prod", "prod", name="web-1"), "app"),
        (
            {
                "io.kubernetes.pod.name": "runner-x",
                "io.kubernetes.container.name": "build",
                "project.runner.gitlab.com/id": "7",
                "annotation.job.runner.gitlab.com/id": "8",
            },
            "",
            Job("gitlab", "8", "7", name="runner-x"),
            "build",
        ),
    ],
)
def test_ci_systems_are_recognised(labels: dict[str, str], name: str, expected: Job, role: str) -> None:
    assert job_of(labels, name) == (expected, role)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({}, ""),
        ({"maintainer": "x"}, "runner-x-project-7-concurrent-0-build"),
        ({}, "0a1b2c3d4e5f60718293a4b5c6d7e8f9_node20bookworm_1f2e3d"),
        ({"9dbb4f": ""}, "mine"),
        ({f"{G}job.id": "", f"{G}type": "build"}, ""),
    ],
)
def test_what_no_ci_system_marked_belongs_to_no_job(labels: dict[str, str], name: str) -> None:
    assert job_of(labels, name) is None


@pytest.mark.parametrize(
    ("url", "project"),
    [
        ("https://git.example.org/g/s/p/-/jobs/1", "g/s/p"),
        ("https://git.example.org/g/p/jobs/1", "g/p"),
        ("http://127.0.0.1:5088/mesa/mesa.git", "mesa/mesa"),
        (None, None),
        ("", None),
    ],
)
def test_the_project_is_read_off_an_address(url: str | None, project: str | None) -> None:
    assert project_of(url) == project


def side_band(time_ns: int, job: Job, kind: Kind = Kind.JOB_STARTED, **more: object) -> Event:
    return Event(time_ns, kind, attributes={"job": job.to_json(), **more}, identity=f"{kind} {job.job_id}")


def test_what_is_learnt_later_of_a_job_is_added_to_it(log: EventLog) -> None:
    log.append([side_band(1, Job("gitlab", "9", project="g/p"))])
    log.append([side_band(5, Job("gitlab", "9", "7", ref="main"), Kind.JOB_FINISHED, outcome="success", seconds=4e-9)])
    rows = log.query(
        "SELECT job, job_id, project_id, project, ref, epoch_ns(began), epoch_ns(ended), outcome, seconds FROM jobs"
    )
    assert rows == [(0, "9", "7", "g/p", "main", 1, 5, "success", 4e-9)]


def test_jobs_of_two_servers_with_one_number_are_two(log: EventLog) -> None:
    urls = ("https://one.example.org/g/p/-/jobs/9", "https://two.example.org/g/p/-/jobs/9")
    log.append([side_band(k, Job("gitlab", "9", "7", url=url)) for k, url in enumerate(urls, 1)])
    log.append([side_band(3, Job("gitlab", "9", "8"))])
    log.append([side_band(4, Job("gitlab", "9", "7", url=urls[1]))])
    rows = log.query("SELECT job FROM event ORDER BY seq")
    assert rows == [(0,), (1,), (2,), (1,)]


def test_the_jobs_of_an_older_log_are_typed_when_it_is_brought_forward(log: EventLog, tmp_path: Path) -> None:
    recorded(log, "a")
    query = "SELECT * EXCLUDE (job) FROM job_images ORDER BY began, role"
    expected = log.query(query)
    assert len(expected) == 17
    old = tmp_path / "old.duckdb"
    columns = "seq, time, key, recorded, host, kind, image, reference, container, bytes, attributes, began"
    with duckdb.connect(str(old)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (2)")
        for statements in MIGRATIONS[:2]:
            connection.execute(statements)
        connection.execute(f"ATTACH '{log.path}' AS new (READ_ONLY)")
        connection.execute("INSERT INTO image SELECT * FROM new.image")
        connection.execute(f"INSERT INTO event ({columns}) SELECT {columns} FROM ({AS_BEFORE})")
        # What cannot be read is nobody's job.
        connection.execute(
            "INSERT INTO event (seq, time, key, recorded, host, kind, attributes)"
            " SELECT max(seq) + 1, max(time), 1, max(time), 'runner', 'job_finished', '{\"job\": {}}' FROM event"
        )
    brought = EventLog(old, host="runner")
    assert brought.query(query) == expected
    assert brought.query("SELECT count(*) FROM event") == log.query("SELECT count(*) + 1 FROM event")
    # From then on it goes on as any other.
    assert brought.append([side_band(1, Job("gitlab", "1001", "7", name="later"))]) == 1
    assert brought.query("SELECT count(*), max(name) FROM job WHERE job_id = '1001'") == [(1, "later")]


def test_attributes_of_a_job_survive_json() -> None:
    job = Job("gitlab", "1", ref="ä")
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
