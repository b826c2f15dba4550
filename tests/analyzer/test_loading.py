from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.trace.assemble import _unsampled
from analyzer.trace.load import DiskOverride, load_trace
from collector.eventlog.log import EventLog
from collector.model.errors import LogError, UsageError
from collector.model.events import Event, Kind
from collector.model.traits import Use
from collector.queries.coverage import Coverage
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, Space

S = 10**9
T0 = 1_700_000_000 * S


def sample(second: float, free: int = 50, image_bytes: int | None = 30, **more: int) -> Event:
    attributes = {"total_bytes": 100, "image_bytes": image_bytes, **more}
    return Event(T0 + int(second * S), Kind.DISK_SAMPLED, bytes=free, attributes=attributes)


def observed(second: float, image: str, **more: Any) -> Event:
    attributes = {
        "references": [f"{image}:1"],
        "digests": [f"{image}@sha256:00"],
        "created": "2023-11-14T22:13:19.5Z",
        "size": 30,
        "layers": [{"diff_id": "d", "chain_id": "base", "bytes": 10}, {"diff_id": "e", "chain_id": image, "bytes": 20}],
    }
    return Event(T0 + int(second * S), Kind.IMAGE_OBSERVED, image=image, attributes=attributes | more)


def container(first: float, last: float | None, image: str, name: str) -> list[Event]:
    began = T0 + int(first * S)
    events = [Event(began, Kind.CONTAINER_CREATED, image=image, container=name)]
    if last is not None:
        ended = T0 + int(last * S)
        events.append(Event(ended, Kind.CONTAINER_DESTROYED, image=image, container=name, began_ns=began))
    return events


def test_the_log_becomes_arrays_of_demand(log: EventLog) -> None:
    log.append(
        [
            Event(T0, Kind.COLLECTOR_STARTED),
            observed(0.25, "there"),
            sample(0.5),
            Event(T0 + 5 * S, Kind.IMAGE_PULLED, image="new", reference="new:2"),
            observed(5.5, "new", stored=1.5),
            *container(6, 8.5, "new", "c1"),
            *container(7, None, "there", "c2"),
            *container(-100, 9, "there", "c0"),
            Event(T0 + 10 * S, Kind.JOB_IMAGE_USED, image="new"),
            Event(T0 + 11 * S, Kind.IMAGE_BUILT, image="mine"),
            observed(11, "mine", local=True),
            Event(T0 + 12 * S, Kind.IMAGE_TAGGED, image="mine", reference="mine:2"),
            Event(T0 + 12 * S, Kind.GAP, began_ns=T0 + 11 * S, attributes={"reason": "x"}),
            sample(12.5, free=40, image_bytes=50),
        ]
    )
    trace = load_trace(log)
    assert (trace.host, trace.origin_ns, trace.end) == ("runner", T0, 12.5)
    assert trace.image_ids == ("there", "new", "mine")
    assert list(zip(trace.time, trace.image, trace.until, trace.kind, strict=True)) == [
        (0.0, 0, 9.0, Use.FOUND),
        (5.0, 1, 5.0, Use.PULL),
        (6.0, 1, 8.5, Use.CONTAINER),
        (7.0, 0, float("inf"), Use.CONTAINER),
        (10.0, 1, 10.0, Use.JOB),
        (11.0, 2, 11.0, Use.ARRIVED),
        (12.0, 2, 12.0, Use.TAG),
    ]
    assert trace.local.tolist() == [False, False, True]
    assert trace.created.tolist() == [-0.5, -0.5, -0.5]
    assert trace.references[1] == ("new:1",)
    assert set(trace.names[1]) == {"new:1", "new:2", "new@sha256:00"}
    assert trace.image_bytes.tolist() == [30, 30, 30]
    assert len(trace.layer_bytes) == 4
    assert trace.disk_time.tolist() == [0.0, 12.5]
    assert trace.disk_other.tolist() == [20, 10]
    assert trace.blind.tolist() == [[11.0, 12.0]]
    assert "1 gap not observed, 1 s in all" in trace.assumptions[0]


def of_job(job: int, role: str = "build") -> dict[str, Any]:
    prefix = "com.gitlab.gitlab-runner"
    return {"labels": {f"{prefix}.job.id": str(job), f"{prefix}.project.id": "7", f"{prefix}.type": role}}


def named(second: float, job: int, image: str, kind: Kind = Kind.JOB_IMAGE_USED, role: str = "build") -> Event:
    attributes = {"job": {"ci": "gitlab", "job_id": str(job), "project_id": "7"}, "role": role}
    known = image if kind is Kind.JOB_IMAGE_USED else None
    return Event(T0 + int(second * S), kind, image=known, attributes=attributes)


def test_jobs_in_flight_hold_what_they_name_in_simulation_too(log: EventLog) -> None:
    build = container(160, 200, "a", "c1")
    helper = container(100, 150, "help", "h1")
    log.append(
        [
            Event(T0, Kind.COLLECTOR_STARTED),
            sample(0),
            *[observed(1, image) for image in ("a", "b", "help")],
            # Held until the build container is created; a helper's image is not.
            named(90, 1, "a"),
            named(91, 1, "help", role="predefined"),
            *[replace(event, attributes=of_job(1, "predefined")) for event in helper],
            *[replace(event, attributes=of_job(1)) for event in build],
            # Named by a job that ends before it has a container, and by one of which nothing more is seen.
            named(300, 2, "b"),
            named(330, 2, "", Kind.JOB_FINISHED),
            named(400, 3, "b"),
            sample(5000),
        ]
    )
    trace = load_trace(log)
    held = trace.kind == Use.HOLD
    columns = (trace.time[held], [trace.image_ids[i] for i in trace.image[held]], trace.until[held])
    assert list(zip(*columns, strict=True)) == [(90.0, "a", 160.0), (300.0, "b", 330.0), (400.0, "b", 4000.0)]
    assert "3 holds, 2 of them for an image of which the job then had no container" in trace.assumptions[-1]
    # Neither replay removes what is held; both do when it ends.
    cleaner = PolicyCleaner(Policy(threshold=Space.parse("99%"), min_age=0.0, interval=10.0), trace)
    result = replay(trace, cleaner)
    assert result == replay(trace, cleaner, reference=True)
    gone = [(removal.time, trace.image_ids[removal.image]) for removal in result.removed if removal.time > 50.0]
    assert gone == [(150.0, "help"), (200.0, "a"), (330.0, "b"), (4000.0, "b")]


def test_what_jobs_in_flight_may_need_goes_last_in_simulation_too(log: EventLog) -> None:
    def made(at: float, until: float, image: str, name: str, labels: dict[str, Any]) -> list[Event]:
        created, destroyed = container(at, until, image, name)
        return [replace(created, attributes=labels), destroyed]

    def job(number: int, at: float, image: str | None, until: float) -> list[Event]:
        helper = made(at, until, "help", f"h{number}", of_job(number, "predefined"))
        return [*helper, *made(until + 5, until + 8, image, f"b{number}", of_job(number))] if image else helper

    log.append(
        [
            Event(T0, Kind.COLLECTOR_STARTED),
            sample(0),
            *[observed(1, image) for image in ("a", "b", "help")],
            observed(1, "mine", local=True),
            # The project uses two images, one of which exists only on the host.
            *job(1, 10, "a", 20),
            *job(2, 30, "mine", 40),
            *container(50, 60, "b", "other"),
            # What was pulled meanwhile is less likely to be needed. Cancelled, the job counts for five minutes more.
            Event(T0 + 105 * S, Kind.IMAGE_PULLED, image="b", reference="b:1"),
            *job(3, 100, None, 200),
            sample(5000),
        ]
    )
    trace = load_trace(log)
    names = [(begin, end, trace.image_ids[int(i)], rank) for begin, end, i, rank in trace.guesses.tolist()]
    assert names == [(30.0, 45.0, "a", 2.0), (100.0, 500.0, "a", 2.0), (105.0, 500.0, "b", 1.0)]
    held = trace.kind == Use.HOLD
    assert [(trace.image_ids[i], t) for i, t in zip(trace.image[held], trace.until[held], strict=True)] == [
        ("mine", 500.0)
    ]
    stays, last = trace.assumptions[-2:]
    assert "1 hold, 1 of them for an image of which the job then had no container" in stays
    assert "3 holds, 3 of them for an image of which the job then had no container" in last
    # A log from elsewhere may number its jobs as it likes.
    with duckdb.connect(log.path) as connection:
        for table in ("job", "event"):
            connection.execute(f"UPDATE {table} SET job = 2_000_000_000 + job WHERE job > 1")
    assert load_trace(log).guesses.tolist() == trace.guesses.tolist()
    # While the job is in flight, the image that it may need stays, though it was used the longest ago.
    disk = replace(trace, disk_total=np.array([120, 120]), disk_other=np.array([0, 0]))
    for order in ORDERS:
        cleaner = PolicyCleaner(Policy(threshold=Space.parse("40B"), min_age=0.0, interval=150.0, order=order), disk)
        result = replay(disk, cleaner)
        assert result == replay(disk, cleaner, reference=True)
        assert [(removal.time, trace.image_ids[removal.image]) for removal in result.removed] == [(150.0, "b")]


def test_what_an_inventory_finds_first_was_last_used_when_stored_or_built(log: EventLog) -> None:
    log.append([sample(0), observed(1, "stored", stored=T0 / S - 7), observed(1, "built")])
    trace = load_trace(log)
    facts = {
        trace.image_ids[i]: (kind, until) for i, kind, until in zip(trace.image, trace.kind, trace.until, strict=True)
    }
    assert facts == {"stored": (Use.FOUND, -7.0), "built": (Use.FOUND, -0.5)}


def test_inodes_of_layers_are_in_proportion_to_their_bytes(log: EventLog) -> None:
    log.append([sample(0, free=50, total_inodes=100, free_inodes=0), *container(1, 2, "a", "c"), observed(1, "a")])
    trace = load_trace(log)
    assert sorted(trace.layer_inodes.tolist()) == [20.0, 40.0]
    assert trace.inode_other.tolist() == [40]


def test_images_of_unknown_size_are_reported(log: EventLog) -> None:
    log.append(
        [
            sample(0),
            *container(1, 2, "gone", "c1"),
            *container(2, 3, "whole", "c2"),
            observed(2, "whole", layers=[]),
            Event(T0 + 4 * S, Kind.CONTAINER_CREATED, container="c3"),
        ]
    )
    trace = load_trace(log)
    assert trace.image_bytes.tolist() == [0, 30]
    assert [note[:30] for note in trace.assumptions] == [
        "1 event without a known image ",
        "the layers of 1 image are unkn",
        "of 1 image (1 of 2 uses) no in",
    ]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([observed(0, "a"), *container(1, 2, "a", "c")], "has no disk samples"),
        ([sample(0, image_bytes=None), observed(0, "a")], "no disk sample says what the engine's images hold"),
        ([sample(0), *container(1, 2, "a", "c")], "has no image's size"),
        ([sample(0)], "holds no images"),
        ([Event(T0 + S, Kind.GAP, began_ns=T0)], "holds no images"),
    ],
)
def test_a_log_without_what_cannot_be_assumed_is_refused(log: EventLog, events: list[Event], words: str) -> None:
    log.append(events)
    with pytest.raises(LogError, match=words):
        load_trace(log)


def test_a_disk_can_be_given_where_none_was_recorded(log: EventLog) -> None:
    log.append([observed(0, "a"), *container(1, 2, "a", "c")])
    trace = load_trace(log, disk=DiskOverride(1000, 10))
    assert (trace.disk_total.tolist(), trace.disk_other.tolist()) == ([1000], [10])
    with pytest.raises(UsageError, match="leaves no room for images"):
        load_trace(log, disk=DiskOverride(1000, 1000))


def test_hosts_are_kept_apart(log: EventLog) -> None:
    log.append([sample(0), observed(0, "a"), *container(1, 2, "a", "c")])
    EventLog(log.path, host="second").append([sample(5), observed(5, "b"), *container(6, 7, "b", "d")])
    with pytest.raises(LogError, match=r"several hosts \(runner, second\)"):
        load_trace(log)
    with pytest.raises(LogError, match="knows no host 'third'; known are runner, second"):
        load_trace(log, "third")
    assert load_trace(log, "second").image_ids == ("b",)


def test_sub_second_histories_are_replayed(log: EventLog) -> None:
    log.append([sample(0, free=70, image_bytes=0), sample(3, free=70, image_bytes=0)])
    log.append(
        [*container(0.1, 0.2, "a", "c1"), observed(0.1, "a"), *container(0.15, 0.25, "b", "c2"), observed(0.15, "b")]
    )
    trace = load_trace(log)
    result = replay(trace, PolicyCleaner(Policy(min_age=0.0, interval=0.5), trace))
    assert result.uses == 2
    assert [trace.image_ids[removal.image] for removal in result.removed] == []
    assert result.min_free == 20


def test_containers_that_never_ended_are_found_among_those_that_did(log: EventLog) -> None:
    rng = np.random.default_rng(3)
    events = [sample(0), *(observed(0, image) for image in "abc")]
    running = set()
    for k in range(300):
        # At whole seconds and often at the same one, over a hundred days.
        began, image = float(rng.integers(0, 100) * 86400 + rng.integers(0, 5)), "abc"[rng.integers(0, 3)]
        ended = None if rng.random() < 0.03 else began + float(rng.integers(0, 5000))
        events += container(began, ended, image, f"c{k}")
        if ended is None:
            running.add((began, image))
    log.append(events)
    trace = load_trace(log)
    open_ended = np.isinf(trace.until)
    found = zip(trace.time[open_ended].tolist(), trace.image[open_ended].tolist(), strict=True)
    assert len(running) > 3
    assert {(time, trace.image_ids[image]) for time, image in found} == running
    assert trace.demands == 300
    assert (np.diff(trace.time) >= 0).all()


def test_uses_are_corrected_where_the_clock_was_set_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    began = T0 + 5 * 86400 * S
    made = Event(began, Kind.CONTAINER_CREATED, image="a", container="c")
    gone = replace(made, time_ns=began + S, kind=Kind.CONTAINER_DESTROYED, began_ns=began)
    log.append([sample(0, free=70), observed(1, "a"), made, gone])
    log.append([Event(T0 + 86400 * S, Kind.CLOCK_SET_BACK), sample(2 * 86400, free=60)])
    trace = load_trace(log)
    assert trace.end == 2 * 86400
    assert trace.time.max() == trace.until.max() == 86400


@pytest.mark.parametrize(("whole_since", "notes"), [(0.0, 1), (5 * 86400.0, 0)])
def test_samples_that_a_compaction_thinned_are_not_missing(whole_since: float, notes: int) -> None:
    times = np.concatenate((np.arange(0, 4), np.arange(5, 8, 1 / 24))) * 86400.0
    assert len(list(_unsampled(times, Coverage(0.0, float(times[-1])), 0.0, whole_since))) == notes
