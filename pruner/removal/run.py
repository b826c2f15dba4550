"""One run of the pruner, from the state it finds to what it leaves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from collector.engine.deadline import within
from collector.engine.leftovers import find_leftovers
from collector.engine.protocol import Engine, RemovingEngine
from collector.eventlog.log import EventLog
from collector.eventlog.writer import LogWriter
from collector.machine.disk import DiskSample
from collector.machine.lock import exclusive
from collector.machine.prune_runs import read_runs
from collector.machine.wake import just_woken, last_decision, leave_levels
from collector.model.errors import DeadlineError, HindsightError, LogBusyError, LogDamagedError, UsageError
from collector.model.events import Event
from collector.model.units import format_bytes, format_count
from pruner.planning.held_back import held_back
from pruner.planning.plan import Plan, plan, short
from pruner.planning.summary import counted
from pruner.policy.file import to_json as policy_json
from pruner.policy.headroom import resolved
from pruner.policy.policy import Levels, Policy, Space
from pruner.removal.executor import MAX_ROUNDS, Executor, Outcome
from pruner.removal.foresight import leave_foresight
from pruner.removal.standstill import note
from pruner.state.disks import on_disk, without
from pruner.state.inventory import Inventory, read_history
from pruner.state.refusals import ItemId, Refusal
from pruner.state.survey import look, with_learning

logger = logging.getLogger(__name__)

# For so many intervals of the timer a log that another process holds is waited for.
_PATIENCE = 3


class TargetNotReachedError(HindsightError):
    """Less than the target is free after all that may go has gone."""

    exit_status = 3


@dataclass(frozen=True, slots=True)
class ManualRequest:
    """What the operator asks for beyond the policy: a clean-up now.

    Attributes:
        free: how much is to be free afterwards; None: as much as the policy's target.
    """

    free: Space | None


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What plans take into account beyond the engine, the log and the policy.

    Attributes:
        request: what the operator asks for beyond the policy.
        refusals: what could not be removed in this run.
        orphaned: names of volumes whose containers this very run removed.
        ahead: whether what an earlier plan removes counts as gone for the later ones.
        learn: whether the order is needed also while there is enough space.
    """

    request: ManualRequest | None = None
    refusals: Mapping[ItemId, Refusal] = field(default_factory=dict)
    orphaned: frozenset[str] = frozenset()
    ahead: bool = True
    learn: bool = False


_NO_OPTIONS = PlanOptions()


def make_plan(engine: Engine, log: EventLog | None, policy: Policy, options: PlanOptions = _NO_OPTIONS) -> Plan:
    """A plan for the disk of the images; see `make_plans`."""
    with within(policy.deadline):
        return make_plans(engine, log, policy, options)[0]


def make_plans(engine: Engine, log: EventLog | None, policy: Policy, options: PlanOptions = _NO_OPTIONS) -> list[Plan]:
    """A plan for each disk that holds bytes of the engine, that of the images first, from the state as it is now.

    The policy holds for each disk.

    Args:
        engine: the live engine.
        log: the event log, if there is one.
        policy: what may go.
        options: what else counts.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        UsageError: the policy contradicts itself on this disk.
    """
    try:
        return _make_plans(engine, log, policy, options)
    except LogDamagedError as error:
        fault = str(error)
    except LogBusyError as error:
        if log is None or not _is_kept_from(log.path, policy, error):
            raise
        fault = f"{error}; decided without the log"
    # To stand still while the disk fills would be worse than to decide as where there is no log.
    return [_warned(each, fault) for each in _make_plans(engine, None, policy, options)]


def _is_kept_from(log_path: Path, policy: Policy, error: LogBusyError) -> bool:
    """Whether runs have failed for so long because another process holds the log: an open shell may stay for days."""
    failed, decided = read_runs(log_path).row, last_decision(log_path)
    is_repeated = failed is not None and failed.error == str(error)
    return is_repeated and decided is not None and time.time() - decided >= _PATIENCE * policy.interval


def _warned(made: Plan, warning: str) -> Plan:
    return replace(made, inventory=replace(made.inventory, warnings=(warning, *made.inventory.warnings)))


def _make_plans(engine: Engine, log: EventLog | None, policy: Policy, options: PlanOptions) -> list[Plan]:
    policy, inventory = look(engine, log, policy, options.orphaned, learn=options.learn)
    inventory = replace(inventory, refusals={**inventory.refusals, **options.refusals})
    if options.learn:
        inventory = replace(inventory, leftovers=find_leftovers(engine))
    plans: list[Plan] = []
    for disk in inventory.disks or (inventory.disk,):
        gone = frozenset(removal.key for made in plans if options.ahead and made.needed for removal in made.removals)
        here = on_disk(without(inventory, gone) if gone else inventory, disk)
        mount = disk.mount if plans else ""
        plans.append(_plan_for(here, log, policy, options, mount))
    return plans


def _plan_for(
    inventory: Inventory, log: EventLog | None, policy: Policy, options: PlanOptions, file_system: str
) -> Plan:
    room = None if file_system else _room(inventory)
    policy = resolved(policy, log, inventory.disk.total_bytes, inventory.now, file_system, room=room)
    try:
        levels = levels_for(policy, inventory.disk, inventory.free_slots, options.request)
        if not options.learn and short(inventory.disk.free_bytes, inventory.disk.free_inodes, levels.threshold):
            inventory = with_learning(inventory, log, policy)
        return plan(policy, inventory, levels=levels)
    except ValueError as error:
        raise UsageError(f"policy: {error}") from None


def _room(inventory: Inventory) -> int:
    """Bytes of the disk that hold images, or nothing."""
    layers = {chain: size for image in inventory.images for chain, size in image.layers}
    return inventory.disk.free_bytes + sum(layers.values())


def levels_for(policy: Policy, disk: DiskSample, slots: int | None, request: ManualRequest | None) -> Levels:
    """The levels of free space that hold for one run.

    A request starts pruning at once and sets where it ends; at which point allowlisted images go stays
    the policy's affair.

    Raises:
        ValueError: the policy contradicts itself on this disk.
    """
    levels = policy.levels(disk.total_bytes, disk.total_inodes, slots)
    if request is None:
        return levels
    wanted = levels.target[0] if request.free is None else request.free.of(disk.total_bytes, slots or 1)
    emergency = (min(levels.emergency[0], wanted), levels.emergency[1])
    return Levels((wanted, levels.threshold[1]), (wanted, levels.target[1]), emergency)


def run(
    engine: RemovingEngine, log: EventLog, policy: Policy, trigger: str, request: ManualRequest | None = None
) -> Outcome:
    """Bring free space back, if it is short; first record the outcome of prunes that were interrupted.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        InUseError: another pruner is at work.
        UsageError: the policy contradicts itself on this disk.
    """
    facts = _facts(policy, trigger)
    with exclusive(log.path, "pruner"):
        executor = Executor(engine, log, trigger)
        try:
            with within(policy.deadline):
                outcome = _run(executor, engine, log, policy, request)
        except HindsightError as error:
            if not executor.removed and log.exists():  # a run without an engine begins no log
                note(log.path, executor.store, error, facts)
            raise
        note(log.path, executor.store, outcome, facts)
        leave_foresight(engine, log, policy, changed=bool(outcome.removed))
        return outcome


def note_failure(log: EventLog, policy: Policy, trigger: str, error: HindsightError) -> None:
    """Record a run that ended before it could plan. Raises InUseError, LogError."""
    if not log.exists():
        return
    writer = LogWriter(log)

    def store(event: Event) -> None:
        writer.add([event])
        if not writer.flush():
            writer.save()

    with exclusive(log.path, "pruner"):
        note(log.path, store, error, _facts(policy, trigger))


def _facts(policy: Policy, trigger: str) -> dict[str, Any]:
    """What the log keeps of any run."""
    return {"trigger": trigger, "policy": {"text": str(policy), "values": policy_json(policy)}}


def _run(
    executor: Executor, engine: RemovingEngine, log: EventLog, policy: Policy, request: ManualRequest | None
) -> Outcome:
    outcomes: list[Outcome] = []
    count = 1

    def replan(refusals: Mapping[ItemId, Refusal]) -> Plan:
        nonlocal count
        options = PlanOptions(request, refusals, executor.orphaned, ahead=False)
        plans = make_plans(engine, log, policy, options)
        count = len(plans)
        if request is None:
            # What one run was asked for does not decide when the next begins.
            main, *others = plans
            levels = {made.inventory.disk.path: made.levels.threshold for made in others}
            leave_levels(log.path, main.inventory.disk.path, *main.levels.threshold, levels, main.policy.age_explained)
        return plans[min(len(outcomes), count - 1)]

    executor.flush()
    executor.finish_interrupted(unfinished(log))
    try:
        while len(outcomes) < count:
            outcomes.append(executor.run(replan))
    except DeadlineError:
        logger.warning(
            "the run ends at its deadline; it removed %s so far, and the next run records the outcome of the rest",
            counted(executor.removed),
        )
        raise
    return together(outcomes)


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """How a prune of several disks ended: the disk is the first that is still short of its target."""
    last = outcomes[-1]
    return replace(
        last,
        freed=sum(outcome.freed for outcome in outcomes),
        disk=next((outcome.disk for outcome in outcomes if not outcome.reached), outcomes[0].disk),
        others=tuple(outcome.disk for outcome in outcomes[1:]),
        reached=all(outcome.reached for outcome in outcomes),
    )


def trigger_of(log_path: Path, environment: Mapping[str, str]) -> str:
    """What started this run: ``early`` (the collector), ``timer``, ``service`` or ``manual``.

    systemd 252 goes on naming a unit's first trigger, so the collector's own mark distinguishes the two.
    """
    if environment.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
        return "manual"
    if just_woken(log_path):
        return "early"
    return "timer" if "TRIGGER_UNIT" in environment else "service"


def unfinished(log: EventLog) -> tuple[str, ...]:
    """Prunes that were interrupted; none where the log cannot be read now. Raises LogError."""
    try:
        return read_history(log).unfinished if log.exists() else ()
    except (LogBusyError, LogDamagedError):
        return ()


def disk_state(*disks: DiskSample) -> str:
    """How much is free, in words; of several disks, on each."""
    words = [
        f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
        + (f" on {disk.mount} ({', '.join(disk.holds)})" if disk.holds else "")
        for disk in dict.fromkeys(disks)
    ]
    return ", ".join(words)


def summary(outcome: Outcome) -> str:
    """What a run did, in one line."""
    state = disk_state(outcome.disk, *outcome.others)
    if not outcome.rounds and outcome.reached:
        return f"{state}: nothing to do"
    removed = counted([removal for removal, _ in outcome.removed])
    rounds = f" in {outcome.rounds} rounds" if outcome.rounds > 1 else ""
    return f"removed {removed}{rounds}, freed {format_bytes(outcome.freed)}; {state}"


def check_reached(outcome: Outcome) -> None:
    """Raise TargetNotReachedError, with what can be done, if the target was not reached."""
    if outcome.reached:
        return
    limit = f", the most that one run makes of {MAX_ROUNDS}" if outcome.rounds == MAX_ROUNDS else ""
    rounds = format_count(outcome.rounds, "round")
    held = held_back(outcome.plan) if outcome.plan is not None else []
    why = f"; what stands in the way: {', '.join(map(str, held))}" if held else ""
    raise TargetNotReachedError(
        f"free space is still under the target after {rounds}{limit}{why}. "
        "`pruner plan --all` with the same options gives the reason for each item"
    )


def to_json(outcome: Outcome) -> dict[str, Any]:
    """What a run did, for machines. Sizes are bytes."""
    return {
        "reached": outcome.reached,
        "rounds": outcome.rounds,
        "freed_bytes": outcome.freed,
        "free_bytes": outcome.disk.free_bytes,
        "total_bytes": outcome.disk.total_bytes,
        "held_back": [asdict(one) for one in held_back(outcome.plan)] if outcome.plan and not outcome.reached else [],
        "removed": [
            {
                "item": removal.kind.value,
                "key": removal.key,
                "name": removal.name,
                "reason": removal.reason,
                "predicted_bytes": removal.frees,
                "freed_bytes": freed,
            }
            for removal, freed in outcome.removed
        ],
        "failed": [
            {"item": removal.kind.value, "key": removal.key, "name": removal.name, "error": obstacle}
            for removal, obstacle in outcome.failed
        ],
    }
