"""Carries a plan out: the only code that removes.

Never by force; never an image that a container refers to; never what was not planned, explained
and stored first. Each removal is checked once more against the engine right before it happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors

from collector.disk import DiskSample, sample_disk
from collector.engine import Engine, told_in_one_line
from collector.errors import EngineError, HindsightError, LogError
from collector.events import Event, Kind
from collector.log import EventLog
from collector.units import format_bytes
from collector.writer import LogWriter
from pruner.inventory import Image
from pruner.plan import Plan, Verdict, short, summary
from pruner.survey import current_names, recent_uses

logger = logging.getLogger(__name__)

# A race with other users of the disk may eat what was freed; more rounds than this do not help.
MAX_ROUNDS = 3


class PrunerBusyError(HindsightError):
    """Another pruner works on the same log."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prune ended. Sizes are bytes.

    Attributes:
        removed: the images that went, with the bytes that the file system won.
        failed: the images that did not, with the reason.
        freed: free space after less free space before.
        disk: the disk at the end.
        reached: whether free space is at the target.
        rounds: how many plans were carried out.
    """

    removed: tuple[tuple[Image, int], ...]
    failed: tuple[tuple[Image, str], ...]
    freed: int
    disk: DiskSample
    reached: bool
    rounds: int


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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
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
        trigger: why it runs (``timer``, ``manual``, ``pre-job``), for the log.
    """

    def __init__(self, engine: Engine, log: EventLog, trigger: str) -> None:
        self._engine = engine
        self._writer = LogWriter(log)
        self._log = log
        self._trigger = trigger
        self._prune = ""

    def run(self, replan: Callable[[], Plan]) -> Outcome:
        """Plan and remove until the target is reached, nothing more can go, or `MAX_ROUNDS` have passed.

        Args:
            replan: makes a plan of the state as it is then.

        Raises:
            EngineError: the engine is lost.
            LogError: the plan could not be stored; then nothing is removed.
        """
        self._writer.spool.reserve()
        first = replan()
        before = first.inventory.disk
        removed: list[tuple[Image, int]] = []
        failed: list[tuple[Image, str]] = []
        made, rounds = first, 0
        while made.needed and made.evictions and rounds < MAX_ROUNDS:
            rounds += 1
            gone = self._carry_out(made, removed, failed)
            after = self._measure(made)
            if not gone or not short(after.free_bytes, after.free_inodes, made.levels.target):
                break
            made = replan()
        disk = self._measure(made)
        reached = not (first.needed and short(disk.free_bytes, disk.free_inodes, made.levels.target))
        return Outcome(tuple(removed), tuple(failed), disk.free_bytes - before.free_bytes, disk, reached, rounds)

    def finish_interrupted(self, prunes: tuple[str, ...]) -> None:
        """Say in the log what became of prunes that were interrupted. Raises LogError, EngineError."""
        present = {row.image for row in self._engine.images()} if prunes else set()
        for prune in prunes:
            planned, told = self._story(prune)
            for entry in planned:
                if entry["image"] in told:
                    continue
                gone = entry["image"] not in present
                self._store(
                    Event(
                        time.time_ns(),
                        Kind.ITEM_REMOVED if gone else Kind.ITEM_FAILED,
                        image=entry["image"],
                        reference=next(iter(entry["references"]), None),
                        attributes={
                            "prune": prune,
                            "reason": entry["reason"],
                            "predicted_bytes": entry["frees"],
                            **({"inferred": True} if gone else {"error": "the prune was interrupted before"}),
                        },
                    )
                )
            self._store(
                Event(time.time_ns(), Kind.PRUNE_FINISHED, attributes={"prune": prune, "outcome": "interrupted"})
            )

    def _story(self, prune: str) -> tuple[list[dict[str, Any]], set[str]]:
        """What a prune had planned to remove, and which of it the log tells the end of."""
        plans = self._log.query(
            "SELECT CAST(attributes -> '$.plan.images' AS STRUCT(image VARCHAR, \"references\" VARCHAR[], "
            "reason VARCHAR, frees BIGINT)[]) FROM event "
            "WHERE kind = 'prune_started' AND attributes ->> '$.prune' = ?",
            [prune],
        )
        told = self._log.query(
            "SELECT image_id FROM event JOIN image USING (image) "
            "WHERE kind IN ('item_removed', 'item_failed') AND attributes ->> '$.prune' = ?",
            [prune],
        )
        planned = [entry for (entries,) in plans for entry in entries if entry["reason"].startswith("evict")]
        return planned, {image for (image,) in told}

    def _carry_out(self, made: Plan, removed: list[tuple[Image, int]], failed: list[tuple[Image, str]]) -> bool:
        """Remove what the plan says, as long as it is needed; whether anything went."""
        self._prune = uuid.uuid4().hex
        logger.info("%s", summary(made))
        self._store(
            Event(
                time.time_ns(),
                Kind.PRUNE_STARTED,
                bytes=made.inventory.disk.free_bytes,
                attributes={
                    "prune": self._prune,
                    "trigger": self._trigger,
                    "policy": {"text": str(made.policy)},
                    "plan": made.to_json(),
                },
            )
        )
        gone = False
        for verdict in made.evictions:
            before = self._measure(made)
            if not short(before.free_bytes, before.free_inodes, made.levels.target):
                obstacle: str | None = "no longer needed: free space is at the target"
            else:
                obstacle = self._obstacle(verdict.image, made) or self._remove(verdict.image)
            if obstacle is None:
                freed = self._measure(made).free_bytes - before.free_bytes
                removed.append((verdict.image, freed))
                gone = True
                self._tell_removed(verdict, freed)
            else:
                failed.append((verdict.image, obstacle))
                self._tell_failed(verdict, obstacle)
        after = self._measure(made)
        reached = not short(after.free_bytes, after.free_inodes, made.levels.target)
        self._store(
            Event(
                time.time_ns(),
                Kind.PRUNE_FINISHED,
                bytes=after.free_bytes - made.inventory.disk.free_bytes,
                attributes={
                    "prune": self._prune,
                    "outcome": "target reached" if reached else "target not reached",
                    "free_before": made.inventory.disk.free_bytes,
                    "free_after": after.free_bytes,
                    "predicted_bytes": made.frees,
                },
            )
        )
        return gone

    def _obstacle(self, image: Image, made: Plan) -> str | None:
        """Why an image must stay after all: what has changed since the plan was made."""
        row = current_names(self._engine, image.image_id)
        if row is None:
            return "gone already"
        if row.references != image.references or row.digests != image.digests:
            return "its references have moved since the plan was made"
        if any(container.image == image.image_id for container in self._engine.containers()):
            return "a container refers to it now"
        # From the survey on, whatever uses the image makes it young again.
        used = recent_uses(self._engine, made.inventory.now, time.time()).get(image.image_id)
        return f"{used[1]} since the plan was made" if used is not None else None

    def _remove(self, image: Image) -> str | None:
        """Remove every reference of an image, one by one; why it could not be done, else None."""
        api: Any = self._engine.api
        try:
            for reference in image.references:
                with told_in_one_line(self._engine.host):
                    api.remove_image(reference, force=False)
            row = current_names(self._engine, image.image_id)
            if row is not None and row.digests:
                for digest in row.digests:
                    with told_in_one_line(self._engine.host):
                        api.remove_image(digest, force=False)
                row = current_names(self._engine, image.image_id)
            if row is not None:
                if row.references:
                    return "it was given another reference meanwhile"
                with told_in_one_line(self._engine.host):
                    api.remove_image(image.image_id, force=False)
        except docker.errors.NotFound:
            return "gone already" if current_names(self._engine, image.image_id) is None else "a reference has moved"
        except EngineError as error:
            if isinstance(error.__cause__, docker.errors.APIError):
                return str(error.__cause__.explanation or error)
            raise
        return None

    def _measure(self, made: Plan) -> DiskSample:
        return sample_disk(made.inventory.disk.path)

    def _tell_removed(self, verdict: Verdict, freed: int) -> None:
        image = verdict.image
        logger.info("removed %s: freed %s; %s", image.name, format_bytes(freed), verdict.detail)
        self._store(self._item(Kind.ITEM_REMOVED, verdict, freed, {}))

    def _tell_failed(self, verdict: Verdict, obstacle: str) -> None:
        logger.warning("kept %s after all: %s", verdict.image.name, obstacle)
        self._store(self._item(Kind.ITEM_FAILED, verdict, None, {"error": obstacle}))

    def _item(self, kind: Kind, verdict: Verdict, freed: int | None, more: dict[str, Any]) -> Event:
        return Event(
            time.time_ns(),
            kind,
            image=verdict.image.image_id,
            reference=verdict.image.name,
            bytes=freed,
            attributes={
                "prune": self._prune,
                "reason": verdict.reason.name.lower(),
                "detail": verdict.detail,
                "predicted_bytes": verdict.frees,
                "references": list(verdict.image.references),
                **more,
            },
        )

    def _store(self, event: Event) -> None:
        """Have the event on the disk, in the log or its spool, before going on.

        Raises:
            LogError: neither can take it.
        """
        self._writer.add([event])
        if not self._writer.flush() and not self._writer.save():
            raise LogError(f"neither the log {self._log.path} nor its spool can be written: nothing more is removed")
