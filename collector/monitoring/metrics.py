"""Metrics for Prometheus: served over HTTP, or left in a file for node_exporter's textfile collector.

The collector publishes what it knows from its own thread; whoever scrapes sees the latest of that,
with free space and ages as of that moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as Source

from collector.eventlog.database import files_aside
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.machine.disk import DiskSample, sample_disk
from collector.machine.prune_runs import read_runs
from collector.machine.wake import levels_path, read_levels
from collector.model.errors import HindsightError, LogBusyError, LogError
from collector.model.events import Kind
from collector.model.observation import Usage
from collector.model.paths import replace_file
from collector.model.units import DAY_S
from collector.monitoring.server import serve_app
from collector.queries.coverage import Coverage, coverage
from collector.queries.tally import Tally

logger = logging.getLogger(__name__)

PREFIX = "docker_hindsight_"
# The log is looked into, and the file written, this often at most.
_EVERY_S = 5.0
_MODE = 0o644
# Prometheus sees a counter increase from what it was before: what may come to be counted is given as 0 until then.
_OUTCOMES = ("target reached", "target not reached", "interrupted", "failed")
_ITEMS = tuple(product(("container", "image", "volume", "build_cache"), ("removed", "kept")))

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


class Spec(NamedTuple):
    """One metric: its name without the prefix, its type, what it means, and its labels."""

    name: str
    type: str
    help: str
    labels: Labels = ()


# Where the engine has one disk only, the label is empty, which is as if it had none.
_DISK = ("file_system",)
SPECS = (
    Spec(
        "build_info", "gauge", "Always 1; version, engine and image store are labels.", ("version", "engine", "store")
    ),
    Spec("disk_free_bytes", "gauge", "Free bytes of each file system that holds bytes of the engine.", _DISK),
    Spec("disk_size_bytes", "gauge", "Total bytes of each such file system.", _DISK),
    Spec("disk_free_inodes", "gauge", "Free inodes of each such file system; 0 where it has no limit.", _DISK),
    Spec("disk_inodes", "gauge", "Total inodes of each such file system; 0 where it has no limit.", _DISK),
    Spec("threshold_bytes", "gauge", "Free bytes below which the pruner prunes, as of its last run.", _DISK),
    Spec("image_bytes", "gauge", "Bytes of all layers held, each counted once."),
    Spec("image_own_bytes", "gauge", "Bytes of layers that belong to one image only."),
    Spec("image_shared_bytes", "gauge", "Bytes of layers that several images share, each counted once."),
    Spec("container_bytes", "gauge", "Bytes that containers wrote, as the engine last reported."),
    Spec("volume_bytes", "gauge", "Bytes of all volumes, as the engine last reported."),
    Spec("build_cache_bytes", "gauge", "Bytes of the build cache, as the engine last reported."),
    Spec("unaccounted_bytes", "gauge", "Used bytes of the images' file system that are not accounted for above."),
    Spec("images", "gauge", "Images: in use by a container, idle, or idle without any name.", ("state",)),
    Spec("containers", "gauge", "Containers in any state."),
    Spec("least_recent_use_age_seconds", "gauge", "Time since the last use of the least recently used image."),
    Spec("events_total", "counter", "Events in the log.", ("kind",)),
    Spec("repulls_total", "counter", "Images pulled again after they had been removed."),
    Spec("repulled_bytes_total", "counter", "Bytes of their layers that had to be pulled again."),
    Spec(
        "project_pulled_bytes_total",
        "counter",
        "Bytes pulled for jobs of a project: new images, or again; the 50 largest projects, the rest as (others).",
        ("project", "pull"),
    ),
    Spec("policy_info", "gauge", "Always 1; the policy of the latest prune.", ("policy",)),
    Spec("prunes_total", "counter", "Finished prunes.", ("outcome",)),
    Spec("prune_items_total", "counter", "Items that prunes removed, or failed to remove.", ("item", "result")),
    Spec("prune_freed_bytes_total", "counter", "Bytes that prunes freed."),
    Spec("last_prune_timestamp_seconds", "gauge", "When the latest prune ended; runs with nothing to do do not count."),
    Spec("last_prune_reached_target", "gauge", "Whether the latest prune reached its target."),
    Spec("pruner_last_run_timestamp_seconds", "gauge", "When the pruner last ran, even if there was nothing to do."),
    Spec("pruner_fruitless_runs_total", "counter", "Runs that removed nothing though the target was not reached."),
    Spec(
        "pruner_last_reached_timestamp_seconds",
        "gauge",
        "When a run of the pruner last ended with enough free space, even if there was nothing to do.",
    ),
    Spec("engine_connected", "gauge", "Whether the engine's events are being read."),
    Spec("last_observed_timestamp_seconds", "gauge", "When the collector last read the engine's events."),
    Spec("gaps_total", "counter", "Intervals that were not observed."),
    Spec("gap_seconds_total", "counter", "Time that was not observed."),
    Spec("coverage_ratio", "gauge", "Share of the last days that was observed.", ("window",)),
    Spec("lag_seconds", "gauge", "Age of the oldest event that is not in the log yet."),
    Spec("pending_events", "gauge", "Events waiting in memory."),
    Spec("spooled_events", "gauge", "Events waiting in the spool."),
    Spec("log_size_bytes", "gauge", "Size of the event log."),
    Spec("damaged_logs", "gauge", "Files beside the event log that were set aside because they were damaged."),
)


@dataclass(frozen=True, slots=True)
class Live:
    """What the collector knows at one moment. Sizes are bytes, times UTC seconds.

    Attributes:
        engine, store: what the engine says of itself.
        disks: each file system that holds its bytes, as last sampled, that of the images first.
        connected: whether its events are being read.
        observed: when they were last read; None: never.
        images: image IDs, and whether each has a name.
        in_use: image IDs that containers refer to.
        containers: how many there are.
        own_bytes, shared_bytes: of the layers held.
        usage: what containers, volumes and build cache hold; None: not known yet.
        oldest_pending: time of the oldest event that the log does not hold yet; None: there is none.
        pending, spooled: events that wait.
    """

    engine: str = ""
    store: str = ""
    disks: tuple[DiskSample, ...] = ()
    connected: bool = False
    observed: float | None = None
    images: dict[str, bool] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    containers: int = 0
    own_bytes: int = 0
    shared_bytes: int = 0
    usage: Usage | None = None
    oldest_pending: float | None = None
    pending: int = 0
    spooled: int = 0


class Metrics(Source):
    """The metrics of one collector.

    Args:
        log: its event log.
        path: where to leave them for node_exporter; None: nowhere.
        now: what time it is, UTC seconds.
    """

    def __init__(self, log: EventLog, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._log = log
        self._path = path
        self._now = now
        self._tally = Tally()
        self._coverage = Coverage()
        self._live = Live()
        self._samples: dict[str, list[Sample]] = {}
        self._file: tuple[int, int] | None = None
        self.next = 0.0
        self._notified: set[str] = set()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def serve(self, address: str) -> int:
        """Serve them at ``host:port`` from a thread of their own; the port.

        Raises:
            UsageError: the address is invalid, or cannot be listened on.
        """
        return serve_app("--metrics", address, make_wsgi_app(self.registry))

    @property
    def due(self) -> bool:
        """Whether it is time to `publish` again."""
        return time.monotonic() >= self.next

    def publish(self, live: Live) -> None:
        """Take what the collector knows now, look into the log, and write the file."""
        self.next = time.monotonic() + _EVERY_S
        self._look()
        self._live = live
        self._samples = dict(self._of_log()) | dict(self._of_collector())
        if self._path is not None:
            self._write(self._path)

    def _look(self) -> None:
        """Fold what the log has gained, if it was written to."""
        try:
            found = self._log.path.stat()
            if (found.st_mtime_ns, found.st_size) == self._file:
                return
            self._tally.advance(self._log)
            with self._log.reading(whole_since=ONLY_KEPT) as connection:
                self._coverage = coverage(connection, self._log.host)
            self._file = (found.st_mtime_ns, found.st_size)
        except (OSError, LogError) as error:
            self._report(f"metrics are not up to date: {error}", error)

    def _write(self, path: Path) -> None:
        """Replace the file as a whole: node_exporter must never read half of it."""
        try:
            replace_file(path, generate_latest(self.registry), _MODE)
        except OSError as error:
            self._report(f"metrics file {path} cannot be written: {error.strerror}")

    def _report(self, text: str, error: Exception | None = None) -> None:
        """Say once what is wrong; a log that somebody reads at the moment is not."""
        if text not in self._notified and not isinstance(error, LogBusyError):
            logger.warning("%s", text)
            self._notified.add(text)

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        samples = self._samples | dict(self._of_now())
        for spec in SPECS:
            values = samples.get(spec.name)
            if values is None:
                continue
            name = PREFIX + spec.name
            made: GaugeMetricFamily | CounterMetricFamily
            if spec.type == "counter":
                made = CounterMetricFamily(name.removesuffix("_total"), spec.help, labels=spec.labels)
            else:
                made = GaugeMetricFamily(name, spec.help, labels=spec.labels)
            for labels, value in values:
                made.add_metric(labels, value)
            yield made

    def _of_log(self) -> Iterator[tuple[str, list[Sample]]]:
        tally, now = self._tally, self._now()
        yield "events_total", [((kind.value,), tally.events[kind.value]) for kind in Kind]
        yield "repulls_total", one(tally.repulls)
        yield "repulled_bytes_total", one(tally.repulled_bytes)
        yield "project_pulled_bytes_total", [(labels, size) for labels, size in sorted(tally.costs.bounded().items())]
        if tally.policy:
            yield "policy_info", [((tally.policy,), 1)]
        prunes, items = dict.fromkeys(_OUTCOMES, 0) | tally.prunes, dict.fromkeys(_ITEMS, 0) | tally.items
        yield "prunes_total", [((outcome,), count) for outcome, count in sorted(prunes.items())]
        yield "prune_items_total", [(labels, count) for labels, count in sorted(items.items())]
        yield "prune_freed_bytes_total", one(tally.freed_bytes)
        if tally.last_prune is not None:
            yield "last_prune_timestamp_seconds", one(tally.last_prune)
            yield "last_prune_reached_target", one(bool(tally.reached))
        yield "gaps_total", one(tally.gaps)
        yield "gap_seconds_total", one(tally.gap_ns / 1e9)
        shares = {f"{days}d": self._coverage.coverage(now - days * DAY_S, now) for days in (7, 30)}
        yield "coverage_ratio", [((window,), share) for window, share in shares.items() if share is not None]

    def _of_collector(self) -> Iterator[tuple[str, list[Sample]]]:
        live = self._live
        yield "build_info", [((version("docker-hindsight"), live.engine, live.store), 1)]
        yield "image_bytes", one(live.own_bytes + live.shared_bytes)
        yield "image_own_bytes", one(live.own_bytes)
        yield "image_shared_bytes", one(live.shared_bytes)
        idle = {image: named for image, named in live.images.items() if image not in live.in_use}
        named = sum(idle.values())
        states = {"in_use": len(live.images) - len(idle), "idle": named, "dangling": len(idle) - named}
        yield "images", [((state,), count) for state, count in states.items()]
        yield "containers", one(live.containers)
        yield "engine_connected", one(live.connected)
        if live.observed is not None:
            yield "last_observed_timestamp_seconds", one(live.observed)
        yield "pending_events", one(live.pending)
        yield "spooled_events", one(live.spooled)

    def _of_now(self) -> Iterator[tuple[str, list[Sample]]]:
        """What is only right at the moment of the scrape."""
        live, now = self._live, self._now()
        uses = [now if image in live.in_use else self._tally.last_use.get(image) for image in live.images]
        known = [used for used in uses if used is not None]
        if known:
            yield "least_recent_use_age_seconds", one(max(0.0, now - min(known)))
        yield "lag_seconds", one(max(0.0, now - live.oldest_pending) if live.oldest_pending else 0.0)
        yield "damaged_logs", one(len(files_aside(self._log.path)))
        try:
            yield "log_size_bytes", one(self._log.path.stat().st_size)
            yield "pruner_last_run_timestamp_seconds", one(levels_path(self._log.path).stat().st_mtime)
        except OSError:
            pass
        runs = read_runs(self._log.path)
        yield "pruner_fruitless_runs_total", one(runs.total)
        if runs.reached is not None:
            yield "pruner_last_reached_timestamp_seconds", one(runs.reached)
        found = [((disk.mount,), read_levels(self._log.path, disk.path)) for disk in live.disks]
        levels: list[Sample] = [(labels, float(level[0])) for labels, level in found if level is not None]
        if levels:
            yield "threshold_bytes", levels
        try:
            disks = [(disk.mount, sample_disk(disk.path, canonical=True)) for disk in live.disks]
        except HindsightError:
            return
        if not disks:
            return
        disk = disks[0][1]
        held = live.own_bytes + live.shared_bytes
        if live.usage is not None:
            for name in ("container_bytes", "volume_bytes", "build_cache_bytes"):
                size = getattr(live.usage, name) or 0
                held += size
                yield name, one(size)
        yield "unaccounted_bytes", one(max(0, (disk.used_bytes or disk.total_bytes - disk.free_bytes) - held))
        for name, attribute in _OF_DISK.items():
            yield name, [((mount,), float(getattr(sample, attribute))) for mount, sample in disks]


_OF_DISK = {
    "disk_free_bytes": "free_bytes",
    "disk_size_bytes": "total_bytes",
    "disk_free_inodes": "free_inodes",
    "disk_inodes": "total_inodes",
}


def one(value: float) -> list[Sample]:
    """A metric without labels."""
    return [((), float(value))]
