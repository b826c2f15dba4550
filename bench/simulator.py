"""How fast policies are replayed, beside libCacheSim's LRU on the same requests.

libCacheSim reads its own binary format from the page cache and simulates whole-object LRU. Ours has
the full semantics: layers shared by images, a disk, ticks of a timer, pins, minimum age.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import libcachesim

from analyzer.kernel import index as kernel
from analyzer.kernel.index import Index
from analyzer.kernel.runs import Wake
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay_many
from analyzer.simulation.result import Result
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench._costs import of_command
from bench._traces import denser, mesa_log, repeated, repeated_log, write_oracle_general, zipf
from collector.eventlog.log import EventLog
from collector.model.units import format_bytes
from collector.terminal import console
from pruner.policy.policy import Policy, Space

T = TypeVar("T")
ROUNDS = 5
SWEEP = 64
ZIPF_CAPACITY = 0.47
FREE = 0.1
# As libCacheSim evicts: no pull takes time, and neither does a prune.
AT_ONCE = Wake(latency=0.0, pull_rate=math.inf)


def run() -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        year = mesa_log(folder)
        mesa = load_trace(year)
        side_by_side(folder, mesa)
        strict(folder)
        growth(mesa)
        whole_command(year)


def side_by_side(folder: Path, mesa: Trace) -> None:
    """One policy, and a sweep, beside libCacheSim."""
    rows = []
    for name, trace, unit in (
        ("Mesa's year, 33 times", repeated(mesa, 33), 1024),
        ("Zipf, 20,000 objects", zipf(4_000_000, 20_000, 0.8, ZIPF_CAPACITY), 1),
    ):
        file = folder / "requests.oracleGeneral"
        write_oracle_general(trace, file, unit)
        size = int(trace.disk_total[0] * (1 - FREE)) // unit
        index, indexing = timed(lambda trace=trace: indexed(trace))
        kernel._latest[:0] = [index]  # noqa: SLF001 - measured apart
        theirs, ours, many = interleaved(
            lambda file=file, size=size: Lru(file, size),
            lambda trace=trace: Ours(trace, [FREE]),
            lambda trace=trace: Ours(trace, [0.02 + 0.5 * k / SWEEP for k in range(SWEEP)]),
        )
        result = under(trace, [FREE])[0]
        uses = len(trace.time)
        misses = result.compulsory + result.repulls
        rows += [
            [name, "libCacheSim LRU", *_speed(uses, theirs, 1), "1", f"{Lru(file, size)():.1%} misses"],
            [name, "one policy", *_speed(uses, ours, 1), _ratio(theirs, ours, 1), f"{misses / uses:.1%} misses"],
            [
                name,
                "one, index included",
                *_speed(uses, [t + indexing for t in ours], 1),
                _ratio(theirs, [t + indexing for t in ours], 1),
                f"index {indexing * 1e3:.0f} ms, once a trace",
            ],
            [
                name,
                f"each of {SWEEP}",
                *_speed(uses, many, SWEEP),
                _ratio(theirs, many, SWEEP),
                "thresholds 2 % to 52 %",
            ],
        ]
    print_table(
        "Processor time on one core; ratios in one run, least over least (median over median).",
        ["REQUESTS", "WHAT", "TIME", "REQUESTS/S", "RATIO", "NOTE"],
        rows,
    )


def strict(folder: Path) -> None:
    """The same misses and bytes as libCacheSim's LRU, with the timer left out and pruning on demand."""
    rows = []
    for capacity in (0.05, 0.2, ZIPF_CAPACITY):
        trace = zipf(1_000_000, 20_000, 0.8, capacity)
        file = folder / "requests.oracleGeneral"
        write_oracle_general(trace, file, 1)
        theirs, their_time = timed(Lru(file, int(trace.disk_total[0])))
        policy = Policy(
            threshold=Space.parse("0"), inode_threshold=Space.parse("0"), min_age=0.0, interval=1e6, order="lru"
        )
        kernel.index_of(trace).by_last_use(0.0, 0.0)
        (ours,), our_time = timed(
            lambda trace=trace, policy=policy: replay_many(
                trace, [PolicyCleaner(policy, trace, trigger=Trigger.EVENT, wake=AT_ONCE)], removals=False, threads=1
            )
        )
        misses = (ours.compulsory + ours.repulls) / ours.uses
        rows.append([f"{capacity:.0%}", f"{theirs:.4%}", f"{misses:.4%}", f"{their_time / our_time:.1f}"])
    print_table(
        "Strict LRU: Zipf, a million requests, evicting on demand.",
        ["CAPACITY", "MISSES, LIBCACHESIM", "MISSES, OURS", "RATIO OF TIME"],
        rows,
    )


def growth(mesa: Trace) -> None:
    """Cost grows with what is missed and removed, not with what is used."""
    rows = []
    for trace in [*(denser(mesa, times) for times in (1, 10, 80)), *(repeated(mesa, years) for years in (8, 82))]:
        index, indexing = timed(lambda trace=trace: indexed(trace))
        kernel._latest[:0] = [index]  # noqa: SLF001 - measured apart
        took = [timed(lambda trace=trace: under(trace, [0.4])) for _ in range(ROUNDS)]
        result: Result = took[0][0][0]
        rows.append(
            [
                f"{len(trace.time):,}",
                f"{result.compulsory + result.repulls:,}",
                f"{result.removals:,}",
                f"{min(seconds for _, seconds in took) * 1e3:.2f} ms",
                f"{indexing * 1e3:.0f} ms",
            ]
        )
    kernel._latest.clear()  # noqa: SLF001 - it is large
    print_table(
        "Growth: the same year with more uses of what is there, then more years (LRU under 40 %).",
        ["USES", "MISSES", "REMOVALS", "ONE POLICY", "INDEX, ONCE"],
        rows,
    )


def whole_command(year: EventLog) -> None:
    """From the start of the process to the table."""
    rows = []
    for years in (8, 41):
        log = repeated_log(year, years)
        events = log.query("SELECT count(*) FROM event")[0][0]
        for count, order in ((1, "lru"), (1, "forecast"), (100, "lru"), (100, "forecast")):
            taken = [of_command(*simulation(log, count, order)) for _ in range(3)]
            wall, work, peak = (min(getattr(cost, name) for cost in taken) for name in ("wall", "processor", "peak"))
            rows.append([f"{events:,}", str(count), order, f"{wall:.2f} s", f"{work:.2f} s", format_bytes(peak)])
        log.path.unlink()
    print_table(
        "`analyzer simulate`, from process start to table (best of 3).",
        ["EVENTS", "POLICIES", "ORDER", "WALL", "PROCESSOR", "PEAK MEMORY"],
        rows,
    )


def simulation(log: EventLog, policies: int, order: str) -> list[str]:
    """The command that simulates so many thresholds."""
    program = str(Path(sys.executable).with_name("analyzer"))
    command = [program, "simulate", "--log", str(log.path), "--baseline", "none", "--order", order]
    for k in range(policies):
        command += ["--threshold", f"{1 + k / 2}%"]
    return command


class Lru:
    """libCacheSim's LRU, ready to run: opening the file and making the cache are not measured."""

    def __init__(self, file: Path, size: int) -> None:
        self.reader = libcachesim.TraceReader(str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
        self.cache = libcachesim.LRU(cache_size=size)

    def __call__(self) -> float:
        """The miss ratio."""
        missed, _ = self.cache.process_trace(self.reader)
        return float(missed)


class Ours:
    """Policies on a trace, on one core."""

    def __init__(self, trace: Trace, shares: list[float]) -> None:
        self.trace, self.shares = trace, shares

    def __call__(self) -> list[Result]:
        """The results."""
        return under(self.trace, self.shares)


def under(trace: Trace, shares: list[float]) -> list[Result]:
    """LRU under each of some thresholds, on one core."""
    policies = [Policy(threshold=Space.parse(f"{100 * share}%"), order="lru") for share in shares]
    return replay_many(trace, policies, removals=False, threads=1)


def indexed(trace: Trace) -> Index:
    """The index of a trace, with what a policy that removes least recently used images takes."""
    index, policy = Index(trace), Policy(threshold=Space.parse("10%"), order="lru")
    index.by_last_use(float(PolicyCleaner(policy, trace).min_ages[:, 1].min()), policy.interval)
    return index


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the processor time that it took, seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def interleaved(*makes: Callable[[], Callable[[], object]]) -> list[list[float]]:
    """Processor times of each, taken in turns, seconds."""
    times: list[list[float]] = [[] for _ in makes]
    for _ in range(ROUNDS):
        for k, make in enumerate(makes):
            times[k].append(timed(make())[1])
    return times


def _speed(uses: int, times: list[float], policies: int) -> list[str]:
    each = min(times) / policies
    return [f"{each * 1e3:.2f} ms", f"{uses / each / 1e6:,.0f} M"]


def _ratio(theirs: list[float], ours: list[float], policies: int) -> str:
    least = min(theirs) / (min(ours) / policies)
    median = statistics.median(theirs) / (statistics.median(ours) / policies)
    return f"{least:.1f} ({median:.1f})"


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table under its title."""
    sys.stdout.write(f"\n{title}\n")
    console.print_table(header, rows)
