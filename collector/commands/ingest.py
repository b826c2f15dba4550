"""Commands that make or complete a log from what others recorded of jobs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collector.model.errors import UsageError
from collector.model.units import format_count, parse_bytes
from collector.terminal import console
from collector.terminal.console import Format, FormatOption, LogOption
from collector.terminal.declare import argument, option

if TYPE_CHECKING:
    from collector.job_sources import ingest


def import_(
    jobs: Annotated[Path, argument("Jobs: CSV (or .csv.gz) with start,seconds,pipeline,job,image.", "JOBS")],
    layers: Annotated[Path, argument("Layers: CSV (or .csv.gz) with image,position,diff_id,bytes.", "LAYERS")],
    log: LogOption = None,
    disk: Annotated[str, option("Size of the disk that the images fill.", "SIZE")] = "100GiB",
    other: Annotated[str, option("How much of it other files take.", "SIZE")] = "0",
) -> None:
    """Make a log from a list of jobs, to try policies."""
    from collector.job_sources.job_list import import_jobs

    try:
        disk_bytes, other_bytes = parse_bytes(disk), parse_bytes(other)
    except ValueError as error:
        raise UsageError(str(error)) from None
    opened = console.open_log(log)
    with console.progress("importing") as progress:
        stored = import_jobs(jobs, layers, opened, disk_bytes, other_bytes, progress=progress)
    typer.echo(f"{stored:,} new events in {opened.path}")


INGEST = "Import from other sources which images jobs used."
ingest_app = typer.Typer(no_args_is_help=True, help=INGEST)


@ingest_app.command("gitlab-runner-log", short_help="Read which job used which image from a runner's log.")
def ingest_runner_log(
    file: Annotated[str, argument("The runner's log, or - for standard input.", "FILE")] = "-",
    log: LogOption = None,
    show_cursor: Annotated[
        bool, typer.Option("--show-cursor", help="Print the cursor of the last ingested journal entry, and exit.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Read which job used which image from GitLab Runner's own log.

    A file in any of the runner's formats, or the journal's JSON export:
    journalctl -u gitlab-runner -o json | collector ingest gitlab-runner-log

    What was ingested before is recognised and not stored again.
    """
    from collector.job_sources import ingest
    from collector.job_sources.reading import PipedLog, StoredLog, bounded_lines

    opened = console.open_log(log)
    if show_cursor:
        typer.echo(ingest.journal_cursor(opened) or "")
        return
    if file == "-":
        lines = (raw.decode(errors="replace") for raw, _, _ in bounded_lines(sys.stdin.buffer))
        found = ingest.ingest(opened, PipedLog(lines, time.time_ns()))
    else:
        found = ingest.ingest(opened, StoredLog(Path(file)))
    _print_ingested(found, output, "line")


@ingest_app.command("gitlab", short_help="Read which job used which image from a GitLab server.")
def ingest_gitlab(
    url: Annotated[str, option("The GitLab server, such as https://gitlab.example.org.", "URL")],
    runner: Annotated[int, option("The runner's number on that server.", "NUMBER", min=1)],
    token_file: Annotated[
        Path | None,
        option("File with a token of scope read_api. Default: the environment variable GITLAB_TOKEN.", "FILE"),
    ] = None,
    log: LogOption = None,
    limit: Annotated[int, option("At most this many new jobs: the newest.", "NUMBER", min=1)] = 1000,
    insecure: Annotated[
        bool,
        typer.Option(
            "--allow-plain-http", help="Allow an http:// URL, over which the token is sent unencrypted to another host."
        ),
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Read which job used which image from a GitLab server: the runner's jobs and their traces.

    Each call continues where the last one ended. The token is sent to the server only, and never stored.
    """
    from collector.job_sources import gitlab, ingest

    opened = console.open_log(log)
    server = gitlab.Server(url, gitlab.read_token(token_file), insecure=insecure)
    with console.progress("reading jobs") as progress:
        found = ingest.ingest(opened, gitlab.RunnerJobs(server, runner, limit, progress))
    _print_ingested(found, output, "job")


def _print_ingested(found: ingest.Ingested, output: Format, unit: str) -> None:
    if output is Format.JSON:
        console.print_json(found)
        return
    facts = format_count(found.facts, "fact")
    typer.echo(f"{format_count(found.lines, unit)}, {facts} on jobs, {found.new:,} of them new")
    if unit == "line" and not found.facts:
        typer.echo("note: no new line mentions a job; if jobs ran, is this the log of GitLab Runner itself?")
    if found.missing:
        typer.echo(f"note: {found.missing:,} have no trace that can be read: erased, expired or not for this token")
    if found.unresolved:
        typer.echo(f"note: {found.unresolved:,} name an image whose ID the log does not know")
    if found.untimed:
        typer.echo(
            f"note: {found.untimed:,} have no time and were given a late one: export the journal as JSON, "
            'or set log_format = "json" in the runner\'s configuration'
        )
