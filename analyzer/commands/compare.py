"""Commands that compare policies: `simulate`, `report`, `demo`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyzer.options import values
from analyzer.options.declared import (
    ClassesOption,
    ComparedThresholdsOption,
    FormatOption,
    OrderOption,
    ThresholdOption,
)
from analyzer.options.groups import Axes, Comparison, Disk, Histories, Spread, grouped
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.paths import real_path
from collector.model.units import size_option
from collector.terminal import console
from collector.terminal.declare import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analyzer.search.fleet import Simulation
    from analyzer.search.grid import Candidate
    from analyzer.search.proposal import Found
    from analyzer.search.trial import Trial
    from analyzer.search.workers import Workers
    from analyzer.simulation.cleaner import Trigger
    from analyzer.trace.load import DiskOverride
    from analyzer.trace.sources import Source
    from analyzer.trace.trace import Trace

DEMO_DISK = "35GiB"  # where policies differ: on 100 GiB nearly all of them keep what comes back
_REPORT = Path("report.html")
_THRESHOLDS = ["auto", "5%", "10%", "15%", "20%", "30%", "40%", "50%", "60%", "70%", "80%"]
ReportOption = Annotated[Path, option("The HTML file to write.", "FILE", "--output", "-o")]
FiguresOption = Annotated[
    console.Format, typer.Option("--format", help="json: print the report's figures for machines, too.")
]
Figures = Callable[[], dict[str, Any]]
"""Makes a report's figures for machines, where they are asked for."""
RegretOption = Annotated[
    bool, typer.Option("--regret", help="Also show how far each policy is from one that knows the future.")
]


@grouped
def simulate(
    *,
    histories: Histories,
    threshold: ThresholdOption = None,
    axes: Axes,
    compared: Comparison,
    disk: Disk,
    regret: RegretOption = False,
    spread: Spread,
    output: FormatOption = "table",
) -> None:
    """Show what each policy would have done on this host: one row per policy, beside baselines.

    Repeated options are combined: two thresholds and two orders make four policies. For several hosts there is
    one row per host and policy, and their totals.
    """
    from analyzer.report.terminal import patient_progress, print_results

    shown = values.output_format(output)
    work = compared.simulation(axes, threshold)
    override, sources = disk.override(), histories.sources()
    workers = spread.workers(len(sources))
    if len(sources) > 1:
        if regret:
            raise UsageError("--regret looks at one host: choose one with --only-host")
        from analyzer.report.terminal_search import print_fleet
        from analyzer.search.each import on_each

        with patient_progress(f"replaying {len(sources)} hosts") as progress:
            found, notes = on_each(sources, work, override, workers, progress)
        print_fleet(found, shown, notes)
        return
    trace = sources[0].load(override)
    with patient_progress("simulating") as progress:
        results, notes = work.run(trace, progress)
        if regret:
            from analyzer.kernel.runs import Wake
            from analyzer.simulation.bounds import add_regret

            ours = len(work.policies)
            results[-ours:] = add_regret(
                trace, work.policies, results[-ours:], work.trigger, Wake(pull_rate=work.pull_rate or trace.pull_rate)
            )
    print_results(trace, results, shown, notes)


@grouped
def report(
    *,
    output: ReportOption = _REPORT,
    histories: Histories,
    threshold: ComparedThresholdsOption = None,
    axes: Axes,
    compared: Comparison,
    disk: Disk,
    classes: ClassesOption = None,
    spread: Spread,
    figures: FiguresOption = console.Format.TABLE,
) -> None:
    """Write what the log shows as one HTML file: what happened on the disk, what would have happened, and what to set.

    It opens offline, in any browser. Without --threshold and --policy, thresholds from 5 to 80 % are compared.
    With --format json the figures are printed as well.
    The recommendation is that of `recommend` with the same options. For several hosts it has one row per host and
    policy, and their totals.
    """
    work = compared.simulation(axes, threshold or (None if compared.policy else _THRESHOLDS))
    candidates = compared.searched(axes, threshold)
    override, sources = disk.override(), histories.sources()
    workers = spread.workers(len(sources))
    if len(sources) > 1:
        found = _report_on_fleet(sources, work, candidates, override, workers, output, classes)
    else:
        trace, log = sources[0].load(override), sources[0].log()
        found = _report_on_one(trace, log, work, candidates, output, override, compared.only_trigger)
    if figures is console.Format.JSON:
        console.print_json(found())


def demo(
    *,
    threshold: ComparedThresholdsOption = None,
    order: OrderOption = None,
    disk_size: Annotated[str, option("The size of the disk.", "SIZE")] = DEMO_DISK,
    output: FormatOption = "table",
    report: ReportOption = _REPORT,
) -> None:
    """Simulate a year of a public project's CI (Mesa, 2023) that ships with this program, and write its report."""
    from analyzer.data import mesa_files
    from analyzer.report.terminal import patient_progress, print_results
    from analyzer.trace.load import load_trace
    from collector.job_sources.job_list import import_jobs

    shown = values.output_format(output)
    disk = size_option("--disk-size", disk_size) or 0
    compared = Comparison(order=order)
    work = compared.simulation(Axes(), threshold or _THRESHOLDS)
    candidates = compared.searched(Axes(), threshold)
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        log = EventLog(Path(folder) / "events.duckdb", host="mesa-ci-2023")
        with console.progress("importing a year of jobs") as progress:
            import_jobs(*mesa_files(), log, disk, 0, progress)
        trace = load_trace(log)
        with patient_progress("simulating") as update:
            results, notes = work.run(trace, update)
        print_results(trace, results, shown, notes)
        _report_on_one(trace, log, work, candidates, report)


def _report_on_one(
    trace: Trace,
    log: EventLog,
    work: Simulation,
    candidates: Sequence[Candidate],
    path: Path,
    override: DiskOverride | None = None,
    trigger: Trigger | None = None,
) -> Figures:
    """Write the report of one host; `trigger`: what starts a prune, None if that can be switched."""
    from analyzer.report.html_page import write_report
    from analyzer.report.report_json import of_host
    from analyzer.report.study import Lineup, Tried, study
    from analyzer.report.terminal import patient_progress
    from analyzer.search.proposal import propose
    from analyzer.search.whatif import WhatIf
    from analyzer.trace.describe import HistoryFacts
    from analyzer.trace.recorded import read_recorded

    with patient_progress(f"trying {len(candidates)} policies") as progress:

        def run(trial: Trial) -> tuple[Found, list[str]]:
            return [trial(trace, progress)], []

        lineup = Lineup.of(work.policies, propose(run, candidates, work.pull_rate, work.trigger))
    with patient_progress("simulating") as progress:
        results, notes = work.with_policies(lineup.policies).run(trace, progress, timeline=True)
    whatif = WhatIf.of(trace, work.policies, candidates, lineup.proposal, trigger)
    with patient_progress("trying every setting") as progress:
        tried = None if whatif is None else Tried.of(trace, whatif, work.pull_rate, progress)
    write_report(study(trace, results, lineup, read_recorded(log, trace, override), notes, tried), path)
    typer.echo(f"report: {real_path(path)}", err=True)
    return lambda: of_host(HistoryFacts.of(trace, notes), results, lineup.proposal, path)


def _report_on_fleet(
    sources: Sequence[Source],
    work: Simulation,
    candidates: Sequence[Candidate],
    override: DiskOverride,
    workers: Workers,
    path: Path,
    classes: int | None,
) -> Figures:
    """Write the report of several hosts, divided into so many classes at most; None: that was not asked."""
    from analyzer.report.fleet_page import fleet_study, write_fleet_report
    from analyzer.report.report_json import of_fleet
    from analyzer.report.study import Lineup
    from analyzer.report.terminal import patient_progress
    from analyzer.search.classes import divide_by_trial
    from analyzer.search.each import on_each
    from analyzer.search.proposal import propose

    tried: list[tuple[Trial, Found]] = []
    with patient_progress(f"trying {len(candidates)} policies on {len(sources)} hosts") as progress:

        def run(trial: Trial) -> tuple[Found, list[str]]:
            found, notes = on_each(sources, trial, override, workers, progress)
            tried.append((trial, found))
            return found, notes

        proposal = propose(run, candidates, work.pull_rate, work.trigger)
    division = None
    if classes is not None and proposal.policy is not None:
        division = divide_by_trial(*tried[-1], classes)
        own = [one.policy for one in division.classes if one.policy not in {None, proposal.policy}]
        work = work.with_policies(tuple(dict.fromkeys((*work.policies, *filter(None, own)))))
    lineup = Lineup.of(work.policies, proposal)
    with patient_progress(f"replaying {len(sources)} hosts") as progress:
        drawn = lineup.proposal.policy or (lineup.policies[0] if lineup.policies else None)
        every = replace(work, policies=lineup.policies, drawn=drawn)
        found, notes = on_each(sources, every, override, workers, progress)
    made = fleet_study(found, lineup, notes, division)
    write_fleet_report(made, path)
    typer.echo(f"report: {real_path(path)}", err=True)
    return lambda: of_fleet(made, path)
