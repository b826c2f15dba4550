"""A policy to set: chosen on the first part of a history, judged on the rest. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analyzer.search.fleet import Findings, fleet_sum
from analyzer.search.grid import Candidate
from analyzer.search.pareto import badness
from analyzer.simulation.cleaner import Trigger
from analyzer.simulation.figures import over_parts
from analyzer.simulation.result import FAILED_JOB_S, Result
from collector.model.errors import UsageError
from collector.model.units import format_bytes, format_count
from collector.queries.status import LEAST_HISTORY_S

_TOLERANCE = 0.01
# Another order than the first must pull so much less with less room.
_MATERIALLY = 0.9
_QUARTERS = 4
_CHEAP = " those that re-pull little more than the least"


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a policy must keep to.

    Attributes:
        max_disk_full: disk-full incidents at most.
        max_repull: bytes pulled again at most, over the whole history; None: any.
        min_free: bytes that are always free at least; None: any.
        max_losses: uses of removed images that exist only on the host, at most.
    """

    max_disk_full: int = 0
    max_repull: int | None = None
    min_free: int | None = None
    max_losses: int = 0

    def broken(self, result: Result, share: float = 1.0) -> list[str]:
        """In words what a result breaks; `share` is the part of the history that it is of."""
        found = []
        if result.disk_full > self.max_disk_full:
            found.append(f"{format_count(result.disk_full, 'disk-full incident')}, more than {self.max_disk_full:,}")
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
            result.lost_seconds if result.disk_full > self.max_disk_full else 0.0,
            free,
            repull,
        )

    def __str__(self) -> str:
        parts = [
            f"at most {format_count(self.max_disk_full, 'disk-full incident')}"
            if self.max_disk_full
            else "no disk-full incident"
        ]
        if self.max_repull is not None:
            parts.append(f"at most {format_bytes(self.max_repull)} pulled again")
        if self.min_free is not None:
            parts.append(f"at least {format_bytes(self.min_free)} always free")
        parts.append(f"at most {self.max_losses:,} images lost" if self.max_losses else "no image lost")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class SplitResult:
    """A candidate's results on both parts, summed over all hosts."""

    candidate: Candidate
    first: Result
    rest: Result | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set, and what it was weighed against.

    Attributes:
        chosen: the best on the first part of all that meet the constraints there; None if none does.
        runner_up: the next best with another outcome.
        closest: what comes closest to the constraints, if none meets them.
        baselines: results of the baselines on the first part and on the rest.
        tried: how many policies were tried.
        fitting: how many of them meet the constraints on the first part.
        broken: what the chosen one breaks on the rest, in words; empty if nothing, or if there is no rest.
        choice: in words, by what it was chosen of those that fit.
        overruled: what would have been recommended by the first part alone, and fails on the rest: then the
            policy was chosen on all of the history.
        too_short: seconds of history, if they are too few to recommend anything; else None.
        remedy: in words, a working set that exceeds the disk, and what would help if no policy fits; empty: nothing.
    """

    chosen: SplitResult | None
    runner_up: SplitResult | None
    closest: SplitResult | None
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
            of what `headroom` says; 0: that, where it is available.
        least_history: seconds of the longest history without which nothing is recommended.
    """
    outcomes, others = _summed(candidates, found)
    lasting = max((rest or first).facts.end - first.facts.begin for first, rest in found)
    if lasting < least_history:
        return Recommendation(None, None, None, others, len(outcomes), 0, too_short=lasting)
    if not outcomes:
        raise UsageError("no policy of the grid is possible on all hosts")
    firsts = [first for first, _ in found]
    room = _Room.of(firsts, firsts, spare)
    made = replace(_choose(outcomes, others, room, constraints, share), remedy=_remedy(firsts))
    if made.chosen is None or not made.broken:
        return made
    parts = [part for pair in found for part in pair if part is not None]
    whole = [SplitResult(item.candidate, together(item.first, item.rest), None) for item in outcomes]
    ours = [(together(first, rest), None) for first, rest in others]
    again = _choose(whole, ours, _Room.of(parts, firsts, spare), constraints, 1.0)
    return made if again.chosen is None else replace(again, overruled=made, remedy=made.remedy)


def _choose(
    outcomes: Sequence[SplitResult],
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


def together(first: Result, rest: Result | None) -> Result:
    """The result on both parts."""
    return first if rest is None else replace(first, **over_parts(first, rest))


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

    def lacking(self, item: SplitResult) -> float:
        """Bytes by which a policy left less than wanted."""
        return 0.0 if self.asked else max(0.0, -self.left[item.candidate.name])

    def lack(self, item: SplitResult) -> int:
        """The same in quarters of what is wanted, rounded up: less does not justify a change."""
        return math.ceil(_QUARTERS * self.lacking(item) / self.most) if self.most else 0


def _weighed(result: Result) -> float:
    """Re-pulled bytes, with those that could be pulled in the time that people lose by failed jobs."""
    return result.repulled_bytes + FAILED_JOB_S * result.pull_rate * result.failed_jobs


def _ranked(keeping: Sequence[SplitResult], room: _Room) -> list[SplitResult]:
    """The best first, see `recommend`."""
    fewest = min(item.first.losses for item in keeping)
    least = min(_weighed(item.first) for item in keeping if item.first.losses == fewest)
    allowance = max(_TOLERANCE * max(item.first.compulsory_bytes for item in keeping), 0 if room.asked else room.most)

    def tier(item: SplitResult) -> tuple[float, ...]:
        first = item.first
        dear = max(0.0, _weighed(first) - least - allowance)
        return (first.losses, item.candidate.trigger is Trigger.TICK, dear, room.lack(item))

    def rank(item: SplitResult) -> tuple[float, ...]:
        first = item.first
        kept = (-first.mean_held_bytes, first.repulled_bytes, -room.left[item.candidate.name])
        return (*tier(item), *item.candidate.departures, *kept)

    ranked = sorted(keeping, key=rank)
    alike = [item for item in ranked if tier(item) == tier(ranked[0])]
    best = _hardiest(alike, keeping[0].candidate.policy.order, room, allowance)
    return [best, *(item for item in ranked if item is not best)]


def _hardiest(alike: Sequence[SplitResult], first: str, room: _Room, allowance: float) -> SplitResult:
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
    """Where the working set exceeds the disk, and what would help where no policy fits, in words."""
    said = []
    for first in firsts:
        if first.used_in_a_day > first.room:
            said.append(
                f"on host {first.host} a usual day's images hold {format_bytes(first.used_in_a_day)}, more than the "
                f"{format_bytes(first.room)} that the disk has for images: the working set does not fit"
            )
        if first.enough is not None:
            said.append(f"a disk of {format_bytes(first.enough)} would be enough on host {first.host}")
    return "; ".join(said)


def _summed(
    candidates: Sequence[Candidate], found: Sequence[tuple[Findings, Findings | None]]
) -> tuple[list[SplitResult], tuple[tuple[Result, Result | None], ...]]:
    """Candidates and baselines that all hosts have results of, summed over the hosts; on the rest as far as tried."""
    firsts = [{result.name: result for result in first.results} for first, _ in found]
    rests = [{result.name: result for result in rest.results} for _, rest in found if rest is not None]

    def both(name: str) -> tuple[Result, Result | None]:
        later = [known[name] for known in rests if name in known]
        rest = fleet_sum(later) if later and len(later) == len(rests) else None
        return fleet_sum([known[name] for known in firsts]), rest

    common = [name for name in firsts[0] if all(name in known for known in firsts)]
    outcomes = [SplitResult(item, *both(item.name)) for item in candidates if item.name in common]
    return outcomes, tuple(both(name) for name in common if firsts[0][name].baseline)
