"""What a long log costs a runner, beside an empty one: ``python -m bench bounds``.

An engine in memory holds 10,000 images; each question is asked in a process of its own, in turn of the log of an
inventory only and of logs with a year of events. ``BENCH_EVENTS=100,200000`` names other logs.
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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import prometheus_client
import pytest
import rich
import typer

import collector
import pruner
from bench._busy_year import add_year, sizes
from collector.daemon.loop import Collector
from collector.daemon.presence import Presence
from collector.entry import collect_seldom
from collector.eventlog import compaction, experience, hourly
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.events import Event, Kind
from collector.model.units import format_bytes
from collector.queries import jobs, status, story
from collector.queries.coverage import last_observed_ns
from collector.queries.images import images
from collector.terminal import console
from pruner.policy.policy import Policy, Space
from tests.fake_engine import MIB, FakeEngine

IMAGES = 10_000
# The fewest stand for an empty log: with none all images count as used until the collector has run for a while.
EVENTS = sizes(100, 200_000, 2_000_000, 20_000_000)
_ROUNDS = 3
# Two folds' worth.
BURSTS, BURST = 80, 500
BUSIEST: dict[Path, str] = {}


@dataclass(frozen=True)
class Cost:
    """Processor seconds of a question, and how far memory rose above what there was before it, bytes."""

    seconds: float
    bytes: int


def made_engine(folder: Path, age_s: float = 30 * 86400.0) -> FakeEngine:
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
    return [statistics.median(seconds) for seconds in found]


def main() -> None:
    """Measure, and print a table."""
    # As an installation has it, and as the commands begin.
    for package in (collector, pruner, prometheus_client, rich, typer):
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=1)
    collect_seldom()
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder, pytest.MonkeyPatch.context() as patch:
        engine = made_engine(Path(folder))
        engine.disk_patched(patch)
        # What the fake engine takes for its answers is not what is measured.
        listed, held = engine.images(), engine.held_bytes
        patch.setattr(engine, "images", lambda: listed)
        patch.setattr(FakeEngine, "held_bytes", held)
        rows: list[tuple[str, ...]] = []
        costs: dict[str, list[Cost]] = {name: [] for name in QUESTIONS}
        lengths = []
        for events in EVENTS:
            log = EventLog(Path(folder) / f"{events}.duckdb")
            first = in_child(lambda log=log: Collector(engine, log).once())  # type: ignore[misc]
            in_child(partial(add_year, log, events))
            lengths.append(log.path.stat().st_size)
            BUSIEST[log.path] = log.query("SELECT image_id FROM image WHERE image = 0", whole_since=ONLY_KEPT)[0][0]
            for name, question in QUESTIONS.items():
                costs[name].append(in_child(partial(question, engine, log)))
        place = Path(folder) / "built"
        place.mkdir()
        built = made_engine(place, 60.0)
        all_built = in_child(lambda: Collector(built, EventLog(Path(folder) / "built.duckdb")).once())
        appended = [_appended(Path(folder) / f"{events}.duckdb", patch) for events in EVENTS]
        for turn, name in enumerate(("append, an event", "the same unfolded")):
            rows.append((name, *(f"{seconds[turn] / BURSTS / BURST * 1e6:.0f} µs" for seconds in appended)))
        for name, found in costs.items():
            rows.append((name, *(f"{one.seconds:.2f} s, {format_bytes(one.bytes)}" for one in found)))
        rows.append(("log", *(format_bytes(size) for size in lengths)))
    console.print_table(("QUESTION", *(f"{events:,} EVENTS" for events in EVENTS)), rows)
    each, each_built = (cost.seconds / IMAGES * 1000 for cost in (first, all_built))
    console.print_text(
        f"first inventory of {IMAGES:,} images: {each:.2f} ms of processor time an image, "
        f"{each_built:.2f} ms where all were built within the hour"
    )
