"""What policies would have done, and which one to set, as DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analyzer.api.histories import Fleet, History, bytes_of
from analyzer.api.recorded import times
from analyzer.baselines import DEFAULT_BASELINES
from analyzer.search.allowlist import Earning
from analyzer.search.each import on_each
from analyzer.search.fleet import FLEET, Findings, Simulation, Sweep, fleet_sums
from analyzer.search.grid import AllowlistSet, grid, searched
from analyzer.search.pareto import pareto
from analyzer.search.proposal import reasons
from analyzer.search.recommend import Constraints
from analyzer.search.recommend import recommend as choose
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.figures import FIGURES
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.defaults import SPLIT
from collector.model.errors import UsageError
from collector.model.units import parse_duration
from collector.queries.status import LEAST_HISTORY_S
from pruner.policy.file import load_policy, policy_from
from pruner.policy.policy import Policy

AnyPolicy = Policy | Mapping[str, Any] | str | Path
T = TypeVar("T")


def policy(given: AnyPolicy | None = None, **keys: Any) -> Policy:
    """A policy: a file, a mapping of keys or another policy, changed by keys as in the file.

    Raises:
        UsageError: a key or value is impossible.
    """
    if isinstance(given, Policy):
        return policy_from(keys, "policy", given)
    if isinstance(given, Mapping):
        return policy_from({**given, **keys}, "policy")
    return policy_from(keys, "policy", load_policy(Path(given)) if given is not None else None)


def simulate(
    history: History | Fleet,
    *policies: AnyPolicy,
    baselines: Iterable[str] = DEFAULT_BASELINES,
    pull_rate: float | None = None,
    trigger: str = "event",
    processes: int | None = None,
) -> pd.DataFrame:
    """What each policy would have done: one row per host and policy, of a fleet also the sums.

    What the history lacks, and what is taken instead, is stated in sentences in the frame's ``attrs["notes"]``.

    Args:
        history: of one host, or of several.
        policies: files, mappings of keys, or `Policy` objects; none: the default policy.
        baselines: baselines, by name.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        trigger: what starts a prune: ``event`` (the timer, and a sample that shows too little space) or ``tick``.
        processes: how many hosts to work on at once; None: one for each processor.

    Raises:
        LogError: a history is too poor for a sound figure.
        UsageError: a policy is impossible.
    """
    chosen = tuple(policy(given) for given in policies) or (policy(),)
    found = _work(history, Simulation(chosen, tuple(baselines), pull_rate, Trigger(trigger)), processes)
    return _frame(found, marked=False)


def sweep(
    history: History | Fleet,
    base: AnyPolicy | None = None,
    *,
    allowlists: Mapping[str, Sequence[str]] | None = None,
    pull_rate: float | None = None,
    processes: int | None = None,
    **axes: Any,
) -> pd.DataFrame:
    """A grid of policies: as `simulate`, with a column `pareto` that marks what no other policy beats.

    Args:
        history: of one host, or of several.
        base: the policy that is varied; None: the default policy.
        allowlists: allowlists to combine with the rest, by name.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        processes: how many hosts to work on at once; None: one for each processor.
        axes: values of keys to combine: a list, a range such as ``5%:40%:1%``, or one value.

    Raises:
        LogError: a history is too poor for a sound figure.
        UsageError: a range or policy is impossible.
    """
    sets = [AllowlistSet(name, tuple(entries)) for name, entries in (allowlists or {}).items()]
    candidates, _ = grid(_axes(axes), sets, None if base is None else policy(base))
    found = _work(history, Sweep(tuple(candidates), pull_rate), processes)
    frame = _frame(found, marked=True)
    columns = {key: {item.name: str(getattr(item.policy, key)) for item in candidates} for key in axes}
    for place, (key, known) in enumerate(columns.items()):
        frame.insert(2 + place, key, frame["policy"].map(known))
    if sets:
        named = {item.entries: item.name for item in sets}
        frame.insert(2, "allowlist", frame["policy"].map({c.name: named[c.policy.allowlist] for c in candidates}))
    return frame


@dataclass(frozen=True)
class Advice:
    """What `recommend` found.

    Attributes:
        policy: the policy to set; None if none meets the constraints.
        holds: whether it meets them on the rest of the history, too.
        why: sentences: what was tried, what the runner-up and the baselines cost.
        table: a row for the chosen one, the runner-up and each baseline, on each part of the history.
    """

    policy: Policy | None
    holds: bool
    why: tuple[str, ...]
    table: pd.DataFrame


def recommend(
    history: History | Fleet,
    base: AnyPolicy | None = None,
    *,
    max_disk_full: int = 0,
    max_repull: str | int | None = None,
    min_free: str | int | None = None,
    headroom: str | int = 0,
    split: float = SPLIT,
    baselines: Iterable[str] = DEFAULT_BASELINES,
    processes: int | None = None,
    least_history: str | float = LEAST_HISTORY_S,
    **axes: Any,
) -> Advice:
    """A policy that meets the constraints and hardly pulls anything again, chosen on the first part of the history.

    Of those that re-pull little more than the least, one is taken that always leaves free what a worse future may
    take, then what departs least from the defaults, and of these the one that keeps the most images.

    Args:
        history: of one host, or of several.
        base: the policy that is varied.
        max_disk_full: disk-full incidents at most.
        max_repull: bytes pulled again at most, over the whole history.
        min_free: bytes that must always be free.
        headroom: bytes beyond that, should the future be worse than the past, in place of the largest pulls' sizes.
        split: the share of the history to choose on; the rest judges. 1: no rest.
        baselines: baselines, to compare with.
        processes: how many hosts to work on at once.
        least_history: recommend nothing on less, as text or in seconds.
        axes: values of keys to combine, as for `sweep`. Without `threshold`: auto, shares and bytes; without
            `base` also orders, minimum ages and what becomes of local images.

    Raises:
        LogError: a history is too poor for a sound figure.
        UsageError: a range or policy is impossible.
    """
    varied = None if base is None else policy(base)
    candidates = searched(_axes(axes), (), varied)
    constraints = Constraints(max_disk_full, bytes_of("max_repull", max_repull), bytes_of("min_free", min_free))
    least = parse_duration(least_history) if isinstance(least_history, str) else float(least_history)
    found = _work(history, Trial(tuple(candidates), tuple(baselines), split), processes)
    best = choose(candidates, found, constraints, split, bytes_of("headroom", headroom) or 0, least)
    shown = [item for item in (best.chosen, best.runner_up, best.closest) if item is not None]
    return Advice(
        None if best.chosen is None else best.chosen.candidate.policy,
        best.chosen is not None and not best.broken,
        tuple(reasons(best, constraints, split)),
        _noted(_parts([*((item.first, item.rest) for item in shown), *best.baselines]), [first for first, _ in found]),
    )


def earn_allowlist(
    history: History, base: AnyPolicy | None = None, *, entries: Sequence[str] = (), split: float = SPLIT
) -> pd.DataFrame:
    """What each allowlist entry gains or costs: one row per entry, proposed ones first.

    Args:
        history: of one host.
        base: the policy at work.
        entries: globs to judge, whatever they gain.
        split: the share of the history to look for entries on; the rest judges. 1: no rest.

    Raises:
        LogError: a part of the history is too poor for a sound figure.
    """
    earned = Earning(policy(base), tuple(entries), split)(history.trace)
    rows = [
        {
            "entry": entry.glob,
            "proposed": entry.glob in earned.allowlist,
            "gain_first_bytes": entry.gain_first,
            "gain_rest_bytes": entry.gain_rest,
            "more_disk_full": entry.incidents,
        }
        for entry in earned.entries
    ]
    columns = ["entry", "proposed", "gain_first_bytes", "gain_rest_bytes", "more_disk_full"]
    return pd.DataFrame(rows, columns=columns)


def free_space(history: History, given: AnyPolicy | None = None, *, steps: int = 2000) -> pd.DataFrame:
    """Free space over time under a policy: `time`, `free_bytes`, the least of each of `steps` equal intervals."""
    trace = history.trace
    result = replay(trace, PolicyCleaner(policy(given), trace), timeline=True)
    if result.timeline is None:
        raise UsageError("this policy's replay has no timeline")
    edges = np.linspace(0.0, trace.end, steps + 1)
    begin = np.searchsorted(result.timeline.seconds, edges[:-1], side="right") - 1
    begin = np.maximum(begin, 0)
    least = np.minimum.reduceat(result.timeline.free, begin)
    return pd.DataFrame({"time": times(trace, edges[:-1]), "free_bytes": least})


def _work(history: History | Fleet, work: Callable[[Trace], T], processes: int | None) -> list[T]:
    if isinstance(history, History):
        return [work(history.trace)]
    if not len(history):
        raise UsageError("the fleet is empty")
    found, notes = on_each([item.source for item in history], work, history[0].disk, processes)  # type: ignore[arg-type] # a plain function will do
    if notes:
        raise UsageError("; ".join(notes))
    return found


def _frame(found: Sequence[Findings], *, marked: bool) -> pd.DataFrame:
    groups = [(findings.host, list(findings.results)) for findings in found]
    if len(found) > 1:
        groups.append((FLEET, fleet_sums([findings.results for findings in found])))
    rows = []
    for host, results in groups:
        for result, best in zip(results, pareto(results), strict=True):
            rows.append({"host": host, **_row(result), **({"pareto": best} if marked else {})})
    return _noted(pd.DataFrame(rows), found)


def _noted(frame: pd.DataFrame, found: Sequence[Findings]) -> pd.DataFrame:
    """The frame with what its figures stand on: sentences in its ``attrs["notes"]``."""
    frame.attrs["notes"] = [
        f"{findings.host}: {note}" if len(found) > 1 else note
        for findings in found
        for note in findings.facts.assumptions
    ]
    return frame


def _row(result: Result) -> dict[str, Any]:
    """A result with units in its columns' names."""
    named = {name if figure.frame is None else figure.frame: getattr(result, name) for name, figure in FIGURES.items()}
    named.pop("", None)
    return {"policy": result.name, "baseline": result.baseline, **named}


def _parts(pairs: Iterable[tuple[Result, Result | None]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"part": part, **_row(result)}
            for first, rest in pairs
            for part, result in (("first", first), ("rest", rest))
            if result is not None
        ]
    )


def _axes(axes: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        key: list(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else [str(value)]
        for key, value in axes.items()
    }
