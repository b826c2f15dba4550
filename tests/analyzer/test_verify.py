"""Recorded prunes against the history: agreement, and what is said where there is none."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analyzer.audit.verify import PruneCheck, agreement, verify
from collector.daemon.presence import Presence
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import store
from collector.job_sources.joblog import Sighting
from collector.job_sources.runnerlog import JobFact
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.model.jobs import Job
from pruner.policy.file import policy_from, to_json
from pruner.policy.policy import Policy, Space
from pruner.removal.run import run
from pruner.state.jobs_in_flight import Hold
from tests.analyzer.command import analyzer
from tests.analyzer.test_loading import T0, S, container, observed, of_job, sample
from tests.fake_engine import FakeEngine
from tests.fake_holdings import MIB
from tests.needs import first_fast

HOUR, DAY = 3600.0, 86400.0
POLICY = Policy(threshold=Space.parse("50B"), min_age=60.0, inode_threshold=Space.parse("0"))


def recorded(second: float, images: list[dict[str, Any]], policy: Policy | None = POLICY) -> Event:
    """A prune of a disk of 100 bytes with 40 free."""
    plan = {"free_bytes": 40, "free_inodes": 0, "total_bytes": 100, "threshold_bytes": 50.0, "target_bytes": 50.0}
    facts = {
        "prune": f"p{second}",
        "trigger": "timer",
        "policy": {"text": str(policy), "values": to_json(policy)} if policy else {"text": "lru"},
        "plan": plan | {"threshold_inodes": 0.0, "items": [], "images": images},
    }
    return Event(T0 + int(second * S), Kind.PRUNE_STARTED, bytes=40, attributes=facts)


def entry(image: str, reason: str, last_use: float) -> dict[str, Any]:
    return {
        "image": image,
        "references": [f"{image}:1"],
        "reason": reason,
        "frees": 20,
        "last_use": T0 / S + last_use,
        "evidence": "container removed",
    }


def ended(second: float, prune: float, image: str, error: str | None = None) -> Event:
    kind = Kind.ITEM_REMOVED if error is None else Kind.ITEM_FAILED
    facts = {"prune": f"p{prune}", "item": "image", "reason": "evict"} | ({"error": error} if error else {})
    return Event(T0 + int(second * S), kind, image=image, attributes=facts)


@pytest.fixture
def history(log: EventLog) -> EventLog:
    """Images a, b and c, last used at 20, 40 and 60 s, of 20 own bytes each on a base of 10."""
    events = [sample(0, free=40, image_bytes=60), Event(T0, Kind.COLLECTOR_STARTED, attributes={"store": "overlay2"})]
    for k, image in enumerate("abc"):
        events += [observed(1 + k, image), *container(10 + 20 * k, 20 + 20 * k, image, f"c{k}")]
    log.append(events)
    return log


STAYS = [entry("b", "target_reached", 40), entry("c", "target_reached", 60)]


def only(log: EventLog) -> PruneCheck:
    (check,) = verify(log)
    return check


def test_what_the_history_says_was_done(history: EventLog) -> None:
    history.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS]), ended(HOUR + 1, HOUR, "a")])
    # What comes after a prune does not count at it.
    history.append(container(HOUR + 5, HOUR + 9, "a", "later"))
    check = only(history)
    assert (check.agreement, [image.removed for image in check.images]) == (1.0, [True, False, False])
    assert check.to_json()["removed"] == ["a"]
    assert agreement([check]) == 1.0


@pytest.mark.parametrize("order", first_fast("forecast", "lru", "hazard", "gdsf"))
def test_each_order_is_replayed(history: EventLog, order: str) -> None:
    policy = Policy(threshold=Space.parse("50B"), min_age=60.0, inode_threshold=Space.parse("0"), order=order)
    history.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS], policy), ended(HOUR + 1, HOUR, "a")])
    assert only(history).agreement == 1.0


def test_a_use_that_the_pruner_missed_is_named(history: EventLog) -> None:
    history.append(container(70, 80, "a", "c9"))
    history.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS]), ended(HOUR + 1, HOUR, "a")])
    check = only(history)
    causes = {image.image: image.cause for image in check.images if not image.agrees}
    assert set(causes) == {"a", "b"}
    assert causes["a"].startswith("last use: 2023-11-14 22:14:40")
    assert "container removed) by the log, 2023-11-14 22:13:40" in causes["a"]
    assert causes["b"] == "the pruner found it target reached, the replay evict"
    assert check.agreement == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_removal_that_failed_says_why(history: EventLog) -> None:
    history.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS]), ended(HOUR + 1, HOUR, "a", "a container came")])
    check = only(history)
    (image,) = (image for image in check.images if image.kept)
    assert (image.image, image.removed, image.cause, image.agrees) == ("a", False, "a container came", True)
    assert check.to_json()["kept_at_the_last_moment"] == [{"image": "a", "name": "a:1", "cause": "a container came"}]


@pytest.mark.slow
def test_what_was_held_for_a_job_is_said_to_be_asked_for_or_not(history: EventLog) -> None:
    held = [
        entry(image, "held", last)
        | {"hold": Hold(job, T0 / S + HOUR - 60, None, "the job names it", firm=True).to_json()}
        for image, last, job in (("a", 20, "5"), ("b", 40, "6"))
    ]
    history.append([recorded(HOUR, [*held, entry("c", "evict", 60)]), ended(HOUR + 1, HOUR, "c")])
    history.append([replace(one, attributes=of_job(5)) for one in container(HOUR + 9, HOUR + 19, "a", "of-job-5")])
    check = only(history)
    assert check.agreement == 1.0
    assert check.to_json()["held_for_jobs"] == [
        {"image": "a", "name": "a:1", "job": "5", "asked_for": True},
        {"image": "b", "name": "b:1", "job": "6", "asked_for": False},
    ]
    shown = analyzer("verify", "--log", str(history.path)).stdout
    assert "Jobs in flight held an image 2 times; 1 time the job then had no container of it." in " ".join(
        shown.split()
    )


@pytest.mark.slow
def test_what_a_guess_put_last_and_so_kept_is_said_to_be_asked_for_or_not(history: EventLog) -> None:
    """Of the two that may be needed only the one that would have gone without the guess was kept by it."""
    last = [
        entry(image, "target_reached", used)
        | {"hold": Hold("5", T0 / S + HOUR - 60, None, "jobs of its project used it lately", firm=False).to_json()}
        for image, used in (("a", 20), ("c", 60))
    ]
    history.append([recorded(HOUR, [entry("b", "evict", 40), *last]), ended(HOUR + 1, HOUR, "b")])
    check = only(history)
    assert check.agreement == 1.0
    assert check.to_json()["held_for_jobs"] == [{"image": "a", "name": "a:1", "job": "5", "asked_for": False}]


@pytest.mark.slow
@pytest.mark.parametrize("beside", [0, 15])
def test_a_live_prune_beside_a_pull_and_a_job_in_flight_is_what_the_history_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: int
) -> None:
    """What a pull takes for a while has an image more go; what a job in flight may need stays, whatever its turn."""
    engine = FakeEngine(tmp_path / "data", total=100 * MIB)
    engine.folder.mkdir()
    engine.disk_patched(monkeypatch)
    log = EventLog(tmp_path / "events.duckdb")
    images = [engine.add_image(f"{name}:1", age=DAY * (30 - k), verb=None) for k, name in enumerate("abcd")]
    helper, now_ns = engine.add_image("helper:1", verb=None), time.time_ns()
    of_runner = {f"com.gitlab.gitlab-runner.{name}": value for name, value in (("job.id", "5"), ("type", "predefined"))}
    container = engine.add_container(helper, labels=of_runner)
    known = filter(None, map(engine.observe, engine.images()))
    log.append([Presence().observed(image, now_ns - int(DAY * 1e9)) for image in known])
    log.append([Event(now_ns, Kind.CONTAINER_CREATED, image=helper, container=container)])
    store(log, [JobFact(Kind.JOB_IMAGE_USED, Job("gitlab", "5"), now_ns, Sighting("build", "a:1"))], "runner log", 0)
    engine.other_bytes = beside * MIB
    outcome = run(engine, log, policy_from({"threshold": "60%", "min_age": "1h"}, "t"), "t")
    removed = [removal.key for removal, _ in outcome.removed]
    check = only(log)
    assert removed == images[1 : 2 + (beside > 0) * 2]
    assert (check.agreement, {image.image for image in check.images if image.removed}) == (1.0, set(removed))
    assert [image.job for image in check.images if image.image == images[0]] == ["5"]


@pytest.mark.slow
def test_images_that_only_one_side_knows_are_named(history: EventLog) -> None:
    images = [entry("x", "evict", 5), *STAYS]
    history.append([recorded(HOUR, images), ended(HOUR + 1, HOUR, "x")])
    causes = {image.image: image.cause for image in only(history).images if not image.agrees}
    assert "the log did not know it yet" in causes["x"]
    assert "the pruner did not see it" in causes["a"]


def test_an_older_record_is_passed_over_and_said_so(history: EventLog) -> None:
    history.append([recorded(HOUR, [entry("a", "evict", 20)], policy=None)])
    check = only(history)
    assert check.skipped == "its policy was recorded in words only, by an older version"
    assert (check.to_json()["agreement"], agreement([check])) == (None, None)
    shown = analyzer("verify", "--log", str(history.path))
    assert shown.returncode == 0
    assert "not replayed: its policy was recorded in words only" in shown.stdout


def test_a_prune_without_its_plan_is_passed_over_and_said_so(history: EventLog) -> None:
    history.append([Event(T0 + int(HOUR * S), Kind.PRUNE_STARTED, attributes={"prune": "p", "trigger": "timer"})])
    assert only(history).skipped == "no plan was recorded with it"


@pytest.mark.slow
def test_the_command_prints_rows_causes_and_json(history: EventLog) -> None:
    history.append([recorded(HOUR, [entry("a", "evict", 20), *STAYS]), ended(HOUR + 1, HOUR, "a", "in use")])
    history.append([recorded(2 * HOUR, [entry("a", "evict", 20), *STAYS]), ended(2 * HOUR + 1, 2 * HOUR, "a")])
    table = analyzer("verify", "--log", str(history.path))
    assert table.returncode == 0, table.stderr
    assert "a:1 was kept at the last moment: in use" in table.stdout
    assert "100.0% of 6 verdicts" in table.stdout
    assert "1 of them kept at the last moment for a recorded reason" in table.stdout
    data = json.loads(analyzer("verify", "--log", str(history.path), "--last", "1", "--format", "json").stdout)
    assert (data["agreement"], len(data["prunes"])) == (1.0, 1)


def test_a_log_without_prunes_is_refused(history: EventLog) -> None:
    with pytest.raises(LogError, match="holds no prune yet"):
        verify(history)
    assert analyzer("verify", "--log", str(history.path)).returncode == 1
