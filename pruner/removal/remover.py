"""Removes one thing of a plan after the other: the only code that removes.

Never by force; never an image or a volume that a container refers to, never a container that is not
stopped. Each removal is checked once more against the engine right before it happens.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collector.engine.deadline import at_most
from collector.engine.protocol import RemovingEngine
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError, LogError
from collector.model.observation import ListedImage
from collector.model.references import repository, split_tag
from collector.model.units import short_id
from pruner.planning.decision import Reason
from pruner.planning.image_stages import Verdict, still_superseded
from pruner.planning.plan import Plan, Removal
from pruner.planning.stages import Item, ItemKind
from pruner.policy.local_images import SUPERSEDED
from pruner.removal.effect import disk_now
from pruner.state.containers import external_container, read_container
from pruner.state.event_watch import EVIDENCE, EventWatch
from pruner.state.inventory import STOPPED, BuildCacheUsage, Container, Image, Volume, stop_times
from pruner.state.jobs_in_flight import held_for_jobs
from pruner.state.questions import is_lost
from pruner.state.survey import current_names
from pruner.state.volumes import created_at

logger = logging.getLogger(__name__)

# So often containers are listed again, because others were created meanwhile, before an image is left alone.
_LOOKS = 3
# Docker's words for what forbids a removal by ID, in all versions.
_BUILT_UPON = "has dependent child images"
_SEVERAL_NAMES = "is referenced in multiple repositories"
_SEVERAL_TAGS = "by ID with more than one tag"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a planned item stays after all, and whether it was the engine that refused to remove it."""

    why: str
    refused: bool = False


class Remover:
    """Removes things on one engine, in one run of the pruner.

    Args:
        engine: the live engine.

    Attributes:
        orphaned: names of the volumes of containers that it removed.
        lost: names that images lost to a removal that was interrupted, or that the engine refused for lack of a block,
            by the image's ID: given back at the end.
    """

    def __init__(self, engine: RemovingEngine) -> None:
        self._engine = engine
        self._own: set[str] = set()
        self.orphaned: set[str] = set()
        self.lost: dict[str, tuple[str, ...]] = {}

    def carry_out(self, removal: Removal, made: Plan, watch: EventWatch) -> Obstacle | None:
        """Check against the engine once more, and remove; why it stays after all, else None.

        What the engine refuses is an answer, given in its own words; a lost engine is a fault.
        """
        try:
            with at_most(made.policy.deadline / 4):
                why = self._remove(removal.of, made, watch)
        except EngineNotFoundError:
            return Obstacle("gone already, or its name has moved")
        except EngineRefusedError as refused:
            return Obstacle(refused.explanation, refused=True)
        except EngineError as error:
            # What the engine fails over, or takes too long for, must not keep it from all the rest, run after run.
            if is_lost(self._engine, error):
                raise
            return Obstacle(str(error), refused=True)
        return None if why is None else Obstacle(why)

    def _remove(self, planned: Verdict | Item, made: Plan, watch: EventWatch) -> str | None:
        if isinstance(planned, Verdict):
            image = planned.image
            return (
                self._is_latest(planned, made)
                or self._image_obstacle(image, made, watch)
                or self._remove_image(image, made, watch)
            )
        if isinstance(planned.subject, Container):
            if (why := self._container_obstacle(planned.subject)) is not None:
                return why
            if planned.kind is ItemKind.LOG:
                return _empty_log(planned.subject)
            return self._remove_container(planned.subject)
        if isinstance(planned.subject, Volume):
            return self._remove_volume(planned.subject, made, watch)
        return self._prune_build_cache(planned.subject, planned, made)

    def _is_latest(self, planned: Verdict, made: Plan) -> str | None:
        """Why a local image must stay that is not superseded any more, because the later one has gone or moved."""
        image = planned.image
        if not image.local or made.policy.local_images != SUPERSEDED or planned.reason is Reason.EVICT_DANGLING:
            return None
        names = {row.image: (*row.references, *row.digests) for row in self._engine.images()}
        if image.image_id not in names or still_superseded(image, made.inventory.images, names):
            return None
        return "it exists only on this host, and is the latest of a repository now"

    def _image_obstacle(self, image: Image, made: Plan, watch: EventWatch) -> str | None:
        """Why an image must stay after all: what has changed since the plan was made."""
        row = current_names(self._engine, image.image_id)
        if row is None:
            return "gone already"
        if row.references != image.references or row.digests != image.digests:
            return "its references have moved since the plan was made"
        inventory = made.inventory
        for _ in range(_LOOKS):
            watch.mark()
            listed = self._engine.containers()
            if any(container.image == image.image_id for container in listed):
                return "a container refers to it now"
            stopped, now = stop_times(inventory.containers), time.time()
            try:
                hold = held_for_jobs(listed, inventory.images, inventory.jobs, now, stopped).get(image.image_id)
                why = hold.summary(now) if hold is not None else ""
            except LogError as error:
                hold, why = None, str(error)
            if why and (hold is None or hold.firm or image.image_id not in inventory.holds):
                return f"a job that has begun since may need it: {why}"
            # This is asked last: the shorter the time between the answer and the removal, the better.
            used = self._used(image, made, watch)
            # A container that was created since the listing may be a job's first.
            if used is not None or not watch.has_new_containers(container.container for container in listed):
                return used
        return "containers are created faster than their images can be looked up"

    def _used(self, image: Image, made: Plan, watch: EventWatch) -> str | None:
        """What shows a use: from the survey on, whatever uses the image makes it young again."""
        used = watch.use_of(image, made.inventory.now, self._own)
        return f"{used} since the plan was made" if used is not None else None

    def _remove_image(self, image: Image, made: Plan, watch: EventWatch) -> str | None:
        """Remove an image with all its references; why it could not be done, else None.

        Names go one by one. The last goes together with the image, by its ID: that the engine refuses
        if it has got another name meanwhile, or a container, and a name that now means another image stays.
        What was taken from an image that stays after all is given back.
        """
        taken: list[str] = []
        try:
            obstacle = self._remove_all(image, made, watch, taken)
        except EngineError:
            self._give_back(image, self._missing(image, taken))
            raise
        if obstacle is not None:
            self._give_back(image, taken)
        return obstacle

    def _remove_all(self, image: Image, made: Plan, watch: EventWatch, taken: list[str]) -> str | None:
        for reference in image.references[:-1]:
            self._engine.remove_image(reference)
            taken.append(reference)
            if (used := self._used(image, made, watch)) is not None:
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
        built_upon, names = _BUILT_UPON in refused.explanation, row.references
        if _SEVERAL_NAMES in refused.explanation:
            # A digest of another repository counts as a name of its own.
            repositories = set(map(repository, row.references))
            names = tuple(digest for digest in row.digests if repository(digest) not in repositories)
        # Podman counts a digest that was pulled as a tag; one that is left alone does not hinder.
        elif not built_upon and _SEVERAL_TAGS not in refused.explanation:
            raise refused
        for name in names:
            self._engine.remove_image(name)
        # Without a name it goes with what was built on it.
        if not built_upon and current_names(self._engine, row.image) is not None:
            self._engine.remove_image(row.image)

    def _missing(self, image: Image, taken: Sequence[str]) -> tuple[str, ...]:
        """The names that an image lost to a removal that failed: an engine may take them before it refuses."""
        try:
            row = current_names(self._engine, image.image_id)
        except EngineError:
            return tuple(taken)
        return () if row is None else tuple(name for name in image.references if name not in row.references)

    def return_names(self) -> None:
        """Try once more to give back names that images lost; say what to do about those that stay lost."""
        for image_id, names in self.lost.items():
            for reference in names:
                try:
                    self._restore_name(image_id, reference)
                except EngineNotFoundError:
                    break  # it has gone after all
                except EngineError as error:
                    logger.warning(
                        "image %s lost its name %s (%s): once there is space, restore it with `docker tag %s %s`",
                        *(short_id(image_id), reference, error, short_id(image_id), reference),
                    )
                else:
                    logger.warning("restored the name of image %s: %s", short_id(image_id), reference)

    def _restore_name(self, image_id: str, reference: str) -> None:
        """Give an image a name again, unless that means one by now. Raises EngineError."""
        if self._engine.resolve(reference) is None:
            self._engine.tag(image_id, *split_tag(reference))

    def _give_back(self, image: Image, taken: Sequence[str]) -> None:
        """Give an image that stays the names that it has lost."""
        for reference in taken:
            try:
                self._restore_name(image.image_id, reference)
            except EngineError as error:
                logger.info("%s has lost its name %s for now: %s", image.name, reference, error)
                self.lost[image.image_id] = (*self.lost.get(image.image_id, ()), reference)

    def facts_of(self, removal: Removal, made: Plan, watch: EventWatch) -> dict[str, Any]:
        """What else the log keeps of a removal: uses that came too late, volumes that lost their container."""
        concurrent = self._concurrent_uses(removal, made, watch)
        subject = removal.of.subject if isinstance(removal.of, Item) else None
        volumes = subject.volumes if isinstance(subject, Container) and removal.kind is ItemKind.CONTAINER else ()
        found = {"concurrent_uses": concurrent, "volumes": list(volumes)}
        return {name: value for name, value in found.items() if value}

    def _concurrent_uses(self, removal: Removal, made: Plan, watch: EventWatch) -> list[dict[str, Any]]:
        """The uses of an image that the engine reported only when it was too late."""
        if not isinstance(removal.of, Verdict):
            return []
        time.sleep(self._engine.lag)
        try:
            uses = watch.uses_of(removal.of.image, made.inventory.now, self._own)
            # Where a name means an image again, by now another one, nobody misses this one.
            if uses and any(self._engine.resolve(reference) for reference in removal.references):
                return []
        except EngineError as error:
            # The image has gone, and that is to be recorded whatever the engine says now.
            logger.warning("whether %s was used at the moment of its removal is unknown: %s", named(removal), error)
            return []
        for use in uses:
            who = f"job {use.job}" if use.job else use.actor
            said = "%s was %s (%s) at the moment of its removal: it must be pulled again"
            logger.warning(said, named(removal), EVIDENCE[use.kind], who)
        return [use.to_json() for use in uses]

    def _remove_container(self, container: Container) -> str | None:
        # Its volumes stay: they are judged for themselves.
        self._own.add(container.container_id)
        self._engine.remove_container(container.container_id)
        self.orphaned.update(container.volumes)
        return None

    def _container_obstacle(self, container: Container) -> str | None:
        """Why a container must stay after all: what has changed since the plan was made."""
        if container.external:
            outside = self._engine.external_containers()
            now = next((external_container(one) for one in outside if one.container == container.container_id), None)
        else:
            detail = self._engine.container_detail(container.container_id)
            now = None if detail is None else read_container(detail, container)
        if now is None:
            return "gone already"
        if now.state not in STOPPED or now.held_by:
            return f"it is {now.held_by or now.state} now"
        return "it ran since the plan was made" if now.stopped_at > container.stopped_at else None

    def _remove_volume(self, volume: Volume, made: Plan, watch: EventWatch) -> str | None:
        if any(volume.name in row.volumes for row in self._engine.containers()):
            return "a container refers to it now"
        row = next((row for row in self._engine.volumes() if row["Name"] == volume.name), None)
        if row is None:
            return "gone already"
        if created_at(row) != volume.created:
            return "it was created again since the plan was made"
        if watch.volume_was_used(volume.name, made.inventory.now):
            return "a container used it since the plan was made"
        self._engine.remove_volume(volume.name)
        return None

    def _prune_build_cache(self, usage: BuildCacheUsage, item: Item, made: Plan) -> str | None:
        """Have the engine prune its build cache, down to what is needed now and no further than planned."""
        disk = disk_now(made)
        missing = max(0, int(made.levels.target[0] - disk.free_bytes))
        short_of_inodes = disk.free_inodes < made.levels.target[1]
        keep = item.keep if short_of_inodes else max(item.keep, usage.bytes - missing)
        self._engine.prune_build_cache(item.age, keep)
        return None


def _empty_log(container: Container) -> str | None:
    """Empty the log of a container that is still stopped; why it could not be done, else None."""
    path = container.log_path
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                return f"its log {path} is not a file of its own: it has another name or is not a file"
            os.ftruncate(file.fileno(), 0)
            os.fsync(file.fileno())
    except OSError as error:
        return f"its log {path} cannot be emptied: {error.strerror}"
    return None


_WORDS = {ItemKind.CONTAINER: "container ", ItemKind.VOLUME: "volume ", ItemKind.LOG: "log of container "}


def named(removal: Removal) -> str:
    """What is removed, in words: images by their name alone."""
    return f"{_WORDS.get(removal.kind, '')}{removal.name}"
