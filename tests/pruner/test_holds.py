"""A job whose build container does not exist yet holds the image that it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import ingest, store
from collector.job_sources.joblog import Sighting
from collector.job_sources.reading import PipedLog
from collector.job_sources.runnerlog import JobFact
from collector.model.events import Event, Kind
from collector.model.jobs import Job
from collector.model.observation import ListedContainer
from pruner.state import job_memory
from pruner.state.job_memory import RunnerPolicies, configured_policies, read_jobs
from pruner.state.jobs_in_flight import (
    Flight,
    Hold,
    Holdable,
    JobMemory,
    PastUse,
    flights,
    held_for_jobs,
)
from pruner.state.pull_policies import Build, pull_policies
from tests.collector.test_ingest import STORY
from tests.collector.test_jobs import JOB_A, JOB_B, SERVICE, recorded
from tests.collector.test_translate import Names, capture

G = "com.gitlab.gitlab-runner."
NOW = 1_795_510_490.0
HELPER = "sha256:" + "e" * 64


@dataclass(frozen=True)
class Held:
    image_id: str
    names: tuple[str, ...] = ()
    pulled: float = 0.0
    local: bool = False


IMAGES: list[Holdable] = [Held(JOB_A, ("mesa/joba:1",)), Held(JOB_B, ("mesa/jobb:1",)), Held(SERVICE, ("ci/svc:1",))]


def container(
    role: str, job: str = "5", project: str = "7", age: float = 10.0, state: str = "running", slot: int | None = None
) -> ListedContainer:
    labels = {f"{G}job.id": job, f"{G}project.id": project, f"{G}type": role}
    name = f"{job}-{role}" if slot is None else f"runner-abcd-project-{project}-concurrent-{slot}-{job}-{role}"
    return ListedContainer(f"{job}-{role}", HELPER, name, state, int((NOW - age) * 1e9), labels)


def flying(containers: list[ListedContainer], memory: JobMemory, **stopped: float) -> dict[str, float]:
    """Age of each flight in seconds, by job."""
    ended = {f"5-{role.replace('_', '-')}": NOW - age for role, age in stopped.items()}
    return {one.job_id: NOW - one.began for one in flights(containers, memory, NOW, ended)}


def held(containers: list[ListedContainer], images: Sequence[Holdable], memory: JobMemory) -> dict[str, bool]:
    """Which images are held, and whether whatever happens."""
    return {image: hold.firm for image, hold in held_for_jobs(containers, images, memory, NOW).items()}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([], {}),
        ([container("predefined")], {"5": 10}),
        ([container("service", age=20), container("predefined")], {"5": 20}),
        ([container("predefined"), container("build", age=5)], {}),
        ([container("predefined"), container("build", job="6")], {"5": 10}),
        # Left over: of a runner until 12.9, and of one that was killed.
        ([container("cache", state="exited")], {}),
        ([container("predefined", state="exited", age=7 * 3600)], {}),
        ([container("service", age=7 * 3600)], {}),
        ([container("predefined", state="exited", age=60)], {"5": 60}),
        ([ListedContainer("x", HELPER, "runner-x-project-7-concurrent-0-predefined", "running", 0, {})], {}),
        # A later job in the same slot; another slot says nothing.
        ([container("predefined", slot=0), container("build", "6", age=5, slot=0)], {}),
        ([container("predefined", slot=0), container("build", "6", age=5, slot=1)], {"5": 10}),
        ([container("predefined", slot=0), container("build", "4", age=20, slot=0)], {"5": 10}),
    ],
)
def test_a_job_is_in_flight_until_its_build_container_exists(
    containers: list[ListedContainer], expected: dict[str, float]
) -> None:
    assert flying(containers, JobMemory()) == expected


def test_a_flight_ends_with_its_containers_but_for_a_pull_that_the_runners_log_shows() -> None:
    left = [container("cache-init", state="exited", age=900)]
    assert flying(left, JobMemory(), cache_init=299) == {"5": 900}
    assert flying(left, JobMemory(), cache_init=301) == {}
    assert flying(left, JobMemory(open=frozenset({"5"})), cache_init=301) == {"5": 900}
    assert flying([*left, container("service", age=800)], JobMemory(), cache_init=301) == {"5": 900}


def test_a_flight_ends_with_the_job_as_the_runners_log_has_it() -> None:
    assert flying([container("predefined")], JobMemory(ended=frozenset({"5"}))) == {}
    slots = {"runner-abcd-project-7-concurrent-0": (NOW - 5, "6")}
    assert flying([container("predefined", slot=0)], JobMemory(slots=slots)) == {}
    assert flying([container("predefined", slot=1)], JobMemory(slots=slots)) == {"5": 10}


def test_a_job_that_only_the_runners_log_shows_is_in_flight_for_an_hour() -> None:
    memory = JobMemory(begun=(Flight("8", "7", NOW - 60), Flight("9", "7", NOW - 3700)))
    assert flying([], memory) == {"8": 60}


def test_without_a_log_what_was_pulled_since_the_job_began_goes_last() -> None:
    images = [Held(JOB_A, pulled=NOW - 5), Held(JOB_B, pulled=NOW - 500), Held(SERVICE, pulled=NOW - 5, local=True)]
    assert held([container("predefined")], images, JobMemory()) == {JOB_A: False, SERVICE: True}
    assert held([], images, JobMemory()) == {}


def test_what_a_job_may_need_is_what_its_name_and_ref_used_lately() -> None:
    uses = (PastUse(JOB_A, "main", "build"), PastUse(JOB_B, "main", "lint"), PastUse(SERVICE, "topic", "build"))
    memory = JobMemory(uses={"7": uses, "8": (PastUse(JOB_B, None, None),)})

    def begun(ref: str | None, name: str | None) -> set[str]:
        output = replace(memory, begun=(Flight("5", "7", NOW - 60, ref=ref, name=name),))
        return set(held([], IMAGES, output))

    assert begun("main", "lint") == {JOB_B}
    assert begun("main", "new") == begun("main", None) == {JOB_A, JOB_B}
    assert begun("new", None) == {JOB_A, JOB_B, SERVICE}
    assert held([container("predefined", project="9")], IMAGES, memory) == {}


def test_a_guess_holds_firmly_only_what_no_pull_can_bring_back() -> None:
    images = [*IMAGES[:2], Held(SERVICE, local=True)]
    memory = JobMemory(uses={"7": tuple(PastUse(image.image_id, None, None) for image in images)})
    one = replace(memory, begun=(Flight("5", "7", NOW - 60, runner="abcdefgh"),))
    assert held([], images, one) == {JOB_A: False, JOB_B: False, SERVICE: True}
    for policy, expected in (
        ("if-not-present", {JOB_A: False, JOB_B: False, SERVICE: False}),
        ("never", {JOB_A: True, JOB_B: True, SERVICE: True}),
        ("always", {}),
    ):
        assert held([], images, replace(one, configured={"abcdefgh": policy})) == expected, policy
        assert held([], images, replace(one, policies={("7", "abcdefgh"): policy})) == expected, policy
    # The configuration knows better than the past.
    both = replace(one, configured={"abcdefgh": "never"}, policies={("7", "abcdefgh"): "always"})
    assert held([], images, both)[JOB_A]


def test_a_hold_names_the_job_its_container_and_its_age() -> None:
    memory = JobMemory(uses={"7": (PastUse(JOB_A, None, None),)})
    (hold,) = held_for_jobs([container("predefined", slot=0)], IMAGES, memory, NOW).values()
    assert hold.summary(NOW) == (
        "job 5, in flight for 10 s (container runner-abcd-project-7-concurrent-0-5-predefined): "
        "jobs of its project used it lately"
    )
    assert Hold.from_json(hold.to_json()) == hold


def test_pull_policies_are_read_from_the_runners_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[[runners]]\ntoken = "abcdefgh12"\n[runners.docker]\npull_policy = "never"\n'
        '[[runners]]\ntoken = "glrt-ijklmnop34"\n[runners.docker]\npull_policy = ["if-not-present", "always"]\n'
        '[[runners]]\ntoken = "qrstuvwx56"\n[runners.docker]\nimage = "a"\n'
        '[[runners]]\ntoken = "yz12345678"\n[runners.docker]\nallowed_pull_policies = ["never"]\n'
        '[[runners]]\ntoken = 5\n[[runners]]\ntoken = "shellshell"\n'
    )
    found = RunnerPolicies(configured_policies(config))
    shown = {short: found.get(short) for short in ("abcdefgh", "ijklmnop", "qrstuvwx", "yz123456", "", "unknown1")}
    assert shown == {
        "abcdefgh": "never",
        "ijklmnop": "if-not-present",
        "qrstuvwx": "always",
        **dict.fromkeys(("yz123456", "", "unknown1")),
    }
    for text in ("[[runners", 'runners = "x"', "runners = [1]"):
        config.write_text(text)
        assert configured_policies(config) == {}


def test_an_image_that_a_job_source_names_is_the_only_one_held(log: EventLog) -> None:
    recorded(log, "a")
    jobs = [container("predefined", job="3000")]
    assert held(jobs, IMAGES, read_jobs(log, NOW)) == {JOB_A: False, JOB_B: False, SERVICE: False}
    configured = JobFact(
        Kind.JOB_IMAGE_USED, Job("gitlab", "3000", "7"), int((NOW - 5) * 1e9), Sighting("build", "mesa/jobb:1")
    )
    store(log, [configured], "runner log", 0)
    # The runner's log names the image that a job builds in before its services.
    assert held(jobs, IMAGES, read_jobs(log, NOW)) == {JOB_B: True, SERVICE: False}


def test_of_a_busy_projects_past_the_latest_jobs_of_each_name_count(log: EventLog) -> None:
    def ran(job: int, name: str, image: str) -> Event:
        labels = {f"{G}job.id": str(job), f"{G}project.id": "7", f"{G}type": "build"}
        attributes = {"labels": labels, "job": name}
        at = int((NOW - 6000 + job) * 1e9)
        return Event(at, Kind.CONTAINER_CREATED, image=image, container=f"c{job}", attributes=attributes)

    few = 2
    seldom = [ran(number, "seldom", JOB_B) for number in range(few)]
    moved = [ran(few, "often", SERVICE)]
    often = [ran(number, "often", JOB_A) for number in range(few + 1, 3 * job_memory._LATEST_OF_NAME)]
    log.append([*seldom, *moved, *often])
    jobs = [container("predefined", job="3000")]
    memory = read_jobs(log, NOW)
    memory = memory.about(flights(jobs, memory, NOW))
    assert {(use.name, use.image) for use in memory.uses["7"]} == {("seldom", JOB_B), ("often", JOB_A)}


def build(job: int, *, image: str = JOB_A, first: float | None = None) -> Build:
    began = 1000.0 * job if first is None else first
    return Build(str(job), "7", "r", image, began, began + 30)


def test_only_a_jobs_own_pull_of_an_image_that_was_there_shows_the_policy_always() -> None:
    jobs = [build(1), build(2), build(3)]
    there = [(0.0, "image_pulled")]
    own = [(1000.0 * job + 10, "image_pulled") for job in (1, 2, 3)]
    always = {("7", "r"): "always"}
    assert pull_policies(jobs, {JOB_A: there + own}) == always
    assert pull_policies(jobs[:2], {JOB_A: there + own[:2]}) == {}
    # Pulled because it was not there, by some of them; or by none of them; or by another job at the same time.
    gone = [(1900.0, "image_deleted")]
    assert pull_policies(jobs, {JOB_A: sorted(there + own + gone)}) == {}
    assert pull_policies([*jobs, build(4)], {JOB_A: sorted([*there, *own, *gone, (4010.0, "image_pulled")])}) == always
    assert pull_policies(jobs, {JOB_A: there + own[:2]}) == {}
    assert pull_policies([*jobs, build(9, first=2005.0)], {JOB_A: there + own}) == {}
    assert pull_policies(jobs, {JOB_A: there}) == pull_policies(jobs, {}) == {}


@pytest.mark.parametrize("name", ["race-if-not-present", "race-never"])
def test_at_the_moment_of_the_captured_race_the_image_was_held(log: EventLog, name: str) -> None:
    lines = capture(name)
    at = next(line["timeNano"] for line in lines if (line["Type"], line["Action"]) == ("image", "untag"))
    # An earlier run of the same project is the log's past; then all up to the removal.
    recorded(log, "a")
    translator = Translator(Names())
    log.append([event for line in lines if line["timeNano"] < at for event in translator.translate(line)])
    rows = log.query(
        "SELECT container, image_id, epoch_ns(began), labels FROM job_containers JOIN image USING (image) JOIN ("
        "SELECT container, any_value(CAST(attributes -> '$.labels' AS MAP(VARCHAR, VARCHAR))) AS labels"
        " FROM events WHERE kind = 'container_created' GROUP BY container) USING (container) WHERE ended IS NULL"
    )
    listed = [ListedContainer(row[0], row[1], "", "running", row[2], row[3]) for row in rows]
    assert [row.labels[f"{G}type"] for row in listed] == ["predefined"]
    now = at / 1e9
    memory = read_jobs(log, now)
    assert [flight.job_id for flight in flights(listed, memory, now)] == ["2001"]
    assert set(held_for_jobs(listed, IMAGES, memory, now)) == {JOB_A, JOB_B, SERVICE}


def test_a_job_that_the_runner_log_says_holds_its_image_before_any_container(log: EventLog) -> None:
    ingest(log, PipedLog(STORY[:2], 0))
    now = 1_795_507_205.0
    memory = read_jobs(log, now)
    assert [flight.job_id for flight in memory.begun] == ["5"]
    images: list[Holdable] = [Held(JOB_A, ("docker.io/library/a:1",)), *IMAGES[1:]]
    assert {image: hold.firm for image, hold in held_for_jobs([], images, memory, now).items()} == {JOB_A: True}
    ingest(log, PipedLog(STORY, 0))
    assert held_for_jobs([], IMAGES, read_jobs(log, now), now) == {}
