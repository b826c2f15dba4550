"""What the analyzer's commands have in common on the command line."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collector.model import environment
from collector.model.choices import did_you_mean
from collector.model.errors import UsageError
from collector.model.paths import default_log_path
from collector.model.units import parse_bytes, parse_duration
from collector.terminal.declare import option
from pruner.policy.file import COMMAND_LINE, load_policy, policy_from
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy

if TYPE_CHECKING:
    from analyzer.report.terminal import Output
    from analyzer.search.fleet import Simulation, Source
    from analyzer.search.grid import Candidate
    from analyzer.search.recommend import Constraints
    from analyzer.search.workers import Workers
    from analyzer.simulation.cleaner import Trigger
    from analyzer.trace.load import DiskOverride

TRIGGERS = ("tick", "event")
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
_MOST_PRICE = 1e9
PriceOption = Annotated[
    str | None, option("What pulling 1 GiB costs: then tables have a column of costs.", "AMOUNT", "--price-per-gib")
]


@dataclass(frozen=True, slots=True)
class Histories:
    """Options that say whose history is looked at."""

    log: LogsOption = None
    host: LogHostOption = None

    def sources(self) -> list[Source]:
        """Where the hosts' histories are. Raises LogError or UsageError."""
        from analyzer.search.fleet import find

        return find(list(self.log) if self.log else [default_log_path()], self.host)


@dataclass(frozen=True, slots=True)
class Spread:
    """Options that say who does the work on many hosts."""

    processes: ProcessesOption = None
    cluster: ClusterOption = None

    def workers(self, hosts: int) -> Workers:
        """Who does it. Raises UsageError."""
        from analyzer.search.workers import Workers

        made = Workers(self.processes, self.cluster)
        if made.cluster is not None and hosts == 1:
            typer.echo("note: --cluster is for several hosts; this one is replayed on this machine", err=True)
        return made


@dataclass(frozen=True, slots=True)
class Axes:
    """Options for keys of the policy that may have several values each."""

    target: TargetOption = None
    emergency: EmergencyOption = None
    allowlist_idle: AllowlistIdleOption = None
    min_age: MinAgeOption = None
    interval: IntervalOption = None

    def beside(self, **more: list[str] | None) -> dict[str, list[str] | None]:
        """The values by key, with more of them."""
        return {**more, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, slots=True)
class Compared:
    """Options that say what is compared, beside the threshold and the other axes."""

    order: OrderOption = None
    allowlist: AllowlistOption = None
    trigger: TriggerOption = None
    policy: PolicyOption = None
    baseline: BaselineOption = None
    pull_rate: PullRateOption = None
    price_per_gib: PriceOption = None

    def simulation(self, axes: Axes, thresholds: list[str] | None) -> Simulation:
        """What each policy and baseline would have done. Raises UsageError."""
        from analyzer.search.fleet import Simulation
        from analyzer.simulation.cleaner import Trigger

        chosen = policies(self.policy, self.allowlist, **axes.beside(threshold=thresholds, order=self.order))
        when = Trigger(trigger(self.trigger or Trigger.EVENT))
        return Simulation(
            tuple(chosen), baselines(self.baseline), rate(self.pull_rate), when, price(self.price_per_gib)
        )

    def searched(self, axes: Axes, thresholds: list[str] | None) -> list[Candidate]:
        """The policies that `analyzer recommend` would try. Raises UsageError."""
        from analyzer.simulation.cleaner import Trigger

        when = Trigger(trigger(self.trigger)) if self.trigger else None
        return search(self.policy, self.allowlist, axes.beside(threshold=thresholds, order=self.order), when)


@dataclass(frozen=True, slots=True)
class Varied:
    """Options that say what is varied in a grid, beside the threshold, the order and the other axes."""

    allowlist_set: AllowlistSetOption = None
    trigger: TriggerOption = None
    policy: BasePolicyOption = None

    def grid(self, axes: dict[str, list[str] | None], *, complete: bool = False) -> tuple[list[Candidate], int]:
        """The policies of the grid, and how many contradict themselves. Raises UsageError.

        Args:
            axes: values by key.
            complete: whether what is not given is varied as `analyzer recommend` does it.
        """
        from analyzer.search.fleet import unread_rates
        from analyzer.search.grid import AllowlistSet, grid, searched

        sets = [AllowlistSet.parse(text) for text in self.allowlist_set or ()]
        base = load_policy(self.policy) if self.policy else None
        for note in unread_rates([base] if base else ()):
            typer.echo(f"note: {note}", err=True)
        if complete:
            return searched(axes, sets, base, self.when() if self.trigger else None), 0
        return grid(axes, sets, base)

    def when(self) -> Trigger:
        """What starts a prune; unless stated, events, too. Raises UsageError."""
        from analyzer.simulation.cleaner import Trigger

        return Trigger(trigger(self.trigger or Trigger.EVENT))


@dataclass(frozen=True, slots=True)
class Asked:
    """Options that say what a recommended policy must keep to."""

    max_disk_full: MaxDiskFullOption = 0
    max_repull: MaxRepullOption = None
    min_free: MinFreeOption = None
    headroom: HeadroomOption = None
    least_history: LeastHistoryOption = "6.5d"

    def constraints(self) -> Constraints:
        """What the policy must keep to. Raises UsageError."""
        from analyzer.search.recommend import Constraints

        return Constraints(self.max_disk_full, size("--max-repull", self.max_repull), size("--min-free", self.min_free))

    def history(self) -> float:
        """Seconds of history without which nothing is recommended. Raises UsageError."""
        try:
            return parse_duration(self.least_history)
        except ValueError as error:
            raise UsageError(f"--least-history: {error}") from None

    def spare(self) -> int:
        """Bytes to leave beyond that; 0: as `recommend` has it. Raises UsageError."""
        return size("--headroom", self.headroom) or 0


@dataclass(frozen=True, slots=True)
class Disk:
    """Options that say on which disk to replay."""

    disk_size: DiskSizeOption = None
    other: OtherOption = None

    def override(self) -> DiskOverride:
        """What replaces the recorded disk. Raises UsageError."""
        from analyzer.trace.load import DiskOverride

        return DiskOverride(size("--disk-size", self.disk_size), size("--other", self.other))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command, in place of each parameter that is a group of options, an option for each of the group."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            shown += _options_of(groups[name])
        else:
            shown.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        command(**made, **given)

    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined] # as `inspect` documents it
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del wrapper.__wrapped__  # its signature would hide ours
    return wrapper


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


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
    for name, values in given.items():
        if grids := [value for value in values if set(value) & {":", ","}]:
            raise UsageError(
                f"--{name.replace('_', '-')}: '{grids[0]}' is a range or a list, which `analyzer sweep` takes: "
                "here repeat the option"
            )
    return [
        policy_from({**fixed, **dict(zip(given, values, strict=True))}, COMMAND_LINE, base)
        for base in bases
        for values in itertools.product(*given.values())
    ]


def search(
    files: Sequence[Path] | None,
    allowlist: Sequence[str] | None,
    axes: dict[str, list[str] | None],
    when: Trigger | None = None,
) -> list[Candidate]:
    """The policies that `analyzer recommend` would try, for each file if there are any.

    Raises:
        UsageError: a file or a value is impossible.
    """
    from analyzer.search.grid import AllowlistSet, searched

    bases: list[Policy | None] = [load_policy(path) for path in files or ()] or [None]
    sets = [AllowlistSet(f"{len(allowlist)} allowlist entries", tuple(allowlist))] if allowlist else []
    found = [candidate for base in bases for candidate in searched(axes, sets, base, when)]
    return list({candidate.name: candidate for candidate in found}.values())


def baselines(names: Sequence[str] | None) -> tuple[str, ...]:
    """Baselines, by name. Raises UsageError."""
    from analyzer.baselines import BASELINES, DEFAULT_BASELINES, baseline

    chosen: list[str] = []
    for name in names or DEFAULT_BASELINES:
        if name == "all":
            chosen.extend(BASELINES)
        elif name != "none":
            baseline(name)  # an unknown one is refused before the log is read
            chosen.append(name)
    return tuple(chosen)


def output_format(text: str) -> Output:
    """How results are printed. Raises UsageError."""
    from analyzer.report.terminal import Output

    try:
        return Output(text)
    except ValueError:
        raise UsageError(f"--format: '{text}' is not one of {', '.join(Output)}{did_you_mean(text, Output)}") from None


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
        raise UsageError(f"--trigger: '{text}' is not one of {', '.join(TRIGGERS)}{did_you_mean(text, TRIGGERS)}")
    return text


def rate(text: str | None) -> float | None:
    """Bytes per second of ``--pull-rate``; None: as on the history's host. Raises UsageError."""
    if text is None:
        return None
    amount = size("--pull-rate", text)
    if not amount:
        raise UsageError("--pull-rate must be at least one byte per second")
    return float(amount)


def price(text: str | None) -> float:
    """What 1 GiB costs by ``--price-per-gib``; 0: that was not given. Raises UsageError."""
    if text is None:
        return 0.0
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0.0 <= amount <= _MOST_PRICE:  # NaN is not either
        raise UsageError(
            f"--price-per-gib: '{text}' is not a number from 0 to {_MOST_PRICE:,.0f}; "
            "write it with a point and without other signs, such as 1234.05"
        )
    return amount


def split(text: str) -> float:
    """The share of ``--split``, over 0 and up to 1. Raises UsageError."""
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise UsageError(f"--split: '{text}' is not a share over 0 and up to 1, such as 0.7")
    return share
