"""The tools that the compiled kernel knows remove what their own code removes, in every figure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.baselines import BASELINES, baseline
from analyzer.baselines.base import Baseline
from analyzer.baselines.by_age import Ecs, Nomad, Taskcluster
from analyzer.baselines.by_space import Arvados, Docuum, DroneGc, Kubelet, Stone
from analyzer.kernel import index
from analyzer.kernel.rules import ToolKind, ToolRules
from analyzer.simulation.compiled import index_for
from analyzer.simulation.replay import replay
from analyzer.trace.trace import Trace
from bench.made import DiskState, make_trace
from tests.analyzer.test_kernel import figures, stretched, traces
from tests.needs import examples

pytestmark = pytest.mark.skipif(
    not index.available(make_trace([], [], [DiskState(0, 1, 0)])), reason="neither a built kernel nor a C compiler"
)
COMPILED = [name for name in BASELINES if isinstance(getattr(baseline(name), "tool", None), ToolRules)]
SECONDS = st.sampled_from([0.5, 1.0, 3.0, 20.0])
BYTES = st.integers(0, 60)
RESTARTS = st.sampled_from([None, None, 5.0, 17.5])


Make = Callable[[float], Baseline]


def timed(make: Make, interval: float) -> Make:
    """Makes the same tool with another timer."""

    def made(factor: float) -> Baseline:
        tool = make(factor)
        tool.interval = interval * factor
        return tool

    return made


@st.composite
def tools(draw: st.DrawFn) -> Make:
    """Makes a tool, a new one each time: it has a memory. Its times are `factor` times as long."""
    exact, restarts, interval = draw(st.booleans()), draw(RESTARTS), draw(st.sampled_from([1.0, 2.5, 7.0]))
    a, b, amount = draw(SECONDS), draw(SECONDS), draw(BYTES)
    share, clock = draw(st.sampled_from([0.1, 0.5, 0.9])), draw(st.sampled_from(["use", "pull", "job"]))
    count, low, aged = draw(st.integers(1, 3)), draw(st.integers(5, 60)), draw(st.booleans())

    def after(f: float) -> float | None:
        return restarts * f if restarts else None

    makes: list[Make] = [
        timed(lambda _: Stone(clock, share), interval),
        lambda _: Docuum(amount),
        lambda _: Docuum(share=share),
        timed(lambda f: DroneGc(amount, exact=exact, restarts=after(f)), interval),
        timed(lambda f: Kubelet(low + 10, low, a * f if aged else None, exact=exact, restarts=after(f)), interval),
        lambda f: Ecs(count, interval * f, a * f, b * f),
        lambda f: Nomad(a * f, restarts=after(f)),
        lambda f: Taskcluster(a * f, amount, b * f),
        lambda f: Arvados(amount, exact=exact, restarts=after(f)),
    ]
    return draw(st.sampled_from(makes))


@settings(max_examples=examples(150))
@given(traces(), st.lists(tools(), min_size=3, max_size=3), st.sampled_from([1.0, 60.0, 701.3]))
def test_any_history_under_any_tool(trace: Trace, makes: list[Make], factor: float) -> None:
    trace = stretched(trace, factor)
    for make in makes:
        fast, slow = (
            replay(trace, make(factor), 20.0, timeline=True, reference=reference) for reference in (False, True)
        )
        assert index_for(trace, make(factor)) is not None
        assert figures(fast) == figures(slow)


def test_each_kind_of_tool_is_a_baseline() -> None:
    found = {tool.kind for name in COMPILED if isinstance(tool := getattr(baseline(name), "tool", None), ToolRules)}
    assert found == set(ToolKind)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stone-job", "drone-gc+exact", "kubelet+restarts", "nomad+restarts", "taskcluster"])
def test_the_whole_year_of_mesa_under_a_tool(mesa: Trace, name: str) -> None:
    fast, slow = (replay(mesa, baseline(name), 0.0, timeline=True, reference=reference) for reference in (False, True))
    assert fast.removals > 0
    assert figures(fast) == figures(slow)
