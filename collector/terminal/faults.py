"""How a command ends: what is wrong is said in one line on stderr, never as a traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from collector.model.choices import did_you_mean
from collector.model.environment import VARIABLES
from collector.model.errors import HindsightError, UsageError
from collector.model.untrusted import one_line
from collector.terminal.console import in_journal

_INTERRUPTED = 130
# Nobody reads it any more, or there is no room, no quota or no working device for it.
_OUTPUT_FAULTS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
# Typer has no public name for what it raises where a command line is wrong.
_NO_SUCH = re.compile(r"No such (?:command|option):? '?(?P<name>[^'\s]+)'?")
_NOT_ONE_OF = re.compile(r"'(?P<name>[^']*)' is not one of (?P<known>'.*')$")
_MISUSE: type[Exception] = typer.BadParameter.__bases__[0]


def run(app: typer.Typer, program: str) -> NoReturn:
    """Run a command as its arguments say, and end with its exit status."""
    with faults_in_one_line(program):
        for line in _misspelt(os.environ):
            _print_line(f"{program}: {line}")
        try:
            status = app(prog_name=program, standalone_mode=False)
        except _MISUSE as error:
            raise SystemExit(_print_misuse(error, program)) from None
        except SystemExit as ended:
            # Typer ends so where whoever read our output has had enough.
            if not isinstance(ended.__context__, BrokenPipeError):
                raise
            raise ended.__context__ from None
        if sys.stdout:  # there is none where the caller closed it
            sys.stdout.flush()
    raise SystemExit(status if isinstance(status, int) else 0)


@contextmanager
def faults_in_one_line(program: str) -> Iterator[None]:
    """Say what is wrong in one line on stderr and end with its exit status."""
    try:
        yield
    except HindsightError as error:
        _print_line(f"{program}: {error}")
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    except typer.Abort:
        # What Typer makes of Ctrl-C and of an end of the input where it asks something.
        _print_line(f"{program}: not answered: nothing was done")
        raise SystemExit(_INTERRUPTED) from None
    except RuntimeError as error:
        # What DuckDB makes of Ctrl-C during a query.
        if str(error) != "Query interrupted":
            raise
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has had enough; nothing more can be said there.
        _drop_output()
        raise SystemExit(0) from None
    except OSError as error:
        if error.filename is None and not _of_output(error):
            raise
        place = "the output" if error.filename is None else os.fsdecode(error.filename)
        _drop_output()
        _print_line(f"{program}: {place} cannot be used: {error.strerror}")
        raise SystemExit(HindsightError.exit_status) from None


@contextmanager
def output_may_fail() -> Iterator[None]:
    """Print progress of a command, which goes on even if its output is closed or the disk is full."""
    try:
        yield
    except OSError as error:
        if not _of_output(error):
            raise
        _drop_output()


def _of_output(error: OSError) -> bool:
    # Only what we print goes to a file without a name.
    return error.filename is None and error.errno in _OUTPUT_FAULTS


def _print_line(line: str) -> None:
    typer.echo(f"{'<3>' if in_journal() else ''}{one_line(line)}", err=True)


def _drop_output() -> None:
    """Let go of what is still to be printed, which Python would try again at its end."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_misuse(error: Exception, program: str) -> int:
    """Say in one line what is wrong with a command line; return the exit status."""
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "format_message", error.__str__)()).strip()
    if "\n" in message:  # nothing was asked, so this is the help
        typer.echo(message, err=True)
        return UsageError.exit_status
    command = getattr(context, "command_path", program)
    text = _with_suggestion(message.replace("Value error, ", "").rstrip("."), context)
    if text.startswith("Got unexpected extra argument"):
        text += " (quote a glob, so that the shell leaves it whole)" if "--log" in _options(context) else ""
    see = " See" if text.endswith("?") else ": see"
    _print_line(f"{command}: {text[:1].lower()}{text[1:]}{see} `{command} --help`")
    return UsageError.exit_status


def _with_suggestion(text: str, context: object) -> str:
    """What Typer says of a name that is not one of those known, with the suggestions that all our messages make."""
    if found := _NO_SUCH.match(text):
        known = _options(context) if found["name"].startswith("-") else getattr(context, "command", None)
        return found[0] + did_you_mean(found["name"], getattr(known, "commands", known) or ())
    if found := _NOT_ONE_OF.search(text):
        return text + did_you_mean(found["name"], re.findall(r"'([^']*)'", found["known"]))
    return text


def _misspelt(environment: Iterable[str]) -> Iterator[str]:
    """A line for each environment variable that looks like one of ours and is not."""
    for name in sorted(environment):
        if "HINDSI" in name and name not in VARIABLES and (meant := did_you_mean(name, VARIABLES)):
            yield f"the environment variable {name} is not read{meant}"


def _options(context: object) -> set[str]:
    """The options of the command that was called."""
    parameters = getattr(getattr(context, "command", None), "params", ())
    return {name for parameter in parameters for name in parameter.opts}
