"""The collector's loop against an engine that fails, restarts, hides and floods at chosen moments."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from collector.daemon import loop
from collector.daemon.loop import Collector
from collector.daemon.schedule import Schedule
from collector.eventlog.log import EventLog
from collector.model.errors import EngineError
from collector.model.events import Event, Kind
from collector.model.origin import Origin
from collector.queries.check import check
from collector.queries.coverage import coverage
from collector.queries.status import status
from tests.fake_engine import FakeEngine
from tests.fake_holdings import MIB
from tests.waiting import wait_for

QUICK = Schedule(disk=0.2, inventory=3600.0, containers=3600.0, flush=0.01, heartbeat=0.05)


class WatchedLog(EventLog):
    """A log of which this process can see what was appended while the collector's thread has it open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, wait=60.0)
        self.appended: list[Event] = []

    def append(self, events: Sequence[Event], mark: tuple[str, str] | None = None) -> int:
        found = super().append(events, mark)
        self.appended += events
        return found


class Watched:
    """A fake engine and a log."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine(folder / "data")
        self.engine.folder.mkdir()
        self.log = WatchedLog(folder / "events.duckdb")
        self.faults: list[BaseException] = []

    @contextmanager
    def collecting(self, schedule: Schedule = QUICK, runner_log: str = "none") -> Iterator[Collector]:
        """The collector runs in a thread until the body ends."""
        collector = Collector(self.engine, self.log, schedule, runner_log=runner_log)
        connected = self.engine.asked("usage")

        def body() -> None:
            try:
                collector.run()
            except BaseException as error:  # noqa: BLE001 - shown by the test that waits for it
                self.faults.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            wait_for(lambda: self.faults or self.engine.asked("usage") > connected, "the collector to connect")
            yield collector
        finally:
            collector.stop()
            thread.join(60)
        assert not self.faults, self.faults

    def rows(self, kind: Kind) -> list[Event]:
        """The events of a kind that the log holds by now."""
        return [event for event in self.log.appended if event.kind is kind]


def containers(events: list[Event]) -> list[str | None]:
    return [event.container for event in events]


def images(events: list[Event]) -> list[str | None]:
    return [event.image for event in events]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched(tmp_path)
    made.engine.disk_patched(monkeypatch)
    monkeypatch.setattr(loop, "_FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(loop, "_SETTLE_S", 0.02)
    return made


def test_what_happens_while_it_watches_is_recorded_once(watched: Watched) -> None:
    engine = watched.engine
    old = engine.add_image("old:1", verb=None)
    with watched.collecting():
        image = engine.add_image("a:1")
        container = engine.add_container("a:1", state="exited")
        wait_for(lambda: watched.rows(Kind.CONTAINER_DIED), "the container")
        engine.remove_container(container)
        engine.remove_image("a:1")
        wait_for(lambda: watched.rows(Kind.IMAGE_DELETED), "the end of both")
    assert images(watched.rows(Kind.IMAGE_OBSERVED))[0] == old
    assert images(watched.rows(Kind.IMAGE_PULLED)) == [image]
    assert containers(watched.rows(Kind.CONTAINER_DESTROYED)) == [container]
    assert images(watched.rows(Kind.IMAGE_DELETED)) == [image]
    assert watched.rows(Kind.GAP) == []


@pytest.mark.slow
def test_a_restart_of_the_engine_that_keeps_its_memory_loses_nothing(watched: Watched) -> None:
    engine = watched.engine
    with watched.collecting():
        first = engine.add_container(engine.add_image("a:1"))
        connections = engine.asked("stream")
        # What happens while nobody listens is in the engine's memory.
        engine.fail("info", times=3)
        engine.stop()
        second = engine.add_container("a:1")
        wait_for(lambda: engine.asked("stream") > connections, "a new connection")
        third = engine.add_container("a:1")
        wait_for(lambda: len(watched.rows(Kind.CONTAINER_CREATED)) == 3, "all containers")
    assert containers(watched.rows(Kind.CONTAINER_CREATED)) == [first, second, third]
    assert watched.rows(Kind.GAP) == []


def test_a_restart_that_empties_the_memory_is_a_gap_and_the_listing_makes_good(watched: Watched) -> None:
    engine = watched.engine
    with watched.collecting():
        image = engine.add_image("a:1")
        engine.add_container("a:1")
        wait_for(lambda: watched.rows(Kind.CONTAINER_STARTED), "the container")
        connections = engine.asked("stream")
        engine.stop()
        hidden = engine.add_container("a:1")
        gone = engine.add_image("b:1")
        engine.remove_image("b:1")
        engine.memory.clear()
        wait_for(lambda: engine.asked("stream") > connections, "a new connection")
        wait_for(lambda: watched.rows(Kind.GAP), "the gap")
    created = watched.rows(Kind.CONTAINER_CREATED)
    assert (created[1].container, created[1].image, created[1].attributes["inferred"]) == (hidden, image, True)
    assert gone not in set(images(watched.rows(Kind.IMAGE_OBSERVED)))
    assert len(watched.rows(Kind.GAP)) == 1


def test_an_image_that_goes_between_listing_and_question_is_not_a_fault(watched: Watched) -> None:
    engine = watched.engine
    image = engine.add_image("a:1", verb=None)
    engine.before("observe", lambda: engine.remove_image("a:1"), image)
    with watched.collecting():
        pass
    assert watched.rows(Kind.IMAGE_OBSERVED) == []


def test_a_container_whose_events_are_lost_is_found_by_the_listing(watched: Watched) -> None:
    engine = watched.engine
    image = engine.add_image("a:1", verb=None)
    with watched.collecting(Schedule(disk=60.0, containers=0.1, flush=0.01, heartbeat=0.05)):
        engine.mute = lambda event: event["Type"] == "container"
        lost = engine.add_container("a:1")
        wait_for(lambda: watched.rows(Kind.CONTAINER_CREATED), "its creation")
        engine.container_table[lost].state = "exited"
        engine.remove_container(lost)
        wait_for(lambda: watched.rows(Kind.CONTAINER_DESTROYED), "its end")
    (created,), (destroyed,) = watched.rows(Kind.CONTAINER_CREATED), watched.rows(Kind.CONTAINER_DESTROYED)
    assert (created.container, created.image, created.attributes["inferred"]) == (lost, image, True)
    assert (destroyed.container, destroyed.attributes["inferred"]) == (lost, True)


@pytest.mark.slow
def test_what_a_listing_closed_is_closed_once_when_the_engine_says_it_late(watched: Watched) -> None:
    """Killed collectors ask the engine again for what a listing was quicker to see."""
    engine = watched.engine
    engine.add_image("a:1", verb=None)
    with watched.collecting(Schedule(disk=60.0, containers=0.1, flush=0.01, heartbeat=0.05)):
        engine.mute = lambda event: event["Type"] == "container"
        late = engine.add_container("a:1", state="exited")
        wait_for(lambda: watched.rows(Kind.CONTAINER_CREATED), "its creation")
        engine.remove_container(late)
        wait_for(lambda: watched.rows(Kind.CONTAINER_DESTROYED), "its end")
    engine.mute = lambda _event: False
    with watched.collecting():
        for verb in ("create", "start", "die", "destroy"):
            engine.emit("container", verb, late, image="a:1")
        # A label may say so: which labels it had is not known any more.
        engine.emit("container", "commit", late, image="a:1", imageID=f"sha256:{'e' * 64}")
        sentinel = engine.add_image("b:1", verb="load")
        wait_for(lambda: sentinel in images(watched.rows(Kind.IMAGE_LOADED)), "all that the engine says")
    assert containers(watched.rows(Kind.CONTAINER_STARTED) + watched.rows(Kind.CONTAINER_DIED)) == [late, late]
    assert [row.attributes.get("inferred") for row in watched.rows(Kind.CONTAINER_DESTROYED)] == [True]
    assert images(watched.rows(Kind.IMAGE_BUILT)) == [None]
    assert check(watched.log) == []


def test_without_an_engine_at_the_start_it_ends_with_the_reason(watched: Watched) -> None:
    watched.engine.fail("info")
    with pytest.raises(EngineError, match="no engine answers"):
        Collector(watched.engine, watched.log, QUICK).run()


@pytest.mark.slow
def test_an_engine_that_fails_a_listing_is_asked_again_and_nothing_is_lost(watched: Watched) -> None:
    engine = watched.engine
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.DISK_SAMPLED), "the first sample")
        engine.fail("images", times=2)
        image = engine.add_image("a:1", layers=[("base", MIB)], origin=Origin.LOCAL, verb="load")
        wait_for(lambda: watched.rows(Kind.IMAGE_OBSERVED), "the image")
    assert images(watched.rows(Kind.IMAGE_LOADED)) == [image]
    assert set(images(watched.rows(Kind.IMAGE_OBSERVED))) == {image}
    assert watched.rows(Kind.GAP) == []


def test_the_first_start_takes_what_the_engine_remembers(watched: Watched) -> None:
    """On a new host an image whose container has just ended is not taken for one that nobody ever used."""
    engine = watched.engine
    image = engine.add_image("a:1", verb=None)
    container = engine.add_container("a:1", state="exited")
    engine.remove_container(container)
    remembered = engine.memory[0]["timeNano"]
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.DISK_SAMPLED), "the first sample")
    assert containers(watched.rows(Kind.CONTAINER_DESTROYED)) == [container]
    assert watched.log.query("SELECT image_id, evidence FROM last_use") == [(image, "container removed")]
    assert [row.attributes.get("inferred") for row in watched.rows(Kind.IMAGE_OBSERVED)] == [None]
    assert watched.rows(Kind.GAP) == []
    # From then on all is known: the time before is blind, like a gap.
    with watched.log.reading() as connection:
        assert coverage(connection, watched.log.host).blind_until == remembered / 1e9


@pytest.mark.slow
@pytest.mark.parametrize("before", [[], [Event(1, Kind.PRUNE_STARTED)], [Event(1, Kind.COLLECTOR_STARTED)]])
def test_a_restart_before_the_first_event_of_the_engine_loses_nothing(watched: Watched, before: list[Event]) -> None:
    engine = watched.engine
    image = engine.add_image("a:1", verb=None)
    watched.log.append(before)
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.DISK_SAMPLED), "the first sample")
    assert [row.attributes.get("inferred") for row in watched.rows(Kind.IMAGE_OBSERVED)] == [None]
    first = engine.add_container("a:1", state="exited")
    engine.remove_container(first)
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.CONTAINER_DESTROYED), "what happened between")
    assert images(watched.rows(Kind.CONTAINER_CREATED)) == [image]
    # It has happened while nobody watched, but nothing else has: or else the engine would remember that, too.
    assert all(row.began_ns is not None and row.time_ns >= row.began_ns for row in watched.rows(Kind.GAP))


@pytest.mark.slow
def test_a_start_without_engine_events_does_not_pass_for_watching(watched: Watched) -> None:
    """Two days away, and within them a start that came to nothing: the whole of it is a gap."""
    engine = watched.engine
    two_days = 2 * 86400 * 10**9
    began = time.time_ns() - two_days
    watched.log.append([Event(began, Kind.DISK_SAMPLED, bytes=1)])
    watched.log.append([Event(began + two_days // 2, Kind.COLLECTOR_STARTED)])
    watched.log.append([Event(began + two_days - 10**9, Kind.JOB_FINISHED, attributes={"outcome": "success"})])
    engine.memory.clear()
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.GAP), "the gap")
    assert [row.began_ns for row in watched.rows(Kind.GAP)] == [began]


@pytest.mark.slow
@pytest.mark.parametrize("mark", [None, 60])
def test_a_gap_begins_where_the_stream_was_surely_read_not_where_something_was_recorded(
    watched: Watched, mark: int | None
) -> None:
    """An event may have waited unread while a sample was recorded: killed then, the collector never stored it."""
    engine, minute = watched.engine, 60 * 10**9
    now_ns = time.time_ns()
    image = engine.add_image("a:1", verb=None)
    read_ns = now_ns - 90 * minute
    watched.log.append([Event(read_ns, Kind.CONTAINER_CREATED, image=image, container="c" * 64)])
    confirmed = None if mark is None else ("engine", str(now_ns - mark * minute))
    watched.log.append([Event(now_ns - 5 * minute, Kind.DISK_SAMPLED, bytes=1)], confirmed)
    engine.add_container("a:1")
    with watched.collecting():
        wait_for(lambda: watched.rows(Kind.GAP), "the gap")
    (gap,) = watched.rows(Kind.GAP)
    assert gap.began_ns == (read_ns if mark is None else now_ns - mark * minute)
    assert gap.time_ns == engine.memory[0]["timeNano"]


@pytest.mark.slow
def test_while_nothing_happens_the_engine_is_asked_whether_that_is_so(watched: Watched) -> None:
    began_ns = time.time_ns()
    watched.log.append([Event(began_ns - 3600 * 10**9, Kind.DISK_SAMPLED, bytes=1)])
    with watched.collecting():
        pass
    assert int(watched.log.position("engine") or 0) > began_ns - 2 * 10**9


def test_one_look_takes_what_the_engine_remembers_and_notes_what_it_does_not(watched: Watched) -> None:
    engine = watched.engine
    began = time.time_ns() - 3600 * 10**9
    watched.log.append([Event(began, Kind.DISK_SAMPLED, bytes=1)])
    engine.add_image("a:1", verb=None)
    container = engine.add_container("a:1")
    Collector(engine, watched.log, QUICK).once()
    assert containers(watched.rows(Kind.CONTAINER_CREATED)) == [container]
    assert [row.began_ns for row in watched.rows(Kind.GAP)] == [began]


@pytest.mark.slow
def test_what_was_least_free_between_two_samples_is_recorded(watched: Watched) -> None:
    """A pull that fails on a full disk leaves no event, and its space is free again."""
    schedule = Schedule(disk=3.0, inventory=3600.0, containers=3600.0, flush=0.01, heartbeat=0.05)

    def least() -> list[Event]:
        return [event for event in watched.rows(Kind.DISK_SAMPLED) if event.attributes.get("least")]

    with watched.collecting(schedule) as collector:
        monitor = collector._sampling.least_free
        usual = monitor._measure
        monitor._measure = lambda path: replace(usual(path), free_bytes=7)
        wait_for(least, "the least free space")
    assert least()[0].bytes == 7
    with watched.log.reading() as connection:
        counted = connection.execute("SELECT count(*) FILTER (free_bytes = 7) FROM disk").fetchall()
        lows = connection.execute("SELECT count(*) FILTER (least) FROM disks").fetchall()
    assert (counted, lows) == ([(0,)], [(len(least()),)])
    assert min(amount for _, amount in status(watched.log).free_history) == 7
