"""A week on a small host that has everything a report shows, and hostile names in it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from analyzer.baselines import DEFAULT_BASELINES
from analyzer.report.study import Lineup, Study, Tried, study
from analyzer.search.fleet import Simulation
from analyzer.search.grid import grid
from analyzer.search.proposal import propose
from analyzer.search.whatif import WhatIf
from analyzer.trace.load import load_trace
from analyzer.trace.recorded import read_recorded
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind

S = 10**9
T0 = 1_700_000_000 * S
HOUR = 3600
GIB = 2**30
TOTAL = 40 * GIB
HOSTILE = 'evil/</script><img src=x onerror="document.title=1">{{7*7}}&<!--:1'
SCRIPT_URL = "javascript:document.title=1"
PROJECTS = ("group/project-0", "group/project-1", f"group/{HOSTILE}")
IMAGES = [f"registry.example.org/group/app/build-{n}:1" for n in range(11)] + [HOSTILE]


def make_week(log: EventLog, hours: int = 7 * 24, local: Collection[int] = ()) -> None:
    """Append it, or its first hours: 7 GiB images come one after another, one again and again; two prunes, a gap.

    Args:
        log: the log.
        hours: how much of the week.
        local: the numbers of images that were made on the host.
    """
    events = [_sample(0, TOTAL - 2 * GIB, 0)]
    for n, reference in enumerate(IMAGES):
        events.append(_observed(12 * n * HOUR + 60, f"sha256:{n:064x}", reference, local=n in local))
    number = 0
    for hour in range(1, 7 * 24):
        held = min(hour // 12 + 1, 5) * 7 * GIB
        events.append(_sample(hour * HOUR, TOTAL - 2 * GIB - held, held))
        for image in {min(hour // 12, len(IMAGES) - 1), 0 if hour % 30 == 0 else min(hour // 12, len(IMAGES) - 1)}:
            number += 1
            events += _container(hour * HOUR + 120, f"sha256:{image:064x}", f"c{number}", PROJECTS[image % 3])
    events.append(Event(T0 + 100 * HOUR * S, Kind.GAP, began_ns=T0 + 96 * HOUR * S, attributes={"reason": "stopped"}))
    for k, hour in enumerate((60, 120)):
        prune = {"prune": f"p{k}"}
        events.append(Event(T0 + hour * HOUR * S, Kind.PRUNE_STARTED, attributes={**prune, "trigger": "timer"}))
        events.append(Event(T0 + hour * HOUR * S + S, Kind.PRUNE_FINISHED, bytes=7 * GIB, attributes=prune))
    log.append(
        sorted((event for event in events if event.time_ns < T0 + hours * HOUR * S), key=lambda event: event.time_ns)
    )


def _sample(second: int, free: int, held: int) -> Event:
    attributes = {"total_bytes": TOTAL, "image_bytes": held}
    return Event(T0 + second * S, Kind.DISK_SAMPLED, bytes=free, attributes=attributes)


def _observed(second: int, image: str, reference: str, *, local: bool = False) -> Event:
    layers = [
        {"diff_id": "base", "chain_id": "base", "bytes": GIB},
        {"diff_id": image, "chain_id": f"{image}+", "bytes": 6 * GIB},
    ]
    attributes: dict[str, Any] = {
        "references": [reference],
        "digests": [] if local else [f"{reference.rpartition(':')[0]}@sha256:00"],
        "created": "2023-11-01T00:00:00Z",
        "size": 7 * GIB,
        "layers": layers,
    }
    if local:
        attributes["origin"] = "local"
    return Event(T0 + second * S, Kind.IMAGE_OBSERVED, image=image, attributes=attributes)


def _container(second: int, image: str, name: str, project: str) -> list[Event]:
    began, ended = T0 + second * S, T0 + (second + 600) * S
    job = {"ci": "gitlab", "job_id": name, "project": project, "ref": HOSTILE, "name": HOSTILE, "url": SCRIPT_URL}
    attributes = {"job": job, "role": "build"}
    created = Event(began, Kind.CONTAINER_CREATED, image=image, container=name, attributes=attributes)
    gone = Event(ended, Kind.CONTAINER_DESTROYED, image=image, container=name, began_ns=began, attributes=attributes)
    return [created, gone]


def study_of(log: EventLog, *thresholds: str) -> Study:
    """What a report on it shows that compares these thresholds."""
    trace = load_trace(log)
    candidates, _ = grid({"threshold": thresholds})
    lineup = Lineup.of([item.policy for item in candidates], propose(lambda trial: ([trial(trace)], []), candidates))
    results, notes = Simulation(lineup.policies, DEFAULT_BASELINES).run(trace, timeline=True)
    whatif = WhatIf.of(trace, lineup.policies, candidates, lineup.proposal)
    tried = None if whatif is None else Tried.of(trace, whatif)
    return study(trace, results, lineup, read_recorded(log, trace), notes, tried)
