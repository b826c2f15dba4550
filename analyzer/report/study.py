"""What a report shows: many results and a recorded history, made few enough to be looked at."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyzer.report.downsample import distinct_times, fewer_steps
from analyzer.report.terminal import short_names
from analyzer.search.recommend import Proposal
from analyzer.simulation.lifelines import Stays, stays
from analyzer.simulation.result import Removals, Result
from analyzer.trace.recorded import Recorded
from analyzer.trace.trace import Floats, Trace, Use
from collector.model.references import repository
from pruner.policy.policy import Policy

AS_RECORDED = "as recorded"
_MOST_STEPS = 2400
_MOST_MARKS = 400
_MOST_TICKS = 300
_MOST_IMAGES = 10
_MOST_OWNERS = 15
_TELLING_SAMPLES = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """The most instructive images under one policy, in one respect.

    Attributes:
        name: what is shown, in words.
        policy: under which policy.
        images: their numbers, the most instructive first.
        rest: how many more there are that the same could be said of.
        rows: what a table says of each image.
    """

    name: str
    policy: str
    images: list[int]
    rest: int
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Lineup:
    """The policies that a report compares.

    Attributes:
        policies: all of them; the recommended one first, where nobody asked for it.
        proposal: which of them is recommended, and why.
        apart: whether nobody asked for the recommended one.
    """

    policies: tuple[Policy, ...] = ()
    proposal: Proposal = field(default_factory=Proposal)
    apart: bool = False

    @classmethod
    def of(cls, asked: Sequence[Policy], proposal: Proposal) -> Lineup:
        """The policies that were asked for, and the recommended one."""
        if proposal.policy is None or proposal.policy in asked:
            return cls(tuple(asked), proposal)
        return cls((proposal.policy, *asked), proposal, apart=True)

    def chosen(self, results: Sequence[Result]) -> Result | None:
        """The recommended policy's result, of results that end with one for each policy."""
        if self.proposal.policy is None:
            return None
        return results[len(results) - len(self.policies) + self.policies.index(self.proposal.policy)]


@dataclass(frozen=True, slots=True)
class Study:
    """A trace, what it would have led to under each policy, and what was recorded.

    Attributes:
        trace: the history.
        results: baselines, then our policies, each with its timeline.
        lineup: our policies.
        recorded: the host as it was.
        chosen: the recommended policy's result; None: none is.
        rival: the baselines, to compare with; None: nothing to compare with.
        notes: what the figures have to do without.
        common: clauses that all policies share, which their names leave out.
        lives: the stays of images under `chosen` and `rival`, by name.
        views: the most instructive images.
    """

    trace: Trace
    results: Sequence[Result]
    lineup: Lineup
    recorded: Recorded
    chosen: Result | None
    rival: Result | None
    notes: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    lives: dict[str, Stays] = field(default_factory=dict)
    views: tuple[View, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of the disk, as it was last."""
        return int(self.trace.disk_total[-1])


def study(
    trace: Trace, results: Sequence[Result], lineup: Lineup, recorded: Recorded, notes: Sequence[str] = ()
) -> Study:
    """Choose what is compared, and follow the images there.

    Args:
        trace: the history.
        results: results on it, with timelines: baselines, then one for each policy of the line-up.
        lineup: our policies.
        recorded: the host as it was.
        notes: what to state beside the trace's own assumptions.
    """
    names, common = short_names([result.name for result in results])
    if len(set(names)) == len(names):
        results = [replace(result, name=name) for result, name in zip(results, names, strict=True)]
    else:
        common = []
    chosen = lineup.chosen(results)
    rival = next((result for result in results if result.baseline and result.removals), None)
    lives = {result.name: stays(trace, result.removed) for result in (rival, chosen) if result is not None}
    return Study(
        trace,
        results,
        lineup,
        recorded,
        chosen,
        rival,
        (*trace.assumptions, *notes, *lineup.proposal.notes),
        tuple(common),
        lives,
        tuple(find_views(trace, lives)),
    )


def series(made: Study) -> list[str]:
    """The names of all lines of free space, the most instructive first."""
    names = [AS_RECORDED] if len(made.recorded.seconds) >= _TELLING_SAMPLES else []
    first = [result.name for result in (made.chosen, made.rival) if result is not None]
    return [*names, *first, *(result.name for result in made.results if result.name not in first)]


def free_space(made: Study) -> list[Row]:
    """Each line of free space as columns: milliseconds since 1970 and bytes."""
    end = made.trace.end
    known = {
        result.name: (result.timeline.seconds, result.timeline.free)
        for result in made.results
        if result.timeline is not None
    }
    known[AS_RECORDED] = (made.recorded.seconds, made.recorded.free)
    columns = []
    for name in series(made):
        time, value = fewer_steps(*_last_of_each_time(*known[name]), _MOST_STEPS)
        time, value = np.append(time, end), np.append(value, value[-1:])
        columns.append({"series": name, "time": milliseconds(made.trace, time), "free": value.tolist()})
    return columns


def _last_of_each_time(time: Floats, value: Any) -> tuple[Floats, Any]:
    """Of the changes at one time the lowest and the last, so that no low goes and no step is repeated."""
    if not len(time):
        return time, value
    first = np.flatnonzero(np.concatenate(([True], np.diff(time) > 0)))
    lowest = np.minimum.reduceat(value, first)
    last = value[np.append(first[1:], len(time)) - 1]
    both = np.stack((lowest, last), axis=1).ravel()
    at = np.repeat(time[first], 2)
    kept = np.ones(len(at), dtype=np.bool_)
    kept[::2] = lowest != last
    return at[kept], both[kept]


def marks(made: Study) -> list[Row]:
    """Prunes and full disks of each line, as columns."""
    span = made.trace.end
    found = []
    for result in made.results:
        pruned = np.unique(Removals.of(result.removed).time)
        full = np.zeros(0)
        if result.timeline is not None:
            short = result.timeline.free < 0
            full = result.timeline.seconds[short & ~np.concatenate(([False], short[:-1]))]
        for what, time in (("prune", pruned), ("disk full", full)):
            kept = distinct_times(np.asarray(time, dtype=np.float64), span, _MOST_MARKS)
            found.append({"series": result.name, "what": what, "time": milliseconds(made.trace, kept)})
    if AS_RECORDED in series(made):
        pruned = distinct_times(np.array([time for time, _ in made.recorded.prunes]), span, _MOST_MARKS)
        found.append({"series": AS_RECORDED, "what": "prune", "time": milliseconds(made.trace, pruned)})
    return [row for row in found if row["time"]]


def gaps(made: Study) -> list[Row]:
    """The intervals in which nothing was observed."""
    return [
        {"begin": begin, "end": end}
        for begin, end in zip(
            milliseconds(made.trace, made.trace.blind[:, 0]),
            milliseconds(made.trace, made.trace.blind[:, 1]),
            strict=True,
        )
    ]


def milliseconds(trace: Trace, seconds: Floats) -> list[int]:
    """Times in the trace as browsers take them: UTC, milliseconds since 1970."""
    made: list[int] = np.round(trace.origin_ns / 1e6 + seconds * 1e3).astype(np.int64).tolist()
    return made


def find_views(trace: Trace, lives: dict[str, Stays]) -> list[View]:
    """Who is pulled again and again, and who is kept for nothing, under each followed policy."""
    found = []
    count = trace.images
    demands = np.bincount(trace.image[(trace.kind >= Use.CONTAINER) & (trace.kind <= Use.JOB)], minlength=count)
    for name, stay in lives.items():
        again = np.bincount(stay.image[stay.again], weights=stay.pulled[stay.again], minlength=count)
        idle = np.bincount(stay.image, weights=stay.idle, minlength=count) * trace.image_bytes
        for what, weight in ((f"{name}: pulled again and again", again), (f"{name}: kept without use", idle)):
            order = [int(i) for i in np.argsort(-weight, kind="stable") if weight[i] > 0]
            if order:
                shown = order[:_MOST_IMAGES]
                found.append(
                    View(
                        what,
                        name,
                        shown,
                        len(order) - len(shown),
                        [_row(trace, stay, i, int(demands[i])) for i in shown],
                    )
                )
    return found


def _row(trace: Trace, stay: Stays, image: int, uses: int) -> Row:
    own = stay.image == image
    return {
        "image": trace.name(image),
        "bytes": int(trace.image_bytes[image]),
        "uses": uses,
        "repulls": int(np.count_nonzero(stay.again & own)),
        "repulled": int(stay.pulled[stay.again & own].sum()),
        "held": float((stay.end - stay.begin)[own].sum()),
        "idle": float(stay.idle[own].sum()),
    }


def names_shown(made: Study) -> list[Row]:
    """The names of the images in the views; their labels are without what all of one view begin with."""
    rows = []
    for view in made.views:
        names = [made.trace.name(image) for image in view.images]
        parts = zip(*(name.split("/")[:-1] for name in names), strict=False)
        length = sum(len(same[0]) + 1 for same in itertools.takewhile(lambda same: len(set(same)) == 1, parts))
        rows += [
            {
                "view": view.name,
                "rank": rank,
                "image": name,
                "label": f"…/{name[length:]}" if length else name,
                "number": image,
            }
            for rank, (name, image) in enumerate(zip(names, view.images, strict=True))
        ]
    return rows


def stays_shown(made: Study) -> list[Row]:
    """The residencies of the images in the views, those too close to distinguish as one."""
    least = made.trace.end / 800
    shown = []
    for view in made.views:
        stay = made.lives[view.policy]
        for rank, image in enumerate(view.images):
            own = np.flatnonzero(stay.image == image)
            begin, end, again = stay.begin[own], stay.end[own], stay.again[own]
            starts = np.flatnonzero(np.concatenate(([True], begin[1:] - np.maximum.accumulate(end)[:-1] > least)))
            stops = np.append(starts[1:], len(own)) - 1
            pulls = np.add.reduceat(again.astype(np.int64), starts)
            first, last = milliseconds(made.trace, begin[starts]), milliseconds(made.trace, end[stops])
            shown += [
                {"view": view.name, "rank": rank, "begin": a, "end": b, "pulls": n}
                for a, b, n in zip(first, last, pulls.tolist(), strict=True)
            ]
    return shown


def uses_shown(made: Study) -> list[Row]:
    """When the images in the views were used, as columns."""
    images = sorted({image for view in made.views for image in view.images})
    demands = (made.trace.kind >= Use.CONTAINER) & (made.trace.kind <= Use.JOB)
    return [
        {
            "image": image,
            "time": milliseconds(
                made.trace,
                distinct_times(made.trace.time[demands & (made.trace.image == image)], made.trace.end, _MOST_TICKS),
            ),
        }
        for image in images
    ]


@dataclass(slots=True)
class Cost:
    """What one project, or one repository of images, cost; bytes, seconds; shares of images in proportion to use."""

    owner: str
    images: int = 0
    uses: float = 0.0
    seconds: float = 0.0
    first_bytes: float = 0.0
    repulled: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def costs(made: Study) -> tuple[str, list[Cost]]:
    """The costs by project, where the jobs name theirs, else by repository; the dearest first, the rest as one.

    Returns:
        (what the owners are, their costs).
    """
    projects = made.recorded.projects or {}
    trace = made.trace
    demands = (trace.kind >= Use.CONTAINER) & (trace.kind <= Use.JOB)
    uses = np.bincount(trace.image[demands], minlength=trace.images)
    lasted = np.where(np.isfinite(trace.until), np.minimum(trace.until, trace.end), trace.end) - trace.time
    seconds = np.bincount(trace.image[demands], weights=np.maximum(lasted[demands], 0.0), minlength=trace.images)
    again: dict[str, Any] = {}
    first: Any = np.zeros(trace.images)
    for name, stay in made.lives.items():
        again[name] = np.bincount(stay.image, weights=stay.pulled * stay.again, minlength=trace.images)
        first = np.bincount(stay.image, weights=stay.pulled * ~stay.again, minlength=trace.images)
    known: dict[str, Cost] = {}
    for image in range(trace.images):
        for owner, share in _owners(trace, image, projects).items():
            cost = known.setdefault(owner, Cost(owner))
            cost.images += 1
            cost.uses += share * int(uses[image])
            cost.seconds += share * float(seconds[image])
            cost.first_bytes += share * float(first[image])
            for name, amounts in again.items():
                cost.repulled[name] += share * float(amounts[image])
    ordered = sorted(known.values(), key=lambda cost: (-sum(cost.repulled.values()), -cost.first_bytes, cost.owner))
    return ("project" if projects else "repository"), _with_rest(ordered)


def _owners(trace: Trace, image: int, projects: dict[str, dict[str, int]]) -> dict[str, float]:
    """Whose an image is, and to which share: whoever used it, else its repository."""
    used = projects.get(trace.image_ids[image])
    if used:
        return {owner: uses / sum(used.values()) for owner, uses in used.items()}
    return {"no known project" if projects else repository(trace.name(image)): 1.0}


def _with_rest(ordered: list[Cost]) -> list[Cost]:
    if len(ordered) <= _MOST_OWNERS:
        return ordered
    rest = ordered[_MOST_OWNERS - 1 :]
    summed = Cost(f"{len(rest)} others")
    for cost in rest:
        summed.images += cost.images
        summed.uses += cost.uses
        summed.seconds += cost.seconds
        summed.first_bytes += cost.first_bytes
        for name, amount in cost.repulled.items():
            summed.repulled[name] += amount
    return [*ordered[: _MOST_OWNERS - 1], summed]
