"""Carries a plan out, round by round: nothing goes that was not planned, explained and stored first."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from collector.engine.protocol import RemovingEngine
from collector.eventlog.log import EventLog
from collector.eventlog.writer import LogWriter
from collector.machine.disk import DiskSample, settling_time
from collector.machine.reserve import reserves
from collector.model.errors import EngineError, LogError
from collector.model.events import Event, Kind
from collector.model.units import format_bytes, format_count
from pruner.planning.plan import Plan, Removal, plan, short
from pruner.planning.summary import summary
from pruner.policy.file import to_json
from pruner.removal.aftermath import aftermath, find_present, item_event, lost_names, read_unfinished
from pruner.removal.effect import FreedSpace, NoEffectError, disk_now, settled
from pruner.removal.full_disk import BY_HAND, STUCK, give_reserves, wants_space, with_reserves
from pruner.removal.remover import Obstacle, Remover, named
from pruner.state.event_watch import EventWatch
from pruner.state.refusals import ItemId, Refusal

logger = logging.getLogger(__name__)

# A race with other users of the disk may eat what was freed; more rounds than this do not help.
MAX_ROUNDS = 3
# Rounds in which nothing went and the engine refused everything: each leads to a plan that looks further.
MAX_REFUSED_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prune ended. Sizes are bytes.

    Attributes:
        removed: what went, with the bytes that it freed on the file system.
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


class Executor:
    """Carries plans out on one engine.

    Args:
        engine: the live engine.
        log: where every step is stored, before it happens and after.
        trigger: why it runs (``timer``, ``early``, ``manual``, ``pre-job``), for the log.
    """

    def __init__(self, engine: RemovingEngine, log: EventLog, trigger: str) -> None:
        self._engine = engine
        self._writer = LogWriter(log)
        self._log = log
        self._trigger = trigger
        self._prune = ""
        self._round = 0
        self._effect = FreedSpace()
        self._folders: tuple[str, ...] = ()
        self._remover = Remover(engine)
        self._stuck = False
        # Whether the log could not take what this round recorded first: it is waited for once, not for each removal.
        self._log_waits = False
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
        # Whatever uses an image while the plan is made must be seen, so the watch comes first.
        watch = EventWatch(self._engine)
        fruitful = fruitless = 0
        try:
            made = first = with_reserves(self._engine, self._log.path, partial(replan, {}))
            self._folders = tuple(disk.path for disk in made.inventory.disks or (made.inventory.disk,))
            for warning in first.inventory.warnings if first.needed else ():
                logger.warning("warning: %s", warning)
            while made.needed and made.removals:
                self._round += 1
                refused = len(self._refusals)
                gone = self._carry_out(made, watch)
                fruitful, fruitless = fruitful + gone, fruitless + (not gone)
                after = disk_now(made)
                reached = not short(after.free_bytes, after.free_inodes, made.levels.target)
                if self._stuck or reached or fruitful == MAX_ROUNDS or fruitless == MAX_REFUSED_ROUNDS:
                    break
                if not gone and len(self._refusals) == refused:
                    break
                made = _towards_target(replan(self._refusals))
        finally:
            watch.close()
        disk = disk_now(made)
        reached = not (first.needed and short(disk.free_bytes, disk.free_inodes, made.levels.target))
        freed = disk.free_bytes - first.inventory.disk.free_bytes
        self._remover.return_names()
        self._prepare(made.levels.target[0])
        return Outcome(tuple(self._removed), tuple(self._failed), freed, disk, reached, self._round, plan=made)

    @property
    def removed(self) -> tuple[Removal, ...]:
        """What went so far."""
        return tuple(removal for removal, _ in self._removed)

    @property
    def orphaned(self) -> frozenset[str]:
        """Names of the volumes of containers that it removed."""
        return frozenset(self._remover.orphaned)

    def finish_interrupted(self, prunes: tuple[str, ...]) -> None:
        """Say in the log what became of prunes that were interrupted. Raises LogError.

        The image that lost names then has them back at the end of the run, unless the run removes it.
        Nothing depends on it: an engine that does not answer does not stop the prune.
        """
        if not prunes:
            return
        unreported = {prune: read_unfinished(self._log, prune) for prune in prunes}
        try:
            present = find_present(self._engine, [entry for entries in unreported.values() for entry in entries])
        except EngineError as error:
            logger.warning("what interrupted prunes left behind is looked up again in the next run: %s", error)
            return
        for prune, entries in unreported.items():
            for entry in entries:
                self.store(aftermath(prune, entry, present))
            # Only one image was under way: whatever lacks names besides it has lost them to somebody else.
            begun = next((entry for entry in entries if lost_names(entry, present)), None)
            if begun is not None:
                self._remover.lost[begun.key] = lost_names(begun, present)
            ended = {"prune": prune, "outcome": "interrupted"}
            self.store(Event(time.time_ns(), Kind.PRUNE_FINISHED, attributes=ended))
        logger.warning("recorded the outcome of %s", format_count(len(prunes), "interrupted prune"))

    def flush(self) -> None:
        """Append what an earlier prune could only spool. Raises LogError."""
        self._writer.flush()

    def _carry_out(self, made: Plan, watch: EventWatch) -> bool:
        """Remove what the plan says, as long as it is needed; whether anything went."""
        self._prune = uuid.uuid4().hex
        self._log_waits = False
        logger.info("%s", summary(made))
        facts = {
            "prune": self._prune,
            "trigger": self._trigger,
            "round": self._round,
            "policy": {"text": str(made.policy), "values": to_json(made.policy)},
            "plan": made.to_json(),
        }
        free = made.inventory.disk.free_bytes
        self.store_first(Event(time.time_ns(), Kind.PRUNE_STARTED, bytes=free, attributes=facts))
        # What was stored just now lies in the spool if the disk is full: the space is for the engine,
        # which writes before it removes.
        give_reserves(self._log.path, self._folders)
        gone, useless, expected = False, None, 0
        settling = settling_time(made.inventory.disk.path)
        measure = partial(disk_now, made)
        for removal in made.removals:
            before = disk_now(made)
            if not short(before.free_bytes, before.free_inodes, made.levels.target):
                obstacle: Obstacle | None = Obstacle("no longer needed: free space is at the target")
            else:
                obstacle = self._remover.carry_out(removal, made, watch)
                if obstacle is not None:
                    found = Refusal(obstacle.why, time.time(), in_this_run=True)
                    self._refusals[removal.kind.value, removal.key] = found
            if obstacle is None:
                after = settled(measure, before.free_bytes, removal.frees, settling, last=False)
                freed, gone, expected = after.free_bytes - before.free_bytes, True, expected + removal.frees
                self._removed.append((removal, freed))
                logger.info("removed %s: freed %s; %s", named(removal), format_bytes(freed), removal.detail)
                facts = self._remover.facts_of(removal, made, watch)
                self.store(item_event(Kind.ITEM_REMOVED, removal, self._prune, freed, facts))
                useless = self._effect.check(removal.frees, before.free_bytes, after.free_bytes, measure, settling)
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
        logger.warning("kept %s after all: %s", named(removal), obstacle.why)
        more: dict[str, Any] = {"error": obstacle.why, **({"refused": True} if obstacle.refused else {})}
        if removal.key in self._remover.lost:
            more["untagged"] = list(self._remover.lost[removal.key])
        self.store(item_event(Kind.ITEM_FAILED, removal, self._prune, None, more))
        if obstacle.refused and wants_space(obstacle.why):
            self._stuck = True
            logger.warning("%s", STUCK.format(name=named(removal), path=made.inventory.disk.path))

    def _store_end(self, made: Plan, after: DiskSample, *, has_effect: bool) -> None:
        """Say how a round ended. Raises LogError."""
        self._log_waits = False
        reached = not short(after.free_bytes, after.free_inodes, made.levels.target)
        outcome = "target reached" if reached else "target not reached" if has_effect else "no effect"
        before = made.inventory.disk.free_bytes
        facts = {
            "prune": self._prune,
            "outcome": outcome,
            "round": self._round,
            "free_before": before,
            "free_after": after.free_bytes,
            "predicted_bytes": made.frees,
        }
        self.store(Event(time.time_ns(), Kind.PRUNE_FINISHED, bytes=after.free_bytes - before, attributes=facts))

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
            logger.warning("no space is reserved: %s", error.strerror)
        try:
            self._writer.spool.reserve()
        except LogError as error:
            if not self._disk_is_full():
                raise
            logger.warning("%s: the first removals are recorded in the log as soon as there is space", error)

    def _disk_is_full(self) -> bool:
        found = os.statvfs(self._log.path.parent)
        return found.f_bavail * found.f_frsize < self._writer.spool.size

    def store_first(self, event: Event) -> None:
        """Have a plan stored before anything of it is removed.

        Raises:
            LogError: it cannot be: without it, nobody could say after a crash what went and why.
        """
        self._writer.add([event])
        if self._is_stored() or (give_reserves(self._log.path, self._folders) and self._is_stored()):
            return
        raise LogError(
            f"neither the log {self._log.path} nor its spool has room for the plan: nothing is removed. {BY_HAND}"
        )

    def _is_stored(self) -> bool:
        if self._log_waits and self._writer.save():
            return True
        self._log_waits = not self._writer.flush()
        return not self._log_waits or self._writer.save()

    def store(self, event: Event) -> None:
        """Have the event on the disk, in the log or its spool, before going on.

        Raises:
            LogError: neither can take it, and not for lack of space.
        """
        self._writer.add([event])
        if not self._is_stored() and not self._disk_is_full():
            raise LogError(f"neither the log {self._log.path} nor its spool can be written: nothing more is removed")


def _towards_target(made: Plan) -> Plan:
    """The plan of a later round: what has begun goes on to the target, also above the threshold."""
    levels = replace(made.levels, threshold=made.levels.target)
    return plan(made.policy, made.inventory, levels=levels, ranking=made.ranking)
