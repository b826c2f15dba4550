"""An allowlist that is earned: which repositories are worth protecting, and what each entry gains or costs.

Pure functions. Candidates are the repositories, and the folders of repositories, whose images a policy
removes and that are then needed again; entries are added one by one as long as they gain on the first part
of the history, and each is judged by leaving it out again, on the rest too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.search.grid import Candidate
from analyzer.search.trial import Trial
from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import Progress, replay
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.references import repository
from pruner.policy.policy import Policy

MOST_CANDIDATES = 40
MOST_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One allowlist entry: what the policy does with it, and without it but with all the others.

    Attributes:
        glob: as in the policy file.
        proposed: whether it is worth its place: the search took it up.
        with_first: result with the entry, on the first part of the history.
        without_first: result without it, there.
        with_rest: result with it on the rest; None if there is no rest.
        without_rest: result without it, there.
    """

    glob: str
    proposed: bool
    with_first: Result
    without_first: Result
    with_rest: Result | None
    without_rest: Result | None

    @property
    def gain(self) -> int:
        """Bytes not pulled again thanks to the entry, on the rest if there is one; negative: it costs."""
        return self.gain_first if self.gain_rest is None else self.gain_rest

    @property
    def gain_first(self) -> int:
        """The same on the first part, on which it was chosen."""
        return self.without_first.repulled_bytes - self.with_first.repulled_bytes

    @property
    def gain_rest(self) -> int | None:
        """The same on the rest; None if there is none."""
        if self.with_rest is None or self.without_rest is None:
            return None
        return self.without_rest.repulled_bytes - self.with_rest.repulled_bytes

    @property
    def incidents(self) -> int:
        """Disk-full incidents more with the entry than without it, on both parts."""
        more = self.with_first.disk_full - self.without_first.disk_full
        if self.with_rest is not None and self.without_rest is not None:
            more += self.with_rest.disk_full - self.without_rest.disk_full
        return more


@dataclass(frozen=True, slots=True)
class Earned:
    """What an allowlist would bring.

    Attributes:
        entries: proposed ones in the order of their gain, then those that were asked for and gain nothing.
        without: results on both parts without any allowlist.
        considered: how many globs were tried.
    """

    entries: tuple[Entry, ...]
    without: tuple[Result, Result | None]
    considered: int

    @property
    def allowlist(self) -> tuple[str, ...]:
        """The proposed entries that did not cost anything where they were judged."""
        return tuple(entry.glob for entry in self.entries if entry.proposed and entry.gain > 0 and entry.incidents <= 0)


@dataclass(frozen=True, slots=True)
class Earning:
    """Work on one host: propose an allowlist.

    Attributes:
        policy: what else is at work; its own allowlist counts as asked for.
        asked: globs to judge whatever they gain.
        share: the first part's share of the time, over 0 and up to 1.
    """

    policy: Policy
    asked: tuple[str, ...] = ()
    share: float = 1.0

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Earned:
        """The proposal. Raises LogError or UsageError, see `Trial`."""
        bare = replace(self.policy, allowlist=())
        asked = tuple(dict.fromkeys((*self.policy.allowlist, *self.asked)))
        trial = _Trials(trace, bare, self.share)
        without = trial.run(())
        globs = candidates(trace, bare, self.share)
        taken = _grow(trial, globs, progress)
        entries = [_judge(trial, taken, glob, proposed=True) for glob in taken]
        entries.sort(key=lambda entry: (-entry.gain, entry.glob))
        entries += [_judge(trial, taken, glob, proposed=False) for glob in asked if glob not in taken]
        return Earned(tuple(entries), without, len(globs))


class _Trials:
    """Results by allowlist, each found once."""

    def __init__(self, trace: Trace, policy: Policy, share: float) -> None:
        self.trace, self.policy, self.share = trace, policy, share
        self.known: dict[frozenset[str], tuple[Result, Result | None]] = {}

    def run(self, globs: Sequence[str]) -> tuple[Result, Result | None]:
        return self.run_all([globs])[0]

    def run_all(self, lists: Sequence[Sequence[str]]) -> list[tuple[Result, Result | None]]:
        keys = [frozenset(globs) for globs in lists]
        missing = [key for key in dict.fromkeys(keys) if key not in self.known]
        if missing:
            tried = tuple(
                Candidate(str(number), replace(self.policy, allowlist=tuple(sorted(key))))
                for number, key in enumerate(missing)
            )
            first, rest = Trial(tried, (), self.share)(self.trace)
            later = rest.results if rest is not None else [None] * len(missing)
            self.known.update(zip(missing, zip(first.results, later, strict=True), strict=True))
        return [self.known[key] for key in keys]


def _grow(trials: _Trials, globs: Sequence[str], progress: Progress | None) -> list[str]:
    """Entries added one by one, each the best beside those before, while it gains on the first part."""
    taken: list[str] = []
    best, _ = trials.run(())
    while len(taken) < MOST_ENTRIES:
        left = [glob for glob in globs if glob not in taken]
        found = trials.run_all([[*taken, glob] for glob in left])
        ranked = sorted(
            (_cost(first), glob, first)
            for (first, _), glob in zip(found, left, strict=True)
            if _cost(first) < _cost(best)
        )
        if progress:
            progress(min(1.0, (len(taken) + 1) / MOST_ENTRIES))
        if not ranked:
            break
        _, glob, best = ranked[0]
        taken.append(glob)
    return taken


def _cost(result: Result) -> tuple[int, int, int]:
    return (result.disk_full, result.losses, result.repulled_bytes)


def _judge(trials: _Trials, taken: Sequence[str], glob: str, *, proposed: bool) -> Entry:
    others = [entry for entry in taken if entry != glob]
    (with_first, with_rest), (without_first, without_rest) = trials.run_all([[*others, glob], others])
    return Entry(glob, proposed, with_first, without_first, with_rest, without_rest)


def candidates(trace: Trace, policy: Policy, share: float = 1.0) -> list[str]:
    """Globs that could gain: repositories whose images the policy removes and that are needed again.

    Of folders with several such repositories there is a glob too. Those that let the most bytes be pulled
    again come first; only what happens in the first part of the history counts.
    """
    costs: dict[str, int] = defaultdict(int)
    members: dict[str, set[str]] = defaultdict(set)
    for image, freed in _returning(trace, policy, share):
        for name in sorted(set(map(repository, trace.names[image])) - {""}):
            costs[name] += freed
            head = name
            while "/" in head:
                head = head.rpartition("/")[0]
                members[f"{head}/*"].add(name)
    for glob, inside in members.items():
        if len(inside) > 1:
            costs[glob] = sum(costs[name] for name in inside)
    return sorted(costs, key=lambda glob: (-costs[glob], glob))[:MOST_CANDIDATES]


def _returning(trace: Trace, policy: Policy, share: float) -> list[tuple[int, int]]:
    """Image and freed bytes of each removal after which the image was needed again."""
    part = trace if share >= 1.0 else trace.between(0.0, trace.end * share)
    result = replay(part, PolicyCleaner(policy, part))
    demanded = part.demanded
    last = np.full(part.images, -np.inf)
    np.maximum.at(last, part.image[demanded], part.time[demanded])
    return [(removal.image, removal.bytes) for removal in result.removed if last[removal.image] > removal.time]
