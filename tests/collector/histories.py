"""Histories of a host as the collector would record them, and all that the past is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.daemon.presence import Presence
from collector.eventlog import hourly
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.queries.images import images
from collector.queries.jobs import jobs as latest_jobs
from collector.queries.status import status
from collector.queries.story import stories
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
