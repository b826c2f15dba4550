"""Commands that carry a log elsewhere, make it smaller, or make it forget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collector.model.defaults import KEEP
from collector.model.errors import UsageError
from collector.model.units import format_bytes, format_count, format_time, size_option
from collector.terminal import console
from collector.terminal.console import Format, FormatOption, LogOption
from collector.terminal.declare import argument, option

if TYPE_CHECKING:
    from collector.shipping.forget import Rule
    from collector.shipping.store import Store

# Readers of a large fleet may take that long.
_LEAST_AFTER_S = 3600.0
_MOST_PAUSE = 1000
ArchiveOption = Annotated[
    str | None, option("Ship new events there before anything is thinned; see `ship`.", "DEST", shown="none")
]


def ship(
    place: Annotated[str, argument("A folder, or s3://BUCKET/PREFIX.", "DEST")],
    log: LogOption = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with lines AWS_ACCESS_KEY_ID=..., AWS_SECRET_ACCESS_KEY=..., AWS_ENDPOINT_URL=... "
            "Default: these variables of the environment.",
            show_default=False,
        ),
    ] = None,
    remove_merged_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Remove the small parts so long after they were merged into one (such as 7d): readers that have "
            "started must have finished. It needs the right to delete, and no other tool that reads them by day.",
            show_default="they stay",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write the log's new events as Parquet to the place that a fleet shares, by host and day.

    Each call continues where the last one ended, even if that was interrupted. `analyzer --log DEST` reads it.
    """
    from collector.shipping.ship import ship as ship_log
    from collector.shipping.store import open_store

    after_s = None
    if remove_merged_after is not None:
        after_s = console.duration("--remove-merged-after", remove_merged_after, _LEAST_AFTER_S)
    found = ship_log(console.open_log(log), open_store(place, credentials), remove_merged_after_s=after_s)
    if output is Format.JSON:
        console.print_json(found)
        return
    for shipped in found:
        for note in shipped.notes:
            console.print_as_is(f"note: {note}", err=True)
        typer.echo(
            f"{shipped.host}: {format_count(shipped.events, 'new event')} in {format_count(shipped.parts, 'part')} "
            f"({format_bytes(shipped.bytes)}); {place} has all up to number {shipped.last:,}"
        )


def compact(
    log: LogOption = None,
    keep: Annotated[str, option("How long to keep all events, or forever.", "DURATION")] = KEEP,
    max_size: Annotated[str | None, option("Keep less if the file is larger than this.", "SIZE", shown="none")] = None,
    archive: ArchiveOption = None,
    if_due: Annotated[bool, typer.Option("--if-due", help="Do nothing until a month's events can be thinned.")] = False,
    pause: Annotated[
        float, option("Pause after each step, as a multiple of the time that it took.", "NUMBER", min=0.0)
    ] = 0.0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Thin events older than --keep: a few uses per image and day stay, the others become sums.

    Decisions and `collector explain` do not change. The file is rewritten, so that it really shrinks; collector and
    pruner keep running meanwhile, and an interruption at any moment leaves either the old log or the new one.
    """
    from collector.eventlog import retention

    largest = size_option("--max-size", max_size)
    if not pause <= _MOST_PAUSE:
        raise UsageError(f"--pause: {pause} is not a number up to {_MOST_PAUSE}")
    least_s = retention.OFTEN_S if if_due else 0.0
    opened = console.open_log(log)

    store = archive_store(archive)

    def ship_all() -> None:
        if store is not None:
            from collector.shipping.ship import ship as ship_log

            with _naming_archive():
                ship_log(opened, store)

    kept = retention.parse_keep(keep)
    found = retention.compact(opened, kept, largest, least_s=least_s, pause=pause, archive=ship_all)
    if output is Format.JSON:
        console.print_json(found)
        return
    won = f"{format_bytes(found.bytes_before)} -> {format_bytes(found.bytes_after)}"
    since = "from its beginning" if found.whole_since is None else f"from {format_time(found.whole_since)} on"
    if found.bytes_without_gain is not None:
        console.print_as_is(
            f"nothing was won: thinned, the file would take {format_bytes(found.bytes_without_gain)} "
            f"instead of {format_bytes(found.bytes_before)}, so it stays as it is; the history is complete {since}"
        )
    elif found.removed:
        console.print_as_is(
            f"{format_count(found.removed, 'event')} became sums ({won}); the history is complete {since}"
        )
    else:
        again = f", and the file was written again ({won})" if found.bytes_after < found.bytes_before else ""
        console.print_as_is(f"nothing to thin{again}: the history is complete {since}")
    if largest is not None and found.bytes_after > largest:
        console.print_as_is(
            f"note: {format_bytes(found.bytes_after)} are more than --max-size: less than 30 d are never kept", err=True
        )


def archive_store(place: str | None) -> Store | None:
    """Where a compaction ships to first. Raises UsageError."""
    from collector.shipping.store import open_store

    if place is None:
        return None
    if not place:
        raise UsageError("--archive: it is empty: name a folder or s3://BUCKET/PREFIX")
    with _naming_archive():
        return open_store(place)


@contextmanager
def _naming_archive() -> Iterator[None]:
    """Say of what is wrong with a place that it is the archive's. Raises UsageError, StoreError."""
    from collector.shipping.store import StoreError

    try:
        yield
    except (UsageError, StoreError) as error:
        raise type(error)(f"--archive: {error}") from None


def forget(
    log: LogOption = None,
    project: Annotated[str | None, option("A project's ID or path; a glob such as 'group/*'.", "PROJECT")] = None,
    image: Annotated[str | None, option("A reference, repository, digest, or the beginning of an ID.", "IMAGE")] = None,
    archive: Annotated[str | None, option("Remove it where the log was shipped to, too.", "DEST", shown="none")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Permanently remove a project's jobs or an image from the log, and record that it was done.

    For a project, its jobs are removed and their uses are no longer attributed to it; that the images were used stays.
    For an image, everything is removed. The log, and the parts of an archive that hold the data, are rewritten without
    it, so that none of it can be read from them. Damaged files next to the log must be removed by hand.
    """
    from collector.eventlog import forget as forgetting
    from collector.shipping.ship import LOCK

    if (project is None) == (image is None):
        raise UsageError("forget: name either --project or --image")
    opened, store = console.open_log(log), archive_store(archive)

    def forget_there(rule: Rule) -> int:
        if store is None:
            return 0
        from collector.shipping.forget import forget_shipped

        with _naming_archive():
            return forget_shipped(opened, store, rule, dry_run=dry_run)

    if project is not None:
        found = forgetting.forget_project(opened, project, dry_run=dry_run, archive=forget_there)
    else:
        found = forgetting.forget_image(opened, image or "", dry_run=dry_run, archive=forget_there)
    if not dry_run:
        _forget_beside(opened.path)
    if output is Format.JSON:
        console.print_json(found)
        return
    what = format_count(found.jobs, "job") if project is not None else format_count(len(found.images), "image")
    done = "would remove" if dry_run else "removed"
    held = f"{done} {what} and {format_count(found.events, 'mention')}" if found.found else "the log holds nothing"
    console.print_as_is(f"{held} of {project or image}")
    if archive is not None:
        console.print_as_is(f"{done} from {format_count(found.parts, 'part')} of {archive}")
    elif opened.path.with_name(f"{opened.path.name}{LOCK}").exists():
        console.print_as_is("note: what `collector ship` wrote may still hold it: name it with --archive", err=True)
    for path in found.left:
        console.print_as_is(f"note: {path} may still hold it: remove it", err=True)


def _forget_beside(log_path: Path) -> None:
    """Have the pruner's notes beside a log name nothing. Raises LogError."""
    from collector.machine.next_removals import forget_next_removals
    from collector.machine.prune_runs import forget_reasons
    from collector.model.errors import LogError

    try:
        forget_next_removals(log_path)
        forget_reasons(log_path)
    except OSError as error:
        raise LogError(f"{error.filename} may still name it: {error.strerror}: remove it") from None
