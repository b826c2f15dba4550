"""What can be witnessed on this host, found by asking: permissions, the engine's answers, what it never tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from collector.engine.protocol import Engine
from collector.eventlog.log import EventLog
from collector.machine.disk import sample_disk
from collector.model.errors import EngineError, HindsightError, LogError
from collector.model.units import format_bytes, format_count, format_duration
from collector.model.untrusted import event_time_ns
from collector.queries.status import DAY_S, status

_STALE_S = 900.0


class State(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    BLIND = "blind"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        subject: what was asked.
        state: ``fault`` must be mended; ``blind`` is how this engine is, and what makes up for it is said.
        answer: the answer in a few words, the same for all engines that answer alike.
        detail: figures, and what follows from them.
    """

    subject: str
    state: State
    answer: str
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def examine(engine: Engine, log: EventLog, *, probe: bool = False) -> list[Finding]:
    """Ask log, disk and engine; what follows from a fault is left out.

    Args:
        engine: the engine.
        log: the event log, which need not exist yet.
        probe: also import an empty image, tag, untag and remove it, to see which events tell it.
    """
    return [*_log(log), *_engine(engine, probe=probe)]


def _log(log: EventLog) -> Iterator[Finding]:
    folder = next(path for path in (log.path, *log.path.parents) if path.exists())
    if not os.access(folder, os.R_OK | os.W_OK):
        yield Finding("event log", State.FAULT, "no permission", f"{folder} may not be written: run as root")
        return
    if not log.exists():
        yield Finding("event log", State.FAULT, "missing", f"nothing at {log.path} yet: start `collector run`")
        return
    try:
        found = status(log)
    except LogError as error:
        yield Finding("event log", State.FAULT, "unusable", str(error))
        return
    stale = found.lag_seconds is None or found.lag_seconds > _STALE_S
    ago = "-" if found.lag_seconds is None else format_duration(found.lag_seconds)
    yield Finding(
        "event log",
        State.FAULT if stale or found.spooled_events else State.OK,
        "stale" if stale else "behind" if found.spooled_events else "written",
        f"{found.events:,} events, latest recorded {ago} ago, {found.spooled_events} in the spool",
    )
    seen = "-" if found.coverage_7_days is None else f"{found.coverage_7_days:.1%} of the last 7 days"
    young = found.first_event is not None and time.time() - found.first_event < 7 * DAY_S
    yield Finding(
        "witnessed",
        State.BLIND if found.gaps else State.OK,
        "with gaps" if found.gaps else "without gaps",
        f"{seen}{' (the log is younger)' if young else ''}; {format_count(found.gaps, 'gap')}, "
        f"{format_duration(found.gap_seconds)}",
    )


def _engine(engine: Engine, *, probe: bool) -> Iterator[Finding]:
    try:
        info = engine.info()
    except EngineError as error:
        yield Finding("engine", State.FAULT, "unreachable", str(error))
        return
    yield Finding("engine", State.OK, "answers", f"version {info.version} at {engine.host}, store {info.store}")
    try:
        disk = sample_disk(info.data_root)
        room = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free on {info.data_root}"
        yield Finding("disk", State.OK, "measured", room)
    except HindsightError as error:
        yield Finding("disk", State.FAULT, "not measurable", str(error))
    yield _memory(engine)
    yield from _images(engine)
    if probe:
        yield from _probe(engine)


def _memory(engine: Engine) -> Finding:
    """How far back the engine tells events: what a restarted collector can still learn."""
    now_ns = time.time_ns()
    times = list(filter(None, map(event_time_ns, engine.buffered_events(10**9, now_ns))))
    reach = format_duration((now_ns - min(times)) / 1e9) if times else "nothing"
    if engine.keeps_events:
        return Finding("memory of events", State.OK, "kept on disk", f"{len(times)} events, back to {reach} ago")
    detail = f"now {len(times)}, back to {reach} ago; longer outages and restarts of the engine are recorded as gaps"
    return Finding("memory of events", State.BLIND, "256 in memory", detail)


def _images(engine: Engine) -> Iterator[Finding]:
    """What the engine tells of its images, asked of those that are there."""
    listed = engine.images()
    if not listed:
        yield Finding("images", State.OK, "none yet", "pull one and ask again: some answers need an image")
        return
    answers = engine.answers(listed[0].image)
    told = {True: State.OK, False: State.BLIND}
    yield Finding(
        "layer sizes",
        told[answers.layer_sizes],
        "told" if answers.layer_sizes else "not told",
        "" if answers.layer_sizes else "an image's bytes are put on its top layer: freed bytes are a guess",
    )
    yield Finding(
        "image ID",
        State.OK,
        "manifest digest" if answers.by_manifest else "config digest",
        "changes when the host changes its image store; layers link both" if answers.by_manifest else "",
    )
    yield Finding(
        "image size",
        State.OK,
        "layers and compressed content" if answers.keeps_content else "layers",
        "each layer gets its share of the compressed content" if answers.keeps_content else "",
    )
    yield Finding(
        "time of storing",
        told[answers.stored],
        "told" if answers.stored else "not told",
        "" if answers.stored else "images without a witnessed use are judged by their build time",
    )
    yield _origin(answers.origin)


def _origin(shown_by: str | None) -> Finding:
    """Whether it can be told that a registry has an image."""
    if shown_by is None:
        detail = "pulls and pushes that the log witnesses tell it; as root, `collector run --once` looks it up"
        return Finding("origin of images", State.BLIND, "not told", detail)
    return Finding("origin of images", State.OK, shown_by)


def _probe(engine: Engine) -> Iterator[Finding]:
    """Which events an empty image leaves on its way in and out."""
    told = engine.probe()
    for act in ("import", "tag", "untag", "delete"):
        found = told.get(act)
        named = bool(found)
        answer = "told" if named else "told without the name" if found is not None else "not told"
        made_up = "" if named else "the image list, read after each change and every hour, makes up for it"
        yield Finding(f"event of {act}", State.OK if named else State.BLIND, answer, made_up)
