"""A sound log breaks no rule, and each rule is broken by what it is there for."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.queries.check import RULES, check
from tests.needs import first_row_fast

IMAGE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PLAN = {"prune": "p", "plan": {"images": [{"image": IMAGE}]}}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = EventLog(tmp_path_factory.mktemp("sound") / "events.duckdb", host="h")
    made.append(
        [
            Event(1, Kind.CONTAINER_CREATED, image=IMAGE, container="c"),
            Event(5, Kind.CONTAINER_DESTROYED, image=IMAGE, container="c", began_ns=1),
            Event(6, Kind.PRUNE_STARTED, attributes=PLAN),
            Event(7, Kind.ITEM_REMOVED, image=IMAGE, attributes={"prune": "p"}),
            Event(8, Kind.PRUNE_FINISHED, attributes={"prune": "p"}),
        ]
    )
    return made.path


@pytest.fixture
def log(tmp_path: Path, sound: Path) -> EventLog:
    return EventLog(Path(shutil.copy(sound, tmp_path)), host="h")


def test_a_sound_log_breaks_no_rule(log: EventLog) -> None:
    assert check(log) == []
    # After a step back of the clock, events that differ only in their times all happened by then.
    log.append([Event(moment, Kind.DISK_SAMPLED, bytes=1) for moment in (100, 200)])
    log.append([Event(50, Kind.CLOCK_SET_BACK)])
    assert check(log) == []


@pytest.mark.parametrize(
    ("rule", "event"),
    first_row_fast(
        ("interval", Event(9, Kind.GAP, began_ns=10)),
        ("cause", Event(0, Kind.CONTAINER_DESTROYED, image=IMAGE, container="c")),
        ("plan", Event(9, Kind.ITEM_REMOVED, image=OTHER, attributes={"prune": "p"})),
        ("plan", Event(9, Kind.ITEM_FAILED, container="c", attributes={"prune": "another"})),
        ("prune", Event(9, Kind.PRUNE_FINISHED, attributes={"prune": "another"})),
        ("closed", Event(9, Kind.PRUNE_FINISHED, attributes={"prune": "p"})),
        ("closed", Event(9, Kind.PRUNE_STARTED, attributes=PLAN)),
        ("closed", Event(9, Kind.CONTAINER_DESTROYED, image=IMAGE, container="c", began_ns=1)),
        ("closed", Event(9, Kind.CONTAINER_DESTROYED, image=IMAGE, container="open")),
    ),
)
def test_an_event_that_breaks_a_rule_is_found(log: EventLog, rule: str, event: Event) -> None:
    if event.container == "open":
        log.append([Event(2, Kind.CONTAINER_CREATED, image=IMAGE, container="open")])
    log.append([event])
    assert [(found.rule, found.seq) for found in check(log)] == [(rule, 6 + (event.container == "open"))]


@pytest.mark.parametrize(
    ("rule", "damage"),
    first_row_fast(
        ("number", "UPDATE event SET seq = 4 WHERE seq = 3"),
        (
            "identity",
            "UPDATE event SET time = make_timestamp_ns(7), key = (SELECT key FROM event WHERE seq = 4) WHERE seq = 3",
        ),
        ("reference", "UPDATE event SET image = 99 WHERE seq = 4"),
        ("views", "UPDATE schema_version SET views = 'others'"),
    ),
)
def test_a_damage_that_breaks_a_rule_is_found(log: EventLog, rule: str, damage: str) -> None:
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(damage)
    assert rule in {found.rule for found in check(log)}


def test_each_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
