"""A log that another process holds, such as a shell left open: the pruner does not stand still for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from collector.eventlog.writer import LogWriter
from collector.machine.prune_runs import read_runs
from collector.machine.wake import last_decision, levels_path
from collector.model.errors import LogBusyError
from collector.model.events import Event, Kind
from pruner.removal import run
from tests.held import held
from tests.pruner.test_executor import DAY, OLD, POLICY, Bench, bench, old_image  # noqa: F401 - a fixture


@contextmanager
def impatient(bench: Bench, *, readonly: bool = False) -> Iterator[None]:  # noqa: F811
    """Have another process hold the log meanwhile; waiting for it takes a moment only."""
    with held(bench.log.path, readonly=readonly):
        bench.log.wait = 0.05
        yield


def watched(bench: Bench) -> None:  # noqa: F811
    """A log whose history goes back far enough for old images to go."""
    times = (time.time_ns() - int(seconds * 1e9) for seconds in (OLD + DAY, 0.0))
    bench.log.append([Event(time_ns, Kind.DISK_SAMPLED) for time_ns in times])


def test_a_log_that_only_readers_hold_is_waited_for_once_a_round(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched(bench)
    images = {old_image(bench, f"a:{n}") for n in range(4)}
    waits: list[float] = []
    flush = LogWriter.flush

    def waiting(writer: LogWriter) -> bool:
        waits.append(time.monotonic())
        return flush(writer)

    monkeypatch.setattr(LogWriter, "flush", waiting)
    with impatient(bench, readonly=True):
        outcome = bench.prune()
    assert {removal.key for removal, _ in outcome.removed} == images
    # At the beginning of the run, with the plan, and at the end of the round.
    assert len(waits) == 3


def test_a_log_that_stays_held_does_not_keep_the_pruner_from_a_full_disk(bench: Bench) -> None:  # noqa: F811
    watched(bench)
    bench.prune()
    image = old_image(bench, "a:1")
    before = time.time() - 4 * POLICY.interval
    with impatient(bench, readonly=False):
        # Somebody may only look something up.
        for _ in range(2):
            with pytest.raises(LogBusyError, match="held by another process"):
                bench.prune()
        decided = read_runs(bench.log.path).row
        assert decided is not None
        assert "held by another process" in decided.reasons
        assert image in bench.engine.image_table
        os.utime(levels_path(bench.log.path), (before, before))
        made = run.make_plan(bench.engine, bench.log, POLICY)
        assert any("decided without the log" in warning for warning in made.inventory.warnings)
        bench.prune()
    assert bench.engine.image_table == {}
    assert (last_decision(bench.log.path) or 0.0) > before
    bench.prune()
    assert bench.recorded("item_removed") == {image}
