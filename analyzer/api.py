"""The library: histories in, pandas DataFrames out; units stand in the columns' names.

Times are UTC (``datetime64[ns, UTC]``), durations seconds, sizes bytes. What is wrong with a log or a
policy is raised as `collector.model.errors.HindsightError`, whose text is one line for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analyzer.baselines import DEFAULT_BASELINES
from analyzer.data import mesa_files
from analyzer.search.allowlist import Earning
from analyzer.search.fleet import FLEET, Findings, Simulation, Source, Sweep, find, fleet_sums, on_each
from analyzer.search.grid import AllowlistSet, grid, searched
from analyzer.search.pareto import pareto
from analyzer.search.proposal import reasons
from analyzer.search.recommend import Constraints, SplitResult
from analyzer.search.recommend import recommend as choose
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.figures import FIGURES
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Result
from analyzer.trace.load import DiskOverride
from analyzer.trace.trace import Floats, Trace, Use
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs
from collector.model.errors import UsageError
from collector.model.units import parse_bytes, parse_duration
from collector.queries.status import LEAST_HISTORY_S
from pruner.policy.file import load_policy, policy_from
from pruner.policy.policy import Policy

_DAY = 86400.0
AnyPolicy = Policy | Mapping[str, Any] | str | Path
T = TypeVar("T")


@dataclass(frozen=True)
class History:
    """The recorded history of one host.

    Attributes:
        source: where it is recorded.
        disk: the disk to take in place of the recorded one.
    """

    source: Source
    disk: DiskOverride = field(default_factory=DiskOverride)

    @property
    def host(self) -> str:
        """The host's name."""
        return self.source.label or self.source.host

    @cached_property
    def trace(self) -> Trace:
        """The history as arrays, loaded when first asked for. Raises LogError."""
        return self.source.load(self.disk)

    def __repr__(self) -> str:
        return f"<History of {self.host}>"


@dataclass(frozen=True)
class Fleet(Sequence[History]):
    """The histories of several hosts, by name."""

    histories: tuple[History, ...]

    def __getitem__(self, key: int | str) -> History:  # type: ignore[override] # by name, too, and no slices
        if isinstance(key, int):
            return self.histories[key]
        for history in self.histories:
            if history.host == key:
                return history
        raise KeyError(key)

    def __len__(self) -> int:
        return len(self.histories)

    def __repr__(self) -> str:
        return f"<Fleet of {', '.join(history.host for history in self.histories)}>"


def open_log(
    *places: str | Path, host: str | None = None, disk: str | int | None = None, other: str | int | None = None
) -> History | Fleet:
    """The history in an event log; of several hosts the fleet of their histories.

    Args:
        places: event logs, globs of them, or folders that `analyzer export` wrote.
        host: only this host's.
        disk: assume a disk of this size (bytes, or text such as ``100GB``).
        other: assume that other files take this much of it.

    Raises:
        LogError: there is no such log, or none of that host.
        UsageError: a size is invalid.
    """
    override = DiskOverride(_bytes("disk", disk), _bytes("other", other))
    found = [History(source, override) for source in find(places, host)]
    return found[0] if len(found) == 1 else Fleet(tuple(found))


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
        policy: the policy to set; None if none keeps to the constraints.
        holds: whether it keeps to them on the rest of the history, too.
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
    split: float = 0.7,
    baselines: Iterable[str] = DEFAULT_BASELINES,
    processes: int | None = None,
    least_history: str | float = LEAST_HISTORY_S,
    **axes: Any,
) -> Advice:
    """A policy that keeps to the constraints and hardly pulls anything again, chosen on the first part of the history.

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
    constraints = Constraints(max_disk_full, _bytes("max_repull", max_repull), _bytes("min_free", min_free))
    found = _work(history, Trial(tuple(candidates), tuple(baselines), split), processes)
    best = choose(candidates, found, constraints, split, _bytes("headroom", headroom) or 0, _seconds(least_history))
    shown = [item for item in (best.chosen, best.runner_up, best.closest) if item is not None]
    return Advice(
        None if best.chosen is None else best.chosen.candidate.policy,
        best.chosen is not None and not best.broken,
        tuple(reasons(best, constraints, split)),
        _noted(_parts([*map(_both, shown), *best.baselines]), [first for first, _ in found]),
    )


def _seconds(value: str | float) -> float:
    return parse_duration(value) if isinstance(value, str) else float(value)


def earn_allowlist(
    history: History, base: AnyPolicy | None = None, *, entries: Sequence[str] = (), split: float = 0.7
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


def uses(history: History) -> pd.DataFrame:
    """Every observed use: `time`, `until` (NaT while it lasts), `image`, `image_id`, `evidence`, `image_bytes`."""
    trace = history.trace
    return pd.DataFrame(
        {
            "time": _times(trace, trace.time),
            "until": _times(trace, trace.until),
            "image": pd.Series([trace.name(i) for i in range(trace.images)], dtype=str).take(trace.image).to_numpy(),
            "image_id": np.array(trace.image_ids, dtype=object)[trace.image],
            "evidence": np.array([kind.name.lower() for kind in Use], dtype=object)[trace.kind],
            "image_bytes": trace.image_bytes[trace.image],
        }
    )


def images(history: History) -> pd.DataFrame:
    """Every image: its name, bytes (`own_bytes`: of layers that no other image ever has), uses, first and last use."""
    trace = history.trace
    holders = np.bincount(trace.layer, minlength=len(trace.layer_bytes))
    alone = np.where(holders == 1, trace.layer_bytes, 0)
    sums = np.concatenate(([0], np.cumsum(alone[trace.layer])))
    demanded = (trace.kind >= Use.CONTAINER) & (trace.kind <= Use.JOB)
    first, last = np.full(trace.images, np.inf), np.full(trace.images, -np.inf)
    np.minimum.at(first, trace.image[demanded], trace.time[demanded])
    np.maximum.at(last, trace.image[demanded], np.minimum(trace.until[demanded], trace.end))
    return pd.DataFrame(
        {
            "image": [trace.name(i) for i in range(trace.images)],
            "image_id": list(trace.image_ids),
            "image_bytes": trace.image_bytes,
            "own_bytes": sums[trace.first[1:]] - sums[trace.first[:-1]],
            "uses": np.bincount(trace.image[demanded], minlength=trace.images),
            "first_use": _times(trace, first),
            "last_use": _times(trace, last),
            "local": trace.local,
        }
    )


def disk(history: History) -> pd.DataFrame:
    """The disk over time, as recorded: `time`, `total_bytes`, `other_bytes` (held by something else than images)."""
    trace = history.trace
    return pd.DataFrame(
        {
            "time": _times(trace, trace.disk_time),
            "total_bytes": trace.disk_total,
            "other_bytes": trace.disk_other,
            "total_inodes": trace.inode_total,
            "other_inodes": trace.inode_other,
        }
    )


def gaps(history: History) -> pd.DataFrame:
    """The intervals in which nothing was observed: `began`, `ended`."""
    trace = history.trace
    return pd.DataFrame({"began": _times(trace, trace.blind[:, 0]), "ended": _times(trace, trace.blind[:, 1])})


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
    return pd.DataFrame({"time": _times(trace, edges[:-1]), "free_bytes": least})


def example_logs(
    folder: str | Path, *, hosts: int = 1, disk: str | int = "100GB", days: float | None = None
) -> list[Path]:
    """Make event logs of a year of a public project's CI (Mesa, 2023), its pipelines dealt out to some hosts.

    Args:
        folder: where to put them.
        hosts: how many; each gets a share of the pipelines.
        disk: the size of each host's disk (bytes, or text such as ``100GB``).
        days: how many days from the year's beginning; None: all.
    """
    jobs_csv, layers_csv = mesa_files()
    size = _bytes("disk", disk) or 0
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    jobs = pd.read_csv(jobs_csv, dtype=str)
    if days is not None:
        start = jobs["start"].astype(float)
        jobs = jobs[start < start.min() + days * _DAY]
    turn = pd.factorize(jobs["pipeline"])[0] % hosts
    made = []
    for number in range(hosts):
        name = f"runner-{number + 1}" if hosts > 1 else "mesa-ci-2023"
        part = place / f"{name}.csv"
        jobs[turn == number].to_csv(part, index=False)
        log = EventLog(place / f"{name}.duckdb", host=name)
        import_jobs(part, layers_csv, log, size, 0)
        part.unlink()
        made.append(log.path)
    return made


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


def _both(outcome: SplitResult) -> tuple[Result, Result | None]:
    return outcome.first, outcome.rest


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
    return {key: [str(item) for item in value] if _several(value) else [str(value)] for key, value in axes.items()}


def _several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _times(trace: Trace, seconds: Floats) -> pd.DatetimeIndex:
    """UTC times of seconds after the trace's origin; NaT where there is no end."""
    known = np.isfinite(seconds)
    whole = np.where(known, seconds, 0.0)
    nanoseconds = trace.origin_ns + np.round(whole * 1e9).astype(np.int64)
    nanoseconds[~known] = np.iinfo(np.int64).min  # NaT
    return pd.DatetimeIndex(nanoseconds.astype("datetime64[ns]"), tz="UTC")


def _bytes(name: str, value: str | int | None) -> int | None:
    if value is None or isinstance(value, int):
        return value
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
