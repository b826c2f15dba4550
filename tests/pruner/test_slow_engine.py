"""A run ends at its deadline however slowly the engine answers, and what it did until then is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from collector.engine import deadline
from collector.engine.client import DockerEngine
from collector.model.errors import DeadlineError, EngineError
from pruner.planning.emergency_steps import steps
from pruner.policy.policy import Space
from pruner.removal import emergency
from tests.collector.test_deadline import slow_engine  # noqa: F401 - a fixture
from tests.pruner.test_executor import POLICY, Bench, bench, old_image  # noqa: F401 - a fixture

WHOLE = Space.parse("100%")


@pytest.fixture
def slow(slow_engine: str) -> Iterator[DockerEngine]:  # noqa: F811
    """An engine of whose answers a byte comes now and then, so that no timeout of the client's ever passes."""
    made = DockerEngine(slow_engine, timeout=60.0)
    yield made
    made.close()


def leave(seconds: float) -> None:
    """Have the run's deadline come so soon."""
    clock = deadline._clock
    clock.ends[0] = replace(clock.ends[0], at=time.monotonic() + seconds)
    clock.wind()


def prunes(bench: Bench) -> list[tuple[str, str, int]]:  # noqa: F811
    return bench.log.query("SELECT trigger, outcome, removed FROM prunes ORDER BY started")


@pytest.mark.slow
def test_a_whole_run_ends_at_its_deadline_and_the_next_one_goes_on(
    bench: Bench,  # noqa: F811
    slow: DockerEngine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = old_image(bench, "a:1"), old_image(bench, "b:1")

    def answer_slowly() -> None:
        # So late in the run there is half a second left.
        leave(0.5)
        slow.info()

    bench.engine.before("remove_image", answer_slowly, skip=1)
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=r"took too long: the deadline of 10\.?0? min has passed"):
        bench.prune()
    assert time.monotonic() - began < POLICY.deadline / 2
    assert "the run ends at its deadline; it removed 1 image so far" in caplog.text
    assert len(bench.engine.image_table) == 1
    assert len(bench.recorded("item_removed")) == 1
    # What became of the rest is recorded by the next run, which goes on with it.
    bench.prune()
    assert bench.engine.image_table == {}
    assert bench.recorded("item_removed") == {first, second}


def test_a_run_whose_engine_is_slow_from_the_start_is_recorded_as_one_that_failed(
    bench: Bench,  # noqa: F811
    slow: DockerEngine,
) -> None:
    old_image(bench, "a:1")
    bench.prune()

    def answer_slowly() -> None:
        leave(0.2)
        slow.info()

    bench.engine.before("images", answer_slowly)
    with pytest.raises(DeadlineError):
        bench.prune()
    assert prunes(bench)[1:] == [("t", "failed", 0)]


@pytest.mark.slow
def test_an_emergency_that_gives_nothing_is_recorded_with_what_stands_in_the_way(bench: Bench) -> None:  # noqa: F811
    old_image(bench, "a:1")
    bench.prune()
    bench.engine.add_container(bench.engine.add_image("busy:1", age=0.0, verb=None))
    made = emergency.look(bench.engine, bench.log, POLICY, WHOLE, record=True)
    wanted = made.levels.target[0]
    (outcome,) = emergency.carry_out(bench.engine, bench.log, steps(POLICY)[:1], wanted)
    assert not outcome.removed
    # Nor can it look at an engine that fails; who only asks what would be done makes no run of it.
    for record in (False, True):
        bench.engine.fail("info", times=1)
        with pytest.raises(EngineError):
            emergency.look(bench.engine, bench.log, POLICY, WHOLE, record=record)
    assert prunes(bench)[1:] == [("emergency", "target not reached", 0), ("emergency", "failed", 0)]
