"""What was held for jobs in flight on a busy runner: a recorded run of GitLab Runner 14.7.1, replayed.

Three projects share a disk that is too small for their images, under the pull policies `always`, `if-not-present`
and `never`; jobs are cancelled, and some fail for lack of space. Each moment is one at which the pruner of that
time fell short of its target.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import store
from collector.job_sources.runnerlog import JobFact, RunnerLog, parse_line
from collector.model.jobs import HELPER_ROLES, job_of
from collector.model.observation import CreatedFrom, ListedContainer
from pruner.state.job_memory import read_jobs
from pruner.state.jobs_in_flight import held_for_jobs

RECORDED = Path(__file__).parents[1] / "data" / "gitlab-runner" / "busy"


@dataclass
class Present:
    image_id: str
    names: tuple[str, ...]
    pulled: float = 0.0

    @property
    def local(self) -> bool:
        return "/local/" in self.names[0]


@dataclass
class Host:
    """The host at a moment, from its events."""

    ids: Mapping[str, str]
    containers: dict[str, ListedContainer] = field(default_factory=dict)
    images: dict[str, Present] = field(default_factory=dict)
    stopped: dict[str, float] = field(default_factory=dict)

    def resolve(self, reference: str) -> str | None:
        return self.ids.get(reference)

    def created_from(self, _: str) -> CreatedFrom:
        return CreatedFrom()

    def take(self, event: Mapping[str, Any]) -> None:
        who, attributes, time_ns = event["Actor"]["ID"], event["Actor"]["Attributes"], event["timeNano"]
        image = self.ids.get(who, who)
        match event["Type"], event["Action"]:
            case "image", "pull":
                self.arrive(image, time_ns / 1e9)
            case "image", "delete":
                self.images.pop(image, None)
            case "container", "create":
                image = attributes["image"]
                self.containers[who] = ListedContainer(who, image, attributes["name"], "created", time_ns, attributes)
                self.stopped[who] = time_ns / 1e9
            case "container", "destroy":
                self.containers.pop(who, None)
            case "container", action if who in self.containers:
                row = self.containers[who]
                state = "running" if action == "start" else "exited"
                self.containers[who] = ListedContainer(who, row.image, row.name, state, row.created_ns, row.labels)
                self.stopped[who] = time_ns / 1e9

    def arrive(self, image: str, time: float = 0.0) -> None:
        name = next((name for name, known in self.ids.items() if known == image), image)
        self.images[image] = Present(image, (name,), time)


@dataclass(frozen=True)
class Need:
    """A container of a job's own choice: from when on the job is in flight, and when it is created."""

    image: str
    begun: float
    created: float


def lines(name: str) -> Iterator[str]:
    with gzip.open(RECORDED / name, "rt", encoding="utf-8") as file:
        yield from file


def runner_facts() -> list[tuple[float, JobFact]]:
    reader = RunnerLog()
    parsed = [line for raw in lines("runner.log.gz") if (line := parse_line(raw)) is not None]
    found = [((line.time_ns or 0) / 1e9, reader.read(line)) for line in parsed]
    return [(time, fact) for time, fact in found if fact is not None]


def needs(events: list[dict[str, Any]], facts: list[tuple[float, JobFact]]) -> list[Need]:
    begun: dict[str | None, float] = {}
    for time, fact in facts:
        begun.setdefault(fact.job.job_id, time)
    found = []
    for event in events:
        output = job_of(event["Actor"]["Attributes"]) if event["Action"] == "create" else None
        if output is not None:
            created = event["timeNano"] / 1e9
            first = begun[output[0].job_id] = min(created, begun.get(output[0].job_id, created))
            if output[1] not in HELPER_ROLES:
                found.append(Need(event["Actor"]["Attributes"]["image"], first, created))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("following", "expected"),
    [
        # Of the images that no container refers to: held, put last, and needed; of those held, last, and neither.
        (True, (172, 18, 12, (16, 14, 1, 1))),
        (False, (172, 6, 76, (16, 0, 14, 2))),
    ],
)
def test_what_jobs_in_flight_need_is_held_or_goes_last(
    tmp_path: Path, following: bool, expected: tuple[int, int, int, tuple[int, int, int, int]]
) -> None:
    output = json.loads((RECORDED / "moments.json").read_text())
    events = [json.loads(line) for line in lines("docker-events.jsonl.gz")]
    facts = runner_facts()
    wanted = needs(events, facts)
    host, log = Host(output["images"]), EventLog(tmp_path / "events.duckdb", host="runner")
    pulled: set[str] = set()
    for event in events:
        # What is used before it is pulled was there from the beginning.
        if event["Action"] == "pull":
            pulled.add(host.ids[event["Actor"]["ID"]])
        elif event["Action"] == "create" and (image := event["Actor"]["Attributes"]["image"]) not in pulled:
            host.arrive(image)
    translator = Translator(host)
    unpinned = firm = last = 0
    sums = [0, 0, 0, 0]
    for moment in output["moments"][::3]:
        seen = [event for event in events if event["timeNano"] / 1e9 <= moment]
        events = events[len(seen) :]
        for event in seen:
            host.take(event)
        log.append([one for event in seen for one in translator.translate(event)])
        if following:
            read = [fact for time, fact in facts if time <= moment]
            store(log, read, "runner log", 0)
            facts = facts[len(read) :]
        free = set(host.images) - {row.image for row in host.containers.values()}
        holds = held_for_jobs(
            list(host.containers.values()), host.images.values(), read_jobs(log, moment), moment, host.stopped
        )
        held = {image for image, hold in holds.items() if hold.firm} & free
        late = (set(holds) & free) - held
        need = {one.image for one in wanted if one.begun <= moment < one.created} & free
        unpinned, firm, last = unpinned + len(free), firm + len(held), last + len(late)
        parts = (need, need & held, need & late, need - held - late)
        sums = [total + len(part) for total, part in zip(sums, parts, strict=True)]
    assert (unpinned, firm, last, tuple(sums)) == expected
