"""What the three commands share on the terminal: tables, JSON, common options."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collector.model import environment
from collector.model.errors import UsageError
from collector.model.paths import default_log_path
from collector.model.units import option_value, parse_duration
from collector.model.untrusted import UNPRINTABLE, one_line
from collector.terminal.declare import option
from collector.terminal.sparkline import ASCII_BARS, BARS

if TYPE_CHECKING:
    from rich.console import Console

    from collector.eventlog.log import EventLog
    from collector.terminal.table import Cell

_UNLIMITED_WIDTH = 1000
_LEAST_WIDTH = 10
# Of JSON, brackets, names, values and what stands between them.
_PIECE = 10_000


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"


LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        envvar=environment.LOG,
        metavar="PATH",
        help="The event log. Default: /var/lib/docker-hindsight/events.duckdb for root, "
        "else docker-hindsight/events.duckdb in the XDG state folder.",
        show_default=False,
    ),
]
HostOption = Annotated[
    str | None,
    option(
        "The engine: unix:///path or tcp://host:port. Default: the usual Docker socket.",
        "ADDRESS",
        "--host",
        "-H",
        envvar="DOCKER_HOST",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, JSON for machines.")]


def open_log(path: Path | None, wait: float = 10.0) -> EventLog:
    """The log that the user means."""
    from collector.eventlog.log import EventLog

    return EventLog(path or default_log_path(), wait=wait)


def duration(option: str, text: str, least: float = 1.0) -> float:
    """Seconds of an option.

    Raises:
        UsageError: it is not a duration, or less than `least` seconds.
    """
    seconds = option_value(option, text, parse_duration)
    if seconds < least:
        raise UsageError(f"{option}: '{text}' is less than {least:g} s")
    return seconds


def print_version(asked: bool) -> None:
    """The eager callback of ``--version``."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"docker-hindsight {version('docker-hindsight')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
]


def program(name: str, text: str, epilog: str | None = None) -> typer.Typer:
    """One of our commands, which has subcommands. Its help is `text`."""
    app = typer.Typer(
        name=name,
        help=text,
        epilog=epilog,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(*, version: VersionOption = False) -> None:
        """Options of all subcommands."""

    return app


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; not cut at all when the output goes elsewhere."""
    from rich.console import Console

    class Piped(Console):
        """Leaves it to `faults` to end where whoever reads has had enough."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    made = Piped(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _UNLIMITED_WIDTH
    elif not _LEAST_WIDTH <= made.width <= _UNLIMITED_WIDTH:
        # Whatever COLUMNS or a terminal says of itself: something has to fit, and what is wider only takes time.
        made.width = min(max(made.width, _LEAST_WIDTH), _UNLIMITED_WIDTH)
    return made


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Collection[str] = (),
    names: Collection[str] = (),
    below: Collection[str] = (),
    optional: Sequence[str] = (),
) -> list[str]:
    """Print aligned columns that fit the terminal; return those that were left out.

    Args:
        columns: their headings.
        rows: one cell a column; `Text` cells bring their own style.
        right: columns aligned to the right, as numbers are.
        names: columns of names, which may be shortened.
        below: columns of sentences, which may stand under their row.
        optional: columns that may be left out, the first of them first.
    """
    from collector.terminal.table import Table

    shown = console()
    table = Table(columns, list(rows), right, names, below, optional)
    for line in table.cheap_lines(shown):
        print_line(line, shown)
    left_out = table.left_out(shown)
    if left_out:
        print_text(f"No room for {', '.join(left_out)}: widen the terminal, or see --format json.", "dim")
    return left_out


def print_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Print what is known of one thing, a line each: a word, and the value, which may take several lines."""
    from rich.text import Text

    from collector.terminal.table import printable

    shown = console()
    rows = [(word, printable(value)) for word, value in facts]
    indent = max(len(word) for word, _ in rows) + 2
    for word, value in rows:
        lines = value.wrap(shown, max(20, shown.width - indent)) or [Text()]
        for k, line in enumerate(lines):
            line.rstrip()
            print_line(Text.assemble((("" if k else word).ljust(indent), "bold"), line), shown)


def print_text(text: str, style: str = "") -> None:
    """Print a sentence, broken between words where the terminal ends."""
    from rich.text import Text

    from collector.terminal.table import printable

    shown = console()
    for line in printable(Text(text, style)).wrap(shown, shown.width):
        line.rstrip()
        print_line(line, shown)


def print_line(line: Cell, where: Console | None = None) -> None:
    """Print one line as it is."""
    shown = where or console()
    if isinstance(line, str):
        typer.echo(line, file=shown.file)
    elif shown.is_terminal:
        shown.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True, end="\n")
    else:  # Rich would take most of the time of a long table to find that there is nothing to colour
        typer.echo(line.plain, file=shown.file)


def bars(where: Console | None = None) -> str:
    """The characters for sparklines that this terminal can show."""
    encoding = (where or console()).encoding.lower().replace("-", "")
    return BARS if encoding.startswith("utf") else ASCII_BARS


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal; yields a function of (done, total)."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def print_as_is(text: str, *, err: bool = False) -> None:
    """Print one line, of any width, whatever others named what it speaks of."""
    typer.echo(one_line(text), err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON, keys in the order given, so that equal reports are equal bytes; see `plain`.

    It is printed piece by piece: all of it at once, with what it is put together from, takes many times the value.
    """
    tokens = json.JSONEncoder(indent=2, ensure_ascii=False, default=plain).iterencode(value)
    while piece := "".join(islice(tokens, _PIECE)):
        typer.echo(_visible(piece), nl=False)
    typer.echo()


def plain(value: Any) -> dict[str, Any]:
    """What JSON has of an object: what its `to_json` says, else all fields of a dataclass."""
    if hasattr(value, "to_json"):
        return dict(value.to_json())
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"no JSON for {type(value).__name__}")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _visible(text: str) -> str:
    """JSON with escapes for all that one does not see, or that steers a terminal; JSON has no such thing outside."""
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def log_to_stderr(*, verbose: bool = False) -> None:
    """Send log lines to stderr, with systemd's priorities where systemd reads them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JournalFormatter() if in_journal() else _LineFormatter())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    # One line per HTTP request is noise at any level of ours.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("docker").setLevel(logging.WARNING)


def in_journal() -> bool:
    """Whether stderr is the journal, which reads priorities (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _LineFormatter(logging.Formatter):
    """One line for each record, whatever names, labels and answers are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the library's
        return one_line(record.getMessage())

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is the library's
        return "\n".join(map(one_line, super().formatException(ei).splitlines()))


class _JournalFormatter(_LineFormatter):
    """Prefixes each line with its priority (sd-daemon(3))."""

    _PRIORITY = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in self._PRIORITY if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())
