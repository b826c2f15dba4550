"""Options that several commands of the analyzer, or groups of options, take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from collector.model import environment
from collector.terminal.declare import option
from pruner.policy.orders import ORDERS

_ORDER_HELP = f"Which images go first: {', '.join(ORDERS)}."


OneLogOption = Annotated[
    str | None,
    option(
        "An event log, or a folder or s3:// URL that `collector ship` or `analyzer export` wrote. "
        "Default: as for `collector`.",
        "PATH",
        "--log",
        shown=False,
        envvar=environment.LOG,
    ),
]
LogHostOption = Annotated[str | None, option("Which host, if the log holds several.", "NAME", "--only-host")]


def _threshold(default: str) -> Any:
    return option(
        "Free space under which pruning starts (10%, 50GB). Repeat it to compare.",
        "SPACE",
        "--threshold",
        shown=default,
    )


ThresholdOption = Annotated[list[str] | None, _threshold("auto")]
ComparedThresholdsOption = Annotated[list[str] | None, _threshold("5% to 80%")]
SweptThresholdsOption = Annotated[list[str] | None, _threshold("5%:40%:1%")]
SearchedThresholdsOption = Annotated[list[str] | None, _threshold("auto, 3% to 50%, 1GB to 50GB")]
OrderOption = Annotated[list[str] | None, option(_ORDER_HELP, "ORDER", shown="forecast")]
SearchedOrdersOption = Annotated[
    list[str] | None,
    option(_ORDER_HELP, "ORDER", "--order", shown="forecast,lru,hazard"),
]
TriggerOption = Annotated[
    str | None,
    option(
        "What starts a prune: event (the timer, and a sample that shows too little space) or tick (the timer).",
        "WHEN",
        "--trigger",
        shown="event; a search tries both",
    ),
]
BasePolicyOption = Annotated[
    Path | None, option("A policy file (TOML) to vary; options override it.", "FILE", "--policy")
]
SplitOption = Annotated[
    str, option("The share of the history to choose on; the rest is for judging. 1: no rest.", "SHARE")
]
FormatOption = Annotated[str, option("table, json or csv.", "FORMAT", "--format")]
ClassesOption = Annotated[
    int | None,
    option(
        "Several hosts: at most this many policies, for classes by disk size and load, where that is worth it.",
        "NUMBER",
        shown="one for all",
        min=1,
        max=8,
    ),
]
BaselineOption = Annotated[
    list[str] | None, option("Baselines to compare with; 'all' or 'none'. Repeat it to add.", "NAME", shown="the usual")
]
PullRateOption = Annotated[
    str | None, option("Assumed speed of pulls, bytes per second.", "SIZE", shown="as measured on this host, else 50MB")
]
PriceOption = Annotated[
    str | None, option("What pulling 1 GiB costs: then tables have a column of costs.", "AMOUNT", "--price-per-gib")
]
