"""What the analyzer's commands have in common on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from collector.errors import UsageError
from collector.paths import ENVIRONMENT_VARIABLE, default_log_path
from collector.units import parse_bytes
from pruner.config import load_policy, policy_from
from pruner.policy import Policy

TRIGGERS = ("tick", "event")


class By(StrEnum):
    """What costs are told by."""

    PROJECT = "project"
    REF = "ref"
    IMAGE = "image"


LogsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        envvar=ENVIRONMENT_VARIABLE,
        metavar="PATH",
        help="An event log, a glob of logs, or a folder that `analyzer export` wrote; repeat it to add. "
        "Several hosts are told apart and summed. Default: as for `collector`.",
        show_default=False,
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many hosts to work on at once.", show_default="one per processor"),
]
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
BasePolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy", metavar="FILE", help="A policy file (TOML) to vary; options change it.", show_default=False
    ),
]
AllowlistSetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=GLOB,GLOB|FILE|none",
        help="An allowlist to try: its name and globs, or a file of one entry a line, or none. Repeat it to compare.",
        show_default=False,
    ),
]
FrontOption = Annotated[bool, typer.Option("--front", help="Show only the policies that no other beats.")]
RecommendOutOption = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the policy here.", show_default=False)
]
MaxDiskFullOption = Annotated[int, typer.Option(min=0, help="Disk-full incidents at most.")]
MaxRepullOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bytes pulled again at most, over the history.", show_default="any")
]
MinFreeOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Free space that must always be left.", show_default="any")
]
HeadroomOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Free space to leave beyond that, should the future be worse.", show_default="0"),
]
SplitOption = Annotated[
    str, typer.Option(metavar="SHARE", help="The share of the history to choose on; the rest judges. 1: no rest.")
]
EntryOption = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="An entry to judge, whatever it gains. Repeat it to add.", show_default=False),
]
OneThresholdOption = Annotated[
    str | None,
    typer.Option("--threshold", help="Free space under which pruning starts (10%, 50GB).", show_default="10%"),
]
DiskSizeOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Assume a disk of this size.", show_default="as recorded")
]
OtherOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Assume that other files take this much.", show_default="as recorded")
]
PullRateOption = Annotated[str, typer.Option(metavar="SIZE", help="Bytes per second at which pulls are taken to run.")]


def places(logs: Sequence[str] | None) -> list[str | Path]:
    """The logs that the user means."""
    return list(logs) if logs else [default_log_path()]


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


def rate(text: str) -> float:
    """Bytes per second of ``--pull-rate``. Raises UsageError."""
    amount = size("--pull-rate", text)
    if not amount:
        raise UsageError("--pull-rate must be at least one byte per second")
    return float(amount)


def split(text: str) -> float:
    """The share of ``--split``, over 0 and up to 1. Raises UsageError."""
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise UsageError(f"--split: '{text}' is not a share over 0 and up to 1, such as 0.7")
    return share
