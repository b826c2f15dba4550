"""The history of removals shows their regret, by logs with exact stories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from pruner.report.history import PastRemoval, history_summary, read, since_when, totals
from tests.commands import printed

HOUR = 3600
T0 = 1_700_000_000
MIB = 2**20
ALPHA, BETA = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def event(hours: float, kind: Kind, image: str | None = None, **more: Any) -> Event:
    return Event(int((T0 + hours * HOUR) * 1e9), kind, image=image, **more)


def removal(hours: float, prune: str, image: str, name: str, size: int) -> Event:
    output = {"prune": prune, "reason": "evict", "detail": "last used 3 h ago", "predicted_bytes": size}
    attributes = {**output, "references": [name], "item": "image"}
    return event(hours, Kind.ITEM_REMOVED, image, reference=name, bytes=size + 7, attributes=attributes)


def started(hours: float, prune: str, trigger: str) -> Event:
    return event(hours, Kind.PRUNE_STARTED, attributes={"prune": prune, "trigger": trigger})


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="runner")
    story: Sequence[Event] = (
        event(0, Kind.IMAGE_PULLED, ALPHA, reference="registry.example.org/a:1"),
        started(1, "p1", "timer"),
        removal(1.0, "p1", ALPHA, "registry.example.org/a:1", 100 * MIB),
        removal(1.1, "p1", BETA, "b:2", 50 * MIB),
        event(
            1.2,
            Kind.ITEM_REMOVED,
            reference="0123abcd",
            bytes=3 * MIB,
            attributes={"prune": "p1", "item": "volume", "reason": "anonymous", "predicted_bytes": 3 * MIB},
        ),
        event(3, Kind.IMAGE_PULLED, ALPHA, reference="registry.example.org/a:1"),
        event(3.1, Kind.CONTAINER_CREATED, ALPHA, container="c1"),
        event(3.2, Kind.CONTAINER_STARTED, ALPHA, container="c1"),
        event(4, Kind.IMAGE_PULLED, ALPHA, reference="registry.example.org/a:1"),
        event(4.1, Kind.CONTAINER_CREATED, ALPHA, container="c2"),
        started(5, "p2", "early"),
        removal(5, "p2", ALPHA, "registry.example.org/a:1", 100 * MIB),
        event(5.5, Kind.ITEM_FAILED, BETA, reference="b:2", attributes={"prune": "p2", "error": "in use"}),
        event(6, Kind.CONTAINER_CREATED, BETA, container="c3"),
    )
    made.append(story)
    return made


def test_each_removal_has_its_own_regret(log: EventLog) -> None:
    first, beta, volume, second = read(log)
    assert (first.name, first.trigger, first.freed) == ("registry.example.org/a:1", "timer", 100 * MIB + 7)
    assert (first.returned_after, first.returned_by, first.returned_bytes, first.later_uses) == (
        2 * HOUR,
        "pulled",
        100 * MIB,
        2,
    )
    assert (beta.returned_at, beta.returned_bytes, beta.later_uses) == (None, 0, 1)
    assert (volume.item, volume.name, volume.image_id, volume.returned_at) == ("volume", "0123abcd", None, None)
    assert (second.trigger, second.returned_at, second.later_uses) == ("early", None, 0)


def test_totals_and_the_line(log: EventLog) -> None:
    found = read(log)
    assert totals(found) == {
        "removals": 4,
        "freed_bytes": 253 * MIB + 21,
        "images": 3,
        "images_back_again": 1,
        "bytes_back_again": 100 * MIB,
        "unrecoverable_misses": 0,
        "soonest_again_seconds": 2 * HOUR,
    }
    assert history_summary(found) == "4 removals freed 253 MiB; of 3 images 1 came back (100 MiB), the first 2 h later"
    assert history_summary(found[1:2]) == "1 removal freed 50.0 MiB; of 1 image none came back"
    assert history_summary([]) == "nothing was removed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("registry.example.org/a:1", 2),
        ("registry.example.org/a", 2),
        ("*/a:*", 2),
        ("aaaaaa", 2),
        ("b:2", 1),
        ("aaa", 0),
    ],
)
def test_names_globs_and_ids_are_meant(log: EventLog, name: str, count: int) -> None:
    assert len(read(log, name=name)) == count


def test_since(log: EventLog) -> None:
    assert [one.prune for one in read(log, since=T0 + 4 * HOUR)] == ["p2"]
    assert since_when("2h", now=T0) == T0 - 2 * HOUR
    assert since_when("2026-11-24") == since_when("2026-11-24T01:00+01:00")
    with pytest.raises(UsageError, match="--since: 'yore' is neither"):
        since_when("yore")


def test_the_command_prints_a_table_and_json(log: EventLog) -> None:
    shown = partial(printed, "pruner", "history", "--log", str(log.path))
    table = shown()
    assert "AGAIN" in table
    assert "pulled after 2 h" in table
    assert "1 came back" in table
    output = json.loads(shown("b:2", "--format", "json"))
    assert [row["name"] for row in output["removals"]] == ["b:2"]
    assert output["totals"]["images_back_again"] == 0
    assert "nothing was removed" in shown("--since", "2100-01-01")


def test_a_log_without_prunes_has_no_history(tmp_path: Path) -> None:
    made = EventLog(tmp_path / "events.duckdb")
    made.append([event(0, Kind.IMAGE_PULLED, ALPHA, reference="a:1")])
    found: list[PastRemoval] = read(made)
    assert found == []


def test_an_image_that_no_registry_gives_back_and_that_a_job_asks_for_is_a_loss(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="runner")
    gone = removal(1, "p1", ALPHA, "ci/app:1", MIB)
    local = {"reason": "evict_local", "detail": "EXISTS ONLY ON THIS HOST"}
    asked = [event(hours, Kind.PULL_FAILED, reference="ci/app:1", attributes={"error": "x"}) for hours in (0.5, 3, 4)]
    log.append([started(1, "p1", "timer"), replace(gone, attributes={**gone.attributes, **local}), *asked])
    (one,) = read(log)
    assert one.missed_at == T0 + 3 * HOUR
    assert totals([one])["unrecoverable_misses"] == 1
    assert "images that existed only on this host and were ASKED FOR AGAIN: 1" in history_summary([one])
