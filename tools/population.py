"""Fits the rates from which a forecast starts, and writes them: `pruner/state/population.py`.

``python tools/population.py``, from the project's folder. Sixteen synthetic hosts (`bench._synthetic`, as
`bench.orders` has them, with other seeds) count a thousand returns each, the shipped year four thousand.
Seeds from 1 on judge orders in docs/orders.md and are left out here. `BY_RECENT` corrects the forecasts that the other
tables lead to: if these change, run it twice.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.simulation.knowledge import AGES, HABITS, STAGES, Knowledge, knowledge_of
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench._synthetic import make_history
from bench._traces import mesa_log
from bench.orders import SYNTHETIC
from collector.model.traits import Use
from collector.model.units import DAY_S
from pruner.state.learning import DISCOUNT, RECENT, age_bin, stage, typical_idle
from pruner.state.population import BY_RECENT

TARGET = Path(__file__).parents[1] / "pruner" / "state" / "population.py"
FIRST_SEEDS = (1000, 1100)
HOST_RETURNS, YEAR_RETURNS = 1000.0, 4000.0
# Where nothing is known at all; and returns that the rate of a coarser situation is worth.
TYPICAL_RATE, TRUST = 0.3, 5.0
# Moments, on as many days; days before and after; returns that an expectation that was met is worth.
MOMENTS, BEFORE, AFTER, MET = 120, 5, 8, 20.0
_HEAD = '''"""Rates of return from which a forecast starts. Made by `python tools/population.py`; see there how."""

# fmt: off
'''
_TABLES = {
    "BY_AGE": "Per age: returns per idle time so far.",
    "BY_STAGE": "Per age, then stage: the rate relative to that of the age.",
    "BY_HABIT": "Per age, then habit, then stage: the rate relative to that of the age and stage.",
    "BY_RECENT": "Per age, stage and recent uses of the repository: the chance of a return relative to the forecast.",
}


def histories() -> Iterator[tuple[Trace, float]]:
    """Histories, and how many returns each counts."""
    for first in FIRST_SEEDS:
        for k, (host, _) in enumerate(SYNTHETIC):
            yield make_history(host, first + k), HOST_RETURNS
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        yield load_trace(mesa_log(Path(folder))), YEAR_RETURNS


def fitted() -> dict[str, NDArray[np.float64]]:
    """The tables."""
    returns, exposure = np.zeros((AGES, HABITS, STAGES)), np.zeros((AGES, HABITS, STAGES))
    for trace, weight in histories():
        known = knowledge_of(trace)
        counted = [table.reshape(returns.shape) for table in known.by_habit.day(known.day(trace.end))]
        share = weight / counted[0].sum()
        returns += share * counted[0]
        exposure += share * counted[1] / 1000.0
    typical = np.array([typical_idle(age) for age in range(AGES)])
    of_age = _shrunk(returns.sum((1, 2)), exposure.sum((1, 2)), TYPICAL_RATE / typical)
    of_stage = _shrunk(returns.sum(1), exposure.sum(1), of_age[:, None])
    of_habit = _shrunk(returns, exposure, of_stage[:, None, :])
    return {
        "BY_AGE": of_age * typical,
        "BY_STAGE": of_stage / of_age[:, None],
        "BY_HABIT": of_habit / of_stage[:, None, :],
        "BY_RECENT": corrected(),
    }


def corrected() -> NDArray[np.float64]:
    """What came of returns, discounted by how far off they were, relative to what was forecast of them."""
    draw = np.random.default_rng(0)
    came, expected = np.zeros((2, AGES, STAGES, RECENT))
    for trace, weight in histories():
        known = knowledge_of(trace)
        returned, forecast = np.zeros((2, AGES, STAGES, RECENT))
        days = np.arange(BEFORE, int(trace.end / DAY_S) - AFTER)
        if len(days) > MOMENTS:
            days = np.sort(draw.choice(days, MOMENTS, replace=False))
        for now in (float(day * DAY_S + draw.random() * DAY_S) for day in days):
            cells, chances, outcomes = _moment(known, now)
            np.add.at(returned, cells, outcomes)
            np.add.at(forecast, cells, chances)
        share = weight / returned.sum()
        came += share * returned
        expected += share * forecast
    of_age = (came.sum(1) + MET) / (expected.sum(1) + MET)
    found: NDArray[np.float64] = (came + MET * of_age[:, None]) / (expected + MET)
    return found


def _moment(known: Knowledge, now: float) -> tuple[tuple[Any, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Of the images that were used before a moment: situation, forecast without `BY_RECENT`, and what came."""
    images = np.flatnonzero(known.first_seen <= now)
    images = images[known.end[known.latest(now, images)] < now]
    facts = known.facts(now, images, np.zeros(known.n), np.zeros(len(known.trace.layer_bytes), dtype=np.int64))
    ages = np.array([age_bin(idle) for idle in now - facts.last_use], dtype=np.int64)
    stages = np.array([stage(now - since) for since in known.superseded_since[images]], dtype=np.int64)
    cells = ages, stages, known.recent.of_images(images, known.day(now))
    demand = (known.trace.kind == Use.CONTAINER) | (known.trace.kind == Use.JOB)
    later = demand & (known.trace.time >= now) & (known.trace.time <= known.trace.end)
    following = np.full(known.n, np.inf)
    np.minimum.at(following, known.trace.image[later], known.trace.time[later])
    return cells, facts.forecast / np.array(BY_RECENT)[cells], np.exp(-(following[images] - now) / DISCOUNT)


def _shrunk(
    returns: NDArray[np.float64], exposure: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = (returns + TRUST) / (exposure + TRUST / expected)
    return rates


def text(tables: dict[str, NDArray[np.float64]]) -> str:
    """The whole file."""
    parts = []
    for name, meaning in _TABLES.items():
        rows = pformat(_rounded(tables[name].tolist()), width=118, compact=True)
        kind = "tuple[" * tables[name].ndim + "float" + ", ...]" * tables[name].ndim
        parts.append(f'{name}: {kind} = \\\n{rows}\n"""{meaning}"""\n')
    return _HEAD + "".join(parts)


def _rounded(value: Any) -> Any:
    """To two digits, lists as tuples."""
    return tuple(map(_rounded, value)) if isinstance(value, list) else float(f"{value:.2g}")


def main() -> int:
    """Write the file; the exit status."""
    TARGET.write_text(text(fitted()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
