"""Runs that could remove nothing: recorded with what stood in the way, the first at once and repeats together."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from collector.machine.prune_runs import Fruitless, PruneRuns, leave_runs, read_runs
from collector.model.errors import HindsightError, LogError
from collector.model.events import Event, Kind
from collector.model.untrusted import cut
from pruner.planning.held_back import held_back
from pruner.removal.executor import Outcome

logger = logging.getLogger(__name__)

# Runs that the same rules stop are recorded together, once in so long.
REPEAT_S = 3600.0
# Rules that change all the time must not make the log grow either.
_MOST_REASONS = 6
_OTHERS = "others"
_MOST_ERROR = 300


def note(
    log_path: Path,
    store: Callable[[Event], None],
    end: Outcome | HindsightError,
    facts: Mapping[str, Any],
    now: float | None = None,
) -> None:
    """Note how a run ended, and record it if it removed nothing and that is news.

    Nothing depends on it: where it cannot be kept, a warning says so.

    Args:
        log_path: the event log.
        store: stores an event; raises LogError.
        end: the outcome, or the error that ended the run before it removed anything.
        facts: what else the log is to keep of the run.
        now: UTC seconds.
    """
    now = time.time() if now is None else now
    known = read_runs(log_path)
    try:
        updated = _noted(known, store, end, facts, now)
        if updated != known:
            leave_runs(log_path, updated)
    except (LogError, OSError) as error:
        logger.warning("cannot record that this run removed nothing: %s", error)


def _noted(
    known: PruneRuns,
    store: Callable[[Event], None],
    end: Outcome | HindsightError,
    facts: Mapping[str, Any],
    now: float,
) -> PruneRuns:
    if isinstance(end, Outcome) and (end.reached or end.removed):
        for one in known.waiting.values():
            _record(store, one, {"over": True}, facts)
        return replace(known, reached=now if end.reached else known.reached, row=None, recorded={}, waiting={})
    found = _fruitless(end, now)
    row = known.row.and_then(found) if known.row else found
    waiting, recorded = dict(known.waiting), dict(known.recorded)
    if not isinstance(end, Outcome) or not end.rounds:  # else each attempt is in the log already
        key = _key(found, end)
        if key not in recorded and len(recorded) >= _MOST_REASONS:
            key = _OTHERS
        waiting[key] = waiting[key].and_then(found) if key in waiting else found
    for key in [key for key in waiting if not 0 <= now - recorded.get(key, 0.0) < REPEAT_S]:
        _record(store, waiting.pop(key), _free(end), facts)
        recorded[key] = now
    recorded = {key: time for key, time in recorded.items() if key in waiting or 0 <= now - time < REPEAT_S}
    return PruneRuns(known.total + 1, known.reached, row, recorded, waiting)


def _fruitless(end: Outcome | HindsightError, now: float) -> Fruitless:
    if not isinstance(end, Outcome):
        return Fruitless(now, now, 1, error=cut(str(end), _MOST_ERROR))
    kept = held_back(end.plan) if end.plan is not None else []
    held = tuple({"rule": one.rule, "count": one.count, "bytes": one.bytes} for one in kept)
    if not held and end.failed:
        return Fruitless(now, now, 1, error=cut(end.failed[-1][1], _MOST_ERROR))
    return Fruitless(now, now, 1, held)


def _key(found: Fruitless, end: Outcome | HindsightError) -> str:
    """The same for runs that the same rules stop, however much they hold; for errors, their kind."""
    if not isinstance(end, Outcome):
        return type(end).__name__
    return ", ".join(sorted(str(one["rule"]) for one in found.held_back))


def _free(end: Outcome | HindsightError) -> dict[str, Any]:
    if not isinstance(end, Outcome):
        return {}
    return {"free_before": end.disk.free_bytes - end.freed, "free_after": end.disk.free_bytes}


def _record(store: Callable[[Event], None], one: Fruitless, more: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Store runs as one prune that began and ended."""
    prune = {"prune": uuid.uuid4().hex, "round": 0}
    outcome = "failed" if one.error else "target not reached"
    stated = {key: value for key, value in asdict(one).items() if value is not None}
    store(Event(time.time_ns(), Kind.PRUNE_STARTED, bytes=more.get("free_before"), attributes={**prune, **facts}))
    attributes = {**prune, "outcome": outcome, **more, **stated}
    store(Event(time.time_ns(), Kind.PRUNE_FINISHED, bytes=0, attributes=attributes))
