"""The disk is full now: takes the steps that were shown, one after the other, until enough is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collector.engine.protocol import Engine, RemovingEngine
from collector.eventlog.log import EventLog
from collector.model.errors import EngineError
from pruner.planning.emergency_steps import Step
from pruner.planning.plan import Plan
from pruner.policy.policy import Policy, Space
from pruner.removal.executor import Outcome
from pruner.removal.run import ManualRequest, PlanOptions, make_plan, note_failure, run

TRIGGER = "emergency"


def look(engine: Engine, log: EventLog, policy: Policy, wanted: Space | None, *, record: bool) -> Plan:
    """The state of the host, and how much is to be free.

    Args:
        engine: the live engine.
        log: the event log; it need not exist yet.
        policy: what may go.
        wanted: how much is to be free; None: the policy's target.
        record: whether an engine that cannot be used is a run that failed.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        UsageError: the policy contradicts itself on this disk.
    """
    try:
        return make_plan(engine, log, policy, PlanOptions(ManualRequest(wanted), learn=True))
    except EngineError as error:
        if record:
            note_failure(log, policy, TRIGGER, error)
        raise


def carry_out(engine: RemovingEngine, log: EventLog, chosen: Sequence[Step], wanted_bytes: float) -> Iterator[Outcome]:
    """Take step after step until so much is free; how each ended. One that can remove nothing is recorded, too.

    Raises:
        EngineError, LogError: engine or log cannot be used.
        PrunerBusyError: another pruner is at work.
    """
    request = ManualRequest(Space(wanted_bytes, "B", f"{wanted_bytes:.0f}B"))
    for step in chosen:
        outcome = run(engine, log, step.policy, TRIGGER, request)
        yield outcome
        if outcome.reached:
            return
