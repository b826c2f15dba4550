"""The disk is full now: takes the steps that were shown, one after the other, until enough is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collector.engine.protocol import Engine, RemovingEngine
from collector.eventlog.log import EventLog
from pruner.planning.emergency_steps import Step
from pruner.planning.plan import Plan
from pruner.policy.policy import Policy, Space
from pruner.removal.executor import Outcome
from pruner.removal.run import ManualRequest, make_plan, run

TRIGGER = "emergency"


def look(engine: Engine, log: EventLog | None, policy: Policy, wanted: Space | None) -> Plan:
    """The state of the host, and how much is to be free. Raises EngineError, LogError, UsageError."""
    return make_plan(engine, log, policy, ManualRequest(wanted), learn=True)


def carry_out(engine: RemovingEngine, log: EventLog, chosen: Sequence[Step], wanted_bytes: float) -> Iterator[Outcome]:
    """Take step after step until so much is free; how each ended.

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
