"""The `analyzer` command."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer import options
from analyzer.options import (
    AllowlistIdleOption,
    AllowlistOption,
    AllowlistSetOption,
    BasePolicyOption,
    By,
    DiskSizeOption,
    EmergencyOption,
    EntryOption,
    FrontOption,
    HeadroomOption,
    IntervalOption,
    LogHostOption,
    LogsOption,
    MaxDiskFullOption,
    MaxRepullOption,
    MinAgeOption,
    MinFreeOption,
    OneThresholdOption,
    OrderOption,
    OtherOption,
    PolicyOption,
    ProcessesOption,
    PullRateOption,
    RecommendOutOption,
    SplitOption,
    TargetOption,
    ThresholdOption,
    TriggerOption,
)
from collector import console
from collector.console import LogOption, VersionOption
from collector.errors import UsageError
from collector.log import EventLog
from collector.units import format_bytes, format_duration
from pruner.options import policy_options
from pruner.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analyzer.fleet import Findings, Source, Work
    from analyzer.loading import DiskOverride
    from analyzer.recorded import Recorded
    from analyzer.report import Output
    from analyzer.result import Result
    from analyzer.trace import Trace

app = typer.Typer(
    name="analyzer",
    help="Replay what a host's log recorded under other policies, to see before pruning what each would cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEMO_DISK_BYTES = 100 * 2**30
DEFAULT_ORDERS = "lru,hazard,forecast"
DEFAULT_SPLIT = "0.7"
DEFAULT_THRESHOLDS = "5%:40%:1%"
_NONE = "none"
_REPORT = Path("report.html")
_THRESHOLDS = ["5%", "10%", "15%", "20%", "30%", "40%", "50%", "60%", "70%", "80%"]
ThresholdsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        help="Free space under which pruning starts (10%, 50GB). Repeat it to compare.",
        show_default="5% to 80%",
    ),
]
FormatOption = Annotated[str, typer.Option("--format", help="table, json or csv.")]
BaselineOption = Annotated[
    list[str] | None,
    typer.Option(help="What others do, to compare with; 'all' or 'none'. Repeat it to add.", show_default="the usual"),
]
RegretOption = Annotated[
    bool, typer.Option("--regret", help="Also tell how far each policy is from one that knows the future.")
]


@app.callback()
def common(*, version: VersionOption = False) -> None:
    """Options of all commands."""


@app.command()
def simulate(
    log: LogsOption = None,
    host: LogHostOption = None,
    threshold: ThresholdOption = None,
    target: TargetOption = None,
    emergency: EmergencyOption = None,
    allowlist: AllowlistOption = None,
    allowlist_idle: AllowlistIdleOption = None,
    min_age: MinAgeOption = None,
    order: OrderOption = None,
    interval: IntervalOption = None,
    trigger: TriggerOption = "tick",
    policy: PolicyOption = None,
    baseline: BaselineOption = None,
    disk_size: DiskSizeOption = None,
    other: OtherOption = None,
    pull_rate: PullRateOption = "50MB",
    regret: RegretOption = False,
    processes: ProcessesOption = None,
    output: FormatOption = "table",
) -> None:
    """Show what each policy would have done on this host: one row per policy, beside what others do.

    Repeated options are combined: two thresholds and two orders make four policies. Of several hosts there is
    one row per host and policy, and their sums.
    """
    from analyzer.fleet import Simulation, find
    from analyzer.loading import DiskOverride
    from analyzer.replay import Trigger

    shown = _format(output)
    chosen = options.policies(
        policy,
        allowlist,
        threshold=threshold,
        target=target,
        emergency=emergency,
        allowlist_idle=allowlist_idle,
        min_age=min_age,
        order=order,
        interval=interval,
    )
    rate = options.rate(pull_rate)
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    names = _baselines(baseline)
    when = options.trigger(trigger)
    sources = find(options.places(log), host)
    if len(sources) == 1:
        _compare(sources[0].load(override), chosen, names, shown, rate, when, regret=regret)
        return
    if regret:
        raise UsageError("--regret looks at one host: choose one with --host")
    work = Simulation(tuple(chosen), tuple(names), rate, Trigger(when))
    _fleet(sources, work, override, processes, shown)


@app.command()
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = _REPORT,
    log: LogsOption = None,
    host: LogHostOption = None,
    threshold: ThresholdsOption = None,
    target: TargetOption = None,
    emergency: EmergencyOption = None,
    allowlist: AllowlistOption = None,
    allowlist_idle: AllowlistIdleOption = None,
    min_age: MinAgeOption = None,
    order: OrderOption = None,
    interval: IntervalOption = None,
    trigger: TriggerOption = "tick",
    policy: PolicyOption = None,
    baseline: BaselineOption = None,
    disk_size: DiskSizeOption = None,
    other: OtherOption = None,
    pull_rate: PullRateOption = "50MB",
    processes: ProcessesOption = None,
) -> None:
    """Write all that the log tells as one HTML file: what the disk did, what it would have done, and what to set.

    It opens offline, in any browser. Without --threshold and --policy, thresholds from 5 to 80 % are compared.
    Of several hosts it has one row per host and policy, and their sums.
    """
    from analyzer.fleet import Simulation, find
    from analyzer.loading import DiskOverride
    from analyzer.recorded import read_recorded
    from analyzer.replay import Trigger

    chosen = options.policies(
        policy,
        allowlist,
        threshold=threshold or (None if policy else _THRESHOLDS),
        target=target,
        emergency=emergency,
        allowlist_idle=allowlist_idle,
        min_age=min_age,
        order=order,
        interval=interval,
    )
    rate = options.rate(pull_rate)
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    names, when = _baselines(baseline), options.trigger(trigger)
    sources = find(options.places(log), host)
    if len(sources) > 1:
        work = Simulation(tuple(chosen), tuple(names), rate, Trigger(when))
        _write_fleet(sources, work, override, processes, output)
        return
    trace = sources[0].load(override)
    results, notes = _simulated(trace, chosen, names, rate, when, timeline=True)
    _write(trace, results, read_recorded(sources[0].log(), trace), notes, output)


@app.command()
def demo(
    threshold: ThresholdsOption = None,
    order: OrderOption = None,
    output: FormatOption = "table",
    report: Annotated[Path, typer.Option("--report", "-o", help="The HTML file to write.")] = _REPORT,
) -> None:
    """Simulate a year of a public project's CI (Mesa, 2023) that ships with this program, and write its report."""
    from analyzer.data import mesa_files
    from analyzer.loading import load_trace
    from analyzer.recorded import read_recorded
    from analyzer.report import print_results
    from collector.importer import import_jobs

    shown = _format(output)
    chosen = options.policies(None, None, threshold=threshold or _THRESHOLDS, order=order)
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        log = EventLog(Path(folder) / "events.duckdb", host="mesa-ci-2023")
        with console.progress("importing a year of jobs") as progress:
            import_jobs(*mesa_files(), log, DEMO_DISK_BYTES, 0, progress)
        trace = load_trace(log)
        recorded = read_recorded(log, trace)
    results, notes = _simulated(trace, chosen, _baselines(None), 50e6, timeline=True)
    print_results(trace, results, shown, notes)
    _write(trace, results, recorded, notes, report)


@app.command()
@policy_options
def watch(
    policy: Policy,
    log: LogOption = None,
    host: console.HostOption = None,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="Time between looks.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Look once, then end.")] = False,
) -> None:
    """Watch this host: free space, the last events, and what would go next if space ran out."""
    from analyzer.watch import watch as show

    show(console.open_log(log), host, policy, console.duration("--every", every), once=once)


def _write(trace: Trace, results: Sequence[Result], recorded: Recorded, notes: Sequence[str], path: Path) -> None:
    from analyzer.report_data import study
    from analyzer.report_html import write_report

    write_report(study(trace, results, recorded, notes), path)
    typer.echo(f"report: {path.resolve()}", err=True)


def _write_fleet(
    sources: Sequence[Source], work: Work[Findings], override: DiskOverride, processes: int | None, path: Path
) -> None:
    from analyzer.fleet import on_each
    from analyzer.report import patient_progress
    from analyzer.report_fleet import fleet_study, write_fleet_report

    with patient_progress(f"replaying {len(sources)} hosts") as progress:
        found, notes = on_each(sources, work, override, processes, progress)
    write_fleet_report(fleet_study(found, notes), path)
    typer.echo(f"report: {path.resolve()}", err=True)


@app.command()
def sweep(
    log: LogsOption = None,
    host: LogHostOption = None,
    threshold: ThresholdOption = None,
    target: TargetOption = None,
    emergency: EmergencyOption = None,
    allowlist_set: AllowlistSetOption = None,
    allowlist_idle: AllowlistIdleOption = None,
    min_age: MinAgeOption = None,
    order: OrderOption = None,
    interval: IntervalOption = None,
    trigger: TriggerOption = "tick",
    policy: BasePolicyOption = None,
    front: FrontOption = False,
    disk_size: DiskSizeOption = None,
    other: OtherOption = None,
    pull_rate: PullRateOption = "50MB",
    processes: ProcessesOption = None,
    output: FormatOption = "table",
) -> None:
    """Try a whole grid of policies and mark those that no other beats (the Pareto front).

    Each option takes ranges (5%:40%:1%), comma lists (lru,lfu) and repeats; all are combined. The
    default is thresholds of 5% to 40%.
    """
    from analyzer.fleet import Sweep, find
    from analyzer.grid import AllowlistSet, grid
    from analyzer.loading import DiskOverride
    from analyzer.replay import Trigger
    from analyzer.report import patient_progress
    from analyzer.search import possible
    from analyzer.search import sweep as run
    from analyzer.searching import print_sweep
    from pruner.config import load_policy

    shown = _format(output)
    axes = {
        "threshold": threshold or ([] if policy else [DEFAULT_THRESHOLDS]),
        "target": target,
        "emergency": emergency,
        "allowlist_idle": allowlist_idle,
        "min_age": min_age,
        "order": order,
        "interval": interval,
    }
    sets = [AllowlistSet.parse(text) for text in allowlist_set or ()]
    when = options.trigger(trigger)
    candidates, left_out = grid(axes, sets, load_policy(policy) if policy else None)
    rate = options.rate(pull_rate)
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    sources = find(options.places(log), host)
    if len(sources) > 1:
        work = Sweep(tuple(candidates), rate, Trigger(when))
        _fleet(sources, work, override, processes, shown, left_out=left_out, marked=True, front=front)
        return
    trace = sources[0].load(override)
    kept = possible(trace, candidates)
    with patient_progress(f"trying {len(kept)} policies") as progress:
        results = run(trace, kept, rate, progress, Trigger(when))
    print_sweep(trace, results, shown, left_out + len(candidates) - len(kept), front_only=front)


@app.command()
def export(
    parquet: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write to.", show_default=False)],
    log: LogOption = None,
    host: LogHostOption = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Write the log as Parquet, partitioned by host and day, for fleets and for other tools.

    What the folder holds of the same hosts is replaced. `--log` of the other commands takes the folder.
    """
    from dataclasses import asdict

    from analyzer.export import export_parquet
    from collector.units import format_bytes

    written = export_parquet(console.open_log(log), parquet, host)
    if output is console.Format.JSON:
        console.print_json([asdict(part) for part in written])
        return
    rows = [[part.host, f"{part.events:,}", f"{part.days:,}", format_bytes(part.bytes)] for part in written]
    console.print_table(("HOST", "EVENTS", "DAYS", "SIZE"), rows, right=("EVENTS", "DAYS", "SIZE"))


@app.command()
def recommend(
    log: LogsOption = None,
    host: LogHostOption = None,
    out: RecommendOutOption = None,
    max_disk_full: MaxDiskFullOption = 0,
    max_repull: MaxRepullOption = None,
    min_free: MinFreeOption = None,
    headroom: HeadroomOption = None,
    split: SplitOption = DEFAULT_SPLIT,
    threshold: ThresholdOption = None,
    target: TargetOption = None,
    emergency: EmergencyOption = None,
    allowlist_set: AllowlistSetOption = None,
    min_age: MinAgeOption = None,
    order: OrderOption = None,
    interval: IntervalOption = None,
    trigger: TriggerOption = "tick",
    policy: BasePolicyOption = None,
    baseline: BaselineOption = None,
    disk_size: DiskSizeOption = None,
    other: OtherOption = None,
    processes: ProcessesOption = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Pick the policy that pulls the least again and keeps to what is asked, and say why.

    It is chosen on the first part of the history and judged on the rest (--split). The default grid is
    thresholds of 5% to 40% with the orders lru, hazard and forecast.
    """
    from analyzer.advice import Constraints, Trial
    from analyzer.advice import recommend as choose
    from analyzer.fleet import find, on_each
    from analyzer.grid import AllowlistSet, grid
    from analyzer.loading import DiskOverride
    from analyzer.replay import Trigger
    from analyzer.report import patient_progress
    from analyzer.searching import finish_recommendation
    from pruner.config import load_policy

    axes = {
        "threshold": threshold or [DEFAULT_THRESHOLDS],
        "target": target,
        "emergency": emergency,
        "min_age": min_age,
        "order": order or ([] if policy else [DEFAULT_ORDERS]),
        "interval": interval,
    }
    sets = [AllowlistSet.parse(text) for text in allowlist_set or ()]
    candidates, _ = grid(axes, sets, load_policy(policy) if policy else None)
    share = options.split(split)
    constraints = Constraints(
        max_disk_full, options.size("--max-repull", max_repull), options.size("--min-free", min_free)
    )
    spare = options.size("--headroom", headroom) or 0
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    work = Trial(tuple(candidates), tuple(_baselines(baseline)), share, trigger=Trigger(options.trigger(trigger)))
    sources = find(options.places(log), host)
    with patient_progress(f"trying {len(candidates)} policies") as progress:
        found, notes = on_each(sources, work, override, processes, progress)
    chosen = choose(candidates, found, constraints, share, spare)
    finish_recommendation(chosen, found, constraints, share, output, out, notes)


@app.command()
def allowlist(
    log: LogOption = None,
    host: LogHostOption = None,
    entry: EntryOption = None,
    split: SplitOption = DEFAULT_SPLIT,
    policy: BasePolicyOption = None,
    threshold: OneThresholdOption = None,
    disk_size: DiskSizeOption = None,
    other: OtherOption = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Propose which repositories are worth protecting, and say what each entry gains or costs.

    Entries are looked for on the first part of the history and judged on the rest (--split): by the bytes
    pulled again with the entry and without it, beside the other entries.
    """
    from analyzer.earn import Earning
    from analyzer.fleet import find
    from analyzer.loading import DiskOverride
    from analyzer.report import patient_progress
    from analyzer.searching import print_earned
    from pruner.config import load_policy, policy_from

    base = load_policy(policy) if policy else None
    values = {"threshold": threshold} if threshold else {}
    asked = {"allowlist": list(entry)} if entry else {}
    chosen = policy_from({**values, **asked}, "command line", base)
    work = Earning(chosen, base.allowlist if base else (), options.split(split))
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    sources = find(options.places([str(log)] if log else None), host)
    if len(sources) > 1:
        names = ", ".join(source.host for source in sources)
        raise UsageError(f"an allowlist is earned host by host: choose one of {names} with --host")
    trace = sources[0].load(override)
    with patient_progress("trying allowlist entries") as progress:
        earned = work(trace, progress)
    print_earned(trace, chosen, earned, output)


def _fleet(
    sources: Sequence[Source],
    work: Work[Findings],
    override: DiskOverride,
    processes: int | None,
    output: Output,
    *,
    left_out: int = 0,
    marked: bool = False,
    front: bool = False,
) -> None:
    """Do the work on several hosts and print a row for each host and policy."""
    from analyzer.fleet import on_each
    from analyzer.report import patient_progress
    from analyzer.searching import contradicting, print_fleet

    with patient_progress(f"replaying {len(sources)} hosts") as progress:
        found, notes = on_each(sources, work, override, processes, progress)
    print_fleet(found, output, [*contradicting(left_out), *notes], marked=marked, front_only=front)


def _compare(
    trace: Trace,
    chosen: Sequence[Policy],
    baselines: Sequence[str],
    output: Output,
    rate: float,
    trigger: str = "tick",
    *,
    regret: bool = False,
) -> None:
    """Simulate and print baselines, then policies."""
    from analyzer.report import print_results

    results, notes = _simulated(trace, chosen, baselines, rate, trigger, regret=regret)
    print_results(trace, results, output, notes)


def _simulated(
    trace: Trace,
    chosen: Sequence[Policy],
    baselines: Sequence[str],
    rate: float,
    trigger: str = "tick",
    *,
    regret: bool = False,
    timeline: bool = False,
) -> tuple[list[Result], list[str]]:
    """The results of baselines, then policies; and what to say of those that are left out."""
    from analyzer.baselines import baseline
    from analyzer.replay import PolicyCleaner, Trigger, replay_many
    from analyzer.report import patient_progress

    ours = [PolicyCleaner(policy, trace, trigger=Trigger(trigger)) for policy in chosen]
    others = [baseline(name) for name in baselines]
    notes = [
        f"{cleaner.name} is left out: it runs every {format_duration(cleaner.interval)}, longer than the log spans"
        for cleaner in others
        if cleaner.interval > trace.end
    ]
    shown = [cleaner for cleaner in others if cleaner.interval <= trace.end]
    with patient_progress("simulating") as progress:
        results = replay_many(
            trace, [*shown, *ours], pull_rate=rate, progress=progress, timeline=timeline, removals=timeline
        )
        if regret:
            from analyzer.bounds import add_regret

            results[len(shown) :] = add_regret(trace, chosen, results[len(shown) :])
    return results, notes


def _baselines(names: Sequence[str] | None) -> list[str]:
    from analyzer.baselines import BASELINES, DEFAULT_BASELINES, baseline

    chosen: list[str] = []
    for name in names or DEFAULT_BASELINES:
        if name == "all":
            chosen.extend(BASELINES)
        elif name != _NONE:
            baseline(name)  # an unknown one is refused before the log is read
            chosen.append(name)
    return chosen


@app.command()
def verify(
    log: LogOption = None,
    host: LogHostOption = None,
    last: Annotated[int | None, typer.Option(min=1, help="How many of the latest prunes.", show_default="all")] = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Replay the history up to each recorded prune, and compare what must go with what was removed, image by image."""
    from analyzer.verify import agreement, print_checks
    from analyzer.verify import verify as check

    checks = check(console.open_log(log), host, last)
    if output is console.Format.JSON:
        console.print_json({"agreement": agreement(checks), "prunes": [made.to_json() for made in checks]})
    else:
        print_checks(checks)


@app.command()
def costs(
    log: LogOption = None,
    host: LogHostOption = None,
    by: Annotated[By, typer.Option(help="What to tell costs by.")] = By.PROJECT,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Show who fills the disk and who paid for pulls, as recorded."""
    from analyzer.costs import costs as costs_of

    rows = costs_of(console.open_log(log), by, host)
    if output is console.Format.JSON:
        console.print_json([row.to_json() for row in rows])
        return
    console.print_table(
        (by.upper(), "JOBS", "IMAGES", "HELD", "OWN", "FIRST PULLS", "RE-PULLS", "RE-PULLED"),
        [
            (
                row.name,
                f"{row.jobs:,}",
                f"{row.images:,}",
                format_bytes(row.held_bytes),
                format_bytes(row.own_bytes),
                format_bytes(row.first_bytes),
                f"{row.repulls:,}",
                format_bytes(row.repulled_bytes),
            )
            for row in rows
        ],
        right=("JOBS", "IMAGES", "HELD", "OWN", "FIRST PULLS", "RE-PULLS", "RE-PULLED"),
        names=(by.upper(),),
        optional=("FIRST PULLS", "OWN", "IMAGES"),
    )
    typer.echo(
        "HELD: layers of images that it has used, each counted once; OWN: of these, what nobody else has. "
        "RE-PULLED: pulled again although it had been there before."
    )


@app.command("baselines")
def list_baselines(output: console.FormatOption = console.Format.TABLE) -> None:
    """List what `simulate --baseline` knows, each in a line, with the switches that it may carry."""
    from analyzer.baselines import meanings

    known = meanings()
    if output is console.Format.JSON:
        console.print_json(
            [{"name": name, "meaning": text, "switches": list(on)} for name, (text, on) in known.items()]
        )
        return
    rows = [(name, " ".join(f"+{switch}" for switch in on) or "-", text) for name, (text, on) in known.items()]
    console.print_table(("NAME", "SWITCHES", "MEANING"), rows, names=("NAME",), below=("MEANING",))


def _format(text: str) -> Output:
    from analyzer.report import Output

    try:
        return Output(text)
    except ValueError:
        raise UsageError(f"--format: '{text}' is none of {', '.join(Output)}") from None


def main() -> None:
    """Entry point."""
    with console.faults_in_one_line("analyzer"):
        try:
            app()
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{error.name} is not installed: on the machine where you simulate, "
                "install 'docker-hindsight[analyzer]'"
            ) from None
