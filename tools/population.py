"""Fits the rates from which a forecast starts, and writes them: `pruner/state/population.py`.

``python tools/population.py``, from the project's folder. Sixteen made-up hosts (`bench._synthetic`, as `bench.orders`
has them, with other seeds) count a thousand returns each, the shipped year four thousand. Seeds that begin at 1 judge
orders in docs/orders.md and are left out here.
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

from analyzer.simulation.knowledge import AGES, HABITS, STAGES, knowledge_of
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench._synthetic import make_history
from bench._traces import mesa_log
from bench.orders import SYNTHETIC
from pruner.state.learning import typical_idle

TARGET = Path(__file__).parents[1] / "pruner" / "state" / "population.py"
FIRST_SEEDS = (1000, 1100)
HOST_RETURNS, YEAR_RETURNS = 1000.0, 4000.0
# Where nothing is known at all; and returns that the rate of a coarser situation is worth.
TYPICAL_RATE, TRUST = 0.3, 5.0
_HEAD = '''"""Rates of return from which a forecast starts. Made by `python tools/population.py`; see there how."""

# fmt: off
'''
_TABLES = {
    "BY_AGE": "Per age: returns per idle time so far.",
    "BY_STAGE": "Per age, then stage: the rate relative to that of the age.",
    "BY_HABIT": "Per age, then habit, then stage: the rate relative to that of the age and stage.",
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
    }


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
