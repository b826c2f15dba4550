"""A recommendation in words, and as a report shows it beside other policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analyzer.search.each import left_out, plain_error
from analyzer.search.fleet import Findings, Sweep
from analyzer.search.grid import Candidate
from analyzer.search.recommend import Constraints, Recommendation, recommend
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import Trigger
from analyzer.simulation.replay import Progress
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.defaults import SPLIT
from collector.model.errors import HindsightError
from collector.model.units import format_bytes, format_count, format_duration
from pruner.policy.policy import Policy

_NOTABLE_S = 60.0


def reasons(found: Recommendation, constraints: Constraints, share: float = 1.0) -> list[str]:
    """In words, a sentence each, why this policy. The first begins with its name and a colon."""
    if found.too_short is not None:
        short = f"not enough yet: {format_duration(found.too_short)} of history"
        return [f"{short}; what comes back once a week only shows in a week or more: until then keep the defaults"]
    if found.chosen is None:
        return [_impossible(found, constraints, share)]
    first, rest = found.chosen.first, found.chosen.rest
    part = "all of the history" if rest is None else f"the first {share:.0%} of the history"
    keeping = f"of {found.tried:,} policies tried on {part}, {found.fitting:,} meet the constraints ({constraints})"
    said = [f"{found.chosen.candidate.name}: {keeping}; this one {_merit(first)}.", found.choice]
    if found.remedy:
        said.append(f"But {found.remedy}.")
    if found.overruled is not None and found.overruled.chosen is not None:
        before, why = found.overruled.chosen.candidate.name, "; ".join(found.overruled.broken)
        said.append(
            f"By the first {share:.0%} of the history alone it would have been {before}, which breaks the "
            f"constraints on the rest ({why}): so this one was chosen on all of it, with nothing left to judge it on."
        )
    if rest is not None:
        verdict = "meets them, too" if not found.broken else f"does not meet them ({'; '.join(found.broken)})"
        said.append(f"On the rest, on which it was not chosen, it {verdict}; there it {_merit(rest)}.")
    if found.runner_up is not None:
        said.append(f"The runner-up, {found.runner_up.candidate.name}, {_merit(found.runner_up.first)} on {part}.")
    said += [f"{result.name}: {_merit(result)} on {part}." for result, _ in found.baselines]
    return said


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recommendation as a report shows it beside other policies.

    Attributes:
        policy: the policy to set; if none meets the constraints, the one that comes closest; None: nothing
            could be tried.
        holds: whether it meets them, on the part on which it was not chosen, too.
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


Weighed = tuple[Findings, tuple[Findings, Findings | None] | HindsightError]


@dataclass(frozen=True, slots=True)
class Weighing:
    """Work on one host: a grid's results, and what is recommended by, from one reading of its history.

    To read a history takes many times as long as to replay it under twenty policies, and one replay of all of it serves
    both.

    Attributes:
        sweep: the grid.
        trial: what `propose` asks for first.
    """

    sweep: Sweep
    trial: Trial

    @classmethod
    def of(cls, sweep: Sweep) -> Weighing:
        """The work for a grid."""
        return cls(sweep, Trial(sweep.candidates, (), SPLIT, sweep.pull_rate, sweep.trigger))

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Weighed:
        """Both; an error where the history cannot be split. Raises LogError or UsageError, see `Sweep`."""
        results = self.sweep.run(trace, progress, timeline=True)
        found = self.sweep.findings(trace, results)
        try:
            return found, self.trial(trace, known=results)
        except HindsightError as error:
            return found, plain_error(error)


def trials(both: Sequence[Weighed]) -> tuple[Found, list[str]]:
    """What `Weighing` found for `propose`, with a note for each host on which it is impossible.

    Raises:
        HindsightError: it is on all of them.
    """
    failed = [(one, trial) for one, trial in both if isinstance(trial, HindsightError)]
    if failed and len(failed) == len(both):
        raise failed[0][1]
    notes = [left_out(one.host, error) for one, error in failed]
    return [trial for _, trial in both if not isinstance(trial, HindsightError)], notes


def propose(
    run: Callable[[Trial], tuple[Found, list[str]]],
    candidates: Sequence[Candidate],
    pull_rate: float | None = None,
    trigger: Trigger = Trigger.EVENT,
) -> Proposal:
    """What `analyzer recommend` recommends of these policies by default; never an error.

    A history that is too short to be split is not: the policy is chosen on all of it.

    Args:
        run: does the work on all hosts, and gives a note for each on which it is impossible.
        candidates: the policies to try.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        trigger: what starts a prune.
    """
    constraints = Constraints()
    notes: tuple[str, ...] = ()
    for share in (SPLIT, 1.0):
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
    none = f"none of {found.tried:,} policies meets the constraints ({constraints})"
    if found.closest is None:
        return none
    missed = "; ".join(constraints.broken(found.closest.first, share)) or "too little headroom"
    return "; ".join(filter(None, (none, f"{found.closest.candidate.name} comes closest: {missed}", found.remedy)))


def _price(result: Result) -> str:
    """What re-pulls cost, in words."""
    cost = f", at a cost of {result.repull_cost:,.2f}" if result.price_per_gib else ""
    return f"for which jobs wait {format_duration(result.repull_seconds)}{cost}"


def _merit(result: Result) -> str:
    count = format_count(result.disk_full, "failed pull")
    full = f", has {count} on a full disk" if result.disk_full else ", has no failed pull"
    lost = f", loses {format_count(result.losses, 'image')}" if result.losses else ""
    space = "leaves at least" if result.min_free >= 0 else "at worst lacks"
    least = format_bytes(abs(result.min_free)) + (" free" if result.min_free >= 0 else "")
    waits = f" ({_price(result)})" if result.repull_seconds >= _NOTABLE_S or result.repull_cost else ""
    return f"pulls {format_bytes(result.repulled_bytes)} again{waits}{full}{lost} and {space} {least}"
