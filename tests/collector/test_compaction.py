"""What is folded at append answers as all events do, wherever folding stops, and however it was interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.daemon.presence import Presence
from collector.eventlog import compaction, experience, hourly
from collector.eventlog import log as log_module
from collector.eventlog.database import open_database
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.pace import LONG_S, Pace
from collector.model.events import Event, Kind
from collector.queries import tally
from collector.queries.check import check
from collector.queries.images import images
from collector.queries.jobs import jobs as latest_jobs
from collector.queries.status import status
from collector.queries.story import stories
from collector.queries.tally import Tally
from pruner.state.inventory import read_history
from pruner.state.job_memory import read_jobs
from pruner.state.jobs_in_flight import Flight
from pruner.state.services import read_rollbacks
from pruner.state.volumes import last_references, last_slots

S = 10**9
T0 = 1_700_000_000 * S
IMAGES = [f"sha256:{n:064x}" for n in range(4)]
KINDS = (
    *("container", "container", "container", "pulled", "tagged", "observed", "deleted", "sampled", "job", "gap"),
    *("restart", "prune", "unknown end", "late job", "set back"),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 100_000)),
    min_size=4,
    max_size=40,
)


class WholeLog(EventLog):
    """The log, always asked as a whole."""

    @contextmanager
    def reading(
        self,
        reachable: Path | None = None,
        *,
        as_recorded: bool = False,
        whole_since: float | None = None,
        memory: str | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        del whole_since, memory
        with super().reading(reachable, as_recorded=as_recorded) as connection:
            yield connection


class History:
    """Writes what happens on a host, as the collector would record it."""

    def __init__(self) -> None:
        self.now = T0
        self.events: list[Event] = []
        self.open: dict[str, tuple[int, int]] = {}
        self.count = 0

    def take(self, kind: str, image: int, more: int, seconds: int) -> None:
        """One step."""
        self.now += (seconds + 1) * S
        self.count += 1
        self._add(*self._simple(kind, image, more))
        if kind == "container":
            self._containers(image, more)
        elif kind == "unknown end" and self.open:
            # Only a listing shows it.
            container, (began, of) = self.open.popitem()
            gone = {"inferred": True, "volumes": [f"volume{more}"]}
            self._add(Event(self.now, Kind.CONTAINER_DESTROYED, IMAGES[of], None, container, None, began, gone))
        elif kind == "set back" and image == more == 0:
            self.now -= 3600 * S
            self._add(Event(self.now, Kind.CLOCK_SET_BACK, attributes={"seconds": 9}))

    def _simple(self, kind: str, image: int, more: int) -> list[Event]:
        """What a step of most kinds comes to."""
        now, name, image_id = self.now, f"repo{more}:{image}", IMAGES[image]
        layers = [{"diff_id": "base", "chain_id": "base", "bytes": 5}, {"chain_id": image_id, "bytes": more}]
        seen = {"references": [name], "digests": [], "size": 5 + more, "layers": layers}
        origin = {"origin": ("registry", "local")[more % 2]} if more else {}
        stored = {"stored": self.now / S - more * 9e4} if image % 2 else {}
        job = {"job": {"ci": "gitlab", "job_id": str(image), "project_id": str(more)}, "role": "build"}
        store = {"store": ("overlay2", "containerd", "podman")[more % 3]}
        prune = {"prune": f"p{self.count}", "plan": {"images": [{"image": image_id}]}}
        ended = [Event(now + 2, Kind.PRUNE_FINISHED, bytes=1, attributes=prune)]
        return {
            "pulled": [
                Event(now, Kind.IMAGE_PULLED, image_id, name),
                *([Event(now + 9 * S, Kind.CONTAINER_CREATED, image_id, container=f"{now:064x}")] if more else []),
            ],
            "tagged": [Event(now, Kind.IMAGE_TAGGED, image_id, name)],
            "observed": [Event(now, Kind.IMAGE_OBSERVED, image_id, name, attributes={**seen, **origin, **stored})],
            "deleted": [Event(now, Kind.IMAGE_DELETED, image_id)],
            "sampled": [
                Event(now + k * S, Kind.DISK_SAMPLED, bytes=more * k, attributes={"total_bytes": 9, "path": "/"} | disk)
                for k, disk in ((40, {}), (20, {}), (41, {"main": False, "file_system": "/x"}))
            ],
            "job": [Event(now - more * S, Kind.JOB_IMAGE_USED, image_id, name, attributes=job)],
            "late job": [Event(now - more * 86400 * S, Kind.JOB_IMAGE_USED, image_id, name, attributes=job)],
            "gap": [Event(now, Kind.GAP, began_ns=now - S, attributes={"reason": "test"})],
            "restart": [Event(now, Kind.COLLECTOR_STOPPED), Event(now, Kind.COLLECTOR_STARTED, attributes=store)],
            "prune": [
                Event(now, Kind.PRUNE_STARTED, attributes={**prune, "trigger": "timer"}),
                Event(now + 1, Kind.ITEM_REMOVED, image_id, attributes=prune),
                *(ended if more else []),
            ],
        }.get(kind, [])

    def _add(self, *events: Event) -> None:
        self.events += events

    def _containers(self, image: int, more: int) -> None:
        """One begins; of those that exist the oldest ends if there are many."""
        container = f"{self.count:064x}"
        labels = (
            {"com.gitlab.gitlab-runner.job.id": str(self.count), "com.gitlab.gitlab-runner.type": "build"},
            {"com.docker.swarm.service.name": f"service{image % 2}"},
            {},
        )[more % 3]
        facts: dict[str, Any] = {"labels": labels, "name": f"runner-a-project-{image}-concurrent-{more}-build"}
        if more == 1:
            facts["volumes"] = [f"volume{image}"]
        now, of = self.now, IMAGES[image]
        self.open[container] = (now, image)
        self._add(Event(now, Kind.CONTAINER_CREATED, of, container=container, attributes=facts))
        self._add(Event(now + 1, Kind.CONTAINER_STARTED, of, container=container))
        if len(self.open) > more:
            old = next(iter(self.open))
            began, number = self.open.pop(old)
            of = IMAGES[number]
            self._add(Event(now + 2, Kind.CONTAINER_DIED, of, container=old, attributes={"exit_code": 0}))
            self._add(Event(now + 3, Kind.CONTAINER_DESTROYED, of, container=old, began_ns=began))


_JOBS = "SELECT job_id, project_id FROM job"


def answers(log: EventLog, now: float | None = None) -> dict[str, Any]:
    """What the past is asked for; `now`: UTC seconds, by default that of the last event."""
    now = now or log.query("SELECT epoch_ns(max(time)) / 1e9 FROM event")[0][0] + 1
    history, jobs, presence = read_history(log), read_jobs(log, now), Presence()
    jobs = jobs.about([Flight(job or "", project, now) for job, project in log.query(_JOBS)])
    presence.restore(log)
    past = {
        image: (one.first_seen, one.last_use, one.pulled, one.uses, sorted(one.names))
        for image, one in history.images.items()
    }
    state = status(log, now)
    return {
        "images": past,
        "observed": history.observed,
        "unfinished": history.unfinished,
        "coverage": history.coverage,
        "jobs": (jobs.images, jobs.names, jobs.settled, jobs.begun, jobs.open, jobs.ended),
        "projects": ({project: set(used) for project, used in jobs.uses.items()}, sorted(jobs.policies)),
        "job slots": jobs.slots,
        "slots": last_slots(log),
        "volumes": last_references(log),
        "rollbacks": read_rollbacks(log, now, 86400.0),
        "present": (presence.names(), presence.image_bytes),
        "latest jobs": [asdict(row) for row in latest_jobs(log, limit=3)],
        "stories": [asdict(one) for image in sorted(history.images) for one in stories(log, image)],
        "listing": sorted(map(repr, images(log, now))),
        "status": (state.events_by_kind, state.first_event, state.last_event, state.free_history, state.images),
    }


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cuts=st.lists(st.integers(1, 12), min_size=1, max_size=4), crash=st.integers(0, 3))
def test_what_is_folded_answers_as_all_events_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], cuts: list[int], crash: int
) -> None:
    log = EventLog(tmp_path_factory.mktemp("log") / "events.duckdb", host="h")
    history, running = History(), Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 3)
        patch.setattr(tally, "_STORED_EVERY", 2)
        for turn, begin in enumerate(range(0, len(steps), cuts[0])):
            for step in steps[begin : begin + cuts[turn % len(cuts)]]:
                history.take(*step)
            if turn == crash:
                _crash(log, history.events)
                running = Tally()
            log.append(history.events)
            history.events.clear()
            if log.exists():
                running.advance(log)
    if not log.exists():
        return
    assert [one for one in check(log) if one.rule == "projection"] == []
    assert answers(log) == answers(WholeLog(log.path, host="h"))
    assert by_hour(log, history.now) == by_hour(log, history.now, afresh=True)


def by_hour(log: EventLog, now: int, *, afresh: bool = False) -> Any:
    """What counts by its hour, as folded or from the events."""
    with log.reading() as connection, pytest.MonkeyPatch.context() as patch:
        if afresh:
            patch.setattr(hourly, "reached", lambda *_: None)
        hours = now // hourly.HOUR_NS
        return (
            [hourly.waits(connection, "h", first, hours - 1) for first in (0, hours - 30)],
            [
                hourly.falls(connection, "h", disk, span, within, (now / S - 90 * 86400.0, now / S))
                for disk, span, within in (("", 300.0, 60.0), ("", 1800.0, 300.0), ("/x", 300.0, 60.0), ("", 90.0, 9.0))
            ],
        )


@pytest.mark.slow
def test_habits_go_on_from_the_last_midnight(folded: EventLog) -> None:
    history = History()
    history.now += 30 * 86400 * S
    for turn in range(12):
        for kind in ("container", "container", "pulled", "observed"):
            history.take(kind, turn % 4, turn % 3, 9_000)
        folded.append(history.events)
        history.events.clear()
    (until,) = folded.query("SELECT until FROM experience")[0]
    assert until > T0 + 30 * 86400 * S
    assert folded.query("SELECT count(*) > 2, sum(uses) > 5 FROM habit") == [(True, True)]
    with folded.reading() as connection:
        assert experience.differences(connection, history.now) == []
        connection.execute("CREATE OR REPLACE TEMP TABLE habit AS SELECT * REPLACE (uses + 1 AS uses) FROM habit")
        wrong = experience.differences(connection, history.now)
    assert any("habits" in text for text in wrong)
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute("UPDATE experience SET version = 'older'")
    folded.append([Event(history.now, Kind.EVENT_UNREADABLE, attributes={"raw": "next"})])
    assert folded.query("SELECT count(*) FROM experience WHERE version = ?", [experience.VERSION]) == [(1,)]


@pytest.mark.slow
def test_habits_are_folded_through_busy_days_and_in_any_order_of_recording(
    folded: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience, "PACE", Pace(4, 4))
    history = History()
    # An inventory comes first, an import of the days before it later; more happened on a day than is folded at once.
    for days, steps in ((40, 3), (5, 9), (6, 9), (12, 9)):
        history.now = T0 + days * 86400 * S
        for turn in range(steps):
            history.take("observed" if days == 40 else "container", turn % 4, 0, 60)
        folded.append(history.events)
        history.events.clear()
    for _ in range(5):
        folded.append([Event(history.now, Kind.EVENT_UNREADABLE, attributes={"raw": str(_)})])
    (until,) = folded.query("SELECT until FROM experience")[0]
    assert folded.query("SELECT count(*) < 10 FROM event WHERE epoch_ns(time) >= ?", [until]) == [(True,)]
    with folded.reading() as connection:
        assert experience.differences(connection, history.now + 50 * 86400 * S) == []


@pytest.mark.slow
def test_a_backlog_with_a_clock_that_was_set_back_is_folded_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    for turn in range(8):
        history.take("set back" if turn == 5 else "pulled", 0, 0, 7200)
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(2, 2))
    log.append(history.events)
    reached: list[int] = []
    for turn in range(8):
        log.append([Event(history.now + turn, Kind.EVENT_UNREADABLE, attributes={"raw": str(turn)})])
        reached.append(log.query("SELECT max(seq) FROM projection WHERE version = ?", [compaction.VERSION])[0][0] or 0)
    assert reached[-1] > len(history.events)
    assert max(after - before for before, after in pairwise(reached)) <= 2
    assert [one for one in check(log) if one.rule == "projection"] == []


@pytest.mark.parametrize("noticed", ["before", "after"])
def test_what_comes_after_a_clock_was_set_back_comes_after_what_was_folded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(3, 3))

    def sampled(seconds: int) -> Event:
        return Event(T0 + seconds * S, Kind.DISK_SAMPLED, bytes=seconds, attributes={"path": "/"})

    log.append([sampled(seconds) for seconds in (0, 100, 150, 200)])
    # What tells of an unobserved time would lie between them, by the times as recorded.
    set_back = Event(T0 + 60 * S, Kind.CLOCK_SET_BACK, attributes={"seconds": 140})
    gap = Event(T0 + 70 * S, Kind.GAP, began_ns=T0 + 60 * S)
    log.append([set_back, gap, sampled(80)] if noticed == "before" else [gap, sampled(80), set_back])
    for turn in range(9):
        assert [one for one in check(log) if one.rule == "projection"] == []
        log.append([Event(T0 + (90 + turn) * S, Kind.EVENT_UNREADABLE, attributes={"raw": str(turn)})])
    assert log.query("SELECT count(*) FROM compacted WHERE kind = 'gap'") == [(1,)]


def test_a_clock_set_back_since_the_last_fold_makes_no_row_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    log = EventLog(tmp_path / "events.duckdb", host="h")
    hours = [T0 + hour * hourly.HOUR_NS for hour in range(6)]
    log.append([Event(time_ns, Kind.DISK_SAMPLED, bytes=9, attributes={"path": "/"}) for time_ns in hours])
    monkeypatch.setattr(compaction, "FOLD_EVERY", 20)
    log.append([Event(hours[2] + S, Kind.CLOCK_SET_BACK, attributes={"seconds": 9})])
    assert [one for one in check(log) if one.rule == "projection"] == []
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE free_space_fall SET free = 8 WHERE slot = (SELECT min(slot) FROM free_space_fall)")
    (found,) = check(log)
    assert "folded rows of free_space_fall" in found.text


def _crash(log: EventLog, events: list[Event]) -> None:
    """Append and fold, but do not come to the end of it."""

    def failing(connection: duckdb.DuckDBPyConnection) -> None:
        fold(connection)
        raise OSError("crash")

    fold = compaction.fold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "fold", failing)
        with pytest.raises(Exception, match="crash"):
            log.append([*events, Event(T0, Kind.COLLECTOR_STARTED)])


@pytest.mark.parametrize("fault", ["Conversion Error", "Out of Memory Error"])
def test_what_cannot_be_folded_is_stored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    def failing(connection: duckdb.DuckDBPyConnection) -> None:
        if fault == "Conversion Error":
            connection.execute("SELECT CAST('x' AS INTEGER)").fetchall()
        raise duckdb.OutOfMemoryException(f"{fault}: failed to allocate a block")

    monkeypatch.setattr(compaction, "fold", failing)
    log = EventLog(tmp_path / "events.duckdb", host="h")
    assert log.append([Event(T0, Kind.GAP, began_ns=T0)], ("source", "5")) == 1
    assert log.query("SELECT count(*) FROM event") == [(1,)]
    assert log.position("source") == "5"
    assert f"is not folded: {fault}" in caplog.text


@pytest.fixture(scope="module")
def folded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log, history = EventLog(tmp_path_factory.mktemp("folded") / "events.duckdb", host="h"), History()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 2)
        patch.setattr(tally, "_STORED_EVERY", 1)
        for kind in KINDS[:-1]:
            history.take(kind, 1, 1, 60)
            log.append(history.events)
            history.events.clear()
        Tally().advance(log)
    return log.path


@pytest.fixture
def folded(folded_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """A log that is folded up to its last event but one."""
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    return EventLog(Path(shutil.copy(folded_once, tmp_path)), host="h")


@pytest.mark.slow
def test_views_show_few_events_and_all_since_a_time(folded: EventLog) -> None:
    (total,) = folded.query("SELECT count(*) FROM event")[0]
    assert folded.query("SELECT count(*) FROM event", whole_since=ONLY_KEPT)[0][0] < total
    assert folded.query("SELECT count(*) FROM event", whole_since=0.0) == [(total,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM compacted WHERE kind = 'gap'", "is missing among what is kept"),
        ("UPDATE compacted SET reference = 'other' WHERE kind = 'image_pulled'", "differs from what was recorded"),
        ("UPDATE image_count SET uses = uses + 1", "the uses counted of image number 0: "),
        ("UPDATE kind_count SET events = 0 WHERE kind = 'gap'", "the events counted of kind gap: 0 and not 1"),
        ("UPDATE position SET position = replace(position, '\"gaps\":1', '\"gaps\":2')", "total 'gaps' is not what"),
        ("UPDATE position SET position = replace(position, '\"gap\":1', '\"gap\":2')", "total 'events' is not what"),
    ],
)
def test_check_finds_what_is_folded_wrongly_and_an_append_fixes_it(folded: EventLog, damage: str, found: str) -> None:
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute(damage)
    text = "\n".join(one.text for one in check(folded) if one.rule == "projection")
    assert found in text
    folded.forget_folded()
    _check_an_append_folds_again(folded)


@pytest.mark.slow
def test_what_other_rules_made_is_made_again(folded: EventLog) -> None:
    with duckdb.connect(str(folded.path)) as connection:
        connection.execute("UPDATE projection SET version = 'older'")
        connection.execute("DELETE FROM compacted")
    assert answers(folded) == answers(WholeLog(folded.path, host="h"))
    _check_an_append_folds_again(folded)


def _check_an_append_folds_again(log: EventLog) -> None:
    log.append([Event(T0, Kind.GAP, began_ns=T0)])
    assert log.query("SELECT count(*) > 3 FROM compacted") == [(True,)]
    assert [one for one in check(log) if one.rule == "projection"] == []


def test_steps_become_smaller_after_a_long_one_and_larger_after_quick_ones() -> None:
    pace = Pace(100, 1000, 200)
    sizes = [pace.size]
    for seconds in (0.01, 0.01, 0.01, 2.0, 2.0, 2.0, 2.0, 0.2):
        pace.took(pace.size, seconds)
        sizes.append(pace.size)
    assert sizes == [200, 400, 800, 1000, 500, 250, 125, 100, 100]
    # A step over few events says nothing of one over many, unless even that takes long.
    pace.took(5, 0.01)
    assert pace.size == 100


def test_what_is_folded_is_left_to_whoever_waits_after_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "PACE", Pace(2, 2))
    for _ in range(8):
        history.take("pulled", 0, 0, 7200)
    log.append(history.events)
    read: list[tuple[int, ...]] = []

    def reads(_: float) -> None:
        # Nobody holds the log now: one that does not wait gets it.
        read.append(EventLog(log.path, host="h", wait=0.0).query("SELECT max(seq) FROM projection")[0])

    monkeypatch.setattr(log_module, "rest", reads)
    log.fold(history.now)
    assert len(set(read)) >= 2
    assert read == sorted(read)  # steps that fold something else leave it as it is


def test_a_backlog_is_folded_however_long_each_step_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, history = EventLog(tmp_path / "events.duckdb", host="h"), History()
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    for _ in range(4):
        history.take("pulled", 0, 0, 90_000)
    log.append(history.events)
    rests: list[float] = []

    def rests_no_more(began: float) -> None:
        rests.append(began)
        assert len(rests) < 100

    monkeypatch.setattr(log_module, "rest", rests_no_more)
    monkeypatch.setattr("collector.eventlog.file.open_database", slowly(open_database))
    assert log.fold(history.now) > T0


def slowly(do: Callable[..., Any]) -> Callable[..., Any]:
    """What takes longer than a step should: on a busy machine to open the file does."""

    def slow(*given: Any, **more: Any) -> Any:
        time.sleep(2 * LONG_S)
        return do(*given, **more)

    return slow
