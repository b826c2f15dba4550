"""What was learned up to each midnight, and the rates that follow from it: `pruner.state.learning` over arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analyzer.trace.trace import Floats, Integers
from collector.eventlog.experience import BUCKETS, HABITS
from collector.model.errors import UsageError
from pruner.state import learning
from pruner.state.learning import AGES, STAGES
from pruner.state.population import BY_AGE, BY_HABIT, BY_STAGE
from pruner.state.rates import read_rates


class Tables(Protocol):
    """What was learned up to each midnight."""

    def day(self, day: int, /) -> tuple[Integers, Integers]:
        """Returns, and exposure in milliseconds, up to a midnight; shape (situations,) each."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The same, counted here; shape (days, situations) each."""

    returns: Integers
    exposure_ms: Integers

    def day(self, day: int) -> tuple[Integers, Integers]:
        """See `Tables.day`."""
        return self.returns[day], self.exposure_ms[day]


def rates_of(returns: NDArray[Any], exposure_ms: NDArray[Any]) -> NDArray[Any]:
    """`Learned.rates`; all of shape (AGES, HABITS, STAGES)."""
    typical = np.array([learning.typical_idle(age) for age in range(AGES)])
    by_stage = returns.sum(axis=1), exposure_ms.sum(axis=1)
    of_age: Any = _shrunk(by_stage[0].sum(axis=-1), by_stage[1].sum(axis=-1), np.array(BY_AGE) / typical, 0)
    of_stage: Any = _shrunk(*by_stage, of_age[..., None] * np.array(BY_STAGE), 1)
    return _shrunk(returns, exposure_ms, of_stage[..., None, :] * np.array(BY_HABIT), 2)


def _shrunk(returns: NDArray[Any], exposure_ms: NDArray[Any], expected: Any, level: int) -> NDArray[Any]:
    """As `pruner.state.learning.shrunk`."""
    trust = learning.TRUST[level]
    rates: NDArray[Any] = (returns + trust) / (exposure_ms / 1000.0 + trust / expected)
    return rates


def of_fleet(rates: str) -> tuple[Floats, Floats] | None:
    """Returns and idle seconds by situation, shape (AGES, BUCKETS, HABITS, STAGES) each; None: it cannot be read.

    The pruner then continues with the host's own past (`pruner.state.survey.with_learning`), and so does a replay.
    """
    try:
        found = read_rates(Path(rates))
    except UsageError:
        return None
    shape = AGES, BUCKETS, HABITS, STAGES
    return np.reshape(found.returns, shape), np.reshape(found.exposure, shape)


def up_to(midnight: Integers, time: Integers, cell: Integers, weight: Integers, width: int) -> Integers:
    """Sums of weights by situation, of what was before each midnight; shape (days, width)."""
    day = np.searchsorted(midnight, time, side="left")
    sums = np.zeros((len(midnight) + 1) * width, dtype=np.int64)
    np.add.at(sums, day * width + cell, weight)
    table: Integers = np.cumsum(sums[: len(midnight) * width].reshape(-1, width), axis=0)
    return table
