"""One policy for a fleet, or one for each class of its hosts: judged by hosts it was not chosen on. Pure functions.

The hosts are put into two folds. What is chosen on the hosts of one is judged on those of the other, and the reverse,
so that each host is judged by a policy in whose choice it had no part. Classes are made only where they do materially
better so: by the size of the disk, or by how much is new each day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.search.fleet import Findings, fleet_sum
from analyzer.search.grid import Candidate
from analyzer.search.pareto import badness
from analyzer.search.recommend import Constraints, Recommendation, SplitResult, recommend, together
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import Trigger
from analyzer.simulation.result import Result
from collector.model.errors import UsageError
from collector.model.units import format_bytes, format_count
from pruner.policy.policy import Policy

Found = Sequence[tuple[Findings, Findings | None]]
Choose = Callable[[Found], Recommendation]
BY_OTHERS = "chosen on other hosts"
"""What a result is called in which each host has a policy in whose choice it had no part."""
LEAST_HOSTS = 4
"""With fewer hosts none can be left out to judge by."""
_LEAST_OF_CLASS = 3
_QUANTILES = (0.25, 0.5, 0.75)
_DAY_S = 86400.0
# A further policy to look after must save so much of what is pulled again, and of what is pulled at all.
_WORTH = 0.1
_WORTH_OF_ALL = 0.01
# A host that pulls so many times what it would with another of the policies is not served well.
_POORLY = 2.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Misfit:
    """A host that a policy does not fit: its name, and why in words."""

    host: str
    why: str


@dataclass(frozen=True, slots=True)
class HostClass:
    """Hosts that share a policy.

    Attributes:
        words: what they have in common; empty: they are all hosts.
        hosts: their names.
        made: what is recommended for them.
        misfits: those that it does not fit.
    """

    words: str
    hosts: tuple[str, ...]
    made: Recommendation
    misfits: tuple[Misfit, ...]

    @property
    def policy(self) -> Policy | None:
        """The policy that is recommended, or comes closest; None: none was possible."""
        outcome = self.made.chosen or self.made.closest
        return None if outcome is None else outcome.candidate.policy


@dataclass(frozen=True, slots=True)
class Division:
    """Classes of hosts with a policy each.

    Attributes:
        classes: one or more.
        judged: what all hosts come to, each under a policy that was chosen without it; None: too few to judge.
        said: in words, a sentence each, how it is judged and why there are so many classes.
    """

    classes: tuple[HostClass, ...]
    judged: Result | None
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Members:
    """Hosts that may become a class, and what they come to under policies chosen without them."""

    words: str
    found: Found
    judged: Result | None

    @classmethod
    def of(cls, words: str, found: Found, choose: Choose) -> _Members:
        return cls(words, found, _judged(found, choose))


@dataclass(frozen=True, slots=True)
class _Feature:
    """By what hosts are divided: its value on a host, and how one says that it is under or over a limit."""

    value: Callable[[Findings, Findings | None], float]
    below: str
    above: str


def divide(found: Found, candidates: Sequence[Candidate], choose: Choose, limits: Constraints, most: int) -> Division:
    """The classes of a fleet, at most so many.

    Args:
        found: what `Trial` found on each host.
        candidates: the policies that were tried.
        choose: makes the recommendation for some of the hosts.
        limits: what must be kept to.
        most: how many classes there may be.
    """
    policies = {item.name: item for item in candidates}
    classes = [_Members.of("", found, choose)]
    said: list[str] = []
    while len(classes) < most:
        splits = [(k, pair) for k, members in enumerate(classes) for pair in _splits(members, choose)]
        k, pair = min(
            splits,
            key=lambda split: _cost([*classes[: split[0]], *split[1], *classes[split[0] + 1 :]]),
            default=(-1, ()),
        )
        if k < 0:
            said.append(f"Disk size and load divide the hosts into no classes of at least {_LEAST_OF_CLASS}.")
            break
        said.append(_compared(classes[k], pair))
        if not _is_worth(classes[k], pair):
            break
        classes[k : k + 1] = pair
    made = tuple(_host_class(members, choose, policies, limits) for members in classes)
    judged = [members.judged for members in classes]
    total = fleet_sum([one for one in judged if one is not None]) if None not in judged else None
    return Division(made, total, (_verdict(total, found, len(classes)), *said))


def divide_by_trial(trial: Trial, found: Found, most: int) -> Division:
    """The classes of a fleet, at most so many, by what a trial found on each host and the usual constraints."""
    limits = Constraints()

    def choose(hosts: Found) -> Recommendation:
        return recommend(trial.candidates, hosts, limits, trial.share)

    return divide(found, trial.candidates, choose, limits, most)


def _judged(found: Found, choose: Choose) -> Result | None:
    """The sum over all hosts, each under what is chosen on the hosts of the other fold; None: there are too few."""
    if len(found) < _LEAST_OF_CLASS:
        return None
    ranked = sorted(found, key=lambda pair: hashlib.sha256(pair[0].host.encode()).digest())
    folds = ranked[::2], ranked[1::2]
    results = []
    for chosen_on, judged_on in (folds, folds[::-1]):
        name = _name_of(chosen_on, choose)
        if name is None:
            return None
        for first, rest in judged_on:
            whole = list(_whole(first, rest, name).values())
            if not whole:
                return None
            results += whole
    return replace(fleet_sum(results), name=BY_OTHERS)


def _name_of(found: Found, choose: Choose) -> str | None:
    try:
        made = choose(found)
    except UsageError:
        return None
    outcome = made.chosen or made.closest
    return None if outcome is None else outcome.candidate.name


def _whole(first: Findings, rest: Findings | None, only: str | None = None) -> Mapping[str, Result]:
    """Results on all of one host's history, by policy; of one of them, or of all."""
    found = {result.name: result for result in first.results if only in {None, result.name}}
    if rest is None:
        return found
    return {result.name: together(found[result.name], result) for result in rest.results if result.name in found}


def _new_a_day(first: Findings, rest: Findings | None) -> float:
    """Bytes that are pulled for the first time, a day."""
    both = [part.results[0] for part in (first, rest) if part is not None and part.results]
    seconds = sum(result.seconds for result in both)
    return _DAY_S * sum(result.compulsory_bytes for result in both) / seconds if seconds else 0.0


_FEATURES = (
    _Feature(lambda first, rest: (rest or first).facts.disk_total_bytes, "disks under {}", "disks of {} and more"),
    _Feature(_new_a_day, "under {} new a day", "{} and more new a day"),
)


def _splits(members: _Members, choose: Choose) -> list[tuple[_Members, _Members]]:
    """All ways that are tried to make two of a class."""
    made = []
    for feature in _FEATURES:
        values = np.array([feature.value(first, rest) for first, rest in members.found])
        for limit in sorted({_between(values, share) for share in _QUANTILES}):
            below = values < limit
            if min(below.sum(), (~below).sum()) < _LEAST_OF_CLASS:
                continue
            size = format_bytes(limit)
            halves = [
                _Members.of(
                    ", ".join(filter(None, (members.words, words.format(size)))),
                    [pair for pair, here in zip(members.found, chosen, strict=True) if here],
                    choose,
                )
                for words, chosen in ((feature.below, below), (feature.above, ~below))
            ]
            if all(half.judged is not None for half in halves):
                made.append((halves[0], halves[1]))
    return made


def _between(values: np.ndarray[tuple[int], np.dtype[np.float64]], share: float) -> float:
    """A round number between the values under a quantile and those from it on, or the quantile itself."""
    at = float(np.quantile(values, share, method="higher"))
    under = values[values < at]
    if not len(under):
        return at
    middle = (float(under.max()) + at) / 2
    unit = float(1024 ** (max(int(middle), 1).bit_length() // 10))
    rounded = float(f"{middle / unit:.2g}") * unit
    return rounded if float(under.max()) < rounded <= at else at


def _cost(classes: Sequence[_Members]) -> tuple[int, int, int]:
    """What the classes come to: to be little of."""
    total = fleet_sum([members.judged for members in classes if members.judged is not None])
    return badness(total)[:3]


def _is_worth(one: _Members, pair: Sequence[_Members]) -> bool:
    """Whether two policies do materially better than one, on hosts that they were not chosen on."""
    if one.judged is None:
        return True
    single, double = badness(one.judged)[:3], _cost(pair)
    if single[:2] != double[:2]:
        return double[:2] < single[:2]
    saved = single[2] - double[2]
    return saved > max(_WORTH * single[2], _WORTH_OF_ALL * one.judged.compulsory_bytes)


def _compared(one: _Members, pair: Sequence[_Members]) -> str:
    total = fleet_sum([members.judged for members in pair if members.judged is not None])
    names = " and ".join(f"{members.words} ({format_count(len(members.found), 'host')})" for members in pair)
    two = f"With two policies, for {names}, the fleet {outcome(total)} on hosts that they were not chosen on"
    if one.judged is None:
        return f"{two}; one policy for both could not be judged: the hosts are divided."
    verdict = "the hosts are divided" if _is_worth(one, pair) else "not worth another policy"
    return f"{two}; with one policy for both it {outcome(one.judged)}: {verdict}."


def _verdict(judged: Result | None, found: Found, classes: int) -> str:
    if judged is None:
        few = f"{format_count(len(found), 'host')}, {LEAST_HOSTS} or more are needed"
        none = "no policy that is chosen on half of the hosts is possible on the others"
        return f"Nothing is judged across hosts: {few if len(found) < LEAST_HOSTS else none}."
    of, who = ("each class", "the fleet") if classes > 1 else ("them", "it")
    return f"By host, chosen on half of {of} and judged on the other half, in turn, {who} {outcome(judged)}."


def outcome(result: Result) -> str:
    """What a policy does, in words."""
    full = f"has {format_count(result.disk_full, 'failed pull')}" if result.disk_full else "has no failed pull"
    lost = f", loses {result.losses:,} images" if result.losses else ""
    return f"pulls {format_bytes(result.repulled_bytes)} again and {full}{lost}"


def _host_class(members: _Members, choose: Choose, policies: Mapping[str, Candidate], limits: Constraints) -> HostClass:
    made = choose(members.found)
    best: SplitResult | None = made.chosen or made.closest
    misfits = () if best is None else tuple(_misfits(members.found, best.candidate.name, policies, limits))
    return HostClass(members.words, tuple(first.host for first, _ in members.found), made, misfits)


def _misfits(found: Found, name: str, policies: Mapping[str, Candidate], limits: Constraints) -> list[Misfit]:
    """The hosts that a policy does not fit."""
    # What may be pulled again is stated for all hosts together.
    each = replace(limits, max_repull=None)
    misfits = []
    for first, rest in found:
        whole = _whole(first, rest)
        if name not in whole:
            misfits.append(Misfit(first.host, "its levels contradict each other on this disk"))
            continue
        mine = whole[name]
        # What the timer alone does does not compete: it is recommended only where nothing else fits.
        rivals = (one for one in whole.values() if one.name in policies)
        fitting = [one for one in rivals if not (_by_timer(policies[one.name]) or each.broken(one))]
        best = min(fitting, key=lambda one: (one.losses, one.repulled_bytes), default=None)
        if broken := each.broken(mine):
            better = "" if best is None else f"; {best.name} would fit"
            misfits.append(Misfit(first.host, "; ".join(broken) + better))
        elif best is not None and mine.repulled_bytes > max(
            _POORLY * best.repulled_bytes, best.repulled_bytes + _WORTH_OF_ALL * mine.compulsory_bytes
        ):
            pulled = format_bytes(mine.repulled_bytes)
            misfits.append(Misfit(first.host, f"{pulled} pulled again; {best.name} {outcome(best)}"))
    return misfits


def _by_timer(item: Candidate) -> bool:
    return item.trigger is Trigger.TICK


def fits(one: HostClass) -> str:
    """Which hosts a class's policy does not fit, in one line."""
    if not one.misfits:
        return f"It fits all {len(one.hosts):,} hosts."
    named = "; ".join(f"{misfit.host} ({misfit.why})" for misfit in one.misfits[:_NAMED])
    more = f"; and {len(one.misfits) - _NAMED:,} more" if len(one.misfits) > _NAMED else ""
    return f"It does not fit {len(one.misfits):,} of {len(one.hosts):,} hosts: {named}{more}."
