"""A job whose build container does not exist yet holds the image that it may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import ingest_stream, store
from collector.job_sources.joblog import Sighting
from collector.job_sources.runnerlog import JobNamesImage
from collector.model.events import Event, Kind
from collector.model.jobs import Job
from collector.model.observation import ListedContainer
from pruner.state.jobs_in_flight import Flight, JobMemory, flights, held_for_jobs, read_jobs
from tests.collector.test_ingest import STORY
from tests.collector.test_jobs import JOB_A, JOB_B, SERVICE, witnessed
from tests.collector.test_translate import Names, capture

G = "com.gitlab.gitlab-runner."
NOW = 1_795_510_490.0
HELPER = "sha256:" + "e" * 64


@dataclass(frozen=True)
class Held:
    image_id: str
    names: tuple[str, ...] = ()
    last_use: float = 0.0


IMAGES = [Held(JOB_A, ("mesa/joba:1",)), Held(JOB_B, ("mesa/jobb:1",)), Held(SERVICE, ("ci/svc:1",))]


def container(
    role: str, job: str = "5", project: str = "7", age: float = 10.0, state: str = "running"
) -> ListedContainer:
    labels = {f"{G}job.id": job, f"{G}project.id": project, f"{G}type": role}
    return ListedContainer(f"{job}-{role}", HELPER, "", state, int((NOW - age) * 1e9), labels)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.duckdb", host="runner-1")


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([], []),
        ([container("predefined")], [Flight("5", "7", NOW - 10)]),
        ([container("service", age=20), container("predefined")], [Flight("5", "7", NOW - 20)]),
        ([container("predefined"), container("build", age=5)], []),
        ([container("predefined"), container("build", job="6")], [Flight("5", "7", NOW - 10)]),
        # Left over: of a runner until 12.9, and of one that was killed.
        ([container("cache", state="exited")], []),
        ([container("predefined", state="exited", age=7 * 3600)], []),
        ([container("predefined", state="exited", age=60)], [Flight("5", "7", NOW - 60)]),
        ([ListedContainer("x", HELPER, "runner-x-project-7-concurrent-0-predefined", "running", 0, {})], []),
    ],
)
def test_a_job_is_in_flight_until_its_build_container_exists(
    containers: list[ListedContainer], expected: list[Flight]
) -> None:
    assert flights(containers, JobMemory(), NOW) == expected


def test_what_a_side_band_says_has_begun_is_in_flight_for_an_hour() -> None:
    memory = JobMemory(begun=(Flight("8", "7", NOW - 60), Flight("9", "7", NOW - 3700)))
    assert flights([], memory, NOW) == [Flight("8", "7", NOW - 60)]


def test_without_a_log_what_was_used_since_the_job_began_is_held() -> None:
    images = [Held(JOB_A, last_use=NOW - 5), Held(JOB_B, last_use=NOW - 500)]
    assert held_for_jobs([container("predefined")], images, JobMemory(), NOW) == {JOB_A}
    assert held_for_jobs([], images, JobMemory(), NOW) == frozenset()


def test_all_that_the_project_has_used_is_held_unless_its_jobs_always_pull() -> None:
    projects = {"7": frozenset({JOB_A, SERVICE}), "8": frozenset({JOB_B})}
    memory = JobMemory(projects=projects)
    assert held_for_jobs([container("predefined")], IMAGES, memory, NOW) == {JOB_A, SERVICE}
    assert held_for_jobs([container("predefined", project="9")], IMAGES, memory, NOW) == frozenset()
    always = JobMemory(projects=projects, always=frozenset({"7"}))
    assert held_for_jobs([container("predefined")], IMAGES, always, NOW) == frozenset()


def test_an_image_that_a_side_band_names_is_the_only_one_held(log: EventLog) -> None:
    witnessed(log, "a")
    memory = read_jobs(log, NOW)
    assert memory.projects == {"7": {JOB_A, JOB_B, SERVICE}}
    flying = [container("predefined", job="3000")]
    assert held_for_jobs(flying, IMAGES, memory, NOW) == {JOB_A, JOB_B, SERVICE}
    configured = JobNamesImage(Job("gitlab", "3000", "7"), int((NOW - 5) * 1e9), Sighting("build", "mesa/jobb:1"))
    store(log, [configured], "runner log", 0)
    assert held_for_jobs(flying, IMAGES, read_jobs(log, NOW), NOW) == {JOB_B}


def test_projects_that_always_pull_are_known_by_their_past(log: EventLog) -> None:
    def job(number: int, *, pulled: bool) -> list[Event]:
        at = int(NOW - 1000 + 100 * number) * 10**9
        labels = {f"{G}job.id": str(number), f"{G}project.id": "7" if pulled else "8"}
        made = [
            Event(
                at,
                Kind.CONTAINER_CREATED,
                HELPER,
                container=f"p{number}",
                attributes={"labels": labels | {f"{G}type": "predefined"}},
            ),
            Event(
                at + 2,
                Kind.CONTAINER_CREATED,
                JOB_A,
                container=f"b{number}",
                attributes={"labels": labels | {f"{G}type": "build"}},
            ),
        ]
        return [*made, Event(at + 1, Kind.IMAGE_PULLED, JOB_A, "mesa/joba:1")] if pulled else made

    log.append([event for number in range(6) for event in job(number, pulled=number % 2 == 0)])
    assert read_jobs(log, NOW).always == {"7"}


@pytest.mark.parametrize("name", ["race-if-not-present", "race-never"])
def test_at_the_moment_of_the_captured_race_the_image_was_held(log: EventLog, name: str) -> None:
    lines = capture(name)
    at = next(line["timeNano"] for line in lines if (line["Type"], line["Action"]) == ("image", "untag"))
    # An earlier run of the same project is the log's past; then all up to the removal.
    witnessed(log, "a")
    translator = Translator(Names())
    log.append([event for line in lines if line["timeNano"] < at for event in translator.translate(line)])
    rows = log.query(
        "SELECT container, image_id, epoch_ns(began), labels FROM job_containers JOIN image USING (image) JOIN ("
        "SELECT container, any_value(CAST(attributes -> '$.labels' AS MAP(VARCHAR, VARCHAR))) AS labels"
        " FROM event WHERE kind = 'container_created' GROUP BY container) USING (container) WHERE ended IS NULL"
    )
    listed = [ListedContainer(row[0], row[1], "", "running", row[2], row[3]) for row in rows]
    assert [row.labels[f"{G}type"] for row in listed] == ["predefined"]
    now = at / 1e9
    memory = read_jobs(log, now)
    assert [flight.job_id for flight in flights(listed, memory, now)] == ["2001"]
    assert held_for_jobs(listed, IMAGES, memory, now) == {JOB_A, JOB_B, SERVICE}


def test_a_job_that_the_runner_log_tells_holds_its_image_before_any_container(log: EventLog) -> None:
    ingest_stream(log, STORY[:2], 0)
    now = 1_795_507_205.0
    memory = read_jobs(log, now)
    assert [flight.job_id for flight in memory.begun] == ["5"]
    assert held_for_jobs([], [Held(JOB_A, ("docker.io/library/a:1",)), *IMAGES[1:]], memory, now) == {JOB_A}
    ingest_stream(log, STORY, 0)
    assert held_for_jobs([], IMAGES, read_jobs(log, now), now) == frozenset()
