"""Options and arguments of commands, declared in a line each."""

from __future__ import annotations

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


def argument(text: str, metavar: str | None = None, *, shown: str | bool = True) -> Any:
    """An argument for `Annotated`, see `option`."""
    return typer.Argument(metavar=metavar, help=text, show_default=shown)
