"""The `collector` command."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from collector.commands import ingest as ingest_commands
from collector.commands import show
from collector.commands import upkeep as upkeep_commands
from collector.commands.upkeep import ArchiveOption, archive_store
from collector.model.defaults import KEEP
from collector.model.job_details import JobDetails
from collector.model.units import format_bytes, size_option
from collector.terminal import console, faults
from collector.terminal.console import Format, FormatOption, HostOption, LogOption
from collector.terminal.declare import argument, option

app = console.program(
    "collector",
    "Record what a container engine does (pulls, containers, disk space) in an event log, "
    "so that images can be cleaned up by their last use.",
)


@app.command()
def run(
    log: LogOption = None,
    host: HostOption = None,
    disk_interval: Annotated[str, option("Time between disk samples.", "DURATION")] = "5min",
    inventory_interval: Annotated[str, option("Time between full inventories.", "DURATION")] = "1h",
    listing_interval: Annotated[str, option("Time between listings of containers.", "DURATION")] = "1min",
    once: Annotated[bool, typer.Option("--once", help="Take one inventory and one sample, then exit.")] = False,
    metrics: Annotated[str | None, option("Serve Prometheus metrics there.", "HOST:PORT", shown="none")] = None,
    metrics_file: Annotated[
        Path | None, option("Write them to a file for node_exporter's textfile collector.", "FILE.prom", shown="none")
    ] = None,
    runner_log: Annotated[
        str,
        typer.Option(
            metavar="auto|journal|none|FILE",
            help="Follow GitLab Runner's own log: in the journal (auto: if the runner is a service here), or a file.",
        ),
    ] = "auto",
    page: Annotated[
        str | None, option("Serve a read-only page of this host's state there.", "HOST:PORT", shown="none")
    ] = None,
    job_details: Annotated[
        JobDetails | None,
        option(
            "How much about jobs to keep in the log from now on: all, IDs only, or none.",
            None,
            shown="as before; all in a new log",
        ),
    ] = None,
    keep: Annotated[str, option("Thin older events, as `collector compact` does; or forever.", "DURATION")] = KEEP,
    max_size: Annotated[
        str | None, option("Keep less if the log's file is larger than this.", "SIZE", shown="none")
    ] = None,
    archive: ArchiveOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more on stderr.")] = False,
) -> None:
    """Follow the engine's events until SIGTERM."""
    from collector.daemon.loop import Collector
    from collector.daemon.schedule import Schedule
    from collector.daemon.upkeep import Upkeep
    from collector.engine.client import DockerEngine
    from collector.eventlog.retention import parse_keep
    from collector.machine.lock import exclusive

    console.log_to_stderr(verbose=verbose)
    schedule = Schedule(
        disk=console.duration("--disk-interval", disk_interval),
        inventory=console.duration("--inventory-interval", inventory_interval),
        containers=console.duration("--listing-interval", listing_interval),
    )
    opened = console.open_log(log, wait=1.0 if not once else 10.0)
    opened.job_details = job_details
    exporter = None
    if metrics is not None or metrics_file is not None:
        from collector.monitoring.metrics import Metrics

        exporter = Metrics(opened, metrics_file)
        if metrics is not None:
            exporter.serve(metrics)
    host_page = None
    if page is not None:
        from collector.monitoring.host_page import HostPage

        host_page = HostPage(opened)
        host_page.serve(page)
    largest = size_option("--max-size", max_size)
    limits = [] if parse_keep(keep) == math.inf and largest is None else ["--keep", keep]
    limits += [] if max_size is None else ["--max-size", max_size]
    limits += [] if archive is None or archive_store(archive) is None or not limits else ["--archive", archive]
    upkeep = Upkeep(opened.path, limits)
    collector = Collector(DockerEngine(host), opened, schedule, None, exporter, runner_log, host_page, upkeep)
    if once:
        images, sample = collector.once()
        typer.echo(
            f"{images} images; {format_bytes(sample.free_bytes)} of {format_bytes(sample.total_bytes)} free "
            f"on {sample.path}; stored in {opened.path}"
        )
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: collector.stop())
    with exclusive(opened.path, "collector", required=False):
        collector.run()


@app.command(short_help="Find out what can be observed here.")
def doctor(
    log: LogOption = None,
    host: HostOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also import, tag and remove an empty image, to see what events it emits.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Find out what can be observed here: permissions, the log, and what this engine reports or never reports.

    Exits with 1 if something needs fixing; what an engine cannot report is not a fault.
    """
    from collector.doctor import State, examine
    from collector.engine.client import DockerEngine

    engine = DockerEngine(host)
    found = examine(engine, console.open_log(log), probe=probe, found_by=engine.address.how)
    if output is Format.JSON:
        console.print_json(found)
    else:
        rows = [(finding.subject, finding.state.value, finding.answer, finding.detail) for finding in found]
        console.print_table(("WHAT", "STATE", "ANSWER", "DETAIL"), rows)
    if any(finding.state is State.FAULT for finding in found):
        raise typer.Exit(1)


@app.command(short_help="Continue a log that was started on another host.")
def adopt(
    name: Annotated[str | None, argument("Which host, if the log holds several.", "NAME")] = None,
    log: LogOption = None,
    host: HostOption = None,
) -> None:
    """Continue on this host a log that was started on another machine or engine.

    A log that was copied, or cloned with its machine, is not written to until it is adopted: its history would
    be mistaken for this host's. On a clone, move the log away instead; a new one is then started.
    """
    from collector.engine.client import DockerEngine
    from collector.eventlog.identity import this_machine

    info = DockerEngine(host).info()
    opened = console.open_log(log)
    before, after = opened.adopt(this_machine(info), name)
    console.print_as_is(
        f"{opened.path}: the history of '{before.identity.name}' continues here as '{after.identity.name}'"
    )


monitoring = typer.Typer(help="Print what Grafana and Prometheus need.", no_args_is_help=True)
app.add_typer(monitoring, name="monitoring")


@monitoring.command()
def dashboard() -> None:
    """Print a Grafana dashboard to import."""
    from collector.monitoring import dashboards

    typer.echo(dashboards.host())


@monitoring.command()
def alerts() -> None:
    """Print alert rules for Prometheus."""
    typer.echo(_shipped("alerts.yml"), nl=False)


@monitoring.command(short_help="Print a Grafana dashboard of many hosts together.")
def fleet() -> None:
    """Print a Grafana dashboard of many hosts together; it needs the recording rules."""
    from collector.monitoring import dashboards

    typer.echo(dashboards.fleet())


@monitoring.command(short_help="Print recording rules for a fleet's dashboard.")
def rules() -> None:
    """Print recording rules for Prometheus, for the dashboard of a fleet."""
    typer.echo(_shipped("rules.yml"), nl=False)


def _shipped(name: str) -> str:
    from importlib.resources import files

    return files("collector.monitoring").joinpath(name).read_text()


app.command()(show.status)


@app.command(short_help="Check that the log is consistent.")
def check(log: LogOption = None, output: FormatOption = Format.TABLE) -> None:
    """Check that the log is consistent: numbers, intervals, causes, planned removals, views and projections.

    Exits with 1 if anything is wrong. Wrong projections are built again when events are next stored, and the metrics'
    totals when a collector next starts.
    """
    from collector.queries import check as checks

    opened = console.open_log(log)
    found = checks.check(opened)
    if any(violation.rule == "projection" for violation in found):
        opened.forget_folded()
    if output is Format.JSON:
        console.print_json(found)
    else:
        for violation in found:
            console.print_as_is(f"{violation.rule}: {violation.text}")
        if not found:
            typer.echo("nothing is wrong with the log")
    if found:
        raise typer.Exit(1)


app.command()(show.images)
app.command(short_help="List the latest jobs with their images and pulls.")(show.jobs)
app.command(short_help="Show an image's history, from pull to removal.")(show.explain)
app.command(short_help="Write new events to the folder or bucket that a fleet shares.")(upkeep_commands.ship)
app.command(short_help="Thin out what is past its retention, and free its space.")(upkeep_commands.compact)
app.command(short_help="Remove what the log holds of a project's jobs or an image.")(upkeep_commands.forget)


app.command("import", short_help="Make a log from a list of jobs, to try policies.")(ingest_commands.import_)
app.add_typer(ingest_commands.ingest_app, name="ingest", short_help=ingest_commands.INGEST)


def main() -> NoReturn:
    """Entry point."""
    faults.run(app, "collector")
