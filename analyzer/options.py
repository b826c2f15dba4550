"""What the analyzer's commands have in common on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from collector.errors import UsageError
from collector.units import parse_bytes
from pruner.config import load_policy, policy_from
from pruner.policy import Policy

TRIGGERS = ("tick", "event")


class By(StrEnum):
    """What costs are told by."""

    PROJECT = "project"
    REF = "ref"
    IMAGE = "image"


LogHostOption = Annotated[
    str | None, typer.Option("--host", help="Whose history, if the log holds several hosts.", show_default=False)
]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option(help="Free space under which pruning starts (10%, 50GB). Repeat it to compare.", show_default="10%"),
]
TargetOption = Annotated[
    list[str] | None, typer.Option(help="Free space at which pruning stops.", show_default="the threshold")
]
EmergencyOption = Annotated[
    list[str] | None,
    typer.Option(help="Free space under which allowlisted images go too, or never.", show_default="the threshold"),
]
AllowlistOption = Annotated[
    list[str] | None,
    typer.Option(help="Images to spare: a glob on repository:tag, or re:REGEX. Repeat it to add.", show_default=False),
]
AllowlistIdleOption = Annotated[
    list[str] | None,
    typer.Option(help="An allowlisted image unused for longer loses its protection.", show_default="14d"),
]
MinAgeOption = Annotated[
    list[str] | None, typer.Option(help="No image used or pulled more recently goes.", show_default="1h")
]
OrderOption = Annotated[list[str] | None, typer.Option(help="Which images go first.", show_default="forecast")]
IntervalOption = Annotated[list[str] | None, typer.Option(help="Time between ticks of the timer.", show_default="5min")]
TriggerOption = Annotated[
    str, typer.Option(metavar="WHEN", help="What starts a prune: tick (the timer), or event (also a pull or sample).")
]
PolicyOption = Annotated[
    list[Path] | None,
    typer.Option("--policy", metavar="FILE", help="A policy file (TOML); options change it.", show_default=False),
]
DiskSizeOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Assume a disk of this size.", show_default="as recorded")
]
OtherOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Assume that other files take this much.", show_default="as recorded")
]
PullRateOption = Annotated[str, typer.Option(metavar="SIZE", help="Bytes per second at which pulls are taken to run.")]


def policies(
    files: Sequence[Path] | None, allowlist: Sequence[str] | None, **axes: Sequence[Any] | None
) -> list[Policy]:
    """One policy for each file and each combination of the values given for the axes.

    Raises:
        UsageError: a file or a value is impossible.
    """
    bases: list[Policy | None] = [load_policy(path) for path in files or ()] or [None]
    fixed = {"allowlist": list(allowlist)} if allowlist else {}
    given = {name: values for name, values in axes.items() if values}
    return [
        policy_from({**fixed, **dict(zip(given, values, strict=True))}, "command line", base)
        for base in bases
        for values in itertools.product(*given.values())
    ]


def size(option: str, text: str | None) -> int | None:
    """Bytes of an option, if it is given. Raises UsageError."""
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def trigger(text: str) -> str:
    """What starts a prune, ``tick`` or ``event``. Raises UsageError."""
    if text not in TRIGGERS:
        raise UsageError(f"--trigger: '{text}' is none of {', '.join(TRIGGERS)}")
    return text
