"""Several hosts at once: work on each of them, and the sum of it.

The work on one host is a pure function of its history and can be pickled, so that it can be done in
another process or on another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from analyzer.baselines import baseline
from analyzer.kernel.runs import Wake
from analyzer.search.grid import Candidate
from analyzer.search.pareto import possible, sweep
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, Trigger
from analyzer.simulation.figures import over_hosts
from analyzer.simulation.replay import Progress, replay_many
from analyzer.simulation.result import Result, priced
from analyzer.trace.daily import DailyFree, daily_free
from analyzer.trace.describe import HistoryFacts, disk_range
from analyzer.trace.trace import Trace
from collector.model.errors import UsageError
from collector.model.units import format_duration
from pruner.policy.policy import BYTES, Policy
from pruner.state.rates import read_rates

FLEET = "(all hosts)"


@dataclass(frozen=True, slots=True)
class Simulation:
    """Work on one host: what each of some policies and baselines would have done.

    Attributes:
        policies: ours.
        baselines: results of each, by name.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        trigger: what starts a prune of ours.
        price_per_gib: what pulling 1 GiB costs; 0: not given.
        drawn: the policy whose free space is wanted day by day; None: none.
    """

    policies: tuple[Policy, ...]
    baselines: tuple[str, ...] = ()
    pull_rate: float | None = None
    trigger: Trigger = Trigger.EVENT
    price_per_gib: float = 0.0
    drawn: Policy | None = None

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Findings:
        """Baselines first, then policies. Raises LogError or UsageError, see `replay`."""
        results, notes = self.run(trace, progress)
        found = Findings.of(trace, [replace(result, removed=()) for result in results], notes)
        if self.drawn is None:
            return found
        only = replace(self, policies=(self.drawn,), baselines=())
        timeline = only.run(trace, timeline=True)[0][0].timeline
        return found if timeline is None else replace(found, free=daily_free(trace, timeline.seconds, timeline.free))

    def run(
        self, trace: Trace, progress: Progress | None = None, *, timeline: bool = False
    ) -> tuple[list[Result], list[str]]:
        """The results, with timelines and removals if wanted; and what to say of baselines that are left out."""
        others = [baseline(name) for name in self.baselines]
        notes = [
            f"{cleaner.name} is left out: it runs every {format_duration(cleaner.interval)}, longer than the log spans"
            for cleaner in others
            if cleaner.interval > trace.end
        ]
        notes += _of_policies(trace, self.policies)
        if self.trigger is Trigger.TICK:
            notes.append("prunes begin at ticks of the timer only (--trigger tick), as without the collector")
        runs: list[Cleaner] = [cleaner for cleaner in others if cleaner.interval <= trace.end]
        wake = Wake(pull_rate=self.pull_rate or trace.pull_rate)
        runs += [PolicyCleaner(policy, trace, trigger=self.trigger, wake=wake) for policy in self.policies]
        results = replay_many(
            trace, runs, pull_rate=self.pull_rate, progress=progress, timeline=timeline, removals=timeline
        )
        return priced(results, self.price_per_gib), notes

    def with_policies(self, policies: tuple[Policy, ...]) -> Simulation:
        """The same of other policies."""
        return replace(self, policies=policies)


def unread_rates(policies: Iterable[Policy]) -> list[str]:
    """Notes on rates files of a fleet that policies name and that cannot be read here."""
    notes = []
    for rates in sorted({policy.rates for policy in policies if policy.rates}):
        try:
            read_rates(Path(rates))
        except UsageError as error:
            notes.append(f"{error}; only each host's own past counts")
    return notes


def _of_policies(trace: Trace, policies: Sequence[Policy]) -> list[str]:
    """Notes on policies that a replay treats differently from the pruner, or that ask too much."""
    notes = []
    if any(policy.per_job for policy in policies):
        notes.append("an amount per job is taken for all job slots; the pruner takes it for those that are free then")
    notes += unread_rates(policies)
    total = int(trace.disk_total.max())
    beyond = {
        str(policy.threshold): None
        for policy in policies
        if policy.threshold.unit == BYTES and policy.threshold.amount > total
    }
    return [*notes, *(f"{threshold} is more than the disk holds: under it pruning never ends" for threshold in beyond)]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Work on one host: what each policy of a grid would have done, as far as it is possible there.

    Attributes:
        candidates: the policies of the grid.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        trigger: what starts a prune.
        price_per_gib: what pulling 1 GiB costs; 0: not given.
    """

    candidates: tuple[Candidate, ...]
    pull_rate: float | None = None
    trigger: Trigger = Trigger.EVENT
    price_per_gib: float = 0.0

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Findings:
        """One result for each policy that is possible. Raises LogError or UsageError, see `sweep`."""
        return self.findings(trace, self.run(trace, progress))

    def findings(self, trace: Trace, results: Sequence[Result]) -> Findings:
        """Results as findings."""
        found = [replace(result, timeline=None) for result in results]
        return Findings.of(trace, priced(found, self.price_per_gib))

    def run(self, trace: Trace, progress: Progress | None = None, *, timeline: bool = False) -> list[Result]:
        """The results without prices, with timelines if wanted. Raises LogError or UsageError, see `sweep`."""
        kept = possible(trace, self.candidates)
        return sweep(trace, kept, self.pull_rate, progress, self.trigger, timeline=timeline)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found on one host; small enough to be sent.

    Attributes:
        heading: what it stands on, in lines of words.
        facts: the same as values.
        results: one for each policy.
        headroom: bytes that a policy should leave free for a worse future, as far as that was asked.
        harder: re-pulled bytes by policy with less room for images, as far as that was tried.
        used_in_a_day: bytes of images that a usual day uses.
        room: the least bytes that the disk had for images.
        enough: the size of a disk on which a policy fits, where none does on this; None: unknown.
        free: the least free space of each day under one of the policies; None: that was not asked.
    """

    heading: tuple[str, ...]
    facts: HistoryFacts
    results: tuple[Result, ...]
    headroom: int = 0
    harder: Mapping[str, int] = field(default_factory=dict)
    used_in_a_day: int = 0
    room: int = 0
    enough: int | None = None
    free: DailyFree | None = None

    @property
    def host(self) -> str:
        """The host's name."""
        return self.facts.host

    @classmethod
    def of(cls, trace: Trace, results: Iterable[Result], notes: Sequence[str] = ()) -> Findings:
        """The findings on a trace."""
        facts = HistoryFacts.of(trace, notes)
        heading = (f"{trace}; disk {disk_range(trace)}", *(f"note: {note}" for note in facts.assumptions))
        return cls(heading, facts, tuple(results))


def fleet_sums(found: Sequence[Sequence[Result]]) -> list[Result]:
    """Of each policy that every host has a result of, the sum over all hosts, in the first host's order."""
    by_name = [{result.name: result for result in results} for results in found]
    names = [name for name in by_name[0] if all(name in results for results in by_name)]
    return [fleet_sum([results[name] for results in by_name]) for name in names]


def fleet_sum(results: Sequence[Result]) -> Result:
    """One policy's outcome on several hosts taken together.

    What each figure comes to is said by its `analyzer.simulation.figures.Total`.
    """
    return replace(results[0], **over_hosts(results), removed=(), timeline=None)
