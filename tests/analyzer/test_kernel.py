"""The compiled replay says what the reference says, in every figure and every removal."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.kernel import index, moments, runs
from analyzer.kernel.index import Index
from analyzer.kernel.moments import Moments
from analyzer.kernel.runs import Rules, Run, Wake, play
from analyzer.native.loader import compiler
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay, replay_many
from analyzer.simulation.result import Result
from analyzer.trace.trace import Floats, Integers, Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.traits import Use
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, Space
from tests.needs import examples

pytestmark = pytest.mark.skipif(
    not index.available(make_trace([], [], [DiskState(0, 1, 0)])), reason="neither a built kernel nor a C compiler"
)
MOMENT = st.integers(0, 60).map(float)
BYTES = st.integers(0, 30)


@functools.lru_cache(maxsize=None, typed=True)
def among(*values: Any) -> st.SearchStrategy[Any]:
    """One of these; made once, for to make a strategy takes Hypothesis longer than to draw from it."""
    return st.sampled_from(values)


@functools.cache
def none_or_lists(items: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(items, min_size=size, max_size=size)


@functools.cache
def guessed(images: int) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(MOMENT, MOMENT, st.integers(0, images - 1), st.integers(1, 2)), max_size=6)


GAPS = st.lists(st.tuples(MOMENT, MOMENT).map(lambda pair: (min(pair), max(pair))), max_size=2)
AGES = st.lists(st.tuples(MOMENT, among(0.0, 4.0, 15.0)), max_size=3, unique_by=lambda age: age[0])
NAMES = st.lists(st.tuples(among(*"abc"), among(-math.inf, 5.0, 20.0), among(30.0, math.inf)), max_size=2)


@st.composite
def images(draw: st.DrawFn) -> list[ImageFacts]:
    pool = [(f"layer{j}", draw(BYTES)) for j in range(draw(st.integers(1, 8)))]
    # A layer's identity holds those below it: no image has one twice.
    layers = st.lists(st.sampled_from(pool), max_size=4, unique=True)
    return draw(
        st.lists(
            st.builds(
                ImageFacts,
                layers=layers,
                references=among(("a:1",), ("a:2",), ("b:1",), ("c:1", "a:1")),
                local=among(False, False, False, True),
                created=st.integers(-50, 50).map(float),
            ),
            min_size=1,
            max_size=7,
        )
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    known = draw(images())
    uses = []
    for _ in range(draw(st.integers(1, 30))):
        time = draw(MOMENT)
        kind = draw(among(*Use, Use.CONTAINER, Use.CONTAINER, Use.PULL))
        length = draw(among(0.0, 0.0, 1.0, 3.0, 20.0, math.inf, -5.0))
        uses.append((time, draw(st.integers(0, len(known) - 1)), time + length, kind))
    uses.append((float(draw(st.integers(0, 50))), 0, 61.0, Use.CONTAINER))
    total = draw(st.integers(20, 150))
    states = [DiskState(0, total, draw(st.integers(0, 30)), draw(among(0, 40)), draw(st.integers(0, 20)))]
    for _ in range(draw(st.integers(0, 5))):
        size = draw(among(total, total, total + 20))
        states.append(DiskState(draw(MOMENT), size, draw(st.integers(0, 60)), draw(among(0, 40))))
    gaps = draw(GAPS)
    made = make_trace(known, uses, states, sorted(gaps), end=draw(among(50.0, 64.0)))
    made.layer_inodes[:] = draw(st.lists(st.integers(0, 9), min_size=len(made.layer_bytes), max_size=9))[
        : len(made.layer_bytes)
    ]
    ages = draw(AGES)
    bearing = draw(none_or_lists(NAMES, len(known)))
    sight = draw(none_or_lists(st.integers(0, 3), len(known)))
    guesses = [(min(a, b), max(a, b) + 1.0, i, rank) for a, b, i, rank in draw(guessed(len(known)))]
    space = draw(none_or_lists(BYTES, len(made.layer)))
    return replace(
        made,
        min_ages=np.array([(-math.inf, draw(among(0.0, 9.0))), *sorted(ages)]),
        pull_space=np.array(space or [], dtype=np.int64),
        bearing=tuple(map(tuple, bearing or ())),
        sight=np.array(sorted(sight or []), dtype=np.int64),
        guesses=np.array(sorted(guesses), dtype=np.float64).reshape(-1, 4),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    low = draw(st.integers(0, 60))
    target = low + draw(among(0, 0, 10, 30))
    emergency = draw(among("threshold", "never", "lower"))
    levels = {"threshold": None, "never": Space.parse("never"), "lower": Space.parse(f"{low // 2}B")}
    return Policy(
        threshold=Space.parse(f"{low}B"),
        target=Space.parse(f"{target}B"),
        emergency=levels[emergency],
        inode_threshold=Space.parse(draw(among("0%", "10%", "50%"))),
        allowlist=draw(among((), ("a",), ("b:1", "c"), ("*",))),
        allowlist_idle=draw(among(5.0, 20.0, 1000.0)),
        min_age=draw(among(0.0, 0.0, 3.0, 15.0, None)),
        order=draw(among("lru", "lru", "lru", *ORDERS)),
        interval=draw(among(1.0, 7.0, 10.0, 2.5)),
        local_images=draw(among("superseded", "superseded", "keep", "evict")),
        local_idle=draw(among(0.0, 3.0, 20.0, 86400.0)),
    )


def stretched(trace: Trace, factor: float) -> Trace:
    """The same history in `factor` times the time: idle times of hours and days."""
    names = ("time", "until", "disk_time", "blind", "created", "min_ages")
    columns = {name: getattr(trace, name) * factor for name in names}
    columns["guesses"] = trace.guesses * (factor, factor, 1, 1)
    return replace(trace, end=trace.end * factor, **columns)


@st.composite
def histories(draw: st.DrawFn) -> Trace:
    """As `traces`, over up to two months."""
    return stretched(draw(traces()), draw(st.sampled_from([1.0, 701.3, 20000.0, 86400.0])))


def figures(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {item.name: getattr(result, item.name) for item in fields(result)}
    found["removed"] = tuple(result.removed)
    found["timeline"] = (result.timeline.seconds.tolist(), result.timeline.free.tolist()) if result.timeline else None
    return found


WAKES = st.builds(Wake, st.sampled_from([0.0, 1.0, 2.5, 12.0]), st.sampled_from([math.inf, 7.0, 2.0]))


def assert_equal(trace: Trace, chosen: Policy, trigger: Trigger, wake: Wake | None = None) -> None:
    fast, slow = (
        replay(trace, PolicyCleaner(chosen, trace, trigger=trigger, wake=wake), timeline=True, reference=reference)
        for reference in (False, True)
    )
    assert figures(fast) == figures(slow)


@settings(max_examples=examples(200))
@given(
    traces(),
    st.lists(policies(), min_size=5, max_size=5),
    st.sampled_from(Trigger),
    WAKES,
    st.sampled_from([1, 4, 2**15]),
)
def test_any_history_under_any_policy(
    trace: Trace, chosen: list[Policy], trigger: Trigger, wake: Wake, staged: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_STAGED", staged)
        for policy in chosen:
            assert_equal(trace, policy, trigger, wake)


@pytest.mark.long
@pytest.mark.slow
@settings(max_examples=examples(1000))
@given(traces(), st.lists(policies(), min_size=5, max_size=5), st.sampled_from(Trigger), WAKES)
def test_many_histories_under_many_policies(trace: Trace, chosen: list[Policy], trigger: Trigger, wake: Wake) -> None:
    for policy in chosen:
        assert_equal(trace, policy, trigger, wake)


def test_a_fault_in_an_order_is_raised() -> None:
    trace = make_trace([ImageFacts([("a", 9)])], [(1.0, 0, 1.0, Use.JOB)], [DiskState(0, 10, 0)], end=50.0)

    def fail(now: float, images: Integers) -> Floats:
        assert images.tolist() == [0]
        raise ArithmeticError(f"at {now:.0f}")

    rules = Rules(
        levels=np.array([[5.0, 0.0] * 3]),
        protected=np.array([False]),
        interval=10.0,
        min_ages=np.zeros((1, 2)),
        allowlist_idle=0.0,
        gap_grace=0.0,
        wake=None,
        keep_local=True,
        chooser=Moments(1, fail),
    )
    with pytest.raises(ArithmeticError, match="at 10"):
        play([Run(Index(trace), rules, 0.0)], trace.end)


def test_strict_least_recently_used_is_an_early_trigger_at_zero() -> None:
    # One layer per image, no duration, no age: whoever was used longest ago makes room at once.
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 20, 30)
    known = [ImageFacts([(f"own{i}", int(size))]) for i, size in enumerate(sizes)]
    uses = [(float(t), int(i), float(t), Use.JOB) for t, i in enumerate(rng.zipf(1.3, 400) % 30)]
    trace = make_trace(known, uses, [DiskState(0, 100, 0)])
    nothing = Space.parse("0")
    policy = Policy(threshold=nothing, inode_threshold=nothing, min_age=0.0, interval=100.0, order="lru")
    at_once = Wake(0.0, math.inf)
    result = replay(trace, PolicyCleaner(policy, trace, trigger=Trigger.EVENT, wake=at_once))
    cache: dict[int, int] = {}
    misses = 0
    for _, i, _, _ in uses:
        misses += i not in cache
        cache[i] = cache.pop(i, int(sizes[i]))
        while sum(cache.values()) > 100:
            del cache[next(iter(cache))]
    assert (result.compulsory + result.repulls, misses) == (misses, misses)


@pytest.mark.parametrize(
    ("order", "threshold", "trigger"),
    [
        ("lru", "10%", Trigger.TICK),
        ("lru", "60%", Trigger.TICK),
        ("lru", "30%", Trigger.EVENT),
        ("pulled", "40%", Trigger.TICK),
        ("hazard", "40%", Trigger.TICK),
        ("gdsf", "40%", Trigger.TICK),
        ("forecast", "auto", Trigger.TICK),
    ],
)
@pytest.mark.slow
def test_the_whole_year_of_mesa(mesa: Trace, order: str, threshold: str, trigger: Trigger) -> None:
    allowlist = ("*debian/x86_64_build*",) if order == "lru" else ()
    assert_equal(mesa, Policy(threshold=Space.parse(threshold), order=order, allowlist=allowlist), trigger)


@pytest.mark.parametrize("order", ["lru", "forecast", "hazard", "next-use"])
def test_neither_threads_nor_others_change_anything(mesa: Trace, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed in several threads, together in one, or each alone; learned in one pass or in parts."""
    chosen = [Policy(threshold=Space.parse(f"{share}%"), order=order) for share in range(5, 65, 5)]
    alone = [figures(replay(mesa, PolicyCleaner(policy, mesa))) for policy in chosen]
    monkeypatch.setattr(moments, "WORTH_A_THREAD", 0)
    for threads, slices in ((3, 512), (1, 512), (1, 8)):
        again = replace(mesa)  # not a history of which something is known already
        monkeypatch.setattr(runs, "_SLICES", slices)
        monkeypatch.setattr(runs, "_USES_PER_TURN", 2**20 // slices)
        assert [figures(result) for result in replay_many(again, chosen, threads=threads)] == alone


def test_without_a_kernel_the_reference_is_taken_and_said_to_be(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import analyzer.native.loader as library; library.BUILT = Path('/nonexistent/k.so');"
        "print(library.load())"
    )
    environment = {"PATH": "/nonexistent", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None\n"
    assert done.stderr.splitlines() == [
        "analyzer: no compiled kernel and no C compiler that works: simulating in plain Python, which takes much longer"
    ]


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_a_kernel_that_is_missing_is_compiled_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import analyzer.native.loader as library; library.BUILT = Path('/nonexistent/k.so');"
        "print(library.load() is not None, library.cached().exists())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment) for _ in range(2)
    )
    assert (first.stdout, second.stdout) == ("True True\n", "True True\n")
    assert (first.stderr, second.stderr) == ("analyzer: compiling the simulator's kernel, once\n", "")
