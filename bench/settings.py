"""What settings come to on a host that nobody tuned them on: two projects' CI on one runner, two years.

The first project is Mesa's recorded year, and then the same year once more with images of its own; the second one is
drawn (`bench._synthetic`). Default settings are replayed whole; what `recommend` chooses on the first half is judged on
the second.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyzer.baselines import baseline
from analyzer.search.grid import searched
from analyzer.search.recommend import Constraints, recommend
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay_many
from analyzer.trace.load import load_trace
from analyzer.trace.pull_space import pull_space
from analyzer.trace.trace import Trace
from bench._synthetic import DAY, GIB, Host, make_history
from bench._traces import mesa_log
from bench.made import DiskState, ImageFacts, make_trace, numbered
from bench.orders import on_disk
from collector.model.traits import Use
from collector.model.units import format_bytes
from collector.terminal import console
from pruner.policy.policy import Policy, Space

DISKS_GIB = (40, 50, 60, 80, 100)
_SECOND = Host(projects=1, days=730, pipelines=12.0, share=1.0)
_SEED = 5
_SETTINGS = (
    ("10%, tick, 1 h", "10%", Trigger.TICK, 3600.0),
    ("10%, event, 1 h", "10%", Trigger.EVENT, 3600.0),
    ("15%, event, 1 h", "15%", Trigger.EVENT, 3600.0),
    ("15%, event, 10 min", "15%", Trigger.EVENT, 600.0),
    ("auto, tick, 1 h", "auto", Trigger.TICK, 3600.0),
    ("auto, event, auto (default)", "auto", Trigger.EVENT, None),
)


def two_projects() -> Trace:
    """The history, on a disk of 50 GiB."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        year = load_trace(mesa_log(Path(folder)))
    span = math.ceil(year.end / DAY) * DAY
    images: list[ImageFacts] = []
    uses: list[tuple[float, int, float, Use]] = []
    for trace, suffix, begin in ((year, "", 0.0), (year, "-b", span), (make_history(_SECOND, _SEED), "-c", 0.0)):
        kept = trace.time < 2 * span - begin
        first = len(images)
        for i in range(trace.images):
            layers = trace.layer[trace.first[i] : trace.first[i + 1]].tolist()
            images.append(
                ImageFacts(
                    [(f"{j}{suffix}", int(trace.layer_bytes[j])) for j in layers],
                    tuple(name + suffix for name in trace.references[i]),
                    created=float(trace.created[i]) + begin,
                )
            )
        columns = (trace.time + begin, trace.image + first, trace.until + begin, trace.kind)
        uses += [
            (time, image, until, Use(kind))
            for time, image, until, kind in zip(*(column[kept].tolist() for column in columns), strict=True)
        ]
    made = make_trace(*numbered(images, uses), [DiskState(0.0, 50 * GIB, 0)], end=2 * span)
    # As a log of GitLab jobs shows it after its first hours.
    ages = np.array([(-math.inf, 3600.0), (4 * 3600.0, 600.0)])
    return replace(made, min_ages=ages, pull_space=pull_space("overlay2", made.first, made.layer, made.layer_bytes))


def run() -> None:
    """Print re-pulled bytes and full-disk pulls by disk, of settings and of what is recommended, beside docker-gc."""
    trace = two_projects()
    of_settings(trace)
    of_recommendations(trace)


def of_recommendations(trace: Trace) -> None:
    """Print what is chosen on the first half of the history, and what it comes to on the second."""
    rows = []
    candidates = searched({})
    for gib in DISKS_GIB:
        found = Trial(tuple(candidates), ("docker-gc",), 0.5)(on_disk(trace, gib * GIB))
        best = recommend(candidates, [found], Constraints(), 0.5)
        ((_, theirs),) = best.baselines
        if best.chosen is None or best.chosen.rest is None or theirs is None:
            rows.append([f"{gib}", "nothing fits", "", "", ""])
            continue
        rest = best.chosen.rest
        full, share = f"{rest.disk_full:,}", f"{rest.repulled_bytes / max(1, theirs.repulled_bytes):.3%}"
        rows.append([f"{gib}", best.chosen.candidate.name, format_bytes(rest.repulled_bytes), share, full])
    columns = ("DISK, GIB", "RECOMMENDED BY THE FIRST HALF", "RE-PULLED", "OF DOCKER-GC'S", "FULL-DISK PULLS")
    console.print_table(columns, rows, right=(columns[0], *columns[2:]))


def of_settings(trace: Trace) -> None:
    """Print what settings come to on all of the history."""
    rows = []
    for gib in DISKS_GIB:
        here = on_disk(trace, gib * GIB)
        cleaners = [
            PolicyCleaner(Policy(threshold=Space.parse(threshold), min_age=age), here, name, trigger)
            for name, threshold, trigger, age in _SETTINGS
        ]
        rows += [
            [f"{gib}", result.name, format_bytes(result.repulled_bytes), f"{result.disk_full:,}"]
            for result in replay_many(here, [baseline("docker-gc"), *cleaners], removals=False)
        ]
    columns = ("DISK, GIB", "SETTINGS", "RE-PULLED", "FULL-DISK PULLS")
    console.print_table(columns, rows, right=(columns[0], *columns[2:]))
