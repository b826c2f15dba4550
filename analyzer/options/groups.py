"""Groups of options, each with what its values mean together."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyzer.options import declared, values
from collector.model import environment
from collector.model.defaults import LEAST_HISTORY
from collector.model.paths import default_log_path
from collector.model.units import option_value, parse_duration, size_option
from collector.terminal.declare import option, parameter, with_parameters
from pruner.policy.file import load_policy

if TYPE_CHECKING:
    from analyzer.search.fleet import Simulation
    from analyzer.search.grid import Candidate
    from analyzer.search.recommend import Constraints
    from analyzer.search.workers import Workers
    from analyzer.simulation.cleaner import Trigger
    from analyzer.trace.load import DiskOverride
    from analyzer.trace.sources import Source


@dataclass(frozen=True, slots=True)
class Histories:
    """Options that say whose history is looked at."""

    log: Annotated[
        list[str] | None,
        option(
            "An event log, a glob of logs, or a folder or s3:// URL that `collector ship` or `analyzer export` "
            "wrote; repeat it to add. "
            "Results per host and in total. Default: as for `collector`.",
            "PATH",
            "--log",
            shown=False,
            envvar=environment.LOG,
        ),
    ] = None
    host: declared.LogHostOption = None

    def sources(self) -> list[Source]:
        """Where the hosts' histories are; that of an only one is to be loaded soon. Raises LogError or UsageError."""
        from analyzer.trace.sources import find

        return find(list(self.log) if self.log else [default_log_path()], self.host, keep=True)


@dataclass(frozen=True, slots=True)
class Spread:
    """Options that say who does the work on many hosts."""

    processes: Annotated[
        int | None, option("How many hosts to process at once.", "NUMBER", shown="one per processor", min=1)
    ] = None
    cluster: Annotated[
        str | None,
        option(
            "Use the workers of a Dask cluster: its scheduler, such as tcp://scheduler:8786.",
            "ADDRESS",
            shown="this machine",
        ),
    ] = None

    def workers(self, hosts: int) -> Workers:
        """Who does it. Raises UsageError."""
        from analyzer.search.workers import Workers

        made = Workers(self.processes, self.cluster, is_program=True)
        if made.cluster is not None and hosts == 1:
            typer.echo("note: --cluster is for several hosts; this one is replayed on this machine", err=True)
        return made


@dataclass(frozen=True, slots=True)
class Axes:
    """Options for keys of the policy that may have several values each."""

    target: Annotated[
        list[str] | None, option("Free space at which pruning stops.", "SPACE", shown="the threshold")
    ] = None
    emergency: Annotated[
        list[str] | None,
        option("Free space under which allowlisted images go too, or never.", "SPACE", shown="the threshold"),
    ] = None
    allowlist_idle: Annotated[
        list[str] | None,
        option("An allowlisted image unused for longer loses its protection.", "DURATION", shown="14d"),
    ] = None
    min_age: Annotated[
        list[str] | None, option("Images used or pulled more recently stay.", "DURATION", shown="auto")
    ] = None
    interval: Annotated[list[str] | None, option("Time between ticks of the timer.", "DURATION", shown="5min")] = None

    def beside(self, **more: list[str] | None) -> dict[str, list[str] | None]:
        """The values by key, with more of them."""
        return {**more, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Options that say what is compared, beside the threshold and the other axes."""

    order: declared.OrderOption = None
    allowlist: Annotated[
        list[str] | None, option("Images to spare: a glob on repository:tag, or re:REGEX. Repeat it to add.", "GLOB")
    ] = None
    trigger: declared.TriggerOption = None
    policy: Annotated[list[Path] | None, option("A policy file (TOML); options override it.", "FILE", "--policy")] = (
        None
    )
    baseline: declared.BaselineOption = None
    pull_rate: declared.PullRateOption = None
    price_per_gib: declared.PriceOption = None

    def simulation(self, axes: Axes, thresholds: list[str] | None) -> Simulation:
        """What each policy and baseline would have done. Raises UsageError."""
        from analyzer.search.fleet import Simulation

        chosen = values.policies(self.policy, self.allowlist, **axes.beside(threshold=thresholds, order=self.order))
        return Simulation(
            tuple(chosen),
            values.baselines(self.baseline),
            values.rate(self.pull_rate),
            values.trigger(self.trigger),
            values.price(self.price_per_gib),
        )

    def searched(self, axes: Axes, thresholds: list[str] | None) -> list[Candidate]:
        """The policies that `analyzer recommend` would try. Raises UsageError."""
        given = axes.beside(threshold=thresholds, order=self.order)
        return values.search(self.policy, self.allowlist, given, self.only_trigger)

    @property
    def only_trigger(self) -> Trigger | None:
        """What starts a prune; None: both are tried. Raises UsageError."""
        return values.trigger(self.trigger) if self.trigger else None


@dataclass(frozen=True, slots=True)
class Varied:
    """Options that say what is varied in a grid, beside the threshold, the order and the other axes."""

    allowlist_set: Annotated[
        list[str] | None,
        option(
            "An allowlist to try: its name and globs, or a file of one entry a line, or none. Repeat it to compare.",
            "NAME=GLOB,GLOB|FILE|none",
            shown=False,
        ),
    ] = None
    trigger: declared.TriggerOption = None
    policy: declared.BasePolicyOption = None

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
            return searched(axes, sets, base, values.trigger(self.trigger) if self.trigger else None), 0
        return grid(axes, sets, base)


@dataclass(frozen=True, slots=True)
class Asked:
    """Options that say what a recommended policy must keep to."""

    max_disk_full: Annotated[int, option("At most this many disk-full incidents.", "NUMBER", min=0)] = 0
    max_repull: Annotated[str | None, option("At most this many bytes pulled again in all.", "SIZE", shown="any")] = (
        None
    )
    min_free: Annotated[str | None, option("Free space that must always be left.", "SIZE", shown="any")] = None
    headroom: Annotated[
        str | None,
        option("Free space to leave on top, in case the future is worse.", "SIZE", shown="from the largest pulls"),
    ] = None
    least_history: Annotated[str, option("Recommend nothing if the history is shorter.", "DURATION")] = LEAST_HISTORY

    def constraints(self) -> Constraints:
        """What the policy must keep to. Raises UsageError."""
        from analyzer.search.recommend import Constraints

        return Constraints(
            self.max_disk_full, size_option("--max-repull", self.max_repull), size_option("--min-free", self.min_free)
        )

    def history(self) -> float:
        """Seconds of history without which nothing is recommended. Raises UsageError."""
        return option_value("--least-history", self.least_history, parse_duration)

    def spare(self) -> int:
        """Bytes to leave beyond that; 0: as `recommend` has it. Raises UsageError."""
        return size_option("--headroom", self.headroom) or 0


@dataclass(frozen=True, slots=True)
class Disk:
    """Options that say on which disk to replay."""

    disk_size: Annotated[str | None, option("Assume a disk of this size.", "SIZE", shown="as recorded")] = None
    other: Annotated[str | None, option("Assume that other files take this much.", "SIZE", shown="as recorded")] = None

    def override(self) -> DiskOverride:
        """What replaces the recorded disk. Raises UsageError."""
        from analyzer.trace.load import DiskOverride

        return DiskOverride(size_option("--disk-size", self.disk_size), size_option("--other", self.other))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command, in place of each parameter that is a group of options, an option for each of the group."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    shown: list[inspect.Parameter] = []
    for name, one in inspect.signature(command).parameters.items():
        shown += _options_of(groups[name]) if name in groups else [parameter(name, hints[name], one.default)]

    def call(given: dict[str, Any]) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        command(**made, **given)

    return with_parameters(command, shown, call)


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [parameter(field.name, hints[field.name], field.default) for field in fields(group)]
