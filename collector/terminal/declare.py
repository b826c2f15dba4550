"""Options and arguments of commands, declared in a line each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import typer


def option(text: str, metavar: str | None = None, *names: str, shown: str | bool = True, **more: Any) -> Any:
    """An option for `Annotated`.

    Args:
        text: its help.
        metavar: what its value is called there.
        names: its names, if they are not that of the parameter.
        shown: its default as help shows it, if it is not that of the parameter.
        more: what else Typer takes.
    """
    return typer.Option(*names, metavar=metavar, help=text, show_default=shown, **more)


def argument(text: str, metavar: str) -> Any:
    """An argument for `Annotated`, see `option`."""
    return typer.Argument(metavar=metavar, help=text)


def parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter of a command that is only given by name."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_parameters(
    command: Callable[..., None], shown: Sequence[inspect.Parameter], call: Callable[[dict[str, Any]], None]
) -> Callable[..., None]:
    """A command of the same name and help that shows Typer other parameters, and is called with their values."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        call(given)

    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined] # as `inspect` documents it
    wrapper.__annotations__ = {one.name: one.annotation for one in shown}
    del wrapper.__wrapped__  # its signature would hide ours
    return wrapper
