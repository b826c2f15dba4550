"""The `collector` command."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from collector.commands import ingest as ingest_commands
from collector.commands import upkeep as upkeep_commands
from collector.commands.upkeep import ArchiveOption, archive_store, size_of
from collector.model.job_details import JobDetails
from collector.model.units import format_bytes, format_count, format_duration, format_time, short_id
from collector.terminal import console, faults
from collector.terminal.console import Format, FormatOption, HostOption, LogOption, VersionOption
from collector.terminal.declare import argument, option
from collector.terminal.sparkline import sparkline

if TYPE_CHECKING:
    from collector.queries import status as reports

app = typer.Typer(
    name="collector",
    help="Record what a container engine does (pulls, containers, disk space) in an event log, "
    "so that images can be cleaned up by their last use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_MONTH_S = 30 * 86400.0
_SPARKLINE_WIDTH = 56


@app.callback()
def options(*, version: VersionOption = False) -> None:
    """Options of all commands."""


@app.command()
def run(
    log: LogOption = None,
    host: HostOption = None,
    disk_interval: Annotated[str, option("Time between disk samples.", "TIME")] = "5min",
    inventory_interval: Annotated[str, option("Time between full inventories.", "TIME")] = "1h",
    listing_interval: Annotated[str, option("Time between listings of containers.", "TIME")] = "1min",
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
            "How much about jobs the log keeps from now on: all, IDs only, or none.",
            None,
            shown="as before; all in a new log",
        ),
    ] = None,
    keep: Annotated[str, option("Thin older events, as `collector compact` does; or forever.", "TIME")] = "400d",
    max_size: Annotated[
        str | None, option("Keep less if the log's file is larger than this.", "SIZE", shown="none")
    ] = None,
    archive: ArchiveOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more on stderr.")] = False,
) -> None:
    """Follow the engine's events until SIGTERM."""
    from collector.daemon.loop import Collector, Schedule
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
    largest = size_of("--max-size", max_size)
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
        console.print_json([finding.to_json() for finding in found])
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


@monitoring.command()
def fleet() -> None:
    """Print a Grafana dashboard of many hosts together; it needs the recording rules."""
    from collector.monitoring import dashboards

    typer.echo(dashboards.fleet())


@monitoring.command()
def rules() -> None:
    """Print recording rules for Prometheus, for the dashboard of a fleet."""
    typer.echo(_shipped("rules.yml"), nl=False)


def _shipped(name: str) -> str:
    from importlib.resources import files

    return files("collector.monitoring").joinpath(name).read_text()


@app.command()
def status(
    log: LogOption = None,
    output: FormatOption = Format.TABLE,
    check: Annotated[
        bool, typer.Option("--check", help="Print nothing; exit with 1 and one line if no collector is running.")
    ] = False,
) -> None:
    """Show what the log holds and what it missed."""
    from collector.queries import status as reports

    if check:
        reports.require_collector(console.open_log(log))
        return
    found = reports.status(console.open_log(log))
    if output is Format.JSON:
        console.print_json(reports.as_json(found))
        return
    if failures := str(found.failures):
        console.print_text(f"warning: in the last 7 d {failures}", "red")
    console.print_facts(_state(found))
    if found.unwatched_seconds is not None:
        console.print_text(f"warning: {reports.unwatched_text(found.unwatched_seconds)}", "yellow")
    if (still := found.standstill) is not None:
        since = format_duration(time.time() - still.since)
        runs = format_count(still.runs, "prune run")
        console.print_text(f"warning: for {since} {runs} removed nothing: {still.reasons}", "yellow")
    typer.echo()
    counts = [(kind, f"{count:,}") for kind, count in found.events_by_kind.items()]
    console.print_table(("EVENT", "COUNT"), counts, right=("COUNT",))


def _thinned(found: reports.Status) -> str:
    return "" if found.whole_since is None else f"; whole from {format_time(found.whole_since)} on, before thinned"


def _state(found: reports.Status) -> list[tuple[str, str]]:
    share = "-" if not found.total_bytes or found.free_bytes is None else f"{found.free_bytes / found.total_bytes:.1%}"
    facts = [
        ("disk", f"{format_bytes(found.free_bytes)} of {format_bytes(found.total_bytes)} free ({share})"),
        *_free_over_time(found),
        *[("", _other_disk(one)) for one in found.disks[1:]],
        ("holds", ", ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in found.holds.items())),
        ("images", f"{found.images:,}" + (f" ({format_bytes(found.image_bytes)})" if found.image_bytes else "")),
        ("log", f"{found.log} ({format_bytes(found.file_bytes)}, schema {found.schema_version})"),
        ("min age", found.min_age),
        ("events", f"{found.events:,}, from {format_time(found.first_event)}{_thinned(found)}"),
        ("last event", f"{format_time(found.last_event)} (recorded {format_duration(found.lag_seconds)} ago)"),
        ("gaps", f"{found.gaps} ({format_duration(found.gap_seconds)})"),
        ("observed", _witnessed(found)),
        ("recommendation", _recommendation(found)),
        ("next", found.next_step),
        ("spooled", f"{format_count(found.spooled_events, 'event')} in the spool"),
        *[("set aside" if not n else "", f"{path} (damaged)") for n, path in enumerate(found.damaged_logs)],
    ]
    return [(word, value) for word, value in facts if value]


def _other_disk(found: reports.DiskState) -> str:
    free = f"{format_bytes(found.free_bytes)} of {format_bytes(found.total_bytes)} free"
    return f"{free} on {found.file_system} ({', '.join(found.holds)})"


def _recommendation(found: reports.Status) -> str:
    """From when on the history is long enough to recommend a policy."""
    if found.recommendation_from is None:
        return "none yet: no use of an image was recorded"
    ahead = found.recommendation_from - time.time()
    if ahead <= 0:
        return "sound: there is history enough"
    return f"sound from {format_time(found.recommendation_from)} on, in {format_duration(ahead)}: too little history"


def _witnessed(found: reports.Status) -> str:
    """How much was seen; of a log that is younger than that, since when."""
    spans = f"{_share(found.coverage_7_days)} of 7 days, {_share(found.coverage_30_days)} of 30 days"
    if found.first_event is None:
        return spans
    age = time.time() - found.first_event
    return spans if age > _MONTH_S else f"{spans} (the log began {format_duration(age)} ago)"


def _free_over_time(found: reports.Status) -> list[tuple[str, str]]:
    """The disk's last week as a line of bars, and the worst of it in words."""
    history = found.free_history
    if len(history) < 2 or not found.total_bytes:  # noqa: PLR2004
        return []
    when, least = min(history, key=lambda sample: sample[1])
    line = sparkline(history, found.total_bytes, _SPARKLINE_WIDTH, bars=console.bars())
    span = format_duration(history[-1][0] - history[0][0])
    return [("", f"{line} {span}"), ("", f"least {format_bytes(least)}, {format_time(when)}")]


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
        console.print_json([violation.to_json() for violation in found])
    else:
        for violation in found:
            console.print_as_is(f"{violation.rule}: {violation.text}")
        if not found:
            typer.echo("nothing is wrong with the log")
    if found:
        raise typer.Exit(1)


@app.command()
def images(log: LogOption = None, output: FormatOption = Format.TABLE) -> None:
    """List every image with its last use."""
    from collector.queries import status as reports

    rows = reports.images(reports.of_known_host(console.open_log(log)))
    if output is Format.JSON:
        console.print_json([row.to_json() for row in rows])
        return
    console.print_table(
        ("LAST USE", "EVIDENCE", "7 DAYS", "CONTAINERS", "SIZE", "OWN", "ORIGIN", "ID", "IMAGE"),
        [
            (
                format_time(row.last_use),
                row.evidence or "none seen",
                str(row.uses_7_days),
                str(row.containers),
                format_bytes(row.size_bytes),
                format_bytes(row.own_bytes),
                row.origin,
                short_id(row.image_id),
                row.name,
            )
            for row in rows
        ],
        right=("7 DAYS", "CONTAINERS", "SIZE", "OWN"),
        names=("IMAGE",),
        optional=("ID", "CONTAINERS", "EVIDENCE", "OWN", "7 DAYS", "ORIGIN"),
    )


@app.command(short_help="List the latest jobs with their images and pulls.")
def jobs(
    log: LogOption = None,
    project: Annotated[str | None, option("Only jobs of this project: its path or ID.", "PROJECT")] = None,
    limit: Annotated[int, option("List at most this many.", "NUMBER", min=1)] = 50,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the latest jobs with their images and what was pulled for them."""
    from collector.queries import jobs as jobreport
    from collector.queries import status as reports

    rows = jobreport.jobs(reports.of_known_host(console.open_log(log)), project, limit)
    if output is Format.JSON:
        console.print_json([row.to_json() for row in rows])
        return
    console.print_table(
        ("BEGAN", "TOOK", "JOB", "PROJECT", "REF", "OUTCOME", "PULLED", "RE-PULLED", "IMAGES"),
        [
            (
                format_time(row.began),
                format_duration(row.seconds),
                row.job_id or row.runner or row.ci,
                row.project or row.project_id or "-",
                row.ref or "-",
                row.outcome or ("-" if row.ended else "in flight"),
                format_bytes(row.pulled_bytes) if row.pulls else "-",
                format_bytes(row.repulled_bytes) if row.repulls else "-",
                ", ".join(row.images) or "-",
            )
            for row in rows
        ],
        right=("TOOK", "PULLED", "RE-PULLED"),
        names=("IMAGES", "PROJECT", "REF"),
        optional=("REF", "OUTCOME", "PULLED"),
    )


@app.command(short_help="Show an image's history, from pull to removal.")
def explain(
    image: Annotated[str, argument("A reference, a digest, or the beginning of an ID.", "IMAGE")],
    log: LogOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show an image's history: how it arrived, who used it, who removed it and why, what its return cost."""
    from collector.model.origin import MEANING
    from collector.queries import status as reports
    from collector.queries import story

    found = story.stories(reports.of_known_host(console.open_log(log)), image)
    if output is Format.JSON:
        console.print_json([entry.to_json() for entry in found])
        return
    for number, entry in enumerate(found):
        if number:
            typer.echo()
        console.print_facts(
            [
                ("image", short_id(entry.image_id) + (" (gone)" if entry.gone else "")),
                *[("" if k else "names", name) for k, name in enumerate(entry.names or ["none"])],
                ("origin", MEANING[entry.origin]),
            ]
        )
        typer.echo()
        console.print_table(
            ("TIME", "WHAT", "BYTES", "DETAIL"),
            [(format_time(one.began), one.what, story.size_of(one), one.detail) for one in entry.episodes],
            right=("BYTES",),
        )


app.command(short_help="Write new events to the folder or bucket that a fleet shares.")(upkeep_commands.ship)
app.command(short_help="Thin out what is past its retention, and free its space.")(upkeep_commands.compact)
app.command(short_help="Remove what the log holds of a project's jobs or an image.")(upkeep_commands.forget)


app.command("import")(ingest_commands.import_)
app.add_typer(ingest_commands.ingest_app, name="ingest")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def main() -> NoReturn:
    """Entry point."""
    faults.run(app, "collector")
