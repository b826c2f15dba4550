"""What a long log costs a runner, beside an empty one: ``python -m bench bounds``.

An engine in memory holds 10,000 images; each question is asked in a process of its own, in turn of the log of an
inventory only and of logs with a year of events, several times over; the last columns say whether its cost stays within
bounds. ``BENCH_EVENTS=100,200000`` names other logs, ``BENCH_LOGS=FOLDER`` a folder in which they are kept for the next
time, ``BENCH_ROUNDS=5`` how often each question is asked.
"""

from __future__ import annotations

import compileall
import contextlib
import io
import os
import resource
import shutil
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import prometheus_client
import pytest
import rich
import typer

import collector
import pruner
from bench._busy_year import add_year, catch_up, sizes
from collector.daemon.loop import Collector
from collector.daemon.presence import Presence
from collector.entry import collect_seldom
from collector.eventlog import compaction, experience, hourly
from collector.eventlog.identity import this_machine
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.events import Event, Kind
from collector.model.units import DAY_S, format_bytes
from collector.queries import jobs, status, story
from collector.queries.coverage import last_observed_ns
from collector.queries.images import images
from collector.terminal import console
from pruner.policy.policy import Policy, Space
from tests.fake_engine import FakeEngine
from tests.fake_holdings import MIB

IMAGES = 10_000
# The fewest stand for an empty log: with none all images count as used until the collector has run for a while.
EVENTS = sizes(100, 200_000, 2_000_000, 20_000_000)
_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
# What a question to a long log may cost more than one to the first, and how far the longer ones may differ.
MOST_S, MOST_BYTES, MOST_GROWTH = 0.5, 60 * 2**20, 0.2
# What questions to the first log may cost, seconds, and what folding may add to the cost of an append.
GOALS_S = {"pruner plan": 1.5, "collector images": 1.0}
MOST_DEARER = 0.3
INVENTORIES = {"a month ago": 30 * DAY_S, "within the hour": 60.0}
# What the first inventory may cost an image, milliseconds.
MOST_MS = 1.0
# Two folds' worth.
BURSTS, BURST = 80, 500
BUSIEST: dict[Path, str] = {}


@dataclass(frozen=True)
class Cost:
    """Processor seconds of a question, and how far memory rose above what there was before it, bytes."""

    seconds: float
    bytes: int


def made_engine(folder: Path, age_s: float = 30 * DAY_S) -> FakeEngine:
    """An engine with the images, built `age_s` seconds ago, some layers shared."""
    engine = FakeEngine(folder, total=IMAGES * 200 * MIB)
    for number in range(IMAGES):
        layers = [(f"base {number % 50}", 50 * MIB), (f"middle {number % 500}", 20 * MIB), (f"own {number}", 5 * MIB)]
        engine.add_image(f"registry.example.org/group{number % 97}/app{number}:1", layers=layers, age=age_s, verb=None)
    return engine


def in_child(question: Callable[[], object]) -> Cost:
    """What a question costs in a process of its own."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        _, code = os.waitpid(child, 0)
        if code:
            raise SystemExit("bench: a measurement failed")
        seconds, peak = text.split()
        return Cost(float(seconds), int(peak))
    code = 1
    try:
        before, began = _peak(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            question()
        os.write(writing, f"{time.process_time() - began} {_peak() - before}".encode())
        code = 0
    except Exception:  # noqa: BLE001 - whatever failed, it ends this process alone
        traceback.print_exc()
    os._exit(code)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plan(engine: FakeEngine, log: EventLog, threshold: str = "auto", flying: int = 0) -> None:
    from pruner.removal.run import PlanOptions, make_plans  # noqa: PLC0415 - as the command does: what it loads counts
    from pruner.report.terminal import print_plans  # noqa: PLC0415

    for number in range(flying):
        labels = {"job.id": str(10**9 + number), "project.id": str(number * 7), "type": "predefined"}
        engine.add_container(
            _image(engine), labels={f"com.gitlab.gitlab-runner.{name}": labels[name] for name in labels}
        )
    plans = make_plans(engine, log, Policy(threshold=Space.parse(threshold)), PlanOptions(learn=True))
    print_plans(plans, console.Format.TABLE)


def _start(engine: FakeEngine, log: EventLog) -> None:
    del engine
    Presence().restore(log)
    last_observed_ns(log)


def _metrics(engine: FakeEngine, log: EventLog) -> None:
    from collector.monitoring.metrics import Live, Metrics  # noqa: PLC0415

    del engine
    Metrics(log).publish(Live())


def _image(engine: FakeEngine) -> str:
    return next(iter(engine.image_table))


def _explain(engine: FakeEngine, log: EventLog) -> None:
    story.stories(log, engine.image_table[_image(engine)].references[0])


def _explain_busiest(engine: FakeEngine, log: EventLog) -> None:
    """The story of the image that most of the year's jobs use: every twentieth."""
    del engine
    story.stories(log, BUSIEST[log.path])


QUESTIONS: dict[str, Callable[[FakeEngine, EventLog], object]] = {
    "pruner plan": _plan,
    "the same below 99%": partial(_plan, threshold="99%"),
    "the same, 20 jobs in flight": partial(_plan, flying=20),
    "collector's start": _start,
    "collector status": lambda _, log: status.status(log),
    "collector images": lambda _, log: images(log),
    "collector jobs": lambda _, log: jobs.jobs(log),
    "collector explain": _explain,
    "the same, most used image": _explain_busiest,
    "metrics": _metrics,
}


def _append(log: EventLog, patch: pytest.MonkeyPatch, *, fold: bool) -> None:
    """Append as the collector does, a burst at a time, on images that the log knows."""
    if not fold:
        patch.setattr(compaction, "fold", lambda _: 0)
        patch.setattr(hourly, "advance", lambda *_: True)
        patch.setattr(experience, "advance", lambda *_: 0)
    used = [image for (image,) in log.query("SELECT image_id FROM image LIMIT 1000")]
    for burst in range(BURSTS):
        now = time.time_ns()
        numbers = range(burst * BURST, (burst + 1) * BURST)
        log.append(
            [Event(now + i, Kind.CONTAINER_CREATED, image=used[i % len(used)], container=f"{i:064x}") for i in numbers]
        )


def _appended(path: Path, patch: pytest.MonkeyPatch) -> list[float]:
    """Processor seconds of the appends to a log with folding and without, side by side: medians."""
    found: list[list[float]] = [[], []]
    for turn in range(2 * _ROUNDS):
        copy = Path(shutil.copy(path, path.with_suffix(".copy")))
        found[turn % 2].append(in_child(partial(_append, EventLog(copy), patch, fold=not turn % 2)).seconds)
        copy.unlink()
    return [statistics.median(seconds) for seconds in found]


def year_log(folder: Path, engine: FakeEngine, events: int) -> EventLog:
    """A log with an inventory and so many events, made if the folder does not hold it."""
    log = EventLog(folder / f"{events}.duckdb")
    if log.exists():
        # A log that was made elsewhere is another engine's.
        log.adopt(this_machine(engine.info()))
        catch_up(log)
    else:
        in_child(lambda: Collector(engine, log).once())
        in_child(partial(add_year, log, events))
    BUSIEST[log.path] = log.query("SELECT image_id FROM image WHERE image = 0", whole_since=ONLY_KEPT)[0][0]
    return log


def verdicts(name: str, found: Sequence[Cost]) -> tuple[str, str]:
    """How far a question to the longer logs is from its bounds: beside the first log, and these among each other.

    Args:
        name: of the question.
        found: its costs, of the shortest log first.
    """
    more = max(one.seconds for one in found) - found[0].seconds, max(one.bytes for one in found) - found[0].bytes
    beside = f"+{more[0]:.2f} s, +{format_bytes(max(more[1], 0))}"
    is_met = more[0] <= MOST_S and more[1] <= MOST_BYTES
    if (goal := GOALS_S.get(name)) is not None:
        beside += f", {found[0].seconds:.2f} of {goal:g} s"
        is_met &= found[0].seconds <= goal
    longer = found[1:] or found
    grown = max(max(of) / min(of) - 1 for of in ([one.seconds for one in longer], [one.bytes for one in longer]))
    return _judged(beside, is_met=is_met), _judged(f"{grown:.0%}", is_met=grown <= MOST_GROWTH)


def _judged(figure: str, *, is_met: bool) -> str:
    return f"{figure}: {'met' if is_met else 'NOT MET'}"


def main() -> None:
    """Measure, and print a table."""
    # As an installation has it, and as the commands begin.
    for package in (collector, pruner, prometheus_client, rich, typer):
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=1)
    collect_seldom()
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as temporary, pytest.MonkeyPatch.context() as patch:
        folder = Path(temporary)
        kept = Path(os.environ.get("BENCH_LOGS") or folder)
        engine = made_engine(folder)
        engine.disk_patched(patch)
        # What the fake engine takes for its answers is not what is measured.
        listed, held = engine.images(), engine.held_bytes
        patch.setattr(engine, "images", lambda: listed)
        patch.setattr(FakeEngine, "held_bytes", held)
        logs = [year_log(kept, engine, events) for events in EVENTS]
        costs: dict[str, list[list[Cost]]] = {name: [[] for _ in logs] for name in QUESTIONS}
        for _, (name, question), place in product(range(_ROUNDS), QUESTIONS.items(), range(len(logs))):
            costs[name][place].append(in_child(partial(question, engine, logs[place])))
        inventories = [_first_inventory(folder / how, age_s, patch) for how, age_s in INVENTORIES.items()]
        appended = [_appended(log.path, patch) for log in logs]
        sizes_of_logs = [format_bytes(log.path.stat().st_size) for log in logs]
    rows: list[tuple[str, ...]] = []
    for name, found in costs.items():
        usual = [_median(of_log) for of_log in found]
        rows.append(
            (name, *(f"{one.seconds:.2f} s, {format_bytes(one.bytes)}" for one in usual), *verdicts(name, usual))
        )
    folding, not_folding = ([seconds[turn] / BURSTS / BURST * 1e6 for seconds in appended] for turn in (0, 1))
    dearer = max(one / other - 1 for one, other in zip(folding, not_folding, strict=True))
    said = _judged(f"{dearer:+.0%} for folding", is_met=dearer <= MOST_DEARER)
    rows.append(("append, an event", *(f"{one:.0f} µs" for one in folding), said, ""))
    rows.append(("the same unfolded", *(f"{one:.0f} µs" for one in not_folding), "", ""))
    rows.append(("log", *sizes_of_logs, "", ""))
    bounds = f"+{MOST_S:g} s, +{format_bytes(MOST_BYTES)}", f"GROWTH UP TO {MOST_GROWTH:.0%}"
    console.print_table(("QUESTION", *(f"{events:,} EVENTS" for events in EVENTS), *bounds), rows)
    for how, milliseconds in zip(INVENTORIES, inventories, strict=True):
        said = _judged(f"{milliseconds:.2f} ms of processor time an image", is_met=milliseconds <= MOST_MS)
        console.print_text(f"first inventory of {IMAGES:,} images, built {how}: {said}")


def _first_inventory(folder: Path, age_s: float, patch: pytest.MonkeyPatch) -> float:
    """What the first inventory of as many images as old as this (seconds) costs, milliseconds an image."""
    folder.mkdir()
    engine = made_engine(folder, age_s)
    listed = engine.images()
    patch.setattr(engine, "images", lambda: listed)
    return in_child(lambda: Collector(engine, EventLog(folder / "events.duckdb")).once()).seconds / IMAGES * 1000


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(one.seconds for one in costs), int(statistics.median(one.bytes for one in costs)))
