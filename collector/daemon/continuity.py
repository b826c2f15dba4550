"""Up to when all that the engine reported was surely read, and what may be lost since."""

from __future__ import annotations

from collections.abc import Callable

from collector.engine.protocol import Engine
from collector.engine.translate import is_recorded
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import sql_list
from collector.eventlog.writer import LogWriter
from collector.machine.clock import Clock
from collector.model.events import LIVE, Event, Kind, reported_by
from collector.model.traits import Reporter
from collector.model.untrusted import LAST_NS, event_time_ns, whole
from collector.queries.coverage import last_observed_ns

# How far back the engine's memory is asked, to see whether it reaches beyond the last sign of life.
LOOK_BACK_NS = 86400 * 10**9
# Events of one moment may come in another order than that of their times: so much before the last one is asked again.
_OVERLAP_NS = 10**9
# How old what was surely read may be before the engine is asked whether anything has happened since.
_CONFIRM_NS = 60 * 10**9
# Under this name the log holds up to when (UTC nanoseconds) the engine's events were surely all read.
_READ = "engine"
# At the very first start all that the engine remembers is new. (Engines take a time of 0 for none.)
_EARLIEST_NS = 10**9


class Continuity:
    """Whether the engine's events were read without a gap.

    Args:
        engine: the engine.
        clock: what time it is.
        writer: stores with the events up to when they were read.
        record: takes the event for each gap and each change of the clock.

    Attributes:
        anchor_ns: time of the last event that came from the engine, UTC nanoseconds; None: none did.
        alive_ns: when the collector was last known to observe, UTC nanoseconds; None: never before.
    """

    def __init__(self, engine: Engine, clock: Clock, writer: LogWriter, record: Callable[[Event], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._writer = writer
        self._record = record
        self.anchor_ns: int | None = None
        self.alive_ns: int | None = None
        # Up to when all events of the engine were surely read, beside the anchor, UTC nanoseconds; None: not known.
        self._read_ns: int | None = None
        # Whether the log had times in the future when it was opened: then they do not show what came first.
        self._clock_was_behind = False

    def restore(self, log: EventLog, *, is_new: bool) -> None:
        """Continue where the log ends; `is_new`: it was made just now. Raises LogError."""
        self.anchor_ns, began_ns, latest_ns = log.query(_ANCHOR, [log.host], as_recorded=True, whole_since=ONLY_KEPT)[0]
        steps_back = self._clock.resume(latest_ns)
        for event in steps_back:
            self._record(event)
        self._clock_was_behind = bool(steps_back)
        # A collector that was killed before it recorded anything of the engine, a pruner or a job source may have
        # made the log: the first start is the one that finds nothing of the engine in it.
        self.alive_ns = last_observed_ns(log)
        has_event = self.anchor_ns is not None
        self._read_ns = whole(log.position(_READ), 1, LAST_NS) or (None if is_new or has_event else began_ns)

    @property
    def _known_ns(self) -> int | None:
        """Up to when all that the engine reported was surely read, UTC nanoseconds; None: not known."""
        return max(filter(None, (self.anchor_ns, self._read_ns)), default=None)

    def since_ns(self) -> int:
        """From when on the engine is asked for events; what it reports twice is stored once."""
        known_ns = self._known_ns or 0
        # Across a step back of the clock times give no order: all that the engine has is asked for.
        if self._clock_was_behind or known_ns > self._clock.now():
            return _EARLIEST_NS
        return max(known_ns - _OVERLAP_NS, _EARLIEST_NS)

    def note_gap(self) -> None:
        """If the engine's memory does not reach back to what was surely read, something may be lost."""
        known_ns = self._known_ns
        if known_ns is None:
            return
        now_ns = self._clock.now()
        alive_ns = self.alive_ns or min(known_ns, now_ns)
        clock_is_behind = self._clock_was_behind or now_ns < alive_ns
        self._clock_was_behind = False
        alive_ns = min(alive_ns, now_ns)
        began_ns = alive_ns if clock_is_behind else min(known_ns, alive_ns)
        since_ns = min(self.anchor_ns or began_ns, began_ns - LOOK_BACK_NS, now_ns)
        buffered = map(event_time_ns, self._engine.buffered_events(max(since_ns, _EARLIEST_NS), now_ns))
        times = [moment for moment in buffered if 0 < moment <= now_ns]
        if self.anchor_ns in times:
            return
        # What the engine remembers is its latest events, all of them; but times give no order across a step back.
        if not clock_is_behind and min(times, default=now_ns) <= began_ns:
            return
        ended = min((moment for moment in times if moment > alive_ns), default=now_ns)
        reason = "the engine no longer has the events since the last one recorded"
        if clock_is_behind:
            reason = "the host's clock was set back while nothing was observed"
        self._record(Event(max(ended, alive_ns), Kind.GAP, began_ns=began_ns, attributes={"reason": reason}))

    def confirm(self) -> None:
        """Where no event has come for a while, make sure that there was none: a later gap begins only then."""
        until_ns = self._clock.now() - _OVERLAP_NS
        known_ns = self._known_ns or _EARLIEST_NS
        if self._engine.keeps_events or known_ns > until_ns - _CONFIRM_NS:
            return
        if not any(map(is_recorded, self._engine.buffered_events(known_ns + 1, until_ns))):
            self._read_ns = until_ns
            self._writer.mark = (_READ, str(until_ns))

    def watch_clock(self) -> None:
        """Record that the clock was set; times from before a step back do not say what was read."""
        for event in self._clock.watch():
            self._record(event)
            if event.kind is Kind.CLOCK_SET_BACK:
                self.anchor_ns, self._read_ns = None, event.time_ns - _OVERLAP_NS
                self._writer.mark = (_READ, str(self._read_ns))


_ANCHOR = f"""
WITH latest AS (
    FROM event WHERE host = $1 AND seq > coalesce(
        (SELECT max(seq) FROM event WHERE host = $1 AND kind = 'clock_set_back'), 0)
)
SELECT arg_max(coalesce(TRY_CAST(attributes ->> '$.own_time_ns' AS BIGINT), epoch_ns(time)), seq)
        FILTER (kind IN ({sql_list(reported_by(Reporter.ENGINE))})
            AND coalesce(attributes ->> '$.inferred', 'false') <> 'true'),
    epoch_ns(min(time) FILTER (kind IN ({sql_list(LIVE)}))),
    epoch_ns(max(time))
FROM latest
"""
