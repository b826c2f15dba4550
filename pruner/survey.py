"""Reads the state that is decided on: the live engine, the log, and the engine's own short memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

from collector.disk import sample_disk
from collector.engine import Engine, ImageObservation, ListedContainer, ListedImage
from collector.events import Kind
from collector.log import EventLog
from collector.translate import Translator
from collector.units import format_duration, format_time
from pruner.inventory import (
    History,
    Image,
    Inventory,
    containers_of,
    image_of,
    number,
    read_history,
    used_later,
    with_habits,
)
from pruner.learning import Experience, Habits, read_experience
from pruner.orders import LEARNING_ORDERS
from pruner.policy import Policy

_STALE_S = 900.0
# The history of this time must have been witnessed to so much, or the decision says so.
_LOOKED_AT_S = 7 * 86400.0
_BLIND_SHARE = 0.01
_EVIDENCE = {
    Kind.IMAGE_PULLED: "pulled",
    Kind.IMAGE_TAGGED: "tagged",
    Kind.IMAGE_LOADED: "loaded",
    Kind.IMAGE_IMPORTED: "imported",
    Kind.IMAGE_BUILT: "built",
    Kind.CONTAINER_CREATED: "container created",
    Kind.CONTAINER_STARTED: "container started",
    Kind.CONTAINER_DIED: "container died",
    Kind.CONTAINER_DESTROYED: "container removed",
}


def survey(engine: Engine, log: EventLog | None, policy: Policy) -> Inventory:
    """The images that the engine holds now, with all that shows their use.

    Args:
        engine: the live engine.
        log: the event log; None or not there yet: decide without one, and say so.
        policy: its `min_age` says how far back the engine's own memory is asked.

    Raises:
        EngineError: there is no engine.
        LogError: the log is there but cannot be read.
    """
    known = log is not None and log.exists()
    history = read_history(log) if log is not None and known else History()
    disk = sample_disk(engine.info().data_root)
    listed = engine.containers()
    counts = containers_of(listed)
    now = time.time()
    experience = Experience()
    if log is not None and known and policy.order in LEARNING_ORDERS:
        experience = read_experience(log, now)
    recent = recent_uses(engine, now - policy.min_age, now)
    images = []
    for row in engine.images():
        observation = _observation(engine, row, history)
        if observation is not None:
            image = image_of(observation, history.images.get(row.image), counts.get(row.image, 0), now)
            image = with_habits(image, experience.habits.get(row.image, Habits()))
            images.append(used_later(image, *recent.get(row.image, (0.0, ""))))
    return Inventory(
        images=number(images),
        disk=disk,
        now=now,
        blind_until=history.blind_until,
        held=held_for_jobs(listed, images),
        warnings=warnings(history, log, policy, now),
        learned=experience.learned,
    )


def recent_uses(engine: Engine, since: float, until: float) -> dict[str, tuple[float, str]]:
    """Uses that the engine itself still remembers (its last 256 events), newest per image.

    They close the gap between the collector's last append and now, also where no collector runs.

    Args:
        engine: the live engine.
        since: begin of the interval, UTC seconds.
        until: its end, UTC seconds.

    Returns:
        (time in UTC seconds, evidence) by image ID.
    """
    translator = Translator(engine)
    found: dict[str, tuple[float, str]] = {}
    for raw in engine.buffered_events(int(since * 1e9), int(until * 1e9)):
        for event in translator.translate(raw):
            evidence = _EVIDENCE.get(event.kind)
            if evidence is not None and event.image is not None:
                found[event.image] = (event.time_ns / 1e9, evidence)
    return found


def held_for_jobs(containers: list[ListedContainer], images: list[Image]) -> frozenset[str]:
    """Images that a job in flight may need: its helper runs, its build container does not exist yet.

    Which image that job will use is not known, so every image that has ever served its project's
    jobs would have to be held; the engine only tells the project. Until side-bands name the image,
    jobs in flight hold what was used or pulled since their first container was created.
    """
    began: list[int] = []
    building = {_job(row.labels) for row in containers if row.labels.get(_TYPE) == "build"}
    for row in containers:
        job = _job(row.labels)
        if job and job not in building and row.labels.get(_TYPE) != "service":
            began.append(row.created_ns)
    if not began:
        return frozenset()
    return frozenset(image.image_id for image in images if image.last_use >= min(began) / 1e9)


_TYPE = "com.gitlab.gitlab-runner.type"


def _job(labels: Mapping[str, str]) -> str | None:
    return labels.get("com.gitlab.gitlab-runner.job.id")


def warnings(history: History, log: EventLog | None, policy: Policy, now: float) -> tuple[str, ...]:
    """What the decision has to do without."""
    found = []
    if history.began is None:
        where = f" at {log.path}" if log is not None else ""
        found.append(
            f"no event log{where}: last use is unknown and build or storing time stands in for it; "
            "start `collector run` on this host"
        )
        return tuple(found)
    if now - history.began < policy.min_age:
        found.append(
            f"the log is young (since {format_time(history.began)}): images without a witnessed use "
            "are judged by build or storing time"
        )
    if history.last_recorded is not None and now - history.last_recorded > _STALE_S:
        found.append(
            f"nothing has been recorded for {format_duration(now - history.last_recorded)}: "
            "is the collector running? Uses since then are known only as far as the engine remembers them"
        )
    if history.blind_until is not None and now - history.blind_until < policy.min_age:
        found.append(f"the history has a gap until {format_time(history.blind_until)}")
    blind = history.witnessed.blind(now - _LOOKED_AT_S, now)
    if blind > _BLIND_SHARE * _LOOKED_AT_S:
        found.append(
            f"{format_duration(blind)} of the last {format_duration(_LOOKED_AT_S)} were not witnessed: "
            "images used only then look older than they are"
        )
    return tuple(found)


def _observation(engine: Engine, row: ListedImage, history: History) -> ImageObservation | None:
    """The image's layers: from the log where it tells them, for asking takes two calls an image."""
    known = history.observed.get(row.image)
    if known is not None and known.layers and (known.references, known.digests) == row.signature:
        return known
    return engine.observe(row)


def current_names(engine: Engine, image_id: str) -> ListedImage | None:
    """The image as the engine lists it at this moment; None if it has gone."""
    return next((row for row in engine.images() if row.image == image_id), None)


def used_since(engine: Engine, since: float) -> dict[str, tuple[float, str]]:
    """Uses that the engine remembers from `since` (UTC seconds) on."""
    return recent_uses(engine, since, time.time())
