"""What a report shows: many results and a recorded history, made few enough to be looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyzer.report.page_data import Scale, line
from analyzer.report.stories import held_at
from analyzer.report.terminal import short_names
from analyzer.search.adoption import FirstWeek, adoption_time, first_week
from analyzer.search.proposal import Proposal
from analyzer.search.whatif import WhatIf
from analyzer.simulation.cleaner import Trigger
from analyzer.simulation.lifelines import Stays, stays
from analyzer.simulation.replay import Progress
from analyzer.simulation.result import Result
from analyzer.trace.describe import notes_of
from analyzer.trace.recorded import Recorded
from analyzer.trace.trace import Floats, Integers, Trace
from collector.model.references import repository
from collector.model.units import format_bytes
from pruner.policy.policy import Policy

AS_RECORDED = "as recorded"
_MOST_IMAGES = 10
_MOST_OWNERS = 15
_LEAST_SAMPLES = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """The most instructive images under one policy, in one respect.

    Attributes:
        name: what is shown, in words.
        policy: under which policy.
        images: their numbers, the most instructive first.
        rest: how many more there are like these.
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
        return None if self.proposal.policy is None else self.result_of(self.proposal.policy, results)

    def result_of(self, policy: Policy, results: Sequence[Result]) -> Result:
        """The result of one of the policies, of results that end with one for each."""
        return results[len(results) - len(self.policies) + self.policies.index(policy)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Policies compared on one disk: all that the trade-off shows.

    Attributes:
        results: baselines, then our policies.
        chosen: the recommended policy's result; None: none is.
        lineup: our policies, and which of them is recommended.
        total: bytes of the disk, as it was last.
    """

    results: Sequence[Result]
    chosen: Result | None
    lineup: Lineup
    total: int


@dataclass(frozen=True, slots=True)
class Tried:
    """All that can be switched on the page, with its results.

    Attributes:
        whatif: the settings and the policy of each combination.
        results: one for each, in order.
        lines: free space under each, see `page_data.line`.
    """

    whatif: WhatIf
    results: tuple[Result, ...]
    lines: tuple[Integers, ...]

    @classmethod
    def of(
        cls,
        trace: Trace,
        whatif: WhatIf,
        pull_rate: float | None = None,
        progress: Progress | None = None,
    ) -> Tried:
        """Replay all of them. Raises LogError, see `replay`."""
        scale = Scale.of(int(trace.disk_total[-1]))
        results, lines = [], []
        for result in whatif.results(trace, pull_rate, progress):
            lines.append(free_line(trace, scale, result))
            results.append(replace(result, timeline=None, removed=()))
        return cls(whatif, tuple(results), tuple(lines))

    @property
    def rows(self) -> list[Sequence[Result]]:
        """The results, those together that differ in the threshold alone."""
        width = self.whatif.thresholds
        return [self.results[k : k + width] for k in range(0, len(self.results), width)]


def free_line(trace: Trace, scale: Scale, result: Result) -> Integers:
    """Free space under a policy, see `page_data.line`; the result must have a timeline."""
    if result.timeline is None:
        raise ValueError("the result has no timeline")
    return line(scale, result.timeline.seconds, result.timeline.free, trace.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Compared):
    """A trace, what it would have led to under each policy (with timelines), and what was recorded.

    Attributes:
        trace: the history.
        recorded: the host as it was.
        rival: the baselines, to compare with; None: nothing to compare with.
        notes: what the figures have to do without.
        common: clauses that all policies share, which their names leave out.
        lives: the stays of images under `chosen` (else the first of our policies) and `rival`, by name.
        views: the most instructive images.
        tried: what can be switched; None: nothing.
        week: the first week of the recommended policy; None: none is recommended, or too little happened.
        known_week: whether the log knows which images the host held when that week began.
    """

    trace: Trace
    recorded: Recorded
    rival: Result | None
    notes: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    lives: dict[str, Stays] = field(default_factory=dict)
    views: tuple[View, ...] = ()
    tried: Tried | None = None
    week: FirstWeek | None = None
    known_week: bool = False


def _filled(recorded: Recorded) -> list[str]:
    """What filled the disk, in a sentence; none where nobody knows."""
    parts = [f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in recorded.holds.items()]
    return [f"when it was last sampled, the disk held: {', '.join(parts)}"] if any(recorded.holds.values()) else []


def study(
    trace: Trace,
    results: Sequence[Result],
    lineup: Lineup,
    recorded: Recorded,
    notes: Sequence[str] = (),
    tried: Tried | None = None,
) -> Study:
    """Choose what is compared, and follow the images there.

    Args:
        trace: the history.
        results: results on it, with timelines: baselines, then one for each policy of the line-up.
        lineup: our policies.
        recorded: the host as it was.
        notes: what to state beside the trace's own assumptions.
        tried: what can be switched on the page.
    """
    names, common = short_names([result.name for result in results])
    if len(set(names)) == len(names):
        results = [replace(result, name=name) for result, name in zip(results, names, strict=True)]
    else:
        common = []
    chosen = lineup.chosen(results)
    rival = next((result for result in results if result.baseline and result.removals), None)
    # Where nothing is recommended, what is tried first is followed instead.
    own = chosen or next((result for result in results if not result.baseline), None)
    lives = {result.name: stays(trace, result.removed) for result in (own, rival) if result is not None}
    made = Study(
        results=results,
        chosen=chosen,
        lineup=lineup,
        total=int(trace.disk_total[-1]),
        trace=trace,
        recorded=recorded,
        rival=rival,
        notes=(*_filled(recorded), *notes_of(trace), *notes, *lineup.proposal.notes),
        common=tuple(common),
        lives=lives,
        views=tuple(find_views(trace, lives)),
        tried=tried,
    )
    week = _week(made) if lineup.proposal.holds else None
    return replace(made, week=week, known_week=recorded.presence is not None and not recorded.assumed)


def _week(made: Study) -> FirstWeek | None:
    """The first week of the recommended policy, from what the host held, or would have held under it."""
    policy, begin = made.lineup.proposal.policy, adoption_time(made.trace)
    if policy is None or made.chosen is None:
        return None
    recorded = None if made.recorded.assumed else made.recorded.presence
    held = held_at(recorded or made.lives[made.chosen.name], begin, made.trace.images)
    trigger = Trigger.EVENT if made.tried is None else made.tried.whatif.first_trigger
    return first_week(made.trace, policy, held, trigger, made.chosen.pull_rate)


def is_recorded(made: Study) -> bool:
    """Whether enough samples of the disk show what was free."""
    return len(made.recorded.seconds) >= _LEAST_SAMPLES


def gaps(made: Study) -> list[Row]:
    """The intervals in which nothing was observed."""
    begins, ends = (milliseconds(made.trace, made.trace.blind[:, k]) for k in (0, 1))
    return [{"begin": begin, "end": end} for begin, end in zip(begins, ends, strict=True)]


def milliseconds(trace: Trace, seconds: Floats) -> list[int]:
    """Times in the trace as browsers take them: UTC, milliseconds since 1970."""
    made: list[int] = np.round(trace.origin_ns / 1e6 + seconds * 1e3).astype(np.int64).tolist()
    return made


def find_views(trace: Trace, lives: dict[str, Stays]) -> list[View]:
    """Who is pulled again and again, and who is kept for nothing, under each followed policy."""
    found = []
    count = trace.images
    demands = np.bincount(trace.image[trace.demanded], minlength=count)
    for name, stay in lives.items():
        again = np.bincount(stay.image[stay.again], weights=stay.pulled[stay.again], minlength=count)
        idle = np.bincount(stay.image, weights=stay.idle, minlength=count) * trace.image_bytes
        for what, weight in ((f"{name}: pulled again and again", again), (f"{name}: kept without use", idle)):
            order = [int(i) for i in np.argsort(-weight, kind="stable") if weight[i] > 0]
            if order:
                shown = order[:_MOST_IMAGES]
                rows = [_row(trace, stay, i, int(demands[i])) for i in shown]
                found.append(View(what, name, shown, len(order) - len(shown), rows))
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


@dataclass(slots=True)
class Cost:
    """What one project, or one repository of images, cost; bytes, seconds; shares of images in proportion to use."""

    owner: str
    images: int = 0
    uses: float = 0.0
    seconds: float = 0.0
    first_bytes: float = 0.0
    repulled: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, images: int, uses: float, seconds: float, first: float, again: Mapping[str, float]) -> None:
        """Count more."""
        self.images += images
        self.uses += uses
        self.seconds += seconds
        self.first_bytes += first
        for name, amount in again.items():
            self.repulled[name] += amount


def costs(made: Study) -> tuple[str, list[Cost]]:
    """The costs by project, where the jobs name theirs, else by repository; the dearest first, the rest as one.

    Returns:
        (what the owners are, their costs).
    """
    projects = made.recorded.projects or {}
    trace = made.trace
    demands = trace.demanded
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
            used, lasting, came = (share * float(amounts[image]) for amounts in (uses, seconds, first))
            repulled = {name: share * float(amounts[image]) for name, amounts in again.items()}
            known.setdefault(owner, Cost(owner)).add(1, used, lasting, came, repulled)
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
        summed.add(cost.images, cost.uses, cost.seconds, cost.first_bytes, cost.repulled)
    return [*ordered[: _MOST_OWNERS - 1], summed]
