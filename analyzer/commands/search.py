"""Commands that look for a policy: `sweep`, `recommend`, `allowlist`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyzer.options import values
from analyzer.options.declared import (
    BaselineOption,
    BasePolicyOption,
    ClassesOption,
    FormatOption,
    LogHostOption,
    OrderOption,
    PriceOption,
    PullRateOption,
    SearchedOrdersOption,
    SearchedThresholdsOption,
    SplitOption,
    SweptThresholdsOption,
)
from analyzer.options.groups import Asked, Axes, Disk, Histories, Spread, Varied, grouped
from collector.model.defaults import SPLIT
from collector.model.errors import UsageError
from collector.terminal import console
from collector.terminal.console import LogOption
from collector.terminal.declare import option

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyzer.search.classes import Found
    from analyzer.search.fleet import Findings, Sweep
    from analyzer.search.proposal import Found as Trials
    from analyzer.search.proposal import Proposal
    from analyzer.search.recommend import Recommendation
    from analyzer.search.trial import Trial
    from analyzer.simulation.replay import Progress

DEFAULT_SPLIT = f"{SPLIT:g}"
_MOST_WEIGHED = 256
FrontOption = Annotated[
    bool, typer.Option("--front", help="Show only the policies that no other beats, and the recommended one.")
]
OutOption = Annotated[Path | None, option("Write the policy here.", "FILE", "--output", "-o")]
EntryOption = Annotated[
    list[str] | None, option("An entry to judge even if it gains nothing. Repeat it to add.", "GLOB")
]
OneThresholdOption = Annotated[
    str | None, option("Free space under which pruning starts (10%, 50GB).", "SPACE", "--threshold", shown="auto")
]


@grouped
def sweep(
    *,
    histories: Histories,
    threshold: SweptThresholdsOption = None,
    axes: Axes,
    order: OrderOption = None,
    varied: Varied,
    front: FrontOption = False,
    disk: Disk,
    pull_rate: PullRateOption = None,
    price_per_gib: PriceOption = None,
    spread: Spread,
    output: FormatOption = "table",
) -> None:
    """Try a whole grid of policies and mark those that no other beats (the Pareto front).

    Each option takes ranges (5%:40%:1%), comma lists (lru,lfu) and repeats; all are combined. The
    default is thresholds of 5% to 40%. The one that `recommend` would choose is marked, too, if there
    are at most 256.
    """
    from analyzer.report.terminal import patient_progress
    from analyzer.report.terminal_search import contradicting, print_fleet, print_sweep
    from analyzer.search.each import on_each
    from analyzer.search.fleet import Sweep
    from analyzer.search.grid import DEFAULT_THRESHOLDS

    shown = values.output_format(output)
    thresholds = threshold or ([] if varied.policy else [DEFAULT_THRESHOLDS])
    candidates, left_out = varied.grid(axes.beside(threshold=thresholds, order=order))
    work = Sweep(tuple(candidates), values.rate(pull_rate), values.trigger(varied.trigger), values.price(price_per_gib))
    override, sources = disk.override(), histories.sources()
    workers = spread.workers(len(sources))
    if len(sources) > 1:
        with patient_progress(f"replaying {len(sources)} hosts") as progress:
            found, notes, chosen = _on_fleet(work, partial(on_each, sources, disk=override, workers=workers), progress)
        print_fleet(found, shown, [*contradicting(left_out), *notes], chosen, marked=True, front_only=front)
        return
    trace = sources[0].load(override)
    with patient_progress(f"trying {len(candidates)} policies") as progress:
        results = work(trace, progress).results
        chosen = _weighed(work, lambda trial: ([trial(trace)], []))
    print_sweep(trace, results, shown, left_out + len(candidates) - len(results), chosen, front_only=front)


def _on_fleet(work: Sweep, each: Any, progress: Progress) -> tuple[list[Findings], list[str], Proposal | None]:
    """A grid's results on each host, notes, and what is recommended of it, if it can be weighed in passing."""
    from analyzer.search.proposal import Weighing, trials

    if len(work.candidates) > _MOST_WEIGHED:
        found, notes = each(work, progress=progress)
        return found, notes, None
    weighing = Weighing.of(work)
    both, notes = each(weighing, progress=progress)
    chosen = _weighed(work, lambda trial: trials(both) if trial == weighing.trial else each(trial))
    return [one for one, _ in both], notes, chosen


def _weighed(work: Sweep, run: Callable[[Trial], tuple[Trials, list[str]]]) -> Proposal | None:
    """What is recommended of a grid; None of one too large to be weighed in passing."""
    from analyzer.search.proposal import propose

    if len(work.candidates) > _MOST_WEIGHED:
        return None
    return propose(run, work.candidates, work.pull_rate, work.trigger)


@grouped
def recommend(
    *,
    histories: Histories,
    out: OutOption = None,
    asked: Asked,
    split: SplitOption = DEFAULT_SPLIT,
    threshold: SearchedThresholdsOption = None,
    axes: Axes,
    order: SearchedOrdersOption = None,
    varied: Varied,
    baseline: BaselineOption = None,
    disk: Disk,
    price_per_gib: PriceOption = None,
    classes: ClassesOption = None,
    spread: Spread,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Pick a policy that meets the constraints and re-pulls little, and say why.

    It is chosen on the first part of the history and judged on the rest (--split). Among those that re-pull little
    more than the least, policies come first that always leave headroom for a worse future (the largest pull, a
    quarter more, and what arrived within a minute; or --headroom), then those closest to the defaults, then the one
    that keeps the most images. Thresholds, minimum ages, orders, triggers and the treatment of local images are
    varied unless given. For several hosts it is also judged across hosts: chosen on half of them, judged on the
    others.
    """
    from analyzer.report.terminal import patient_progress
    from analyzer.report.terminal_classes import finish_division
    from analyzer.report.terminal_recommend import finish_recommendation
    from analyzer.search.classes import divide
    from analyzer.search.each import on_each
    from analyzer.search.recommend import recommend as recommended
    from analyzer.search.trial import Trial

    candidates, _ = varied.grid(axes.beside(threshold=threshold, order=order), complete=True)
    share = values.split(split)
    constraints, spare, least = asked.constraints(), asked.spare(), asked.history()
    price = values.price(price_per_gib)
    override, sources = disk.override(), histories.sources()
    work = Trial(
        tuple(candidates),
        values.baselines(baseline),
        share,
        trigger=values.trigger(varied.trigger),
        price_per_gib=price,
        # Of several hosts the longest history counts, and each policy is judged by hosts on which it fails.
        most_full=constraints.max_disk_full if len(sources) == 1 else None,
        least_history=least if len(sources) == 1 else 0.0,
    )
    workers = spread.workers(len(sources))
    with patient_progress(f"trying {len(candidates)} policies") as progress:
        found, notes = on_each(sources, work, override, workers, progress)

    def choose(hosts: Found) -> Recommendation:
        return recommended(candidates, hosts, constraints, share, spare, least)

    if len(found) > 1:
        division = divide(found, candidates, choose, constraints, classes or 1)
        finish_division(division, found, constraints, share, output, out, notes)
        return
    finish_recommendation(choose(found), found, constraints, share, output, out, notes)


@grouped
def allowlist(
    *,
    log: LogOption = None,
    host: LogHostOption = None,
    entry: EntryOption = None,
    split: SplitOption = DEFAULT_SPLIT,
    policy: BasePolicyOption = None,
    threshold: OneThresholdOption = None,
    disk: Disk,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Propose which repositories are worth protecting, and say what each entry gains or costs.

    Entries are found on the first part of the history and judged on the rest (--split): by the bytes pulled
    again with and without the entry, given the other entries.
    """
    from analyzer.report.terminal import patient_progress
    from analyzer.report.terminal_allowlist import print_earned
    from analyzer.search.allowlist import Earning
    from pruner.policy.file import COMMAND_LINE, load_policy, policy_from

    base = load_policy(policy) if policy else None
    given = {"threshold": threshold} if threshold else {}
    asked = {"allowlist": list(entry)} if entry else {}
    if entry and not all(one.strip() for one in entry):
        raise UsageError("--entry: an entry is empty: give a glob on repository:tag")
    chosen = policy_from({**given, **asked}, COMMAND_LINE, base)
    work = Earning(chosen, base.allowlist if base else (), values.split(split))
    override = disk.override()
    sources = Histories([str(log)] if log else None, host).sources()
    if len(sources) > 1:
        names = ", ".join(source.host for source in sources)
        raise UsageError(f"an allowlist is earned host by host: choose one of {names} with --only-host")
    trace = sources[0].load(override)
    with patient_progress("trying allowlist entries") as progress:
        earned = work(trace, progress)
    print_earned(trace, chosen, earned, output)
