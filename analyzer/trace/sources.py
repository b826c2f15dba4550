"""Where hosts' histories are: event logs, folders of exported ones, and stores of shipped ones."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb

from analyzer.trace.hosts import hosts_of
from analyzer.trace.load import DiskOverride, load_trace
from analyzer.trace.trace import Trace
from collector.eventlog.identity import label_of
from collector.eventlog.log import EventLog
from collector.model.errors import LogError


class _OpenLog(EventLog):
    """A log that stays open until it has been read: to open it again takes as long as much of the reading."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.stack = ExitStack()
        self.connection: Any = self.stack.enter_context(super().reading())

    @contextmanager
    def reading(self, *args: Any, **options: Any) -> Iterator[duckdb.DuckDBPyConnection]:
        """As it is open, for the first time; then as any log."""
        connection, self.connection = self.connection, None
        if connection is None:
            with super().reading(*args, **options) as opened:
                yield opened
        else:
            with self.stack:
                yield connection

    def close(self) -> None:
        """Let others append, whether it has been read or not."""
        self.connection = None
        self.stack.close()


@dataclass(frozen=True, slots=True)
class Source:
    """Where one host's history is.

    Attributes:
        path: an event log, or a folder of exported ones.
        host: whose history.
        exported: whether `path` is such a folder.
        label: what a report calls it, where several logs hold the host; empty: as the host.
        store: the folder or URL to which `collector ship` wrote it; empty: it was not shipped.
        kept: the log, if it is open until it is loaded.
    """

    path: Path
    host: str
    exported: bool = False
    label: str = ""
    store: str = ""
    kept: _OpenLog | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.label or self.host

    def absolute(self) -> Source:
        """The same, as it is called in another working folder or on another machine."""
        if "://" in self.store:
            return self
        if self.kept is not None:
            self.kept.close()
        return replace(self, kept=None, path=self.path.absolute(), store=self.store and str(self.path.absolute()))

    def log(self) -> EventLog:
        """The log, opened by whoever reads it."""
        if self.store:
            from analyzer.trace.shipped import ShippedLog
            from collector.shipping.store import open_store

            return ShippedLog(open_store(self.store), self.host)
        if self.exported:
            from analyzer.trace.parquet import ParquetLog

            return ParquetLog(self.path, self.host)
        return EventLog(self.path) if self.kept is None else self.kept

    def load(self, disk: DiskOverride | None = None) -> Trace:
        """The history, with what had to be set aside of it. Raises LogError, see `load_trace`."""
        trace = self._load_shipped(disk) if self.store else load_trace(self.log(), self.host, disk)
        return replace(trace, host=self.label) if self.label else trace

    def _load_shipped(self, disk: DiskOverride | None) -> Trace:
        from analyzer.trace.shipped import PartsError, ShippedLog

        log = self.log()
        assert isinstance(log, ShippedLog)  # noqa: S101 - it is in a store
        log.in_place = True
        try:
            trace = load_trace(log, self.host, disk)
        except PartsError:
            # Some may have been removed meanwhile, once they were merged: copies are made before anything is asked.
            log.in_place = False
            trace = load_trace(log, self.host, disk)
        return replace(trace, assumptions=(*trace.assumptions, *log.notes))


def find(places: Sequence[str | Path], host: str | None = None, *, keep: bool = False) -> list[Source]:
    """All histories in event logs, globs of them, folders of exported ones and stores of shipped ones; by host.

    Args:
        places: paths, globs and URLs.
        host: only this host's; None: all.
        keep: whether the log of an only history stays open until it is loaded, which has to be soon.

    Raises:
        LogError: a glob matches nothing, a log cannot be read, or none knows the host.
        StoreError, UsageError: a store cannot be used.
    """
    paths = [path for place in places for path in _paths(place)]
    only = host if len(paths) == 1 else None
    found = [source for path in dict.fromkeys(paths) for source in _sources(path, only, keep=keep and len(paths) == 1)]
    if host is not None:
        known = sorted({source.host for source in found})
        found = [source for source in found if host in {source.host, source.label}]
        if not found:
            raise LogError(f"no event log knows host '{host}', only {', '.join(known)}")
    count = Counter(source.host for source in found)
    named = [
        replace(source, label=f"{source.name} ({source.path})") if count[source.host] > 1 else source
        for source in found
    ]
    return sorted(named, key=lambda source: (source.host, str(source.path)))


def _paths(place: str | Path) -> list[Path | str]:
    if "://" in str(place):
        return [str(place)]
    if Path(place).exists() or not glob.has_magic(str(place)):
        return [Path(place)]
    matches = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207 - of absolute patterns, too
    if not matches:
        raise LogError(f"no event log matches {place}: check the path, or name another with --log")
    return [Path(match) for match in matches]


def _sources(path: Path | str, host: str | None, *, keep: bool) -> list[Source]:
    if isinstance(path, Path) and not path.is_dir():
        return _in_log(path, host, keep=keep)
    from analyzer.trace.parquet import parquet_hosts
    from analyzer.trace.shipped import is_shipped, shipped_hosts
    from collector.shipping.store import open_store

    if isinstance(path, str) or is_shipped(path):
        store = open_store(str(path))
        if not (names := shipped_hosts(store)):
            raise LogError(f"{store.name} holds no shipped log: write one with `collector ship {store.name}`")
        return [Source(Path(path), name, store=str(path)) for name in names]
    return [Source(path, name, exported=True) for name in parquet_hosts(path, host)]


def _in_log(path: Path, host: str | None, *, keep: bool) -> list[Source]:
    log = _OpenLog(path)
    with log.stack as stack:
        called = {key: label_of(log.connection, key) for key in hosts_of(log.connection, host, path)}
        keep = keep and len(called) == 1
        if keep:
            log.stack = stack.pop_all()
    kept = log if keep else None
    return [Source(path, key, label=name if name != key else "", kept=kept) for key, name in called.items()]
