"""What tests of shipped logs share."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyzer.trace.shipped import ShippedLog
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.shipping import parts
from collector.shipping.parts import Name
from collector.shipping.store import Folder, StoreError
from tests.analyzer.test_loading import T0, S, observed, sample

DAY = 86400
ALL = (
    "SELECT seq, epoch_ns(time), key, kind, image_id, attributes FROM event LEFT JOIN image USING (image) ORDER BY seq"
)
JOBS = "SELECT * FROM job ORDER BY job"
COLLECTOR = Path(sys.executable).with_name("collector")


def days(first: int, count: int, tag: str = "c") -> list[Event]:
    """So many days with a job each, from a day on."""
    found: list[Event] = []
    for day in range(first, first + count):
        at = T0 + day * DAY * S
        labels = {"com.gitlab.gitlab-runner.job.id": str(day), "com.gitlab.gitlab-runner.managed": "true"}
        made = Event(at, Kind.CONTAINER_CREATED, image="a", container=f"{tag}{day}", attributes={"labels": labels})
        found += [made, replace(made, time_ns=at + S, kind=Kind.CONTAINER_DIED), sample(day * DAY + 2, free=70)]
        found.append(observed(day * DAY + 3, "a"))
    return found


def rows(log: EventLog) -> list[tuple[Any, ...]]:
    found, jobs = log.query(ALL, as_recorded=True), log.query(JOBS)
    if isinstance(log, ShippedLog):
        log.in_place = True
        assert log.query(ALL, as_recorded=True) == found
        assert log.query(JOBS) == jobs
        log.in_place = False
    return found


def shipped(store: Any, host: str = "runner") -> ShippedLog:
    return ShippedLog(store, host)


class Dying(Folder):
    """A folder that can be written to so many times only."""

    def __init__(self, path: Path, writes: int) -> None:
        super().__init__(path)
        self.left = writes

    def write(self, name: str, data: bytes) -> None:
        if self.left == 0:
            raise StoreError("gone")
        self.left -= 1
        super().write(name, data)

    def remove(self, name: str) -> None:
        if self.left == 0:
            raise StoreError("gone")
        self.left -= 1
        super().remove(name)


def merged(store: Folder) -> list[str]:
    return [f"{one.first}-{one.last}" for one in parts.listed(store.names("manifest")) if one.is_merged]


def part(store: Folder, day: str) -> Name:
    found = [name for path in store.names("manifest") if (name := Name.parsed(path)) and name.day == day]
    return found[0]
