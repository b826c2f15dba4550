"""Work on one host: all policies on the first part of its history, and on the rest.

The second part is what the same host goes through afterwards, with the policy at work from the beginning: it is
the whole replay less the first part, so that no host starts empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.baselines import baseline
from analyzer.kernel.runs import Wake
from analyzer.search.fleet import Findings
from analyzer.search.grid import Candidate
from analyzer.search.pareto import possible
from analyzer.search.room import headroom, largest_pull, on_share, used_in_a_day
from analyzer.simulation.cleaner import Cleaner, PolicyCleaner, Trigger
from analyzer.simulation.figures import less_part
from analyzer.simulation.replay import Progress, check_trace, replay_many
from analyzer.simulation.result import Result, priced
from analyzer.trace.trace import Trace
from collector.model.errors import LogError, UsageError
from collector.model.units import format_duration
from pruner.policy.local_images import SUPERSEDED
from pruner.policy.policy import BYTES

# Several orders are tried again with this share of the room: it decides between those that do alike.
_HARDER = 0.7
# A disk that would do is looked for in steps of a quarter, the first of a tenth; the last one is halved.
_FIRST_STEP, _STEP, _HALVINGS = 1.1, 1.25, 3
# So many times what all images hold is more than any policy wants free beside them.
_AMPLE = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """Work on one host: every candidate and baseline on the first part of its history, and on the rest.

    Attributes:
        candidates: the policies of the grid.
        baselines: results of each, by name.
        share: the first part's share of the time, over 0 and up to 1.
        pull_rate: bytes per second at which pulls are taken to run; None: as on the history's host.
        trigger: what starts a prune of ours.
        price_per_gib: what pulling 1 GiB costs; 0: not given.
        most_full: a policy with more failed pulls on the first part is not tried any further; None: each is, as hosts
            that judge each other's policies need it.
        least_history: on a history of fewer seconds nothing is tried.
    """

    candidates: tuple[Candidate, ...]
    baselines: tuple[str, ...] = ()
    share: float = 1.0
    pull_rate: float | None = None
    trigger: Trigger = Trigger.EVENT
    price_per_gib: float = 0.0
    most_full: int | None = None
    least_history: float = 0.0

    def __call__(
        self, trace: Trace, progress: Progress | None = None, known: Sequence[Result] = ()
    ) -> tuple[Findings, Findings | None]:
        """Results on the first part and on the rest, baselines first; None where there is no rest.

        Args:
            trace: the history.
            progress: called with the share that is done, from 0 to 1.
            known: results on the whole history, with their timelines, that need not be found again; none: find all.

        Raises:
            LogError: a part is too poor for a sound figure.
            UsageError: no candidate is possible on this disk.
        """
        kept = _sensible(trace, possible(trace, self.candidates))
        short = Findings.of(trace, ())
        if short.facts.end - short.facts.begin < self.least_history:
            return short, None
        if self.share >= 1.0:
            return self._found(trace, self._run(trace, kept, progress, self.baselines), kept), None
        cut = split_time(trace, self.share)
        begin = trace.between(0.0, cut)
        interval = max(item.policy.interval for item in kept)
        check_trace(trace, interval)
        shown = format_duration(interval)
        parts = {"first": (self.share, begin), "last": (1 - self.share, trace.between(cut, trace.end))}
        for name, (share, part) in parts.items():
            if part.demands and part.end >= interval:
                continue
            what = "uses no image" if part.end >= interval else f"is shorter than one interval of the timer, {shown}"
            history = f"the {name} {100 * share:.3g}% of the history"
            raise LogError.about(trace.host, history, f" {what}: choose on all of it with --split 1")
        first = self._run(begin, kept, None, self.baselines)
        # Baselines are judged by the same level, whichever policies stand beside them.
        level = next((result.threshold for result in first if result.baseline), None)
        able = self._able(first, kept)
        whole = known or self._run(trace, able, progress, self.baselines, timeline=True, level=level)
        by_name = {result.name: result for result in whole}
        rest = [later(by_name[result.name], result, cut) for result in first if result.name in by_name]
        return self._found(begin, first, kept), Findings.of(trace, rest)

    def _able(self, first: Sequence[Result], kept: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those that are tried further, by their results on the first part."""
        if self.most_full is None:
            return kept
        beyond = {result.name for result in first if result.disk_full > self.most_full}
        return [item for item in kept if item.name not in beyond]

    def _found(self, trace: Trace, results: Sequence[Result], kept: Sequence[Candidate]) -> Findings:
        """The findings on what policies are chosen on, with what it takes to choose."""
        fits = any(not result.disk_full for result in results if not result.baseline)
        harder: dict[str, int] = {}
        if len({item.policy.order for item in kept}) > 1:
            alike = [item for item in self._able(results, kept) if not any(item.departures[:2])]
            again = self._run(on_share(trace, _HARDER), alike)
            harder = {result.name: result.repulled_bytes for result in again}
        return replace(
            Findings.of(trace, results),
            headroom=headroom(trace),
            harder=harder,
            used_in_a_day=used_in_a_day(trace),
            room=int((trace.disk_total - trace.disk_other).min()),
            enough=None if fits else self._enough(trace, kept),
        )

    def _enough(self, trace: Trace, kept: Sequence[Candidate]) -> int | None:
        """The size of a disk, bytes, on which one of these never finds it full; None: none of those tried is.

        Only those that depart least from the defaults are tried, and no disk that lacks room for the largest image or
        holds all of them with room to spare.
        """
        nearest = min(item.departures[:3] for item in kept)
        lead = kept[0].policy.order
        tried = [item for item in kept if item.departures[:3] == nearest and item.policy.order == lead]
        room = int((trace.disk_total - trace.disk_other).min())

        def fits(wanted: float) -> bool:
            return any(not result.disk_full for result in self._run(_with_room(trace, wanted - room), tried))

        low = wanted = max(_FIRST_STEP * room, float(largest_pull(trace)), 1.0)
        while not fits(wanted):
            if wanted > _AMPLE * trace.layer_bytes.sum():
                return None
            low, wanted = wanted, _STEP * wanted
        for _ in range(_HALVINGS if wanted > low else 0):
            middle = (low + wanted) / 2
            low, wanted = (low, middle) if fits(middle) else (middle, wanted)
        return int(_with_room(trace, wanted - room).disk_total.max())

    def _run(
        self,
        trace: Trace,
        kept: Sequence[Candidate],
        progress: Progress | None = None,
        baselines: Sequence[str] = (),
        *,
        timeline: bool = False,
        level: float | None = None,
    ) -> list[Result]:
        others = [baseline(name) for name in baselines]
        # Without a local image it makes no difference what becomes of them.
        twins = {} if trace.local.any() else _twins(kept)
        kept = [item for item in kept if item.name not in twins]
        runs: list[Cleaner] = [cleaner for cleaner in others if cleaner.interval <= trace.end]
        wake = Wake(pull_rate=self.pull_rate or trace.pull_rate)
        runs += [PolicyCleaner(item.policy, trace, item.name, item.trigger or self.trigger, wake) for item in kept]
        results = replay_many(
            trace, runs, level, pull_rate=self.pull_rate, progress=progress, timeline=timeline, removals=False
        )
        by_name = {result.name: result for result in results}
        results += [replace(by_name[name], name=twin) for twin, name in twins.items()]
        return [replace(result, removed=()) for result in priced(results, self.price_per_gib)]


def _with_room(trace: Trace, more: float) -> Trace:
    """The same history with so many bytes more of disk."""
    return replace(trace, disk_total=trace.disk_total + int(more))


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
