"""Commands that show what the log holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from collector.model.units import DAY_S, format_bytes, format_count, format_duration, format_time, short_id
from collector.terminal import console
from collector.terminal.console import Format, FormatOption, LogOption
from collector.terminal.declare import argument, option
from collector.terminal.sparkline import sparkline

if TYPE_CHECKING:
    from collector.queries import status as reports

_MONTH_S = 30 * DAY_S
_SPARKLINE_WIDTH = 56


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
        console.print_json(found)
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
    return "" if found.whole_since is None else f"; complete from {format_time(found.whole_since)} on, thinned before"


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
        ("observed", _observed(found)),
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


def _observed(found: reports.Status) -> str:
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


def images(log: LogOption = None, output: FormatOption = Format.TABLE) -> None:
    """List every image with its last use."""
    from collector.queries.coverage import of_known_host
    from collector.queries.images import images as images_of

    rows = images_of(of_known_host(console.open_log(log)))
    if output is Format.JSON:
        console.print_json(rows)
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


def jobs(
    log: LogOption = None,
    project: Annotated[str | None, option("Only jobs of this project: its path or ID.", "PROJECT")] = None,
    limit: Annotated[int, option("List at most this many.", "NUMBER", min=1)] = 50,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the latest jobs with their images and what was pulled for them."""
    from collector.queries import jobs as jobreport
    from collector.queries.coverage import of_known_host

    rows = jobreport.jobs(of_known_host(console.open_log(log)), project, limit)
    if output is Format.JSON:
        console.print_json(rows)
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


def explain(
    image: Annotated[str, argument("A reference, a digest, or the beginning of an ID.", "IMAGE")],
    log: LogOption = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Go through every use, however long the log is; by default earlier ones are only counted."
        ),
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show an image's history: how it arrived, who used it, who removed it and why, what its return cost."""
    from collector.model.origin import MEANING
    from collector.queries import story
    from collector.queries.coverage import of_known_host

    found = story.stories(of_known_host(console.open_log(log)), image, None if everything else story.LATEST)
    if output is Format.JSON:
        console.print_json(found)
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


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
