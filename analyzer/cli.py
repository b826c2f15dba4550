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
    By,
    DiskSizeOption,
    EmergencyOption,
    IntervalOption,
    LogHostOption,
    MinAgeOption,
    OrderOption,
    OtherOption,
    PolicyOption,
    PullRateOption,
    TargetOption,
    ThresholdOption,
    TriggerOption,
)
from collector import console
from collector.console import LogOption, VersionOption
from collector.errors import UsageError
from collector.log import EventLog
from collector.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analyzer.report import Output
    from analyzer.trace import Trace
    from pruner.policy import Policy

app = typer.Typer(
    name="analyzer",
    help="Replay what a host's log recorded under other policies, to see before pruning what each would cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEMO_DISK_BYTES = 100 * 2**30
_NONE = "none"
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
    log: LogOption = None,
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
    output: FormatOption = "table",
) -> None:
    """Show what each policy would have done on this host: one row per policy, beside what others do.

    Repeated options are combined: two thresholds and two orders make four policies.
    """
    from analyzer.loading import DiskOverride, load_trace

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
    rate = options.size("--pull-rate", pull_rate)
    if not rate:
        raise UsageError("--pull-rate must be at least one byte per second")
    override = DiskOverride(options.size("--disk-size", disk_size), options.size("--other", other))
    names = _baselines(baseline)
    when = options.trigger(trigger)
    trace = load_trace(console.open_log(log), host, override)
    _compare(trace, chosen, names, shown, float(rate), when, regret=regret)


@app.command()
def demo(
    threshold: ThresholdOption = None,
    order: OrderOption = None,
    output: FormatOption = "table",
) -> None:
    """Simulate a year of a public project's CI (Mesa, 2023) that ships with this program."""
    from analyzer.data import mesa_files
    from analyzer.loading import load_trace
    from collector.importer import import_jobs

    shown = _format(output)
    chosen = options.policies(None, None, threshold=threshold or ["10%", "20%"], order=order)
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        log = EventLog(Path(folder) / "events.duckdb", host="mesa-ci-2023")
        with console.progress("importing a year of jobs") as progress:
            import_jobs(*mesa_files(), log, DEMO_DISK_BYTES, 0, progress)
        trace = load_trace(log)
    _compare(trace, chosen, _baselines(None), shown, 50e6)


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
    from analyzer.baselines import baseline
    from analyzer.replay import PolicyCleaner, Trigger, replay_many
    from analyzer.report import patient_progress, print_results

    ours = [PolicyCleaner(policy, trace, trigger=Trigger(trigger)) for policy in chosen]
    others = [baseline(name) for name in baselines]
    notes = [
        f"{cleaner.name} is left out: it runs every {format_duration(cleaner.interval)}, longer than the log spans"
        for cleaner in others
        if cleaner.interval > trace.end
    ]
    shown = [cleaner for cleaner in others if cleaner.interval <= trace.end]
    with patient_progress("simulating") as progress:
        results = replay_many(trace, [*shown, *ours], pull_rate=rate, progress=progress)
        if regret:
            from analyzer.bounds import add_regret

            results[len(shown) :] = add_regret(trace, chosen, results[len(shown) :])
    print_results(trace, results, output, notes)


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
