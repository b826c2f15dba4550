"""Commands that look at what is known: `verify`, `costs`, `watch`, `export`, `baselines`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyzer.audit.grouping import By
from analyzer.options.declared import LogHostOption, OneLogOption
from collector.model.errors import UsageError
from collector.model.units import format_bytes, format_count
from collector.terminal import console
from collector.terminal.console import LogOption
from collector.terminal.declare import option
from pruner.policy.options import policy_options
from pruner.policy.policy import Policy

_MOST_NAMED = 5
COSTS_LEGEND = {
    "HELD": "layers of images that it has used, each counted once.",
    "OWN": "of these, what nobody else has.",
    "RE-PULLED": "pulled again although it had been there before.",
    "FAILED": "pulls that failed, as the runners' logs say.",
}


def export(
    parquet: Annotated[Path, option("The folder to write to.", "DIR")],
    log: LogOption = None,
    host: LogHostOption = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Write the log as Parquet, partitioned by host and day, for fleets and for other tools.

    Data of the same hosts in the folder is replaced. The other commands accept the folder as `--log`.
    """
    from dataclasses import asdict

    from analyzer.trace.parquet import export_parquet

    events = console.open_log(log)
    written = export_parquet(events, parquet, host)
    if output is console.Format.JSON:
        console.print_json([asdict(part) for part in written])
        return
    rows = [[part.host, f"{part.events:,}", f"{part.days:,}", format_bytes(part.bytes)] for part in written]
    console.print_table(("HOST", "EVENTS", "DAYS", "SIZE"), rows, right=("EVENTS", "DAYS", "SIZE"))


def verify(
    log: OneLogOption = None,
    host: LogHostOption = None,
    last: Annotated[int | None, option("How many of the latest prunes.", "NUMBER", shown="all", min=1)] = None,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Replay the history up to each prune, and compare what the policy asks for with what was removed, by image.

    Folders and buckets that `collector ship` or `analyzer export` wrote are logs, too; --only-host chooses one of
    several hosts.
    """
    from analyzer.audit.verify import agreement
    from analyzer.audit.verify import verify as check
    from analyzer.report.terminal_verify import print_checks
    from analyzer.trace.sources import find

    if log is not None and ("://" in log or Path(log).is_dir()):
        sources = find([log], host)
        if len(sources) > 1:
            names = ", ".join(source.name for source in sources[:_MOST_NAMED])
            more = ", ..." if len(sources) > _MOST_NAMED else ""
            raise UsageError(f"{log} holds {len(sources):,} hosts ({names}{more}): choose one with --only-host")
        checks = check(sources[0].log(), sources[0].host, last)
    else:
        checks = check(console.open_log(Path(log) if log else None), host, last)
    if output is console.Format.JSON:
        console.print_json({"agreement": agreement(checks), "prunes": checks})
    else:
        print_checks(checks)


def costs(
    log: LogOption = None,
    host: LogHostOption = None,
    by: Annotated[By, typer.Option(help="What to group costs by.")] = By.PROJECT,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Show who fills the disk and who paid for pulls, as recorded."""
    from analyzer.audit.costs import costs as costs_of

    rows = costs_of(console.open_log(log), by, host)
    if output is console.Format.JSON:
        console.print_json(rows)
        return
    left_out = console.print_table(
        (by.upper(), "JOBS", "IMAGES", "HELD", "OWN", "FIRST PULLS", "RE-PULLS", "RE-PULLED", "FAILED"),
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
                f"{row.failed_pulls:,}",
            )
            for row in rows
        ],
        right=("JOBS", "IMAGES", "HELD", "OWN", "FIRST PULLS", "RE-PULLS", "RE-PULLED", "FAILED"),
        names=(by.upper(),),
        optional=("FIRST PULLS", "OWN", "IMAGES"),
    )
    if failed := sum(row.failed_pulls for row in rows):
        console.print_text(f"warning: {format_count(failed, 'pull')} failed, as the runners' logs say", "red")
    typer.echo()
    if rows and not any(row.first_bytes or row.repulls for row in rows):
        console.print_text("note: the log holds no pull, so their costs are unknown: `simulate` estimates them")
    for column, meaning in COSTS_LEGEND.items():
        if column not in left_out:
            console.print_text(f"{column}: {meaning}", "dim")


def list_baselines(output: console.FormatOption = console.Format.TABLE) -> None:
    """List the baselines that `simulate --baseline` accepts, one per line, with their switches."""
    from analyzer.baselines import meanings

    known = meanings()
    if output is console.Format.JSON:
        console.print_json(
            [{"name": name, "meaning": text, "switches": list(on)} for name, (text, on) in known.items()]
        )
        return
    rows = [(name, " ".join(f"+{switch}" for switch in on) or "-", text) for name, (text, on) in known.items()]
    console.print_table(("NAME", "SWITCHES", "MEANING"), rows, names=("NAME",), below=("MEANING",))


@policy_options
def watch(
    policy: Policy,
    log: LogOption = None,
    host: console.HostOption = None,
    every: Annotated[str, option("Time between refreshes.", "DURATION", "--every")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Look once, then exit.")] = False,
) -> None:
    """Watch this host: free space, the last events, and what would go next if space ran out."""
    from analyzer.audit.watch import watch as show

    show(console.open_log(log), host, policy, console.duration("--every", every), once=once)
