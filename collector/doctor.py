"""What can be observed on this host, found by asking: permissions, the engine's answers, what it never reports."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from collector.engine.locality import locate
from collector.engine.protocol import Engine
from collector.eventlog.database import files_aside, in_one_line
from collector.eventlog.identity import this_machine
from collector.eventlog.log import EventLog
from collector.job_sources.follow import STATE, Followed, runner_is_installed
from collector.job_sources.runnerlog import SOURCE
from collector.machine.disk import contradiction, sample_disks
from collector.model.advice import hidden_system_log, how_to_read
from collector.model.errors import EngineError, HindsightError, LogDamagedError, LogError
from collector.model.observation import EngineInfo
from collector.model.units import DAY_S, format_bytes, format_count, format_duration
from collector.model.untrusted import event_time_ns
from collector.queries.status import status

_STALE_S = 900.0
_LATELY_S = DAY_S
# Jobs of GitLab Runner by their containers, those that its log names, and when that was last.
_JOBS = """
SELECT count(DISTINCT job) FILTER (container IS NOT NULL),
    count(DISTINCT job) FILTER (attributes ->> '$.source' = $source),
    epoch_ns(max(time) FILTER (attributes ->> '$.source' = $source))
FROM event JOIN job USING (host, job)
WHERE host = $host AND time >= make_timestamp_ns($since) AND ci = 'gitlab'
"""


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
        state: ``fault`` needs fixing; ``blind`` is how this engine is, and what makes up for it is said.
        answer: the answer in a few words, the same for all engines that answer alike.
        detail: figures, and what follows from them.
    """

    subject: str
    state: State
    answer: str
    detail: str = ""


def examine(engine: Engine, log: EventLog, *, probe: bool = False, found_by: str = "") -> list[Finding]:
    """Ask log, disk and engine; what follows from a fault is left out.

    Args:
        engine: the engine.
        log: the event log, which need not exist yet.
        probe: also import an empty image, tag, untag and remove it, to see which events report it.
        found_by: what says that this engine is meant.
    """
    return [*_log(log), *_engine(engine, log, probe=probe, found_by=found_by)]


def _log(log: EventLog) -> Iterator[Finding]:
    try:
        if not log.exists():
            yield _no_log(log.path)
            return
        writer = _other_writer(log.path)
    except LogError as error:
        yield Finding("event log", State.FAULT, "no permission", str(error))
        return
    if damaged := files_aside(log.path):
        names = ", ".join(path.name for path in damaged)
        detail = f"{names} beside the log: check the disk; remove them once they are not needed any more"
        yield Finding("damaged logs", State.BLIND, format_count(len(damaged), "file") + " set aside", detail)
    try:
        log.verify()
        found = status(log)
    except LogDamagedError as error:
        yield Finding("event log", State.FAULT, "damaged", str(error))
        return
    except LogError as error:
        yield Finding("event log", State.FAULT, "unusable", str(error))
        return
    stale = found.lag_seconds is None or found.lag_seconds > _STALE_S
    ago = "-" if found.lag_seconds is None else format_duration(found.lag_seconds)
    yield Finding(
        "event log",
        State.FAULT if stale or found.spooled_events else State.OK,
        "stale" if stale else "behind" if found.spooled_events else "written",
        f"{found.events:,} events, latest recorded {ago} ago, {found.spooled_events} in the spool{writer}",
    )
    seen = "-" if found.coverage_7_days is None else f"{found.coverage_7_days:.1%} of the last 7 days"
    now = time.time()
    young = found.first_event is not None and now - found.first_event < 7 * DAY_S
    yield from _runner_log(log)
    yield Finding(
        "observed",
        State.BLIND if found.gaps or found.misses_uses(now) else State.OK,
        "with gaps" if found.gaps else "in part" if found.misses_uses(now) else "without gaps",
        f"{seen}{' (the log is younger)' if young else ''}; {format_count(found.gaps, 'gap')}, "
        f"{format_duration(found.gap_seconds)}",
    )


def _no_log(path: Path) -> Finding:
    """What keeps a log from being there, or this user from seeing the one that is."""
    if hidden := hidden_system_log():
        return Finding("event log", State.FAULT, "no permission", hidden)
    folder = next(parent for parent in path.parents if parent.exists())
    if not os.access(folder, os.R_OK | os.W_OK):
        return Finding("event log", State.FAULT, "no permission", f"{folder} may not be written: run as root")
    return Finding("event log", State.FAULT, "missing", f"nothing at {path} yet: start `collector run`")


def _other_writer(path: Path) -> str:
    """Who writes a log that this user may only read; empty: this user writes it.

    Raises:
        LogError: this user may not read it, or owns it and may not write it.
    """
    if os.access(path, os.R_OK | os.W_OK):
        return ""
    with in_one_line(path):
        owner = path.stat().st_uid
    if owner == os.geteuid() or not os.access(path, os.R_OK):
        raise LogError(f"{path} may not be {'written' if os.access(path, os.R_OK) else 'read'}: {how_to_read(path)}")
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    return f"; written by {name}"


def _runner_log(log: EventLog) -> Iterator[Finding]:
    """Whether the collector follows the log of a GitLab Runner that is here, and what lets it."""
    followed = Followed.from_position(log.position(STATE))
    since_ns = time.time_ns() - int(_LATELY_S * 1e9)
    jobs, logged, latest_ns = log.query(_JOBS, {"host": log.host, "since": since_ns, "source": SOURCE})[0]
    subject, count = "runner's log", format_count(jobs, "job")
    if followed is not None and followed.fault is not None:
        yield Finding(subject, State.BLIND, "not readable", followed.fault)
    elif followed is not None and followed.name is not None and (logged or not jobs):
        ago = "none yet" if latest_ns is None else f"{format_duration((time.time_ns() - latest_ns) / 1e9)} ago"
        yield Finding(subject, State.OK, "followed", f"{followed.name}; latest fact on a job: {ago}")
    elif followed is not None and followed.name is not None:
        detail = f"{followed.name}, where {count} of the last day left no line: name another with --runner-log"
        yield Finding(subject, State.BLIND, "says nothing", detail)
    elif jobs or runner_is_installed():
        detail = f"{count} in the last day: let `collector run` follow it, with --runner-log journal or its file"
        yield Finding(subject, State.BLIND, "not followed", f"{detail}; what jobs need is guessed meanwhile")


def _engine(engine: Engine, log: EventLog, *, probe: bool, found_by: str) -> Iterator[Finding]:
    try:
        info = engine.info()
    except EngineError as error:
        yield Finding("engine", State.FAULT, "unreachable", str(error))
        return
    where = f"{engine.host} ({found_by})" if found_by else engine.host
    yield Finding("engine", State.OK, "answers", f"version {info.version} at {where}, store {info.store}")
    yield from _host(engine, log, info)
    yield from _disks(engine, info)
    yield _memory(engine)
    yield from _images(engine)
    if probe:
        yield from _probe(engine)


def _host(engine: Engine, log: EventLog, info: EngineInfo) -> Iterator[Finding]:
    """Whether engine and log are this host's, and what shows it."""
    found = locate(engine, info, [row.image for row in engine.images()])
    state = State.OK if found.here else State.FAULT
    answer = "this host" if found.here else "another host" if found.here is False else "not known"
    yield Finding("host of the engine", state, answer, found.how)
    if not log.exists():
        return
    here = this_machine(info)
    root = None if here.engine else here.data_root
    known = {"machine ID": here.machine, "hardware ID": here.hardware, "engine ID": here.engine, "data root": root}
    by = ", ".join(name for name, value in known.items() if value is not None)
    try:
        log.claim(here, readonly=True)
    except LogError as error:
        yield Finding("host of the log", State.FAULT, "another host", str(error))
    else:
        yield Finding("host of the log", State.OK, "this host", f"recognised by {by or f'its name {here.name} alone'}")


def _disks(engine: Engine, info: EngineInfo) -> Iterator[Finding]:
    """Where the engine's bytes lie, how that was found, and whether it can be so."""
    if info.places:
        answer = "containerd" if info.store == "containerd" else "data root"
        yield Finding("place of images", State.OK, answer, f"{info.places[0].path}: {info.places[0].how}")
    try:
        disks = sample_disks(info)
    except HindsightError as error:
        yield Finding("disk", State.FAULT, "not measurable", str(error))
        return
    doubt = contradiction(disks, _least_held(engine, info))
    for number, disk in enumerate(disks):
        room = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free on {disk.mount or disk.path}"
        subject = f"disk of {', '.join(disk.holds)}" if number else "disk"
        detail = f"{room} ({', '.join(disk.holds)})" if disk.holds and not number else room
        if doubt and not number:
            yield Finding(subject, State.FAULT, "contradicted", f"{doubt}; {room}")
        else:
            yield Finding(subject, State.OK, "measured", detail)


def _least_held(engine: Engine, info: EngineInfo) -> int:
    """What images hold at least, bytes: the largest, or all layers where the engine says what they hold."""
    largest = max((row.size for row in engine.images()), default=0)
    if info.store == "podman":
        return largest
    try:
        return max(largest, int(engine.disk_usage().get("LayersSize") or 0))
    except (EngineError, TypeError, ValueError):
        return largest


def _memory(engine: Engine) -> Finding:
    """How far back the engine keeps events: what a restarted collector can still learn."""
    now_ns = time.time_ns()
    times = list(filter(None, map(event_time_ns, engine.buffered_events(10**9, now_ns))))
    reach = format_duration((now_ns - min(times)) / 1e9) if times else "nothing"
    if engine.keeps_events:
        return Finding("memory of events", State.OK, "kept on disk", f"{len(times)} events, back to {reach} ago")
    detail = f"now {len(times)}, back to {reach} ago; longer outages and restarts of the engine are recorded as gaps"
    return Finding("memory of events", State.BLIND, "256 in memory", detail)


def _images(engine: Engine) -> Iterator[Finding]:
    """What the engine reports about its images, found by asking about those that are there."""
    listed = engine.images()
    if not listed:
        yield Finding("images", State.OK, "none yet", "pull one and ask again: some answers need an image")
        return
    answers = engine.answers(listed[0].image)
    unsized = "an image's bytes are put on its top layer: freed bytes are a guess"
    untimed = "images without an observed use are judged by their build time"
    moves = "changes when the host changes its image store; layers link both"
    shares = "each layer gets its share of the compressed content"
    looked_up = "recorded pulls and pushes show it; as root, `collector run --once` looks it up"
    yield from (
        _either("layer sizes", answers.layer_sizes, ("reported",), ("not reported", unsized)),
        _either("image ID", answers.by_manifest, ("manifest digest", moves), ("config digest",), State.OK),
        _either("image size", answers.keeps_content, ("layers and compressed content", shares), ("layers",), State.OK),
        _either("pull time", answers.stored, ("reported",), ("not reported", untimed)),
        _either("origin of images", answers.origin, (str(answers.origin),), ("not reported", looked_up)),
    )


def _either(
    subject: str, holds: object, answer: tuple[str, ...], other: tuple[str, ...], state: State = State.BLIND
) -> Finding:
    """One answer and its detail if something holds, else the other ones, with this state."""
    return Finding(subject, State.OK, *answer) if holds else Finding(subject, state, *other)


def _probe(engine: Engine) -> Iterator[Finding]:
    """Which events an empty image leaves on its way in and out."""
    probed = engine.probe()
    for act in ("import", "tag", "untag", "delete"):
        found = probed.get(act)
        named = bool(found)
        answer = "reported" if named else "reported without the name" if found is not None else "not reported"
        made_up = "" if named else "the image list, read after each change and every hour, makes up for it"
        yield Finding(f"event of {act}", State.OK if named else State.BLIND, answer, made_up)
