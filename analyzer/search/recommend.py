"""A policy to set: chosen on the first part of a history, judged on the rest.

Pure functions. The second part is what the same host goes through afterwards, with the policy at work
from the beginning: it is the whole replay less the first part, so that no host starts empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.baselines import baseline
from analyzer.kernel.runs import Wake
from analyzer.search.fleet import Findings, fleet_sum
from analyzer.search.grid import Candidate
from analyzer.search.pareto import badness, possible
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, Trigger
from analyzer.simulation.figures import less_part, over_parts
from analyzer.simulation.replay import Progress, check_trace, replay_many
from analyzer.simulation.result import DEFAULT_PULL_RATE, Result
from analyzer.trace.trace import Trace
from collector.model.errors import HindsightError, UsageError
from collector.model.units import format_bytes, format_duration
from pruner.policy.policy import Policy

DEFAULT_SHARE = 0.7
_MARGIN = 0.1
_TOLERANCE = 0.01
_WEEK_S = 6.5 * 86400.0
_CHEAP = " those that hardly pull more again than need be"


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
        kept = possible(trace, self.candidates)
        if self.share >= 1.0:
            return Findings.of(trace, self._run(trace, kept, progress, timeline=False)), None
        cut = split_time(trace, self.share)
        begin = trace.between(0.0, cut)
        for part in (begin, trace.between(cut, trace.end)):
            check_trace(part, max(item.policy.interval for item in kept))
        first = self._run(begin, kept, None, timeline=False)
        whole = self._run(trace, kept, progress, timeline=True)
        known = {result.name: result for result in first}
        rest = [later(result, known[result.name], cut) for result in whole if result.name in known]
        return Findings.of(begin, first), Findings.of(trace, rest)

    def _run(
        self, trace: Trace, kept: Sequence[Candidate], progress: Progress | None, *, timeline: bool
    ) -> list[Result]:
        others = [baseline(name) for name in self.baselines]
        runs: list[Cleaner] = [cleaner for cleaner in others if cleaner.interval <= trace.end]
        wake = Wake(pull_rate=self.pull_rate)
        runs += [PolicyCleaner(item.policy, trace, item.name, self.trigger, wake) for item in kept]
        results = replay_many(
            trace, runs, pull_rate=self.pull_rate, progress=progress, timeline=timeline, removals=False
        )
        return [replace(result, removed=()) for result in results]


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


def recommend(
    candidates: Sequence[Candidate],
    found: Sequence[tuple[Findings, Findings | None]],
    constraints: Constraints,
    share: float = 1.0,
    headroom: int = 0,
) -> Recommendation:
    """Choose on the first part, then judge on the rest.

    Of the policies that keep to what is asked those count that lose the fewest images and hardly pull
    more again than need be (within 1 % of the bytes of all first pulls); of these, those under which a
    tenth of each disk was always free, for the future may be worse than the past; and of these the one
    that keeps the most. Where none leaves so much, the one that leaves the most. If that fails on the rest,
    the first part was too quiet to choose on, and the same is done on all of the history.

    Args:
        candidates: the policies that were tried.
        found: what `Trial` found on each host.
        constraints: what must be kept to, by all hosts together; `min_free` by each.
        share: the first part's share of the time.
        headroom: bytes that must be free on the first part beyond what the constraints ask for, in place
            of a tenth of the disk; 0: that tenth, where it can be had.
    """
    outcomes, others = _summed(candidates, found)
    if not outcomes:
        raise UsageError("no policy of the grid is possible on all hosts")
    made = _choose(outcomes, others, _spare([first for first, _ in found]), constraints, share, headroom)
    if made.chosen is None or not made.broken:
        return made
    parts = [part for pair in found for part in pair if part is not None]
    whole = [Outcome(item.candidate, _together(item.first, item.rest), None) for item in outcomes]
    ours = [(_together(first, rest), None) for first, rest in others]
    again = _choose(whole, ours, _spare(parts), constraints, 1.0, headroom)
    return made if again.chosen is None else replace(again, overruled=made)


def _choose(
    outcomes: Sequence[Outcome],
    others: Sequence[tuple[Result, Result | None]],
    spare: Mapping[str, float],
    constraints: Constraints,
    share: float,
    headroom: int,
) -> Recommendation:
    """The recommendation by the first results of all outcomes, judged by the rest."""
    strict = replace(constraints, min_free=headroom + max(constraints.min_free or 0, 0)) if headroom else constraints
    keeping = [item for item in outcomes if not strict.broken(item.first, share)]
    if not keeping:
        closest = min(outcomes, key=lambda item: (strict.excess(item.first, share), badness(item.first)))
        return Recommendation(None, None, closest, tuple(others), len(outcomes), 0)
    margin = 0.0 if headroom else _MARGIN
    ranked = _ranked(keeping, spare, margin)
    best = ranked[0]
    choice = f"Of{_CHEAP}{' and always leave a tenth of the disk free' if margin else ''} it keeps the most images."
    if spare[best.candidate.name] < margin:
        choice = f"None of{_CHEAP} always leaves a tenth of the disk free; it leaves the most."
    second = next((item for item in ranked if badness(item.first) != badness(best.first)), None)
    broken = () if best.rest is None else tuple(constraints.broken(best.rest, 1.0 - share))
    return Recommendation(best, second, None, tuple(others), len(outcomes), len(keeping), broken, choice)


def _together(first: Result, rest: Result | None) -> Result:
    """The result on both parts."""
    if rest is None:
        return first
    return replace(first, **over_parts(first, rest))


def _ranked(keeping: Sequence[Outcome], spare: Mapping[str, float], margin: float) -> list[Outcome]:
    """The best first, see `recommend`."""
    fewest = min(item.first.losses for item in keeping)
    least = min(item.first.repulled_bytes for item in keeping if item.first.losses == fewest)
    most = least + _TOLERANCE * max(item.first.compulsory_bytes for item in keeping)

    def rank(item: Outcome) -> tuple[float, ...]:
        first, free = item.first, spare[item.candidate.name]
        dear, tight = max(0.0, first.repulled_bytes - most), max(0.0, margin - free)
        return (first.losses, dear, first.disk_full, tight, -first.mean_held_bytes, first.repulled_bytes, -free)

    return sorted(keeping, key=rank)


def _spare(found: Sequence[Findings]) -> dict[str, float]:
    """The least free space of each policy, as a share of the disk; the least of any host."""
    least: dict[str, float] = {}
    for part in found:
        total = float(part.facts.disk_total_bytes)
        for result in part.results:
            least[result.name] = min(least.get(result.name, 1.0), result.min_free / total)
    return least


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
    if found.chosen is None:
        return [_impossible(found, constraints, share)]
    first, rest = found.chosen.first, found.chosen.rest
    part = "all of the history" if rest is None else f"the first {share:.0%} of the history"
    keeping = f"of {found.tried:,} policies tried on {part}, {found.fitting:,} keep to what is asked ({constraints})"
    said = [f"{found.chosen.candidate.name}: {keeping}; this one {_merit(first)}.", found.choice]
    if found.overruled is not None and found.overruled.chosen is not None:
        before, why = found.overruled.chosen.candidate.name, "; ".join(found.overruled.broken)
        said.append(
            f"By the first {share:.0%} of the history alone it would have been {before}, which does not keep to that "
            f"on the rest ({why}): so all of it was used, and none is left to judge by."
        )
    lasting = first.seconds + (0.0 if rest is None else rest.seconds)
    if lasting < _WEEK_S:
        said.append(
            f"All of this stands on {format_duration(lasting)} of history: what comes back each day or each week "
            "shows in a longer one, so ask again then."
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
    """

    policy: Policy | None = None
    holds: bool = False
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    choice: str = ""

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
    """What `analyzer recommend` recommends of these policies unless told otherwise; never an error.

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
        return Proposal(policy, holds, tuple(reasons(best, constraints, share)), notes, name, best.choice)
    return Proposal(notes=notes)


def _impossible(found: Recommendation, constraints: Constraints, share: float) -> str:
    if found.closest is None:
        return f"none of {found.tried:,} policies keeps to what is asked ({constraints})"
    missed = "; ".join(constraints.broken(found.closest.first, share)) or "too little headroom"
    name = found.closest.candidate.name
    none = f"none of {found.tried:,} policies keeps to what is asked ({constraints})"
    return f"{none}; {name} comes closest: {missed}"


def _merit(result: Result) -> str:
    full = f", finds the disk full {result.disk_full:,} times" if result.disk_full else ", never finds the disk full"
    lost = f", loses {result.losses:,} images" if result.losses else ""
    space = "leaves at least" if result.min_free >= 0 else "is once short of"
    least = format_bytes(abs(result.min_free)) + (" free" if result.min_free >= 0 else "")
    return f"pulls {format_bytes(result.repulled_bytes)} again{full}{lost} and {space} {least}"
