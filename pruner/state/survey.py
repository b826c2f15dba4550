"""Reads the state that is decided on: the live engine, the log, and the engine's own short memory."""

from __future__ import annotations

import glob
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from collector.model import environment
from collector.model.advice import hidden_system_log
from collector.model.errors import EngineError, UsageError
from collector.model.jobs import ci_job, job_of, orchestrator_of
from collector.model.observation import EngineInfo, ExternalContainer, ImageObservation, ListedContainer, ListedImage
from collector.model.origin import Origin, agreed
from collector.model.paths import read_bounded
from collector.model.times import parse_rfc3339
from collector.model.units import format_count, format_duration, format_time, short_id
from collector.model.untrusted import cut, mapping, objects, size, text
from pruner.policy.local_images import EVICT
from pruner.policy.min_age import with_min_age
from pruner.policy.orders import LEARNING_ORDERS
from pruner.policy.policy import MOST_SLOTS, Policy
from pruner.state.disks import splits_images
from pruner.state.event_watch import recent_uses
from pruner.state.inventory import (
    ENDED,
    EXTERNAL,
    BuildCacheUsage,
    CacheRecord,
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
from pruner.state.jobs_in_flight import JobMemory, held_for_jobs
from pruner.state.learning import NO_HABITS, Experience, read_experience
from pruner.state.questions import Questions
from pruner.state.rates import read_rates
from pruner.state.refusals import ItemId, Refusal, read_refusals
from pruner.state.services import read_rollbacks
from pruner.state.volumes import LoggedUses, read_logged_uses, read_volumes

_STALE_S = 900.0
# At least this share of the recent past must have been observed, or the decision says so.
_LOOKED_AT_S = 7 * 86400.0
_BLIND_SHARE = 0.01
# A container about which the engine says nothing may be running.
_NO_USAGE: dict[str, Any] = {}
_UNKNOWN: dict[str, Any] | None = {"State": {"Status": "unknown"}}
_BLOCK = 512  # what st_blocks counts, whatever the file system's own blocks are


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
    habits = None if logged.experience is None else logged.experience.habits
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
            habit = None if habits is None else habits.get(row.image, NO_HABITS)
            image = image_of(observation, history.images.get(row.image), own, now, policy.kept_by(row.labels), habit)
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
        blind_until=history.blind_until,
        holds=held_for_jobs(listed, images, jobs, now, stop_times(containers)),
        jobs=jobs,
        warnings=(*warnings(history, log, policy, now), *_unknown_origins(images, policy), *questions.faults),
        containers=containers,
        volumes=volumes,
        build_cache=read_build_cache(usage),
        free_slots=free_slots(policy, listed),
        refusals=logged.refusals,
        rollbacks=logged.rollbacks,
        disks=disks,
        coverage=history.coverage,
    )
    return policy, found if logged.experience is None else _with_rates(found, logged.experience, policy)


@dataclass(frozen=True, slots=True)
class LogState:
    """What the log knows for a decision, all of one moment; see who reads each.

    The policy has its minimum age in seconds; the experience is None where nobody asked for it.
    """

    policy: Policy
    history: HostRecord = field(default_factory=HostRecord)
    jobs: JobMemory = field(default_factory=JobMemory)
    volumes: LoggedUses = field(default_factory=LoggedUses)
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
            read_logged_uses(log),
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
    experience = read_experience(log, inventory.now)
    images = [with_habits(image, experience.habits.get(image.image_id, NO_HABITS)) for image in inventory.images]
    return _with_rates(replace(inventory, images=tuple(images)), experience, policy)


def _with_rates(inventory: Inventory, experience: Experience, policy: Policy) -> Inventory:
    """The state with what was learned here, beside what other hosts learned."""
    known = replace(inventory, learned=experience.learned)
    if not policy.rates:
        return known
    try:
        return replace(known, learned=known.learned.beside(read_rates(Path(policy.rates))))
    except UsageError as error:
        return replace(known, warnings=(*known.warnings, f"{error}; only this host's own past counts"))


def read_containers(
    engine: Engine,
    listed: Sequence[ListedContainer],
    usage: Mapping[str, Any],
    questions: Questions,
    data_root: str,
) -> tuple[Container, ...]:
    """All containers with what they hold, those that are stopped with when they stopped. Raises EngineError."""
    sizes = {text(row.get("Id")): size(row.get("SizeRw")) for row in objects(usage.get("Containers"))}
    found = []
    for row in listed:
        container = Container(
            container_id=row.container,
            name=row.name,
            image=row.image,
            state=row.state,
            stopped_at=row.created_ns / 1e9,
            job=ci_job(row.labels, row.name),
            orchestrator=orchestrator_of(row.labels, row.name),
            volumes=row.volumes,
        )
        if row.state in ENDED:
            inspect: Callable[[], dict[str, Any] | None] = partial(engine.container_detail, row.container)
            detail = questions.ask(inspect, _UNKNOWN, f"container {row.name} stays")
            if detail is None:
                continue
            written, logged = sizes.get(row.container, 0), _log_bytes(detail)
            container = replace(read_container(detail, container), bytes=written + logged, log_bytes=logged)
            container = replace(container, log_path=text(detail.get("LogPath")))
        else:
            # To ask for each container that runs would cost more than this is worth: Docker's usual place does.
            folder = Path(data_root, "containers", row.container)
            logged = _log_bytes({"LogPath": str(folder / f"{row.container}-json.log")})
            container = replace(container, bytes=sizes.get(row.container, 0) + logged, log_bytes=logged)
        found.append(container)
    return tuple(found)


def external_container(found: ExternalContainer) -> Container:
    """A container that the engine does not manage: what works in it keeps it, and then its age."""
    held_by = ""
    if not found.is_build:
        held_by = "no build's: what made it removes it"
    elif found.mounted:
        held_by = f"mounted by a build; if that was killed, `podman rm --force {found.name}` removes it"
    return Container(
        container_id=found.container,
        name=found.name,
        image=found.image,
        state=EXTERNAL,
        stopped_at=found.changed,
        bytes=found.bytes,
        external=True,
        held_by=held_by,
        mounted=found.is_build and found.mounted,
    )


def read_container(detail: Mapping[str, Any], known: Container) -> Container:
    """A container with what only its inspection shows: since when it is stopped, and whether it comes back."""
    state, host = mapping(detail.get("State")), mapping(detail.get("HostConfig"))
    created = parse_rfc3339(text(detail.get("Created"))) or 0.0
    finished = parse_rfc3339(text(state.get("FinishedAt"))) or 0.0
    return replace(
        known,
        state=text(state.get("Status")).lower() or "unknown",
        # A container that never started is said to have finished in the year 1.
        stopped_at=max(created, finished) or known.stopped_at,
        never_started=finished <= 0,
        restarts=(text(mapping(host.get("RestartPolicy")).get("Name")) or "no") != "no",
    )


def _log_bytes(detail: Mapping[str, Any]) -> int:
    """What the container's log holds, with those that were rotated; 0 where it may not be looked at."""
    path = text(detail.get("LogPath"))
    if not path:
        return 0
    try:
        return sum(
            file.stat().st_blocks * _BLOCK for file in Path(path).parent.glob(glob.escape(Path(path).name) + "*")
        )
    except (OSError, ValueError):
        return 0


def read_build_cache(usage: Mapping[str, Any]) -> BuildCacheUsage:
    """The build cache, as the engine reports it; none on an engine without one."""
    return BuildCacheUsage(
        tuple(
            CacheRecord(
                bytes=size(row.get("Size")),
                last_use=max(parse_rfc3339(text(row.get(key))) or 0.0 for key in ("LastUsedAt", "CreatedAt")),
                in_use=bool(row.get("InUse")),
                shared=bool(row.get("Shared")),
            )
            for row in objects(usage.get("BuildCache"))
        )
    )


def free_slots(policy: Policy, listed: Iterable[ListedContainer]) -> int | None:
    """Job slots that are free now; None if no amount is given per job.

    Args:
        policy: the number of slots, or where the runner's configuration with it lies.
        listed: all containers: those of jobs that run take a slot each.

    Raises:
        UsageError: the number of slots is not known.
    """
    if not policy.per_job:
        return None
    found = [job_of(row.labels, row.name) for row in listed if row.state not in ENDED]
    running = {one[0].job_id for one in found if one is not None and one[0].ci == "gitlab"}
    slots = policy.job_slots if policy.job_slots is not None else read_slots(Path(policy.runner_config))
    return max(0, slots - len(running))


def _told_slots(path: Path) -> int | None:
    """The number of job slots that root read in a file that we may not read; None: it is not known."""
    number, _, where = os.environ.get(environment.JOB_SLOTS, "").partition(":")
    return int(number) if where == str(path) and number.isdecimal() and int(number) > 0 else None


def read_slots(path: Path) -> int:
    """How many jobs a GitLab Runner runs at once, from its config.toml, or from our unit's environment.

    Raises:
        UsageError: it cannot be read.
    """
    missing = f"an amount per job needs the number of job slots: set job_slots, or make runner_config = {path} readable"
    try:
        # The runner's own default is one.
        slots = tomllib.loads(read_bounded(path)).get("concurrent", 1)
    except OSError as error:
        if isinstance(error, PermissionError) and (known := _told_slots(path)) is not None:
            return known
        raise UsageError(f"{missing} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{missing} (it is not valid TOML: {error})") from None
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MOST_SLOTS:
        raise UsageError(f"{missing} (concurrent = {cut(str(slots), 40)} is not a number of jobs)")
    return slots


def warnings(history: HostRecord, log: EventLog | None, policy: Policy, now: float) -> tuple[str, ...]:
    """What the decision has to do without."""
    found = []
    first, last = history.coverage.first, history.coverage.last
    if first is None or last is None:
        where = f" at {log.path}" if log is not None else ""
        what = "no event log" if log is None or not log.path.exists() else "no use is recorded in the event log"
        found.append(
            f"{what}{where}: last use is unknown and build or pull time is used instead; "
            f"{hidden_system_log() or 'start `collector run` on this host'}"
        )
        return tuple(found)
    if now - first < policy.age:
        found.append(
            f"the log is young (since {format_time(first)}): images without an observed use "
            "are judged by build or pull time"
        )
    if now - last > _STALE_S:
        found.append(
            f"nothing has been recorded for {format_duration(now - last)}: "
            "is the collector running? Uses since then are known only as far as the engine remembers them"
        )
    gap = max((ended for _, ended in history.coverage.gaps), default=None)
    if gap is not None and now - gap < policy.age:
        found.append(f"the history has a gap until {format_time(gap)}")
    blind = history.coverage.blind(now - _LOOKED_AT_S, now)
    if blind > _BLIND_SHARE * _LOOKED_AT_S:
        found.append(
            f"{format_duration(blind)} of the last {format_duration(_LOOKED_AT_S)} were not observed: "
            "images used only then seem unused for longer than they are"
        )
    return tuple(found)


def _unknown_origins(images: Iterable[Image], policy: Policy) -> Iterator[str]:
    """What is kept only because it is not known whether a registry has it."""
    unknown = sum(image.origin is Origin.UNKNOWN for image in images)
    if unknown and policy.local_images != EVICT:
        yield (
            f"whether a registry has {format_count(unknown, 'image')} is not known, so they count as local "
            f"(local_images = {policy.local_images}): as root, `collector run --once` looks it up in the engine's own "
            "records"
        )


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
