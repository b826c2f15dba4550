"""The collector itself: a loop that follows one engine and appends what it sees."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from collector.daemon.continuity import LOOK_BACK_NS, Continuity
from collector.daemon.intake import Intake
from collector.daemon.known_containers import restore_containers
from collector.daemon.live import live_state
from collector.daemon.log_care import LogCare
from collector.daemon.lookups import Lookups
from collector.daemon.sampling import Sampling
from collector.daemon.schedule import Schedule, Timetable
from collector.daemon.upkeep import Upkeep
from collector.daemon.watcher import ImageWatch
from collector.engine.locality import require_local
from collector.engine.protocol import Engine
from collector.engine.stream import Reader, StreamEnded
from collector.engine.translate import Translator, names_of
from collector.eventlog.identity import Identity, this_machine
from collector.eventlog.log import EventLog
from collector.eventlog.writer import LogWriter
from collector.job_sources.follow import OFF, Follower
from collector.machine.clock import Clock
from collector.machine.disk import DiskSample, sample_disks
from collector.machine.systemd import Watchdog, notify
from collector.model.backoff import Backoff
from collector.model.errors import EngineError, LogDamagedError, LogError
from collector.model.events import Event, Kind
from collector.model.observation import EngineInfo
from collector.model.untrusted import event_time_ns
from collector.queries.coverage import last_observed_ns

if TYPE_CHECKING:
    from collector.monitoring.host_page import HostPage
    from collector.monitoring.metrics import Metrics

logger = logging.getLogger(__name__)

_SETTLE_S = 0.2
_FIRST_BACKOFF_S = 0.5
# The engine's memory of 256 events fills quickly once it is back.
_LAST_BACKOFF_S = 5.0


class Collector:
    """Observes one engine.

    Args:
        engine: the engine.
        log: where events go.
        schedule: how often it looks by itself.
        clock: what time it is; None: the host's clocks.
        metrics: where its state is published; None: nowhere.
        runner_log: which CI runner's log to follow; see `collector.job_sources.follow.Follower`.
        page: the page of the host's state; None: there is none.
        upkeep: what keeps the log small; None: nothing does.
    """

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        schedule: Schedule | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        runner_log: str = OFF,
        page: HostPage | None = None,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._engine = engine
        self._upkeep = upkeep or Upkeep(log.path)
        self._log = log
        self._due = Timetable(schedule or Schedule())
        self._clock = clock or Clock()
        self._writer = LogWriter(log)
        self._translator = Translator(Lookups(engine))
        self._metrics = metrics
        self._page = page
        if page is not None:
            page.wake = self._wake
        # Whether anything has happened that the metrics do not show yet.
        self._news = False
        self._info: EngineInfo | None = None
        self._watchdog = Watchdog()
        self._sampling = Sampling(log.path, self._clock.now)
        self._continuity = Continuity(engine, self._clock, self._writer, self._record)
        self._images = ImageWatch(engine, self._clock, self._record, self._watchdog.progress)
        self._sampling_due = False
        self._reader: Reader | None = None
        self._runner_log = Follower(runner_log, self._wake)
        self._intake = Intake(self._runner_log, log, self._watchdog.progress)
        self._care = LogCare(log, self._writer, self._watchdog, self._record)
        self.stopping = threading.Event()

    def stop(self) -> None:
        """Let `run` append all and end, at once; may be called by a signal handler."""
        self.stopping.set()
        self._wake()

    def _wake(self) -> None:
        """Let the loop look at once for what is due; from any thread."""
        if self._reader is not None:
            self._reader.wake()

    def once(self) -> tuple[int, DiskSample]:
        """What the engine remembers, one inventory and one sample; how many images there are, and the sample.

        Raises:
            EngineError, LogError: it could not be taken or stored.
        """
        self._meet_engine()
        self._restore()
        since_ns = self._continuity.since_ns()
        self._continuity.note_gap()
        self._handle(self._engine.buffered_events(since_ns, self._clock.now()))
        self._take_inventory()
        self._continuity.confirm()
        self._sample()
        if not self._writer.flush() and not self._writer.save():
            raise LogError(f"nothing could be stored in {self._log.path} or its spool")
        return len(self._images.presence), self._sampling.disks[0]

    def run(self) -> None:
        """Observe until `stopping` is set; then append all and end.

        Raises:
            EngineError: at the start there is no engine, or its disk cannot be measured: whoever waits for
                a service to be ready must not wait for what does not recover by itself.
            LogError: the log cannot be used at all.
        """
        disks = sample_disks(self._meet_engine())
        self._care.reserve([disk.path for disk in disks])
        self._care.patiently(self._restore, self.stopping)
        self._runner_log.start()
        self._record(Event(self._clock.now(), Kind.COLLECTOR_STARTED, attributes=self._self_portrait()))
        backoff = Backoff(_FIRST_BACKOFF_S, _LAST_BACKOFF_S)
        self._sampling.least_free.start()
        try:
            while not self.stopping.is_set():
                try:
                    reader = self._connect()
                    backoff.reset()
                    reason = self._follow(reader)
                except EngineError as error:
                    reason = str(error)
                if not self.stopping.is_set():
                    self._wait_for_engine(reason, backoff.next())
        finally:
            self._sampling.least_free.stop()
            notify("STOPPING=1")
            self._runner_log.close()
            self._upkeep.close()
            blind = {} if self._images.following else {"following": False}
            self._record(Event(self._clock.now(), Kind.COLLECTOR_STOPPED, attributes=blind))
            self._writer.close()

    def _meet_engine(self) -> EngineInfo:
        """What the engine says of itself. Raises EngineError where it is not on this host."""
        self._info = self._engine.info()
        require_local(self._engine, self._info, [row.image for row in self._engine.images()])
        return self._info

    def _wait_for_engine(self, reason: str, seconds: float) -> None:
        logger.warning("%s; trying again in %.1f s", reason, seconds)
        self._watchdog.progress()
        self._engine.close()
        self._images.following = False
        self._publish()
        notify("STATUS=waiting for the engine")
        self._flush()
        self.stopping.wait(seconds)

    def _restore(self) -> None:
        """Continue where the log ends; a damaged one is set aside first."""
        try:
            self._log.verify()
            self._resume()
        except LogDamagedError as error:
            self._care.set_aside(error)
            self._resume()

    def _resume(self) -> None:
        here = self._here()
        if is_new := not self._log.exists():
            portrait = {"first": True, **self._self_portrait()}
            self._log.append([Event(self._clock.now(), Kind.COLLECTOR_STARTED, attributes=portrait)])
        self._record(*self._log.claim(here))
        with self._log.one_state():
            self._images.restore(self._log)
            self._translator.learn(names_of(self._images.presence.names()))
            restore_containers(self._translator, self._log)
            self._continuity.restore(self._log, is_new=is_new)
            self._intake.resume()
        self._images.is_first = self._continuity.alive_ns is None

    def _here(self) -> Identity:
        """What this host is recognised by."""
        return this_machine(self._info or self._engine.info())

    def _self_portrait(self) -> dict[str, str]:
        info = self._info or self._engine.info()
        return {"engine": info.version, "store": info.store, "data_root": info.data_root}

    def _connect(self) -> Reader:
        """Follow the stream from the last event on; what lies between and is lost becomes a gap."""
        self._info = self._engine.info()
        self._reader = reader = Reader(self._engine.stream(self._continuity.since_ns()))
        self._continuity.note_gap()
        self._handle_waiting(reader)
        self._take_inventory()
        self._continuity.confirm()
        self._sample()
        now = time.monotonic()
        self._due.inventoried(now)
        self._due.sampled(now)
        self._flush()
        self._images.following = True
        self._publish()
        notify("READY=1", "STATUS=observing " + self._engine.host)
        logger.info("observing %s (data root %s)", self._engine.host, self._info.data_root)
        return reader

    def _make_good(self, began_ns: int, ended_ns: int) -> None:
        """The engine may have dropped events: take what it still has, and say what is lost."""
        kept = self._engine.buffered_events(began_ns - LOOK_BACK_NS, self._clock.now())
        self._handle(kept)
        oldest = min(filter(None, map(event_time_ns, kept)), default=ended_ns)
        self._due.inventory = 0.0
        if oldest <= began_ns:
            return
        reason = "the collector stood still, and the engine dropped what its queue could not hold"
        self._record(Event(min(oldest, ended_ns), Kind.GAP, began_ns=began_ns, attributes={"reason": reason}))

    def _follow(self, reader: Reader) -> str:
        """Handle events until the stream ends; why it ended."""
        try:
            while not self.stopping.is_set():
                found = reader.read(self._pause())
                if isinstance(found, StreamEnded):
                    self._continuity.alive_ns = found.at_ns
                    return found.reason
                self._continuity.alive_ns = self._clock.now()
                self._handle(found)
                now = time.monotonic()
                if not reader.waiting() or self._due.is_overdue(now):
                    self._iterate(now)
                    if lost := reader.lateness.take():
                        self._make_good(*lost)
            return "stopping"
        finally:
            # What has arrived counts as observed, even when the engine has gone meanwhile.
            self._handle_waiting(reader)
            reader.close()

    def _pause(self) -> float:
        """Seconds until something is due."""
        due = [self._sampling.alarm.again, self._images.next]
        if self._writer.behind:
            due.append(self._due.flush)
        if self._intake.waits:
            due.append(max(self._due.flush, self._intake.due))
        if self._metrics is not None and self._news:
            due.append(self._metrics.next)
        return self._due.pause(due)

    def _iterate(self, now: float) -> None:
        """Do what is due at `now` (monotonic seconds)."""
        self._watchdog.progress()
        self._continuity.watch_clock()
        self._images.attend(now)
        if self._sampling_due or now >= min(self._due.disk, self._sampling.alarm.again):
            self._sample()
            self._due.sampled(now)
        if now >= self._due.inventory:
            self._due.inventoried(now)
            self._take_inventory()
            self._continuity.confirm()
            if (damage := self._care.damage()) is not None:
                self._replace(damage)
        elif now >= self._due.containers:
            self._due.compared(now)
            self._images.look_if_changed()
            self._record(*self._translator.reconcile(self._engine.containers(), self._clock.now()))
            self._continuity.confirm()
        runner_log_is_due = self._intake.waits and now >= self._intake.due
        if (self._writer.behind or runner_log_is_due) and now >= self._due.flush:
            self._flush()
        self._upkeep.attend(is_short=self._sampling.alarm.is_short)
        if self._metrics is not None and self._metrics.due:
            self._publish()
        if self._page is not None and self._page.wanted:
            self._page.publish()

    def _publish(self) -> None:
        """Publish what is known now as metrics."""
        if self._metrics is None:
            return
        self._news = self._writer.behind
        used = self._translator.open.values()
        live = live_state(self._info, self._images, used, self._sampling, self._writer, self._continuity.alive_ns)
        self._metrics.publish(live)

    def _handle_waiting(self, reader: Reader) -> None:
        """Handle what has arrived, until nothing more does."""
        while True:
            found = reader.read(_SETTLE_S)
            if isinstance(found, StreamEnded):
                self._continuity.alive_ns = found.at_ns
                return
            if not found and not reader.waiting():
                return
            self._handle(found)

    def _handle(self, raws: list[dict[str, object]]) -> None:
        self._continuity.watch_clock()
        for raw in raws:
            self._watchdog.progress()
            for event in self._translator.translate(raw):
                if event.kind is not Kind.EVENT_UNREADABLE:
                    self._continuity.anchor_ns = event.time_ns
                self._images.take(event)
                self._record(event)

    def _take_inventory(self) -> None:
        """Compare all images and containers with what is known, and record what differs."""
        self._images.compare(thoroughly=True)
        self._translator.learn(names_of(self._images.presence.names()))
        self._record(*self._translator.reconcile(self._engine.containers(), self._clock.now()))
        self._images.taken()
        try:
            self._sampling.usage = self._engine.usage()
        except EngineError as error:
            logger.warning("disk usage is unknown: %s", error)

    def _sample(self) -> None:
        """Sample each disk that holds bytes of the engine."""
        self._sampling_due = False
        self._info = self._info or self._engine.info()
        self._record(*self._sampling.sample(self._info, self._images.presence.image_bytes))

    def _record(self, *events: Event) -> None:
        self._news |= bool(events)
        self._sampling_due |= any(event.kind.traits.changes_disk for event in events)
        if events and not self._writer.behind:
            self._due.wait_for_more()
        self._writer.add(self._clock.stamped(event) for event in events)

    def _flush(self) -> None:
        if self._writer.renewed():
            self._start_over()
        done = self._writer.keep()
        if self._writer.damage is not None:
            done = self._replace(self._writer.damage) and self._writer.keep()
        if done:
            try:
                self._intake.take()
            except LogDamagedError as error:
                self._replace(error)
        self._due.flushed(done=done)

    def _replace(self, error: LogDamagedError) -> bool:
        """Set the damaged log aside and go on with a new one; whether that could be done."""
        if not self._care.replaced(error):
            return False
        self._start_over(salvaged=True)
        # It is expected: the next look takes this file for the one that was there.
        self._writer.accept()
        return True

    def _start_over(self, *, salvaged: bool = False) -> None:
        """The log's file was removed or replaced by another: record in the new one what is there.

        Args:
            salvaged: whether by ourselves, with what could be read of it; then it says already what is missing.
        """
        if not salvaged:
            logger.warning("the event log %s was removed or replaced: what it held is no longer there", self._log.path)
        self._images.start_over()
        self._translator.open.clear()
        now_ns = self._clock.now()
        self._log.forget_host()
        latest_ns = None
        if self._log.exists():
            try:
                self._record(*self._log.claim(self._here()))
                latest_ns = last_observed_ns(self._log)
                self._images.restore(self._log)
            except LogError:
                return  # `keep` says what is wrong with it, and that it is another host's
            if latest_ns is not None and not salvaged:
                reason = "the event log was replaced by one that ends earlier"
                self._record(Event(now_ns, Kind.GAP, began_ns=min(latest_ns, now_ns), attributes={"reason": reason}))
        self._record(Event(now_ns, Kind.COLLECTOR_STARTED, attributes={"new_log": True}))
        self._images.is_first = latest_ns is None
        self._due.inventory = 0.0
