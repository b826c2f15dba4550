"""What would go next if space ran out now: looked up beside the runs that remove something, for whoever shows it."""

from __future__ import annotations

import logging
import time

from collector.engine.deadline import within
from collector.engine.protocol import Engine
from collector.eventlog.log import EventLog
from collector.machine.next_removals import NextRemoval, NextRemovals, leave_next_removals, read_next_removals
from collector.model.errors import HindsightError
from pruner.planning.plan import Plan, plan
from pruner.policy.headroom import resolved
from pruner.policy.policy import Levels, Policy
from pruner.state.survey import look

logger = logging.getLogger(__name__)

MOST_SHOWN = 8
_EVERY_S = 3600.0


def plan_for_all(engine: Engine, log: EventLog, policy: Policy) -> tuple[Plan, float]:
    """A plan that frees all that may go from the disk of the images, and the threshold of the policy, bytes.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        UsageError: the policy contradicts itself on this disk.
    """
    with within(policy.deadline):
        policy, inventory = look(engine, log, policy, learn=True)
        policy = resolved(policy, log, inventory.disk.total_bytes, inventory.now)
        disk = inventory.disk
        levels = policy.levels(disk.total_bytes, disk.total_inodes, inventory.free_slots)
        everything = (float(disk.total_bytes), 0.0)
        return plan(policy, inventory, levels=Levels(everything, everything, levels.emergency)), levels.threshold[0]


def next_removals(made: Plan, most: int) -> tuple[NextRemoval, ...]:
    """The images that a plan removes first."""
    return tuple(
        NextRemoval(one.image.name, one.frees, one.image.last_use, one.detail) for one in made.evictions[:most]
    )


def leave_foresight(engine: Engine, log: EventLog, policy: Policy, *, changed: bool) -> None:
    """Leave word of what would go next, once an hour and after each run that changed it; nothing depends on it.

    Args:
        engine: the live engine.
        log: the event log.
        policy: what may go.
        changed: whether the run has just removed something.
    """
    known = read_next_removals(log.path)
    if known is not None and not changed and 0.0 <= time.time() - known.time < _EVERY_S:
        return
    try:
        made, _ = plan_for_all(engine, log, policy)
        shown, total = next_removals(made, MOST_SHOWN), sum(one.frees for one in made.evictions)
        found = NextRemovals(made.inventory.now, str(policy), shown, len(made.evictions), total)
        leave_next_removals(log.path, found)
    except (HindsightError, OSError) as error:
        logger.debug("what would go next is not known: %s", error)
