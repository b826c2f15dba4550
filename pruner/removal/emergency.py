"""The disk is full now: takes the steps that were shown, one after the other, until enough is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from collector.engine.protocol import Engine, RemovingEngine
from collector.eventlog.log import EventLog
from collector.model.errors import EngineError
from pruner.planning.emergency_steps import Step
from pruner.planning.plan import Plan
from pruner.policy.policy import Policy, Space
from pruner.removal.executor import Outcome
from pruner.removal.full_disk import wants_space, with_reserves
from pruner.removal.run import ManualRequest, PlanOptions, make_plan, note_failure, run

TRIGGER = "emergency"


def look(engine: Engine, log: EventLog, policy: Policy, wanted: Space | None, *, record: bool) -> Plan:
    """The state of the host, and how much is to be free.

    Args:
        engine: the live engine.
        log: the event log; it need not exist yet.
        policy: what may go.
        wanted: how much is to be free; None: the policy's target.
        record: whether this begins a run: one whose engine cannot be used is recorded, and on a disk that is full to
            the last block the engine gets what is kept for it.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        UsageError: the policy contradicts itself on this disk.
    """
    ask = partial(make_plan, engine, log, policy, PlanOptions(ManualRequest(wanted), learn=True))
    try:
        return with_reserves(engine, log.path, ask) if record else ask()
    except EngineError as error:
        if record:
            note_failure(log, policy, TRIGGER, error)
        raise


def carry_out(engine: RemovingEngine, log: EventLog, chosen: Sequence[Step], wanted_bytes: float) -> Iterator[Outcome]:
    """Take step after step until so much is free; how each ended. One that can remove nothing is recorded, too.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        InUseError: another pruner is at work.
    """
    request = ManualRequest(Space(wanted_bytes, "B", f"{wanted_bytes:.0f}B"))
    for step in chosen:
        outcome = run(engine, log, step.policy, TRIGGER, request)
        yield outcome
        # An engine that cannot write refuses one thing like the other: no reason to go on to what costs more.
        if outcome.reached or any(wants_space(why) for _, why in outcome.failed):
            return
