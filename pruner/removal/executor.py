"""Carries a plan out: the only code that removes.

Never by force; never an image or a volume that a container refers to, never a container that is not
stopped; never what was not planned, explained and stored first. Each removal is checked once more
against the engine right before it happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from collector.engine.protocol import RemovingEngine
from collector.eventlog.log import EventLog
from collector.eventlog.writer import LogWriter
from collector.machine.disk import DiskSample, sample_disk, settling_time
from collector.machine.reserve import reserves
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError, HindsightError, LogError
from collector.model.events import Event, Kind
from collector.model.observation import ListedImage
from collector.model.paths import open_own
from collector.model.references import repository
from collector.model.units import format_bytes, format_count, short_id
from pruner.planning.plan import Plan, Removal, Verdict, plan, short, summary
from pruner.planning.stages import Item, ItemKind
from pruner.policy.file import to_json
from pruner.removal.aftermath import Present, UnreportedItem, aftermath, image_deletions, item_event, read_unfinished
from pruner.removal.effect import Effect, NoEffectError, settled
from pruner.state.event_watch import EVIDENCE, Lookout
from pruner.state.inventory import STOPPED, BuildCacheUsage, Container, Image, Volume, stop_times
from pruner.state.jobs_in_flight import held_for_jobs
from pruner.state.refusals import ItemId, Refusal
from pruner.state.survey import current_names, external_container, read_build_cache, read_container
from pruner.state.volumes import created_at

logger = logging.getLogger(__name__)

# A race with other users of the disk may eat what was freed; more rounds than this do not help.
MAX_ROUNDS = 3
# Rounds in which nothing went and the engine refused everything: each leads to a plan that looks further.
MAX_REFUSED_ROUNDS = 10
# So often containers are listed again, because others were created meanwhile, before an image is left alone.
_LOOKS = 3
# Docker's words for what forbids a removal by ID, in all versions.
_BUILT_UPON = "has dependent child images"
_SEVERAL_NAMES = "is referenced in multiple repositories"
_SEVERAL_TAGS = "by ID with more than one tag"


# What engines say when they cannot write.
_NO_SPACE = ("no space left on device", "disk quota exceeded")
STUCK = (
    "{path} is full to the last block: the engine cannot write what it has to write to remove {name}. Nothing more is "
    "tried. Get one block by hand: empty the log of a container (truncate -s 0 LOGFILE), or remove any file on that "
    "disk that you can spare; then run this again (see docs/howto/disk-full.md)"
)


def wants_space(refusal: str) -> bool:
    """Whether an engine refused a removal because it could not write."""
    return any(words in refusal.lower() for words in _NO_SPACE)


class PrunerBusyError(HindsightError):
    """Another pruner works on the same log."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prune ended. Sizes are bytes.

    Attributes:
        removed: what went, with the bytes that the file system won.
        failed: what did not, with the reason.
        freed: free space after less free space before.
        disk: the disk at the end.
        reached: whether free space is at the target.
        rounds: how many plans were carried out.
        others: where the engine's bytes lie on several disks, the others at the end.
        plan: the last of them; None: none was made.
    """

    removed: tuple[tuple[Removal, int], ...]
    failed: tuple[tuple[Removal, str], ...]
    freed: int
    disk: DiskSample
    reached: bool
    rounds: int
    others: tuple[DiskSample, ...] = ()
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a planned item stays after all, and whether it was the engine that refused to remove it."""

    why: str
    refused: bool = False


@contextlib.contextmanager
def exclusive(log_path: Path) -> Iterator[None]:
    """Be the only pruner of a log.

    Raises:
        PrunerBusyError: there is another; its process ID is named.
        LogError: the lock file cannot be made.
    """
    path = log_path.with_name(log_path.name + ".pruner-lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise LogError(f"lock {path} cannot be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise PrunerBusyError(f"another pruner (process {owner}) is at work on {log_path}: let it end") from None
        # Overwriting within the file's first block works on a full disk once the block is there.
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, f"{os.getpid():<31}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Executor:
    """Carries plans out on one engine.

    Args:
        engine: the live engine.
        log: where every step is stored, before it happens and after.
        trigger: why it runs (``timer``, ``early``, ``manual``, ``pre-job``), for the log.

    Attributes:
        orphaned: names of the volumes of containers that it removed.
    """

    def __init__(self, engine: RemovingEngine, log: EventLog, trigger: str) -> None:
        self._engine = engine
        self._writer = LogWriter(log)
        self._log = log
        self._trigger = trigger
        self._prune = ""
        self._round = 0
        self._effect = Effect()
        self._folders: tuple[str, ...] = ()
        # What a removal that the engine refused for want of a block took from an image: given back at the end.
        self._lost: dict[str, tuple[str, ...]] = {}
        self._stuck = False
        self._own: set[str] = set()
        self.orphaned: set[str] = set()
        self._removed: list[tuple[Removal, int]] = []
        self._failed: list[tuple[Removal, str]] = []
        self._refusals: dict[ItemId, Refusal] = {}

    def run(self, replan: Callable[[Mapping[ItemId, Refusal]], Plan]) -> Outcome:
        """Plan and remove until the target is reached, nothing more can go, or `MAX_ROUNDS` have passed.

        What could not be removed counts nothing in the plans of the rounds after it.

        Args:
            replan: makes a plan of the state as it is then, given what could not be removed in this run.

        Raises:
            EngineError: the engine is lost.
            LogError: the plan could not be stored; then nothing is removed.
        """
        self._prepare()
        # Whatever uses an image while the plan is made must be seen, so the lookout comes first.
        lookout = Lookout(self._engine)
        fruitful = fruitless = 0
        try:
            made = first = replan({})
            self._folders = tuple(disk.path for disk in made.inventory.disks or (made.inventory.disk,))
            for warning in first.inventory.warnings if first.needed else ():
                logger.warning("warning: %s", warning)
            while made.needed and made.removals:
                self._round += 1
                refused = len(self._refusals)
                gone = self._carry_out(made, lookout)
                fruitful, fruitless = fruitful + gone, fruitless + (not gone)
                after = self._measure(made)
                reached = not short(after.free_bytes, after.free_inodes, made.levels.target)
                if self._stuck or reached or fruitful == MAX_ROUNDS or fruitless == MAX_REFUSED_ROUNDS:
                    break
                if not gone and len(self._refusals) == refused:
                    break
                made = _towards_target(replan(self._refusals))
        finally:
            lookout.close()
        disk = self._measure(made)
        reached = not (first.needed and short(disk.free_bytes, disk.free_inodes, made.levels.target))
        freed = disk.free_bytes - first.inventory.disk.free_bytes
        self._return_names()
        self._prepare(made.levels.target[0])
        return Outcome(tuple(self._removed), tuple(self._failed), freed, disk, reached, self._round, plan=made)

    @property
    def removed(self) -> tuple[Removal, ...]:
        """What went so far."""
        return tuple(removal for removal, _ in self._removed)

    def finish_interrupted(self, prunes: tuple[str, ...]) -> None:
        """Say in the log what became of prunes that were interrupted. Raises LogError.

        Nothing depends on it: an engine that does not answer does not stop the prune.
        """
        if not prunes:
            return
        unreported = {prune: read_unfinished(self._log, prune) for prune in prunes}
        try:
            present = self._present([entry for entries in unreported.values() for entry in entries])
        except EngineError as error:
            logger.warning("what interrupted prunes left behind is asked again in the next run: %s", error)
            return
        for prune, entries in unreported.items():
            for entry in entries:
                self.store(aftermath(prune, entry, present))
            self.store(
                Event(time.time_ns(), Kind.PRUNE_FINISHED, attributes={"prune": prune, "outcome": "interrupted"})
            )
        logger.warning("recorded the outcome of %s", format_count(len(prunes), "interrupted prune"))

    def flush(self) -> None:
        """Append what an earlier prune could only spool. Raises LogError."""
        self._writer.flush()

    def _present(self, entries: Sequence[UnreportedItem]) -> Present:
        """What the engine holds of some items' kinds; of the others nothing is asked. Raises EngineError."""
        engine, asked = self._engine, {entry.kind for entry in entries}.__contains__
        since_ns = min((entry.planned_ns for entry in entries), default=0)
        return Present(
            {row.image: row.references for row in engine.images()} if asked(ItemKind.IMAGE) else {},
            self._container_ids() if asked(ItemKind.CONTAINER) else set(),
            {str(row["Name"]) for row in engine.volumes()} if asked(ItemKind.VOLUME) else set(),
            self._build_cache_bytes() if asked(ItemKind.BUILD_CACHE) else None,
            image_deletions(engine.buffered_events(since_ns, time.time_ns())) if asked(ItemKind.IMAGE) else {},
        )

    def _container_ids(self) -> set[str]:
        engine = self._engine
        return {row.container for rows in (engine.containers(), engine.external_containers()) for row in rows}

    def _build_cache_bytes(self) -> int | None:
        """What the build cache holds; None if the engine does not say."""
        try:
            return read_build_cache(self._engine.disk_usage()).bytes
        except EngineError as error:
            logger.warning("how much of the build cache an interrupted prune removed is unknown: %s", error)
            return None

    def _carry_out(self, made: Plan, lookout: Lookout) -> bool:
        """Remove what the plan says, as long as it is needed; whether anything went."""
        self._prune = uuid.uuid4().hex
        logger.info("%s", summary(made))
        self.store(
            Event(
                time.time_ns(),
                Kind.PRUNE_STARTED,
                bytes=made.inventory.disk.free_bytes,
                attributes={
                    "prune": self._prune,
                    "trigger": self._trigger,
                    "round": self._round,
                    "policy": {"text": str(made.policy), "values": to_json(made.policy)},
                    "plan": made.to_json(),
                },
            )
        )
        # What was stored just now lies in the spool if the disk is full: the space is for the engine,
        # which writes before it removes.
        for reserve in reserves(self._log.path, self._folders):
            if reserve.give():
                kept = format_bytes(reserve.size)
                logger.warning("the disk is full: %s of reserve at %s is given up", kept, reserve.path)
        gone, useless, expected = False, None, 0
        settling = settling_time(made.inventory.disk.path)
        measure = partial(self._measure, made)
        for removal in made.removals:
            before = self._measure(made)
            if not short(before.free_bytes, before.free_inodes, made.levels.target):
                obstacle: Obstacle | None = Obstacle("no longer needed: free space is at the target")
            else:
                obstacle = self._carry_out_one(removal, made, lookout)
                if obstacle is not None:
                    found = Refusal(obstacle.why, time.time(), in_this_run=True)
                    self._refusals[removal.kind.value, removal.key] = found
            if obstacle is None:
                after = settled(measure, before.free_bytes, removal.frees, settling, last=False)
                freed, gone, expected = after.free_bytes - before.free_bytes, True, expected + removal.frees
                self._removed.append((removal, freed))
                logger.info("removed %s: freed %s; %s", _named(removal), format_bytes(freed), removal.detail)
                self.store(self._item(Kind.ITEM_REMOVED, removal, freed, self._facts_of(removal, made, lookout)))
                useless = self._effect.check(
                    removal.frees, before.free_bytes, after.free_bytes, lambda: measure().free_bytes, settling
                )
                if useless is not None:
                    expected = 0
                    break
            else:
                self._note_failure(removal, obstacle, made)
                if self._stuck:
                    break
        after = settled(measure, made.inventory.disk.free_bytes, expected, settling, last=True)
        self._store_end(made, after, has_effect=useless is None)
        if useless is not None:
            raise NoEffectError(useless)
        return gone

    def _note_failure(self, removal: Removal, obstacle: Obstacle, made: Plan) -> None:
        """Store why something stays after all; where the engine could not write, nothing more is tried."""
        self._failed.append((removal, obstacle.why))
        logger.warning("kept %s after all: %s", _named(removal), obstacle.why)
        more: dict[str, Any] = {"error": obstacle.why, **({"refused": True} if obstacle.refused else {})}
        if removal.key in self._lost:
            more["untagged"] = list(self._lost[removal.key])
        self.store(self._item(Kind.ITEM_FAILED, removal, None, more))
        if obstacle.refused and wants_space(obstacle.why):
            self._stuck = True
            logger.warning("%s", STUCK.format(name=_named(removal), path=made.inventory.disk.path))

    def _store_end(self, made: Plan, after: DiskSample, *, has_effect: bool) -> None:
        """Say how a round ended. Raises LogError."""
        reached = not short(after.free_bytes, after.free_inodes, made.levels.target)
        outcome = "target reached" if reached else "target not reached" if has_effect else "no effect"
        self.store(
            Event(
                time.time_ns(),
                Kind.PRUNE_FINISHED,
                bytes=after.free_bytes - made.inventory.disk.free_bytes,
                attributes={
                    "prune": self._prune,
                    "outcome": outcome,
                    "round": self._round,
                    "free_before": made.inventory.disk.free_bytes,
                    "free_after": after.free_bytes,
                    "predicted_bytes": made.frees,
                },
            )
        )

    def _carry_out_one(self, removal: Removal, made: Plan, lookout: Lookout) -> Obstacle | None:
        """Check against the engine once more, and remove; why it stays after all, else None.

        What the engine refuses is an answer, given in its own words; a lost engine is a fault.
        """
        try:
            why = self._remove(removal.of, made, lookout)
        except EngineNotFoundError:
            return Obstacle("gone already, or its name has moved")
        except EngineRefusedError as refused:
            return Obstacle(refused.explanation, refused=True)
        return None if why is None else Obstacle(why)

    def _remove(self, planned: Verdict | Item, made: Plan, lookout: Lookout) -> str | None:
        if isinstance(planned, Verdict):
            image = planned.image
            return self._image_obstacle(image, made, lookout) or self._remove_image(image, made, lookout)
        if isinstance(planned.subject, Container) and planned.kind is ItemKind.LOG:
            return self._empty_log(planned.subject)
        if isinstance(planned.subject, Container):
            return self._remove_container(planned.subject)
        if isinstance(planned.subject, Volume):
            return self._remove_volume(planned.subject, made, lookout)
        return self._prune_build_cache(planned.subject, planned, made)

    def _image_obstacle(self, image: Image, made: Plan, lookout: Lookout) -> str | None:
        """Why an image must stay after all: what has changed since the plan was made."""
        row = current_names(self._engine, image.image_id)
        if row is None:
            return "gone already"
        if row.references != image.references or row.digests != image.digests:
            return "its references have moved since the plan was made"
        inventory = made.inventory
        for _ in range(_LOOKS):
            lookout.mark()
            listed = self._engine.containers()
            if any(container.image == image.image_id for container in listed):
                return "a container refers to it now"
            stopped, now = stop_times(inventory.containers), time.time()
            hold = held_for_jobs(listed, inventory.images, inventory.jobs, now, stopped).get(image.image_id)
            if hold is not None and (hold.firm or image.image_id not in inventory.holds):
                return f"a job that has begun since may need it: {hold.summary(now)}"
            # This is asked last: the shorter the time between the answer and the removal, the better.
            used = self._used(image, made, lookout)
            # A container that was created since the listing may be a job's first.
            if used is not None or not lookout.has_new_containers(container.container for container in listed):
                return used
        return "containers are created faster than their images can be looked up"

    def _used(self, image: Image, made: Plan, lookout: Lookout) -> str | None:
        """What shows a use: from the survey on, whatever uses the image makes it young again."""
        used = lookout.use_of(image, made.inventory.now, self._own)
        return f"{used} since the plan was made" if used is not None else None

    def _remove_image(self, image: Image, made: Plan, lookout: Lookout) -> str | None:
        """Remove an image with all its references; why it could not be done, else None.

        Names go one by one. The last goes together with the image, by its ID: that the engine refuses
        if it has got another name meanwhile, or a container, and a name that now means another image stays.
        What was taken from an image that stays after all is given back.
        """
        taken: list[str] = []
        try:
            obstacle = self._remove_all(image, made, lookout, taken)
        except EngineError:
            self._give_back(image, self._missing(image, taken))
            raise
        if obstacle is not None:
            self._give_back(image, taken)
        return obstacle

    def _remove_all(self, image: Image, made: Plan, lookout: Lookout, taken: list[str]) -> str | None:
        for reference in image.references[:-1]:
            self._engine.remove_image(reference)
            taken.append(reference)
            if (used := self._used(image, made, lookout)) is not None:
                return used
        try:
            self._engine.remove_image(image.image_id)
        except EngineNotFoundError:
            raise
        except EngineRefusedError as refused:
            row = current_names(self._engine, image.image_id)
            if row is None:
                return None
            if not set(row.references) <= set(image.references[-1:]):
                return "it was given another reference meanwhile"
            self._remove_refused(row, refused)
        return None

    def _remove_refused(self, row: ListedImage, refused: EngineRefusedError) -> None:
        """Remove an image that engines do not remove by its ID alone, though nobody uses it; else raise."""
        if _BUILT_UPON in refused.explanation:
            # Without a name it goes with what was built on it.
            for reference in row.references:
                self._engine.remove_image(reference)
        elif _SEVERAL_NAMES in refused.explanation:
            # A digest of another repository counts as a name of its own.
            repositories = set(map(repository, row.references))
            for digest in row.digests:
                if repository(digest) not in repositories:
                    self._engine.remove_image(digest)
            if current_names(self._engine, row.image) is not None:
                self._engine.remove_image(row.image)
        elif _SEVERAL_TAGS in refused.explanation:
            # Podman counts a digest that was pulled as a tag; one that is left alone does not hinder.
            for reference in row.references:
                self._engine.remove_image(reference)
            if current_names(self._engine, row.image) is not None:
                self._engine.remove_image(row.image)
        else:
            raise refused

    def _missing(self, image: Image, taken: Sequence[str]) -> tuple[str, ...]:
        """The names that an image lost to a removal that failed: an engine may take them before it refuses."""
        try:
            row = current_names(self._engine, image.image_id)
        except EngineError:
            return tuple(taken)
        return () if row is None else tuple(name for name in image.references if name not in row.references)

    def _return_names(self) -> None:
        """Try once more to give back names that images lost; say what to do about those that stay lost."""
        for image_id, names in self._lost.items():
            for reference in names:
                name, _, tag = reference.rpartition(":")
                try:
                    if self._engine.resolve(reference) is None:
                        self._engine.tag(image_id, name, tag)
                except EngineError as error:
                    logger.warning(
                        "image %s lost its name %s (%s): once there is space, give it back with `docker tag %s %s`",
                        *(short_id(image_id), reference, error, short_id(image_id), reference),
                    )
                else:
                    logger.warning("gave image %s its name %s back", short_id(image_id), reference)

    def _give_back(self, image: Image, taken: Sequence[str]) -> None:
        """Give an image that stays the names that it has lost, unless they mean another by now."""
        for reference in taken:
            name, _, tag = reference.rpartition(":")
            try:
                if self._engine.resolve(reference) is None:
                    self._engine.tag(image.image_id, name, tag)
            except EngineError as error:
                logger.info("%s has lost its name %s for now: %s", image.name, reference, error)
                self._lost[image.image_id] = (*self._lost.get(image.image_id, ()), reference)

    def _facts_of(self, removal: Removal, made: Plan, lookout: Lookout) -> dict[str, Any]:
        """What the log keeps of a removal besides: uses that came too late, volumes that lost their container."""
        concurrent = self._concurrent_uses(removal, made, lookout)
        subject = removal.of.subject if isinstance(removal.of, Item) else None
        volumes = subject.volumes if isinstance(subject, Container) and removal.kind is ItemKind.CONTAINER else ()
        found = {"concurrent_uses": concurrent, "volumes": list(volumes)}
        return {name: value for name, value in found.items() if value}

    def _concurrent_uses(self, removal: Removal, made: Plan, lookout: Lookout) -> list[dict[str, Any]]:
        """The uses of an image that the engine reported only when it was too late."""
        if not isinstance(removal.of, Verdict):
            return []
        time.sleep(self._engine.lag)
        try:
            uses = lookout.uses_of(removal.of.image, made.inventory.now, self._own)
            # Where a name means an image again, by now another one, nobody misses this one.
            if uses and any(self._engine.resolve(reference) for reference in removal.references):
                return []
        except EngineError as error:
            # The image has gone, and that is to be recorded whatever the engine says now.
            logger.warning("whether %s was used in the moment of its removal is unknown: %s", _named(removal), error)
            return []
        for use in uses:
            who = f"job {use.job}" if use.job else use.actor
            logger.warning(
                "%s was %s (%s) in the moment of its removal: it has to be pulled again",
                _named(removal),
                EVIDENCE[use.kind],
                who,
            )
        return [use.to_json() for use in uses]

    def _remove_container(self, container: Container) -> str | None:
        now = self._container_now(container)
        if now is None:
            return "gone already"
        if now.state not in STOPPED or now.held_by:
            return f"it is {now.held_by or now.state} now"
        if now.stopped_at > container.stopped_at:
            return "it ran since the plan was made"
        # Its volumes stay: they are judged for themselves.
        self._own.add(container.container_id)
        self._engine.remove_container(container.container_id)
        self.orphaned.update(now.volumes)
        return None

    def _empty_log(self, container: Container) -> str | None:
        """Empty the log of a container that is still stopped."""
        now = self._container_now(container)
        if now is None:
            return "gone already"
        if now.state not in STOPPED:
            return f"it is {now.state} now"
        try:
            descriptor = os.open(container.log_path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"its log {container.log_path} cannot be emptied: {error.strerror}"
        return None

    def _container_now(self, container: Container) -> Container | None:
        """The container as it is now; None if it has gone."""
        if container.external:
            outside = self._engine.external_containers()
            return next((external_container(one) for one in outside if one.container == container.container_id), None)
        detail = self._engine.container_detail(container.container_id)
        return None if detail is None else read_container(detail, container)

    def _remove_volume(self, volume: Volume, made: Plan, lookout: Lookout) -> str | None:
        if any(volume.name in row.volumes for row in self._engine.containers()):
            return "a container refers to it now"
        row = next((row for row in self._engine.volumes() if row["Name"] == volume.name), None)
        if row is None:
            return "gone already"
        if created_at(row) != volume.created:
            return "it was created again since the plan was made"
        if lookout.volume_was_used(volume.name, made.inventory.now):
            return "a container used it since the plan was made"
        self._engine.remove_volume(volume.name)
        return None

    def _prune_build_cache(self, usage: BuildCacheUsage, item: Item, made: Plan) -> str | None:
        """Have the engine prune its build cache, down to what is needed now and no further than planned."""
        disk = self._measure(made)
        missing = max(0, int(made.levels.target[0] - disk.free_bytes))
        short_of_inodes = disk.free_inodes < made.levels.target[1]
        keep = item.keep if short_of_inodes else max(item.keep, usage.bytes - missing)
        self._engine.prune_build_cache(item.age, keep)
        return None

    def _prepare(self, target: float = 0.0) -> None:
        """Have space for what is to be recorded, and for the engine's own needs, even when the disk is full.

        Args:
            target: free bytes that the reserve on the engine's disk must leave.
        """
        try:
            beside_log, *others = reserves(self._log.path, self._folders)
            beside_log.keep()
            for reserve in others:
                reserve.keep(target)
        except OSError as error:
            logger.warning("no space is kept back: %s", error.strerror)
        try:
            self._writer.spool.reserve()
        except LogError as error:
            if not self._disk_is_full():
                raise
            logger.warning("%s: the first removals are recorded in the log as soon as there is space", error)

    def _disk_is_full(self) -> bool:
        found = os.statvfs(self._log.path.parent)
        return found.f_bavail * found.f_frsize < self._writer.spool.size

    def _measure(self, made: Plan) -> DiskSample:
        # Whether the path leads to the disk was settled when it was surveyed.
        disk = made.inventory.disk
        return replace(sample_disk(disk.path, canonical=True), mount=disk.mount, holds=disk.holds)

    def _item(self, kind: Kind, removal: Removal, freed: int | None, more: dict[str, Any]) -> Event:
        return item_event(
            kind,
            removal.kind,
            removal.key,
            removal.name,
            freed,
            {
                "prune": self._prune,
                "reason": removal.reason,
                "detail": removal.detail,
                "predicted_bytes": removal.frees,
                "references": list(removal.references),
                **more,
            },
        )

    def store(self, event: Event) -> None:
        """Have the event on the disk, in the log or its spool, before going on.

        Raises:
            LogError: neither can take it, and not for want of space.
        """
        self._writer.add([event])
        if not self._writer.flush() and not self._writer.save() and not self._disk_is_full():
            raise LogError(f"neither the log {self._log.path} nor its spool can be written: nothing more is removed")


def _towards_target(made: Plan) -> Plan:
    """The plan of a later round: what has begun goes on to the target, also above the threshold."""
    return plan(made.policy, made.inventory, levels=replace(made.levels, threshold=made.levels.target))


def _named(removal: Removal) -> str:
    """What is removed, in words: images by their name alone."""
    kind = {ItemKind.CONTAINER: "container ", ItemKind.VOLUME: "volume ", ItemKind.LOG: "log of container "}.get(
        removal.kind, ""
    )
    return f"{kind}{removal.name}"
