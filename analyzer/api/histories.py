"""The histories that the library works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from analyzer.data import mesa_files
from analyzer.trace.load import DiskOverride
from analyzer.trace.sources import Source, find
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs
from collector.model.errors import UsageError
from collector.model.units import parse_bytes

_DAY = 86400.0


@dataclass(frozen=True)
class History:
    """The recorded history of one host.

    Attributes:
        source: where it is recorded.
        disk: the disk to take in place of the recorded one.
    """

    source: Source
    disk: DiskOverride = field(default_factory=DiskOverride)

    @property
    def host(self) -> str:
        """The host's name."""
        return self.source.name

    @cached_property
    def trace(self) -> Trace:
        """The history as arrays, loaded when first asked for. Raises LogError."""
        return self.source.load(self.disk)

    def __repr__(self) -> str:
        return f"<History of {self.host}>"


@dataclass(frozen=True)
class Fleet(Sequence[History]):
    """The histories of several hosts, by name."""

    histories: tuple[History, ...]

    def __getitem__(self, key: int | str) -> History:  # type: ignore[override] # by name, too, and no slices
        if isinstance(key, int):
            return self.histories[key]
        for history in self.histories:
            if history.host == key:
                return history
        raise KeyError(key)

    def __len__(self) -> int:
        return len(self.histories)

    def __repr__(self) -> str:
        return f"<Fleet of {', '.join(history.host for history in self.histories)}>"


def open_log(
    *places: str | Path, host: str | None = None, disk: str | int | None = None, other: str | int | None = None
) -> History | Fleet:
    """The history in an event log; of several hosts the fleet of their histories.

    Args:
        places: event logs, globs of them, or folders that `analyzer export` wrote.
        host: only this host's.
        disk: assume a disk of this size (bytes, or text such as ``100GB``).
        other: assume that other files take this much of it.

    Raises:
        LogError: there is no such log, or none of that host.
        UsageError: a size is invalid.
    """
    override = DiskOverride(bytes_of("disk", disk), bytes_of("other", other))
    found = [History(source, override) for source in find(places, host)]
    return found[0] if len(found) == 1 else Fleet(tuple(found))


def example_logs(
    folder: str | Path, *, hosts: int = 1, disk: str | int = "100GB", days: float | None = None
) -> list[Path]:
    """Make event logs of a year of a public project's CI (Mesa, 2023), its pipelines dealt out to some hosts.

    Args:
        folder: where to put them.
        hosts: how many; each gets a share of the pipelines.
        disk: the size of each host's disk (bytes, or text such as ``100GB``).
        days: how many days from the year's beginning; None: all.
    """
    jobs_csv, layers_csv = mesa_files()
    size = bytes_of("disk", disk) or 0
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    jobs = pd.read_csv(jobs_csv, dtype=str)
    if days is not None:
        start = jobs["start"].astype(float)
        jobs = jobs[start < start.min() + days * _DAY]
    turn = pd.factorize(jobs["pipeline"])[0] % hosts
    made = []
    for number in range(hosts):
        name = f"runner-{number + 1}" if hosts > 1 else "mesa-ci-2023"
        part = place / f"{name}.csv"
        jobs[turn == number].to_csv(part, index=False)
        log = EventLog(place / f"{name}.duckdb", host=name)
        import_jobs(part, layers_csv, log, size, 0)
        part.unlink()
        made.append(log.path)
    return made


def bytes_of(name: str, value: str | int | None) -> int | None:
    """Bytes, given as a number or as text such as ``100GB``. Raises UsageError."""
    if value is None or isinstance(value, int):
        return value
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
