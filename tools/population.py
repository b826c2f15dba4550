"""Fits the rates from which a forecast starts, and writes them: `pruner/state/population.json`.

``python tools/population.py``, from the project's folder. Sixteen synthetic hosts (`bench._synthetic`, as
`bench.orders` has them, with other seeds) count a thousand returns each, the shipped year four thousand.
Seeds from 1 on judge orders in docs/orders.md and are left out here.

`BY_USE` corrects the forecasts that the other tables lead to (if these change, run it twice). What it is counted on is
what there is to choose from: the images that are present whenever a prune ranks them, on disks that are too small, of
sixty-four more synthetic hosts. These begin without images and have room at first, so little is counted of a host's
first days and nothing of images never used: see `MARGINS` for what holds there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.simulation.facts import TraceFacts
from analyzer.simulation.knowledge import knowledge_of
from analyzer.simulation.replay import replay_many
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench._synthetic import make_history
from bench._traces import mesa_log
from bench.orders import SYNTHETIC, THRESHOLD, on_disk
from collector.eventlog.experience import HABITS
from collector.model.units import HOUR_S
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, Space
from pruner.state.learning import AGES, CHANCES, DISCOUNT, STAGES, TIMES, typical_idle

TARGET = Path(__file__).parents[1] / "pruner" / "state" / "population.json"
FIRST_SEEDS = (1000, 1100)
HOST_RETURNS, YEAR_RETURNS = 1000.0, 4000.0
# Where nothing is known at all; and returns that the rate of a coarser situation is worth.
TYPICAL_RATE, TRUST = 0.3, 5.0
# Seeds of the hosts that prunes are looked at on; the share of the prunes, and images of which nothing is looked at;
# returns that an expectation that was met is worth.
PRUNED_SEEDS = range(4001, 4065)
LOOKED_AT, YOUNG, MET = 0.3, HOUR_S / 6, 3.0
# What `BY_USE` goes by, and the situations that it is corrected for, one after the other: where a finer one was hardly
# counted, those before it decide.
_CHANCE, _STAGE, _OFTEN, _RECENT = range(4)
MARGINS = (
    {_CHANCE},
    {_CHANCE, _RECENT},
    {_CHANCE, _RECENT, _STAGE},
    {_CHANCE, _RECENT, _OFTEN},
    {_CHANCE, _RECENT, _OFTEN, _STAGE},
)


def histories() -> Iterator[tuple[Trace, float]]:
    """Histories, and how many returns each counts."""
    for first in FIRST_SEEDS:
        for k, (host, _) in enumerate(SYNTHETIC):
            yield make_history(host, first + k), HOST_RETURNS
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        yield load_trace(mesa_log(Path(folder))), YEAR_RETURNS


def fitted() -> dict[str, NDArray[Any]]:
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
        "BY_USE": corrected(),
    }


def prunes() -> Iterator[tuple[Trace, Policy]]:
    """Histories on disks that are too small, and the policy."""
    for k, seed in enumerate(PRUNED_SEEDS):
        host, share = SYNTHETIC[k % len(SYNTHETIC)]
        trace = make_history(host, seed)
        rules = Policy(threshold=Space.parse(THRESHOLD), order="noted")
        yield on_disk(trace, int(share * trace.layer_bytes.sum())), rules


def corrected() -> NDArray[np.int64]:
    """What came of returns, discounted by how far off they were, relative to what was forecast of them.

    Each finer table is drawn towards the coarser ones. An image that was never used counts as one that was used once.
    What is more likely to return before the correction (by the middle of its bin) is so after it, too. Where hardly any
    superseded images were counted, they are not ranked above one like them that was not superseded.
    """
    shape = (len(CHANCES) + 1, STAGES, TIMES, TIMES)
    came, expected = np.zeros((2, *shape))
    draw = np.random.default_rng(0)
    for trace, policy in prunes():
        looked: list[tuple[Any, ...]] = []

        def noted(facts: Any, looked: list[tuple[Any, ...]] = looked) -> Any:
            if draw.random() < LOOKED_AT:
                looked.append(_looked_at(facts))
            return facts.chance

        ORDERS["noted"] = noted
        replay_many(trace, [policy], removals=False)
        cells, chances, outcomes = (np.concatenate(column, axis=-1) for column in zip(*looked, strict=True))
        share = HOST_RETURNS / len(chances)
        np.add.at(came, tuple(cells), share * outcomes)
        np.add.at(expected, tuple(cells), share * chances)
    found = np.ones(shape)
    for known in MARGINS:
        rest = tuple({*range(len(shape))} - known)
        found *= (came.sum(rest, keepdims=True) + MET) / ((expected * found).sum(rest, keepdims=True) + MET)
    found[:, :, 0] = found[:, :, 1]
    edges = np.array([CHANCES[0] ** 2 / CHANCES[1], *CHANCES, 1.0])
    middles = np.sqrt(edges[1:] * edges[:-1])[:, None, None, None]
    found = np.maximum.accumulate(found * middles) / middles
    newest = np.minimum(found[:, :1], np.concatenate((found[1:, :1], found[-1:, :1])))
    superseded = found[:, 1:]
    superseded[...] = np.where(expected[:, 1:] < MET, np.minimum(superseded, newest), superseded)
    return np.maximum(np.rint(1000.0 * found), 1.0).astype(np.int64)


def _looked_at(facts: TraceFacts) -> tuple[Any, ...]:
    """Of the images that a prune can choose from: situation, shape (4, k), forecast without `BY_USE`, and what came."""
    known = facts.knowledge
    at, chance = known.latest(facts.now, facts.present), facts.chance
    following = np.minimum(at + 1, known.count - 1)
    returns = (following > at) & (known.owner[following] == facts.present)
    wait = np.where(returns, known.next_demands[following], np.inf) - facts.now
    kept = facts.now - facts.last_use > YOUNG
    cells = np.array(facts.usage(chance))
    return cells[:, kept], chance[kept], np.exp(-wait[kept] / DISCOUNT)


def _shrunk(
    returns: NDArray[np.float64], exposure: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = (returns + TRUST) / (exposure + TRUST / expected)
    return rates


def text(tables: dict[str, NDArray[Any]]) -> str:
    """The whole file; the numbers of a line stand together."""
    rounded = {name: _rounded(table.tolist()) for name, table in tables.items()}
    lines = (f"{json.dumps(name)}:\n{pformat(rows, width=118, compact=True)}" for name, rows in rounded.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rounded(value: Any) -> Any:
    """To two digits, whole if there are more."""
    if isinstance(value, list):
        return list(map(_rounded, value))
    return value if isinstance(value, int) else float(f"{value:.2g}")


def main() -> int:
    """Write the file; the exit status."""
    TARGET.write_text(text(fitted()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
