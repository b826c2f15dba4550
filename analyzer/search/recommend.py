"""A policy to set: chosen on the first part of a history, judged on the rest.

Pure functions. The second part is what the same host goes through afterwards, with the policy at work
from the beginning: it is the whole replay less the first part, so that no host starts empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.baselines import baseline
from analyzer.kernel.runs import Wake
from analyzer.search.fleet import Findings, fleet_sum
from analyzer.search.grid import Candidate
from analyzer.search.pareto import badness, possible
from analyzer.search.room import headroom, on_share, used_in_a_day
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, Trigger
from analyzer.simulation.figures import less_part, over_parts
from analyzer.simulation.replay import Progress, check_trace, replay_many
from analyzer.simulation.result import DEFAULT_PULL_RATE, Result
from analyzer.trace.trace import Trace
from collector.model.errors import HindsightError, UsageError
from collector.model.units import format_bytes, format_duration
from collector.queries.status import LEAST_HISTORY_S
from pruner.policy.local_images import SUPERSEDED
from pruner.policy.policy import BYTES, Policy

DEFAULT_SHARE = 0.7
_TOLERANCE = 0.01
# Where orders do alike, they are tried with this share of the room, and another than the first must pull so much less.
_HARDER = 0.7
_MATERIALLY = 0.9
_QUARTERS = 4
_LARGER = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
_CHEAP = " those that re-pull little more than the least"


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a policy must keep to.

    Attributes:
        max_disk_full: disk-full incidents at most.
        max_repull: bytes pulled again at most, over the whole history; None: any.
        min_free: bytes that are always free at least; None: any.
        max_losses: uses of removed images that no registry can give back, at most.
    """

    max_disk_full: int = 0
    max_repull: int | None = None
    min_free: int | None = None
    max_losses: int = 0

    def broken(self, result: Result, share: float = 1.0) -> list[str]:
        """In words what a result breaks; `share` is the part of the history that it is of."""
        found = []
        if result.disk_full > self.max_disk_full:
            found.append(f"{result.disk_full:,} disk-full incidents, more than {self.max_disk_full:,}")
        if self.max_repull is not None and result.repulled_bytes > share * self.max_repull:
            allowed = format_bytes(share * self.max_repull)
            found.append(f"{format_bytes(result.repulled_bytes)} pulled again, more than {allowed}")
        if self.min_free is not None and result.min_free < self.min_free:
            found.append(f"down to {format_bytes(result.min_free)} free, less than {format_bytes(self.min_free)}")
        if result.losses > self.max_losses:
            found.append(f"{result.losses:,} images lost, more than {self.max_losses:,}")
        return found

    def excess(self, result: Result, share: float = 1.0) -> tuple[float, ...]:
        """How far a result is from keeping to all, most important first; zeros if it does."""
        repull = 0.0 if self.max_repull is None else max(0.0, result.repulled_bytes - share * self.max_repull)
        free = 0.0 if self.min_free is None else max(0.0, float(self.min_free - result.min_free))
        return (
            float(max(0, result.losses - self.max_losses)),
            float(max(0, result.disk_full - self.max_disk_full)),
            free,
            repull,
        )

    def __str__(self) -> str:
        parts = [
            f"at most {self.max_disk_full:,} disk-full incidents" if self.max_disk_full else "no disk-full incident"
        ]
        if self.max_repull is not None:
            parts.append(f"at most {format_bytes(self.max_repull)} pulled again")
        if self.min_free is not None:
            parts.append(f"at least {format_bytes(self.min_free)} always free")
        parts.append(f"at most {self.max_losses:,} images lost" if self.max_losses else "no image lost")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Trial:
    """Work on one host: every candidate and baseline on the first part of its history, and on the rest.

    Attributes:
        candidates: the policies of the grid.
        baselines: what others do, by name.
        share: the first part's share of the time, over 0 and up to 1.
        pull_rate: bytes per second at which pulls are taken to run.
        trigger: what starts a prune of ours.
    """

    candidates: tuple[Candidate, ...]
    baselines: tuple[str, ...] = ()
    share: float = 1.0
    pull_rate: float = DEFAULT_PULL_RATE
    trigger: Trigger = Trigger.EVENT

    def __call__(self, trace: Trace, progress: Progress | None = None) -> tuple[Findings, Findings | None]:
        """Results on the first part and on the rest, baselines first; None where there is no rest.

        Raises:
            LogError: a part is too poor for a sound figure.
            UsageError: no candidate is possible on this disk.
        """
        kept = _sensible(trace, possible(trace, self.candidates))
        if self.share >= 1.0:
            return self._found(trace, self._run(trace, kept, progress, self.baselines), kept), None
        cut = split_time(trace, self.share)
        begin = trace.between(0.0, cut)
        for part in (begin, trace.between(cut, trace.end)):
            check_trace(part, max(item.policy.interval for item in kept))
        first = self._run(begin, kept, None, self.baselines)
        whole = self._run(trace, kept, progress, self.baselines, timeline=True)
        known = {result.name: result for result in first}
        rest = [later(result, known[result.name], cut) for result in whole if result.name in known]
        return self._found(begin, first, kept), Findings.of(trace, rest)

    def _found(self, trace: Trace, results: Sequence[Result], kept: Sequence[Candidate]) -> Findings:
        """The findings on what policies are chosen on, with what it takes to choose."""
        fits = any(not result.disk_full for result in results if not result.baseline)
        harder: dict[str, int] = {}
        if len({item.policy.order for item in kept}) > 1:
            alike = [item for item in kept if not any(item.departures[:2])]
            again = self._run(on_share(trace, _HARDER), alike)
            harder = {result.name: result.repulled_bytes for result in again}
        return replace(
            Findings.of(trace, results),
            headroom=headroom(trace),
            harder=harder,
            used_in_a_day=0 if fits else used_in_a_day(trace),
            room=int((trace.disk_total - trace.disk_other).min()),
            enough=None if fits else self._enough(trace, kept),
        )

    def _enough(self, trace: Trace, kept: Sequence[Candidate]) -> int | None:
        """The size of a disk, bytes, on which one of these never finds it full; None: none of those tried is."""
        for times in _LARGER:
            larger = on_share(trace, times)
            results = self._run(larger, kept)
            if any(not result.disk_full for result in results):
                return int(larger.disk_total.max())
        return None

    def _run(
        self,
        trace: Trace,
        kept: Sequence[Candidate],
        progress: Progress | None = None,
        baselines: Sequence[str] = (),
        *,
        timeline: bool = False,
    ) -> list[Result]:
        others = [baseline(name) for name in baselines]
        # Without a local image it makes no difference what becomes of them.
        twins = {} if trace.local.any() else _twins(kept)
        kept = [item for item in kept if item.name not in twins]
        runs: list[Cleaner] = [cleaner for cleaner in others if cleaner.interval <= trace.end]
        wake = Wake(pull_rate=self.pull_rate)
        runs += [PolicyCleaner(item.policy, trace, item.name, item.trigger or self.trigger, wake) for item in kept]
        results = replay_many(
            trace, runs, pull_rate=self.pull_rate, progress=progress, timeline=timeline, removals=False
        )
        by_name = {result.name: result for result in results}
        results += [replace(by_name[name], name=twin) for twin, name in twins.items()]
        return [replace(result, removed=()) for result in results]


def _sensible(trace: Trace, items: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those that leave half of the disk to images, if there are any."""
    half = 0.5 * float(trace.disk_total.min())
    kept = [item for item in items if item.policy.threshold.unit != BYTES or item.policy.threshold.amount <= half]
    return kept or items


def _twins(items: Sequence[Candidate]) -> dict[str, str]:
    """Names of policies that differ from another in nothing but what becomes of local images, and that one's."""
    names = {(item.policy, item.trigger): item.name for item in items}
    found = {}
    for item in items:
        known = names.get((replace(item.policy, local_images=SUPERSEDED), item.trigger))
        if item.policy.local_images != SUPERSEDED and known is not None:
            found[item.name] = known
    return found


def split_time(trace: Trace, share: float) -> float:
    """The time at which a share of the history is over, where nothing happens. Raises UsageError."""
    if not 0.0 < share < 1.0:
        raise UsageError(f"--split: {share:g} leaves nothing on one side: give a share between 0 and 1, such as 0.7")
    cut = trace.end * share
    while np.any(trace.time == cut):
        cut = float(np.nextafter(cut, np.inf))
    return cut


def later(whole: Result, first: Result, cut: float) -> Result:
    """What happened after `cut`, of a whole result with its timeline and that of the part up to `cut`.

    A replay up to a time is the beginning of the longer one, so that all that is counted can be
    subtracted.
    """
    if whole.timeline is None:
        raise ValueError("the whole result has no timeline")
    seconds, free = whole.timeline.seconds, whole.timeline.free
    at = int(np.searchsorted(seconds, cut, side="right"))
    least = int(free[max(at - 1, 0) :].min())
    return replace(whole, **less_part(whole, first), min_free=least, timeline=None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate's results on both parts, summed over all hosts."""

    candidate: Candidate
    first: Result
    rest: Result | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set, and what it was weighed against.

    Attributes:
        chosen: the best on the first part of all that keep to the constraints there; None if none does.
        runner_up: the next best with another outcome.
        closest: what comes closest to the constraints, if none keeps to them.
        baselines: what others do: results on the first part and on the rest.
        tried: how many policies were tried.
        fitting: how many of them keep to the constraints on the first part.
        broken: what the chosen one breaks on the rest, in words; empty if nothing, or if there is no rest.
        choice: in words, by what it was chosen of those that fit.
        overruled: what would have been recommended by the first part alone, and fails on the rest: then the
            policy was chosen on all of the history.
        too_short: seconds of history, if they are too few to recommend anything; else None.
        remedy: in words, what would help if no policy fits; empty: nothing is known to.
    """

    chosen: Outcome | None
    runner_up: Outcome | None
    closest: Outcome | None
    baselines: tuple[tuple[Result, Result | None], ...]
    tried: int
    fitting: int
    broken: tuple[str, ...] = ()
    choice: str = ""
    overruled: Recommendation | None = None
    too_short: float | None = None
    remedy: str = ""


def recommend(
    candidates: Sequence[Candidate],
    found: Sequence[tuple[Findings, Findings | None]],
    constraints: Constraints,
    share: float = 1.0,
    spare: int = 0,
    least_history: float = LEAST_HISTORY_S,
) -> Recommendation:
    """Choose on the first part, then judge on the rest.

    Of the policies that meet the constraints those count that lose the fewest images and re-pull little
    more than the least (within 1 % of the bytes of all first pulls, or within what a worse future may take); of
    these, those that always left free what a worse future may take (`headroom`). The timer alone counts only where
    nothing fits that the collector wakes. Of orders that do so alike, the first one is taken, unless another
    pulls materially less with less room. Then what departs least from the defaults, and keeps the most.
    Where none leaves so much, the one that leaves the most. If that fails on the rest,
    the first part was too quiet to choose on, and the same is done on all of the history.

    Args:
        candidates: the policies that were tried.
        found: what `Trial` found on each host.
        constraints: what must be kept to, by all hosts together; `min_free` by each.
        share: the first part's share of the time.
        spare: bytes that must be free on the first part beyond what the constraints ask for, in place
            of what `headroom` says; 0: that, where it can be had.
        least_history: seconds of the longest history without which nothing is recommended.
    """
    outcomes, others = _summed(candidates, found)
    if not outcomes:
        raise UsageError("no policy of the grid is possible on all hosts")
    lasting = max((rest or first).facts.end - first.facts.begin for first, rest in found)
    if lasting < least_history:
        return Recommendation(None, None, None, others, len(outcomes), 0, too_short=lasting)
    firsts = [first for first, _ in found]
    room = _Room.of(firsts, firsts, spare)
    made = _choose(outcomes, others, room, constraints, share)
    if made.chosen is None:
        return replace(made, remedy=_remedy(firsts))
    if not made.broken:
        return made
    parts = [part for pair in found for part in pair if part is not None]
    whole = [Outcome(item.candidate, _together(item.first, item.rest), None) for item in outcomes]
    ours = [(_together(first, rest), None) for first, rest in others]
    again = _choose(whole, ours, _Room.of(parts, firsts, spare), constraints, 1.0)
    return made if again.chosen is None else replace(again, overruled=made)


def _choose(
    outcomes: Sequence[Outcome],
    others: Sequence[tuple[Result, Result | None]],
    room: _Room,
    constraints: Constraints,
    share: float,
) -> Recommendation:
    """The recommendation by the first results of all outcomes, judged by the rest."""
    least = room.asked + max(constraints.min_free or 0, 0)
    strict = replace(constraints, min_free=least) if room.asked else constraints
    keeping = [item for item in outcomes if not strict.broken(item.first, share)]
    if not keeping:
        closest = min(outcomes, key=lambda item: (strict.excess(item.first, share), badness(item.first)))
        return Recommendation(None, None, closest, tuple(others), len(outcomes), 0)
    ranked = _ranked(keeping, room)
    best = ranked[0]
    free = "" if room.asked else f" and always leave {room.wanted} free"
    choice = f"Of{_CHEAP}{free} it departs least from the defaults, then keeps the most images."
    if room.lacking(best):
        choice = f"None of{_CHEAP} always leaves {room.wanted} free; it comes closest."
    second = next((item for item in ranked if badness(item.first) != badness(best.first)), None)
    broken = () if best.rest is None else tuple(constraints.broken(best.rest, 1.0 - share))
    return Recommendation(best, second, None, tuple(others), len(outcomes), len(keeping), broken, choice)


def _together(first: Result, rest: Result | None) -> Result:
    """The result on both parts."""
    if rest is None:
        return first
    return replace(first, **over_parts(first, rest))


@dataclass(frozen=True, slots=True)
class _Room:
    """How much each policy always left free, beyond what should be.

    Attributes:
        left: bytes by policy, of the host with the least.
        wanted: what should be free, in words.
        asked: what the user asks for instead, bytes; 0: nothing.
        harder: re-pulled bytes by policy with less room, all hosts together.
        most: what should be free on the host where most should, bytes.
    """

    left: Mapping[str, float]
    wanted: str
    asked: int
    harder: Mapping[str, int]
    most: int

    @classmethod
    def of(cls, parts: Sequence[Findings], firsts: Sequence[Findings], asked: int) -> _Room:
        """The room left on these parts of the history, by what the first parts say that is wanted."""
        wanted = {first.host: first.headroom for first in firsts}
        left: dict[str, float] = {}
        for part in parts:
            for result in part.results:
                left[result.name] = min(left.get(result.name, math.inf), result.min_free - wanted[part.host])
        harder = {
            name: sum(first.harder[name] for first in firsts)
            for name in firsts[0].harder
            if all(name in first.harder for first in firsts)
        }
        low, high = min(wanted.values()), max(wanted.values())
        words = format_bytes(low) if low == high else f"{format_bytes(low)} to {format_bytes(high)}"
        return cls(left, words, asked, harder, high)

    def lacking(self, item: Outcome) -> float:
        """Bytes by which a policy left less than wanted."""
        return 0.0 if self.asked else max(0.0, -self.left[item.candidate.name])

    def lack(self, item: Outcome) -> int:
        """The same in quarters of what is wanted, rounded up: less does not justify a change."""
        return math.ceil(_QUARTERS * self.lacking(item) / self.most) if self.most else 0


def _ranked(keeping: Sequence[Outcome], room: _Room) -> list[Outcome]:
    """The best first, see `recommend`."""
    fewest = min(item.first.losses for item in keeping)
    least = min(item.first.repulled_bytes for item in keeping if item.first.losses == fewest)
    allowance = max(_TOLERANCE * max(item.first.compulsory_bytes for item in keeping), 0 if room.asked else room.most)

    def tier(item: Outcome) -> tuple[float, ...]:
        first = item.first
        dear = max(0.0, first.repulled_bytes - least - allowance)
        return (first.losses, item.candidate.trigger is Trigger.TICK, dear, first.disk_full, room.lack(item))

    def rank(item: Outcome) -> tuple[float, ...]:
        first = item.first
        kept = (-first.mean_held_bytes, first.repulled_bytes, -room.left[item.candidate.name])
        return (*tier(item), *item.candidate.departures, *kept)

    ranked = sorted(keeping, key=rank)
    alike = [item for item in ranked if tier(item) == tier(ranked[0])]
    best = _hardiest(alike, keeping[0].candidate.policy.order, room, allowance)
    return [best, *(item for item in ranked if item is not best)]


def _hardiest(alike: Sequence[Outcome], first: str, room: _Room, allowance: float) -> Outcome:
    """The best of those that do alike, under the first order unless another pulls materially less with less room."""
    best = next((item for item in alike if item.candidate.policy.order == first), alike[0])
    same = replace(best.candidate, name="")
    for item in alike:
        order = item.candidate.policy.order
        if replace(item.candidate, name="") != replace(same, policy=replace(same.policy, order=order)):
            continue
        mine, others = (room.harder.get(one.candidate.name) for one in (best, item))
        if mine is not None and others is not None and others < min(_MATERIALLY * mine, mine - allowance):
            best = item
    return best


def _remedy(firsts: Sequence[Findings]) -> str:
    """What would help where no policy fits, in words."""
    said = []
    for first in firsts:
        if first.used_in_a_day > first.room:
            said.append(
                f"on host {first.host} a usual day's images hold {format_bytes(first.used_in_a_day)}, more than the "
                f"{format_bytes(first.room)} that the disk has for images: the working set does not fit"
            )
        if first.enough is not None:
            said.append(f"a disk of {format_bytes(first.enough)} would do on host {first.host}")
    return "; ".join(said)


def _summed(
    candidates: Sequence[Candidate], found: Sequence[tuple[Findings, Findings | None]]
) -> tuple[list[Outcome], tuple[tuple[Result, Result | None], ...]]:
    """Candidates and baselines that all hosts have results of, summed over the hosts."""
    firsts = [{result.name: result for result in first.results} for first, _ in found]
    rests = [{result.name: result for result in rest.results} for _, rest in found if rest is not None]

    def both(name: str) -> tuple[Result, Result | None]:
        return fleet_sum([known[name] for known in firsts]), fleet_sum(
            [known[name] for known in rests]
        ) if rests else None

    common = [name for name in firsts[0] if all(name in known for known in (*firsts, *rests))]
    outcomes = [Outcome(item, *both(item.name)) for item in candidates if item.name in common]
    return outcomes, tuple(both(name) for name in common if firsts[0][name].baseline)


def reasons(found: Recommendation, constraints: Constraints, share: float = 1.0) -> list[str]:
    """In words, a sentence each, why this policy. The first begins with its name and a colon."""
    if found.too_short is not None:
        short = f"not enough yet: {format_duration(found.too_short)} of history"
        return [
            f"{short}, and what comes back each week shows in none of less than a week; the defaults hold until then"
        ]
    if found.chosen is None:
        return [_impossible(found, constraints, share)]
    first, rest = found.chosen.first, found.chosen.rest
    part = "all of the history" if rest is None else f"the first {share:.0%} of the history"
    keeping = f"of {found.tried:,} policies tried on {part}, {found.fitting:,} meet the constraints ({constraints})"
    said = [f"{found.chosen.candidate.name}: {keeping}; this one {_merit(first)}.", found.choice]
    if found.overruled is not None and found.overruled.chosen is not None:
        before, why = found.overruled.chosen.candidate.name, "; ".join(found.overruled.broken)
        said.append(
            f"By the first {share:.0%} of the history alone it would have been {before}, which does not keep to that "
            f"on the rest ({why}): so all of it was used, and none is left to judge by."
        )
    if rest is not None:
        verdict = "keeps to that" if not found.broken else f"does not keep to that ({'; '.join(found.broken)})"
        said.append(f"On the rest, on which it was not chosen, it {verdict}; there it {_merit(rest)}.")
    if found.runner_up is not None:
        said.append(f"The runner-up, {found.runner_up.candidate.name}, {_merit(found.runner_up.first)} on {part}.")
    said += [f"{result.name}: {_merit(result)} on {part}." for result, _ in found.baselines]
    return said


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recommendation as a report shows it beside other policies.

    Attributes:
        policy: the policy to set; if none keeps to the constraints, the one that comes closest; None: nothing
            could be tried.
        holds: whether it keeps to them, on the part on which it was not chosen, too.
        said: in words, a sentence each, as `analyzer recommend` says it.
        notes: what it has to do without.
        name: what the policy is called among the candidates.
        choice: in words, by what it was chosen of those that fit.
        too_short: whether the history is too short to recommend anything.
    """

    policy: Policy | None = None
    holds: bool = False
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    choice: str = ""
    too_short: bool = False

    @property
    def word(self) -> str:
        """What the policy is beside others."""
        return "recommended" if self.holds else "comes closest"


Found = list[tuple[Findings, Findings | None]]


def propose(
    run: Callable[[Trial], tuple[Found, list[str]]],
    candidates: Sequence[Candidate],
    pull_rate: float = DEFAULT_PULL_RATE,
    trigger: Trigger = Trigger.EVENT,
) -> Proposal:
    """What `analyzer recommend` recommends of these policies by default; never an error.

    A history that is too short to be split is not: the policy is chosen on all of it.

    Args:
        run: does the work on all hosts, and gives a note for each on which it is impossible.
        candidates: the policies to try.
        pull_rate: bytes per second at which pulls are taken to run.
        trigger: what starts a prune.
    """
    constraints = Constraints()
    notes: tuple[str, ...] = ()
    for share in (DEFAULT_SHARE, 1.0):
        try:
            found, without = run(Trial(tuple(candidates), (), share, pull_rate, trigger))
            best = recommend(candidates, found, constraints, share)
        except HindsightError as error:
            notes = (f"the recommendation was not judged on a part of the history of its own: {error}",)
            continue
        notes += tuple(f"for the recommendation {note}" for note in without)
        outcome = best.chosen or best.closest
        policy, name = (None, "") if outcome is None else (outcome.candidate.policy, outcome.candidate.name)
        holds = best.chosen is not None and not best.broken
        said = tuple(reasons(best, constraints, share))
        return Proposal(policy, holds, said, notes, name, best.choice, too_short=best.too_short is not None)
    return Proposal(notes=notes)


def _impossible(found: Recommendation, constraints: Constraints, share: float) -> str:
    if found.closest is None:
        return f"none of {found.tried:,} policies meets the constraints ({constraints})"
    missed = "; ".join(constraints.broken(found.closest.first, share)) or "too little headroom"
    name = found.closest.candidate.name
    none = f"none of {found.tried:,} policies meets the constraints ({constraints})"
    return "; ".join(filter(None, (none, f"{name} comes closest: {missed}", found.remedy)))


def _merit(result: Result) -> str:
    full = f", finds the disk full {result.disk_full:,} times" if result.disk_full else ", never finds the disk full"
    lost = f", loses {result.losses:,} images" if result.losses else ""
    space = "leaves at least" if result.min_free >= 0 else "is once short of"
    least = format_bytes(abs(result.min_free)) + (" free" if result.min_free >= 0 else "")
    return f"pulls {format_bytes(result.repulled_bytes)} again{full}{lost} and {space} {least}"
