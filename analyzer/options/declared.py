"""Options that several commands of the analyzer take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from collector.model import environment
from collector.terminal.declare import option
from pruner.policy.orders import ORDERS

_ORDER_HELP = f"Which images go first: {', '.join(ORDERS)}."


LogsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        envvar=environment.LOG,
        metavar="PATH",
        help="An event log, a glob of logs, or a folder or s3:// URL that `collector ship` or `analyzer export` "
        "wrote; repeat it to add. "
        "Results per host and in total. Default: as for `collector`.",
        show_default=False,
    ),
]
OneLogOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        envvar=environment.LOG,
        metavar="PATH",
        help="An event log, or a folder or s3:// URL that `collector ship` or `analyzer export` wrote. "
        "Default: as for `collector`.",
        show_default=False,
    ),
]
ProcessesOption = Annotated[
    int | None, option("How many hosts to process at once.", "NUMBER", shown="one per processor", min=1)
]
ClusterOption = Annotated[
    str | None,
    option(
        "Use the workers of a Dask cluster: its scheduler, such as tcp://scheduler:8786.",
        "ADDRESS",
        shown="this machine",
    ),
]
LogHostOption = Annotated[str | None, option("Which host, if the log holds several.", "NAME", "--only-host")]


def _threshold(default: str) -> Any:
    return typer.Option(
        "--threshold",
        metavar="SPACE",
        help="Free space under which pruning starts (10%, 50GB). Repeat it to compare.",
        show_default=default,
    )


ThresholdOption = Annotated[list[str] | None, _threshold("auto")]
ComparedThresholdsOption = Annotated[list[str] | None, _threshold("5% to 80%")]
SweptThresholdsOption = Annotated[list[str] | None, _threshold("5%:40%:1%")]
SearchedThresholdsOption = Annotated[list[str] | None, _threshold("auto, 3% to 50%, 1GB to 50GB")]
TargetOption = Annotated[list[str] | None, option("Free space at which pruning stops.", "SPACE", shown="the threshold")]
EmergencyOption = Annotated[
    list[str] | None,
    option("Free space under which allowlisted images go too, or never.", "SPACE", shown="the threshold"),
]
AllowlistOption = Annotated[
    list[str] | None, option("Images to spare: a glob on repository:tag, or re:REGEX. Repeat it to add.", "GLOB")
]
AllowlistIdleOption = Annotated[
    list[str] | None, option("An allowlisted image unused for longer loses its protection.", "DURATION", shown="14d")
]
MinAgeOption = Annotated[
    list[str] | None, option("Images used or pulled more recently stay.", "DURATION", shown="auto")
]
OrderOption = Annotated[list[str] | None, typer.Option(metavar="ORDER", help=_ORDER_HELP, show_default="forecast")]
SearchedOrdersOption = Annotated[
    list[str] | None,
    typer.Option("--order", metavar="ORDER", help=_ORDER_HELP, show_default="forecast,lru,hazard"),
]
IntervalOption = Annotated[list[str] | None, option("Time between ticks of the timer.", "DURATION", shown="5min")]
TriggerOption = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="WHEN",
        help="What starts a prune: event (the timer, and a sample that shows too little space) or tick (the timer).",
        show_default="event; a search tries both",
    ),
]
PolicyOption = Annotated[list[Path] | None, option("A policy file (TOML); options override it.", "FILE", "--policy")]
BasePolicyOption = Annotated[
    Path | None, option("A policy file (TOML) to vary; options override it.", "FILE", "--policy")
]
AllowlistSetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=GLOB,GLOB|FILE|none",
        help="An allowlist to try: its name and globs, or a file of one entry a line, or none. Repeat it to compare.",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str, option("The share of the history to choose on; the rest is for judging. 1: no rest.", "SHARE")
]
DiskSizeOption = Annotated[str | None, option("Assume a disk of this size.", "SIZE", shown="as recorded")]
OtherOption = Annotated[str | None, option("Assume that other files take this much.", "SIZE", shown="as recorded")]
FormatOption = Annotated[str, option("table, json or csv.", "FORMAT", "--format")]
MaxDiskFullOption = Annotated[int, option("At most this many disk-full incidents.", "NUMBER", min=0)]
MaxRepullOption = Annotated[str | None, option("At most this many bytes pulled again in all.", "SIZE", shown="any")]
MinFreeOption = Annotated[str | None, option("Free space that must always be left.", "SIZE", shown="any")]
ClassesOption = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        min=1,
        max=8,
        help="Several hosts: at most this many policies, for classes by disk size and load, where that is worth it.",
        show_default="one for all",
    ),
]
HeadroomOption = Annotated[
    str | None,
    option("Free space to leave on top, in case the future is worse.", "SIZE", shown="from the largest pulls"),
]
LeastHistoryOption = Annotated[str, option("Recommend nothing if the history is shorter.", "DURATION")]
BaselineOption = Annotated[
    list[str] | None, option("Baselines to compare with; 'all' or 'none'. Repeat it to add.", "NAME", shown="the usual")
]
PullRateOption = Annotated[
    str | None, option("Assumed speed of pulls, bytes per second.", "SIZE", shown="as measured on this host, else 50MB")
]
PriceOption = Annotated[
    str | None, option("What pulling 1 GiB costs: then tables have a column of costs.", "AMOUNT", "--price-per-gib")
]
