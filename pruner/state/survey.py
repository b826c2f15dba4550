"""Reads the state that is decided on: the live engine, the log, and the engine's own short memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from collector.engine.content import compressed_sizes
from collector.engine.locality import require_local
from collector.engine.places import CONTENT
from collector.engine.protocol import Engine
from collector.eventlog.identity import Identity, this_machine
from collector.eventlog.log import EventLog
from collector.machine.disk import DiskSample, contradiction, disks_now
from collector.model.errors import EngineError, UsageError
from collector.model.observation import EngineInfo, ExternalContainer, ImageObservation, ListedContainer, ListedImage
from collector.model.origin import Origin, agreed
from collector.model.units import short_id
from pruner.policy.min_age import with_min_age
from pruner.policy.orders import LEARNING_ORDERS
from pruner.policy.policy import Policy
from pruner.state.containers import external_container, read_build_cache, read_containers
from pruner.state.disks import splits_images
from pruner.state.doubts import unknown_origins, warnings
from pruner.state.event_watch import recent_uses
from pruner.state.inventory import (
    Container,
    HostRecord,
    Image,
    Inventory,
    Volume,
    image_of,
    number,
    read_history,
    stop_times,
    used_later,
    with_habits,
)
from pruner.state.job_memory import RunnerPolicies, configured_policies, read_jobs
from pruner.state.job_slots import free_slots
from pruner.state.jobs_in_flight import JobMemory, held_for_jobs
from pruner.state.learning import Experience, Habits, read_experience
from pruner.state.questions import Questions
from pruner.state.rates import read_rates
from pruner.state.refusals import ItemId, Refusal, read_refusals
from pruner.state.services import read_rollbacks
from pruner.state.volumes import VolumeUses, last_references, last_slots, read_volumes

_NO_USAGE: dict[str, Any] = {}


def survey(engine: Engine, log: EventLog | None, policy: Policy) -> Inventory:
    """All that the engine holds now and what shows its use; see `look`."""
    return look(engine, log, policy)[1]


def look(
    engine: Engine, log: EventLog | None, policy: Policy, orphaned: Iterable[str] = (), *, learn: bool = False
) -> tuple[Policy, Inventory]:
    """The policy with its minimum age in seconds, and all that the engine holds now with what shows its use.

    Args:
        engine: the live engine.
        log: the event log; None or not there yet: decide without one, and say so.
        policy: its `min_age` says how far back the engine's own memory is asked.
        orphaned: names of volumes whose containers this very run removed.
        learn: whether to read what the log teaches, too: see `with_learning`.

    Raises:
        EngineError: there is no engine.
        LogError: the log is there but cannot be read.
        UsageError: an amount is given per job and the number of slots is not known.
    """
    info = engine.info()
    rows = engine.images()
    require_local(engine, info, [row.image for row in rows])
    disks = disks_now(info)
    now = time.time()
    listed = engine.containers()
    logged = read_log(log, policy, this_machine(info), now, listed, learn=learn)
    policy, history, jobs = logged.policy, logged.history, logged.jobs
    questions = Questions(engine, policy.deadline)
    usage = questions.ask(engine.disk_usage, _NO_USAGE, "what containers, volumes and build cache hold is unknown")
    label_of = {row.container: policy.kept_by(row.labels) for row in listed}
    containers = tuple(
        replace(one, kept_by=label_of[one.container_id])
        for one in read_containers(engine, listed, usage, questions, info.data_root)
    )
    none: list[ExternalContainer] = []
    outside = questions.ask(engine.external_containers, none, "containers of builds (Buildah) are unknown")
    containers += tuple(map(external_container, outside))
    recent = recent_uses(engine, now - policy.age, now)
    asked: Callable[[], tuple[Volume, ...]] = partial(
        read_volumes, engine, listed, usage, logged.volumes, orphaned, policy.kept_by
    )
    nothing: tuple[Volume, ...] = ()
    volumes = questions.ask(asked, nothing, "volumes stay")
    containers_of: dict[str, list[Container]] = {}
    for container in containers:
        containers_of.setdefault(container.image, []).append(container)
    content = _content_elsewhere(info, disks)
    images = []
    for row in rows:
        observation = _known(engine, row, history) or questions.ask(
            partial(_observation, engine, row, history), None, f"image {short_id(row.image)} stays"
        )
        if observation is not None:
            own = containers_of.get(row.image, ())
            image = image_of(observation, history.images.get(row.image), own, now, policy.kept_by(row.labels))
            if content is not None:
                kept = compressed_sizes(content, row.image, [layer.diff_id for layer in observation.layers])
                image = replace(image, content=tuple(kept or ()))
            images.append(used_later(image, *recent.get(row.image, (0.0, ""))))
    if doubt := contradiction(disks, least_held(images, info.store)):
        raise EngineError(
            f"{doubt}: the engine keeps them elsewhere, and `collector doctor` shows where they were looked for"
        )
    found = Inventory(
        images=number(images),
        disk=disks[0],
        now=now,
        holds=held_for_jobs(listed, images, jobs, now, stop_times(containers)),
        jobs=jobs,
        warnings=(*warnings(history, log, policy, now), *unknown_origins(images, policy), *questions.faults),
        containers=containers,
        volumes=volumes,
        build_cache=read_build_cache(usage),
        free_slots=free_slots(policy, listed),
        refusals=logged.refusals,
        rollbacks=logged.rollbacks,
        disks=disks,
        coverage=history.coverage,
    )
    return policy, found if logged.experience is None else _with_experience(found, logged.experience, policy)


@dataclass(frozen=True, slots=True)
class LogState:
    """What the log knows for a decision, all of one moment; see who reads each.

    The policy has its minimum age in seconds; the experience is None where nobody asked for it.
    """

    policy: Policy
    history: HostRecord = field(default_factory=HostRecord)
    jobs: JobMemory = field(default_factory=JobMemory)
    volumes: VolumeUses = field(default_factory=VolumeUses)
    refusals: Mapping[ItemId, Refusal] = field(default_factory=dict)
    rollbacks: Mapping[str, str] = field(default_factory=dict)
    experience: Experience | None = None


def read_log(
    log: EventLog | None,
    policy: Policy,
    here: Identity,
    now: float,
    listed: Sequence[ListedContainer],
    *,
    learn: bool = False,
) -> LogState:
    """What the log knows for a decision, once it is sure that it is this host's.

    Args:
        log: the event log; None or not there: nothing is known.
        policy: what is decided by.
        here: what this host is recognised by.
        now: UTC seconds.
        listed: the containers that the engine lists.
        learn: whether to read what the log teaches of each image's future, if the policy's order asks for it.

    Raises:
        LogError: the log is another host's, or cannot be read.
    """
    config = Path(policy.runner_config)
    if log is None or not log.exists():
        return LogState(
            with_min_age(policy, None, now), jobs=JobMemory(configured=RunnerPolicies(configured_policies(config)))
        )
    with log.one_state():
        log.claim(here, readonly=True)
        return LogState(
            with_min_age(policy, log, now),
            read_history(log),
            read_jobs(log, now, config, listed),
            VolumeUses(last_slots(log), last_references(log)),
            read_refusals(log, now),
            read_rollbacks(log, now, policy.rollback_grace),
            read_experience(log, now) if learn and policy.order in LEARNING_ORDERS else None,
        )


def _content_elsewhere(info: EngineInfo, disks: Sequence[DiskSample]) -> str | None:
    """The root of a containerd that keeps compressed content on another disk than the layers; None: on the same."""
    places = [place.path for place in info.places if place.holds == CONTENT]
    return str(Path(places[0]).parent) if places and splits_images(disks) else None


def least_held(images: Sequence[Image], store: str) -> int:
    """What images hold at least, bytes: each layer once; of Podman, which does not report shared ones, the largest."""
    if store == "podman":
        return max((image.size for image in images), default=0)
    return sum({chain: size for image in images for chain, size in image.layers}.values())


def with_learning(inventory: Inventory, log: EventLog | None, policy: Policy) -> Inventory:
    """The state with what the log teaches of each image's future, if the policy's order asks for it.

    Reading it costs more than all the rest of a survey, so it is for when something has to go.

    Raises:
        LogError: the log is there but cannot be read.
    """
    if log is None or policy.order not in LEARNING_ORDERS or not log.exists():
        return inventory
    return _with_experience(inventory, read_experience(log, inventory.now), policy)


def _with_experience(inventory: Inventory, experience: Experience, policy: Policy) -> Inventory:
    """The state with each image's habits, and with what was learned here, beside what other hosts learned."""
    images = [with_habits(image, experience.habits.get(image.image_id, Habits())) for image in inventory.images]
    known = replace(inventory, images=tuple(images), learned=experience.learned)
    if not policy.rates:
        return known
    try:
        return replace(known, learned=known.learned.beside(read_rates(Path(policy.rates))))
    except UsageError as error:
        return replace(known, warnings=(*known.warnings, f"{error}; only this host's own past counts"))


def _known(engine: Engine, row: ListedImage, history: HostRecord) -> ImageObservation | None:
    """An image that the log knows as well as the engine does; None: the engine has to be asked."""
    known = history.observed.get(row.image)
    if known is None or not known.layers or (known.references, known.digests) != row.signature:
        return None
    return known if known.origin is Origin.REGISTRY or not engine.hides_origin else None


def _observation(engine: Engine, row: ListedImage, history: HostRecord) -> ImageObservation | None:
    """The image's layers: from the log if it has them, for asking takes two calls an image."""
    known = history.observed.get(row.image)
    if known is not None and known.layers and (known.references, known.digests) == row.signature:
        return replace(known, origin=_agreed(known, engine.origin(row), history))
    seen = engine.observe(row)
    return None if seen is None else replace(seen, origin=_agreed(known, seen.origin, history))


def _agreed(known: ImageObservation | None, reported: Origin, history: HostRecord) -> Origin:
    """What log and engine say together of an image's origin."""
    if reported is Origin.PACKED and history.coverage.first is not None:
        # Pulled, or loaded from an archive: the collector will know from the events, maybe in a moment.
        reported = Origin.UNKNOWN
    return agreed(known.origin if known is not None else None, reported)


def current_names(engine: Engine, image_id: str) -> ListedImage | None:
    """The image as the engine lists it at this moment; None if it has gone."""
    return next((row for row in engine.images() if row.image == image_id), None)
