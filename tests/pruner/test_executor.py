"""Races and faults while things are removed, each at a chosen moment: nothing goes that is used, all is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog import database
from collector.eventlog.log import EventLog
from collector.eventlog.spool import Spool
from collector.machine.reserve import Reserve, reserves
from collector.model.errors import EngineError, LogError, LogFullError, UnansweredError
from collector.model.events import Event, Kind
from collector.model.jobs import GITLAB
from collector.model.origin import Origin
from pruner.policy.file import policy_from
from pruner.removal import executor, run
from pruner.removal.executor import Outcome
from pruner.state import job_memory
from tests.fake_engine import FakeEngine
from tests.fake_holdings import MIB
from tests.needs import first_fast

DAY = 86400.0
OLD = 30 * DAY
POLICY = policy_from({"threshold": "100%", "min_age": "1h"}, "t")


class Bench:
    """A fake engine with a log, and prunes of everything that may go."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine(folder / "data", total=100 * MIB)
        self.engine.folder.mkdir()
        self.log = EventLog(folder / "events.duckdb")

    def prune(self, **policy: object) -> Outcome:
        return run.run(self.engine, self.log, policy_from(policy, "t", POLICY), "t")

    def failed(self, outcome: Outcome) -> dict[str, str]:
        return {removal.key: why for removal, why in outcome.failed}

    def recorded(self, kind: str) -> set[str]:
        rows = self.log.query("SELECT coalesce(image_id, container, reference) FROM events WHERE kind = ?", [kind])
        return {str(row[0]) for row in rows}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    made.engine.disk_patched(monkeypatch)
    monkeypatch.setattr(run, "leave_foresight", lambda *_, **__: None)  # a plan more, which removes nothing
    return made


def old_image(bench: Bench, *names: str) -> str:
    return bench.engine.add_image(*names, age=OLD, verb=None)


def test_all_that_is_old_goes_and_is_recorded(bench: Bench) -> None:
    first, second = old_image(bench, "a:1"), old_image(bench, "b:1", "b:2")
    outcome = bench.prune()
    assert bench.engine.image_table == {}
    assert {removal.key for removal, _ in outcome.removed} == {first, second} == bench.recorded("item_removed")
    assert outcome.freed == sum(freed for _, freed in outcome.removed) == 20 * MIB


RACES: dict[str, tuple[Callable[[FakeEngine, str], object], str]] = {
    "container": (lambda engine, image: engine.add_container(image), "a container refers to it now"),
    "pull": (lambda engine, _: engine.emit("image", "pull", "a:1", name="a"), "pulled since the plan was made"),
    "name": (lambda engine, image: engine.tag(image, "a", "2"), "its references have moved since the plan was made"),
    "untag": (lambda engine, _: engine.remove_image("a:1"), "gone already"),
    "moved": (
        lambda engine, _: engine.add_image("a:1", age=OLD, verb=None),
        "its references have moved since the plan was made",
    ),
}


@pytest.mark.parametrize("race", first_fast(*RACES))
def test_what_changes_between_plan_and_removal_is_noticed(bench: Bench, race: str) -> None:
    image = old_image(bench, "a:1")
    act, why = RACES[race]
    # The survey lists images first; the executor, right before it removes one, again.
    bench.engine.before("images", lambda: act(bench.engine, image), skip=1)
    outcome = bench.prune()
    assert bench.failed(outcome)[image] == why
    assert image in bench.recorded("item_failed")
    assert ("remove_image", image) not in bench.engine.calls


@pytest.mark.parametrize("fault", [None, "event log is held by another process"])
def test_what_a_job_may_need_that_begins_after_the_plan_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    image, helper = old_image(bench, "a:1"), old_image(bench, "helper:1")
    began_ns = time.time_ns() - int(DAY * 1e9)
    built = {"labels": {f"{GITLAB}job.id": "1", f"{GITLAB}project.id": "7", f"{GITLAB}type": "build"}}
    bench.log.append(
        [
            Event(began_ns, Kind.CONTAINER_CREATED, image=image, container="c" * 64, attributes=built),
            Event(began_ns + 1, Kind.CONTAINER_DESTROYED, image=image, container="c" * 64, began_ns=began_ns),
        ]
    )

    def act() -> None:
        labels = {f"{GITLAB}job.id": "2", f"{GITLAB}project.id": "7", f"{GITLAB}type": "predefined"}
        bench.engine.add_container(helper, labels=labels)
        if fault is not None:
            monkeypatch.setattr(job_memory._Past, "_read", read)

    reads = job_memory._Past._read

    def read(*_: Any) -> Any:
        monkeypatch.setattr(job_memory._Past, "_read", reads)
        raise LogError(fault or "")

    bench.engine.before("images", act, skip=1)
    why = bench.failed(bench.prune())[image]
    assert why.startswith("a job that has begun since may need it: ")
    assert why.endswith(fault or ": jobs of its project used it lately")
    assert image in bench.engine.image_table


@pytest.mark.parametrize("race", first_fast("removed", "renamed"))
def test_a_superseded_local_image_stays_if_the_later_one_goes_meanwhile(bench: Bench, race: str) -> None:
    old, later = (bench.engine.add_image(f"app:{n}", age=OLD, origin=Origin.LOCAL, verb=None) for n in (1, 2))
    kinds = [Kind.COLLECTOR_STARTED, *([Kind.IMAGE_TAGGED] * 2)]
    began_ns = time.time_ns() - int(OLD * 1e9)
    bench.log.append(
        [
            Event(began_ns + n, kind, image=image)
            for n, kind, image in zip(range(3), kinds, (None, old, later), strict=True)
        ]
    )
    bench.log.append([Event(time.time_ns(), Kind.DISK_SAMPLED)])

    def act() -> None:
        if race == "renamed":
            bench.engine.tag(later, "other", "1")
        bench.engine.remove_image("app:2")

    wanted = {"local_idle": "1d"}
    made = run.make_plan(bench.engine, bench.log, policy_from(wanted, "t", POLICY))
    assert [verdict.image.image_id for verdict in made.evictions] == [old]
    bench.engine.before("images", act, skip=1)
    outcome = bench.prune(**wanted)
    assert bench.failed(outcome)[old] == "it exists only on this host, and is the latest of a repository now"
    assert old in bench.engine.image_table


def test_a_container_that_comes_after_the_last_question_is_refused_and_names_are_given_back(bench: Bench) -> None:
    image = old_image(bench, "a:1", "a:2")
    bench.engine.before("remove_image", lambda: bench.engine.add_container(image, state="created"), image)
    outcome = bench.prune()
    assert "container" in bench.failed(outcome)[image]
    assert sorted(bench.engine.image_table[image].references) == ["a:1", "a:2"]


def test_a_use_between_two_names_stops_the_removal_and_gives_the_first_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MAX_ROUNDS", 1)
    image = old_image(bench, "a:1", "a:2")
    engine = bench.engine
    engine.before("remove_image", lambda: engine.emit("container", "start", "c", image="a:2", name="job"), "a:1")
    outcome = bench.prune()
    assert bench.failed(outcome) == {image: "container started since the plan was made"}
    assert sorted(engine.image_table[image].references) == ["a:1", "a:2"]


@pytest.mark.parametrize("method", first_fast("images", "containers", "buffered_events", "remove_image"))
def test_an_engine_that_is_lost_ends_the_prune_and_the_next_run_records_the_rest(bench: Bench, method: str) -> None:
    first, second = old_image(bench, "a:1"), old_image(bench, "b:1")
    # What the survey asks is answered: the engine is lost while the plan is carried out.
    run.make_plan(bench.engine, bench.log, POLICY)
    bench.engine.before(method, lambda: bench.engine.fail("info"), skip=bench.engine.asked(method))
    bench.engine.fail(method, skip=bench.engine.asked(method))
    with pytest.raises(EngineError, match="no engine answers"):
        bench.prune()
    bench.prune(threshold="1B")
    gone = {first, second} - set(bench.engine.image_table)
    assert bench.recorded("item_removed") == gone
    assert bench.log.query("SELECT count(*) FROM prunes WHERE finished IS NULL") == [(0,)]


@pytest.mark.parametrize(
    "error", first_fast(EngineError("the engine hung up"), UnansweredError("it did not answer in time"))
)
def test_what_the_engine_fails_over_does_not_keep_it_from_the_rest(bench: Bench, error: EngineError) -> None:
    """As one whose removal hangs in the kernel, or makes the engine panic."""
    first, second = old_image(bench, "a:1"), old_image(bench, "b:1")
    bench.engine.fail("remove_image", first, error)
    outcome = bench.prune()
    assert set(bench.engine.image_table) == {first}
    assert bench.failed(outcome) == {first: str(error)}
    assert bench.recorded("item_removed") == {second}
    (again,) = run.make_plan(bench.engine, bench.log, POLICY).evictions
    assert "last, for the engine refused it" in again.detail
    assert again.detail.endswith(str(error))


@pytest.mark.parametrize("kept", [True, False])
def test_an_engine_that_cannot_list_images_without_a_block_gets_the_reserve(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """As Podman, which writes a file for each image that it lists."""
    image = old_image(bench, "a:1")
    reserve, *_ = reserves(bench.log.path)
    if kept:
        reserve.path.write_bytes(b"x")
    monkeypatch.setattr(Reserve, "_free", lambda _: 0)
    bench.engine.refuse("images", "write /var/tmp/1: no space left on device")
    if not kept:
        with pytest.raises(EngineError, match=r"completely full\. Get one block by hand"):
            bench.prune()
    else:
        assert [removal.key for removal, _ in bench.prune().removed] == [image]
        assert not reserve.path.exists()


def test_what_an_interrupted_prune_removed_is_recorded_also_when_it_was_pulled_again(bench: Bench) -> None:
    """Nobody else recorded the removal: the collector was killed, too."""
    image = bench.engine.add_image("a:1", age=OLD, verb=None)
    stays = bench.engine.add_image("b:1", age=OLD, verb=None)
    planned = [{"image": one, "reason": "evict", "references": [], "frees": 1} for one in (image, stays)]
    # The same image left once before, which is not this prune's doing.
    bench.engine.emit("image", "delete", stays, name=stays)
    began_ns = time.time_ns()
    bench.log.append([Event(began_ns, Kind.PRUNE_STARTED, attributes={"prune": "p", "plan": {"images": planned}})])
    row = bench.engine.image_table[image]
    bench.engine.remove_image(image)
    bench.engine.image_table[image] = replace(row, references=["a:1"])
    bench.prune(threshold="0")
    assert bench.recorded("item_removed") == {image}
    assert bench.recorded("item_failed") == {stays}


@pytest.mark.parametrize("store", ["overlay2", "podman"])
@pytest.mark.parametrize("then", first_fast("stays", "goes", "moved"))
def test_names_that_a_killed_prune_took_come_back_unless_the_image_goes(
    bench: Bench, caplog: pytest.LogCaptureFixture, then: str, store: str
) -> None:
    bench.engine.store = store
    image, other = old_image(bench, "a:1", "a:2", "b:1"), old_image(bench, "c:1", "c:2")

    def killed() -> None:
        raise KeyboardInterrupt

    bench.engine.before("remove_image", killed, "a:2")
    with pytest.raises(KeyboardInterrupt):
        bench.prune()
    assert bench.engine.image_table[image].references == ["a:2", "b:1"]
    # Not the last of its names, but not the first of them either: that was somebody else.
    bench.engine.remove_image("c:2")
    if then == "moved":
        newer = bench.engine.add_image("a:1")
    bench.prune(threshold="100%" if then == "goes" else "0")
    if then == "goes":
        assert image not in bench.engine.image_table
    else:
        assert set(bench.engine.image_table[image].references) == {"a:2", "b:1", *(["a:1"] if then == "stays" else [])}
        assert bench.engine.image_table[other].references == ["c:1"]
    assert then != "moved" or bench.engine.image_table[newer].references == ["a:1"]
    assert "lost its name" not in caplog.text
    ((error, names),) = bench.log.query(
        "SELECT attributes ->> '$.error', attributes ->> '$.untagged' FROM event"
        " WHERE kind = 'item_failed' AND (attributes ->> '$.untagged') IS NOT NULL"
    )
    assert (error, names) == ("the prune was interrupted when it had removed a:1", '["a:1"]')


def test_a_run_that_can_remove_nothing_is_recorded_with_what_stood_in_the_way(bench: Bench) -> None:
    old_image(bench, "a:1")
    for _ in range(2):
        assert not bench.prune(min_age="90d").reached
    output = bench.log.query(
        "SELECT attributes ->> '$.outcome', attributes ->> '$.held_back[0].rule' FROM event"
        " WHERE kind = 'prune_finished'"
    )
    assert output == [("target not reached", "min_age")]
    assert bench.log.query("SELECT count(*) FROM event WHERE kind = 'prune_started'") == [(1,)]


def test_nothing_is_removed_where_images_hold_more_than_their_disk_uses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine keeps them elsewhere, so removing them would give nothing here."""
    bench.engine.total = 10**12
    image = bench.engine.add_image("a:1", layers=[("big", 500 * MIB)], age=OLD, verb=None)
    monkeypatch.setattr(type(bench.engine), "held_bytes", 100 * MIB)
    with pytest.raises(EngineError, match="images hold 500 MiB, but only 100 MiB are used"):
        bench.prune()
    assert image in bench.engine.image_table
    assert bench.engine.asked("remove_image") == 0


@pytest.mark.parametrize("has_memory", [True, False])
def test_on_a_disk_without_room_for_a_plan_nothing_goes_that_a_kill_could_leave_unrecorded(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_memory: bool
) -> None:
    image = old_image(bench, "a:1")
    memory = tmp_path / "memory"
    if has_memory:
        memory.mkdir()
    monkeypatch.setattr(database, "SHARED_MEMORY", memory)

    def refused(*_: object) -> None:
        raise LogFullError("the disk of the log is full")

    def killed() -> None:
        del bench.engine.image_table[image]
        raise KeyboardInterrupt

    with monkeypatch.context() as full:
        full.setattr(EventLog, "append", refused)
        write = Spool.write
        beside = database.spool_path(bench.log.path)
        full.setattr(Spool, "write", lambda spool, events: (refused if spool.path == beside else write)(spool, events))
        full.setattr(Spool, "reserve", refused)
        full.setattr(executor.Executor, "_disk_is_full", lambda _: True)
        if has_memory:
            bench.engine.before("remove_image", killed)
        with pytest.raises(KeyboardInterrupt if has_memory else LogError, match=None if has_memory else "for the plan"):
            bench.prune()
    assert (image in bench.engine.image_table) is not has_memory
    bench.prune()
    assert bench.recorded("item_removed") == {image}
    assert len(bench.log.query("FROM event WHERE kind = 'prune_started'")) == 1
