"""From events to the log with nothing lost: memory, then the log, else the spool."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from collector.eventlog.database import memory_spool_path, spool_path
from collector.eventlog.log import EventLog
from collector.eventlog.spool import DEFAULT_SIZE, Spool, is_private
from collector.eventlog.sql import sql_list
from collector.model.errors import LogBusyError, LogDamagedError, LogError, LogFullError, SpoolUnusableError
from collector.model.events import WATCHING, Event, Kind
from collector.model.job_details import JobDetails, cut_down

logger = logging.getLogger(__name__)
_MOST_IN_MEMORY = 16 * 2**20
_OBSERVED = f"SELECT epoch_ns(max(time)) FROM event WHERE host = ? AND kind IN ({sql_list(WATCHING)})"


class LogWriter:
    """Takes events at once and appends them when it can, in order.

    What the log cannot take now stays in memory; from `memory_limit` events on it goes to the
    spool, which also survives the process. Should even that be impossible (no space left beyond
    the spool's reserve), they go to a small one in memory, which does not survive the machine; once that
    is full, events beyond `hard_limit` are given up and the log says so with a `gap`.

    Args:
        log: where events end up.
        memory_limit: events kept in memory before they are spooled.
        hard_limit: events kept in memory at the very most.
        spool_size: bytes reserved for the spool.
    """

    def __init__(
        self,
        log: EventLog,
        memory_limit: int = 2_000,
        hard_limit: int = 200_000,
        spool_size: int = DEFAULT_SIZE,
    ) -> None:
        self.log = log
        self.spool = Spool(spool_path(log.path), spool_size)
        self._in_memory = Spool(memory_spool_path(log.path), size=0, most=_MOST_IN_MEMORY)
        self._memory: list[Event] = []
        self._memory_limit = memory_limit
        self._hard_limit = hard_limit
        self._given_up: list[Event] = []
        # The file of the latest `keep`, and that of the latest look for another one.
        self._file: tuple[int, int] | None = None
        self._looked_at: tuple[int, int] | None = None
        self._failed = False
        self._oldest_ns: int | None = None
        self._fault = ""
        self._spool_fault = ""
        # A source of events and how far it was read, as far as what was added says: stored with that, once.
        self.mark: tuple[str, str] | None = None
        # What the latest `keep` found wrong with the file itself.
        self.damage: LogDamagedError | None = None

    @property
    def pending(self) -> int:
        """How many events wait in memory."""
        return len(self._memory)

    @property
    def behind(self) -> bool:
        """Whether anything waits, in memory or since a failed `keep` in the spool."""
        return bool(self._memory) or self._failed

    @property
    def spooled(self) -> int:
        """How many events wait in the spool; 0 also if that cannot be read."""
        try:
            return sum(spool.waiting() for spool in self._spools())
        except LogError:
            return 0

    def _spools(self) -> tuple[Spool, ...]:
        return (self.spool, self._in_memory) if is_private(self._in_memory.path.parent) else (self.spool,)

    @property
    def oldest_ns(self) -> int | None:
        """Time of the first event that the log does not hold yet, UTC nanoseconds; None: it holds all."""
        return self._oldest_ns

    def add(self, events: Iterable[Event]) -> None:
        """Take events; they are appended by the next `flush`."""
        for event in events:
            if self._oldest_ns is None:
                self._oldest_ns = event.time_ns
            if len(self._memory) < self._hard_limit:
                self._memory.append(event)
            elif self._given_up:
                self._given_up[1] = event
            else:
                self._given_up = [event, event]

    def flush(self) -> bool:
        """Append all that waits; whether the log holds everything now.

        Raises:
            LogError: the log cannot be used at all (not merely busy, full or damaged).
        """
        try:
            self._append()
        except LogDamagedError as error:
            self.save()
            logger.debug("not appended: %s", error)
            return False
        except (LogBusyError, LogFullError) as error:
            if len(self._memory) >= self._memory_limit:
                self.save()
            logger.debug("not appended yet: %s", error)
            return False
        return True

    def keep(self) -> bool:
        """As `flush`, for who must go on whatever becomes of the log: what it cannot take now is kept.

        What stands in the way is said once, in one line, and so is its end.
        """
        self._failed = True
        self.damage = None
        try:
            self._append()
        except LogBusyError as error:
            # Readers come and go; only one that stays is worth a line.
            if len(self._memory) >= self._memory_limit:
                self.report(error)
                self.save()
            return False
        except LogDamagedError as error:
            self.damage = error
            self.save()
            return False
        except LogError as error:
            self.report(error)
            self.save()
            return False
        if self._fault:
            logger.info("the event log %s takes events again", self.log.path)
            self._fault = ""
        found = self._identity()
        # One that has gone since the last look was not spoken of yet, though this made another: the next look sees it.
        self._failed = self._looked_at not in {None, found}
        self._file = self._looked_at if self._failed else found
        return True

    def renewed(self) -> bool:
        """Whether the log is no longer the file that was last appended to: removed or replaced."""
        self._looked_at = self._identity()
        if self._file is None or self._file == self._looked_at:
            return False
        try:
            rewritten = self._looked_at is not None and self.log.goes_on_from(self._file)
        except LogError:
            # It is looked at again once something could be appended.
            self._looked_at = self._file
            return False
        if rewritten:
            self._file = self._looked_at
        return not rewritten

    def accept(self) -> None:
        """Take the file that is there now for the one that was last appended to."""
        self._file = self._looked_at = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.log.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def report(self, error: LogError) -> None:
        """Say once what stands in the way of the log."""
        if str(error) != self._fault:
            logger.warning("%s; events are kept meanwhile", error)
            self._fault = str(error)

    def _append(self) -> None:
        with self._drained() as spooled:
            readable = _with_gaps(spooled, self._observed_ns()) if None in spooled else filter(None, spooled)
            self.log.append([*readable, *self._memory, *self._gap()], self.mark)
            self.mark = None
            self._memory.clear()
            self._given_up.clear()
            self._oldest_ns = None
        if damaged := spooled.count(None):
            logger.warning(
                "spool %s: %d unreadable lines; the whole is kept beside it as *.damaged-*, and a gap is recorded",
                self.spool.path,
                damaged,
            )

    @contextmanager
    def _drained(self) -> Iterator[list[Event | None]]:
        """What waits in the spool; a spool that cannot be opened keeps nothing from the log."""
        with ExitStack() as stack:
            spooled: list[Event | None] = []
            for spool in self._spools():
                try:
                    spooled += stack.enter_context(spool.draining())
                except SpoolUnusableError as error:
                    self._report_spool(f"{error}; until then, what the log cannot take waits in memory")
            yield spooled

    def _report_spool(self, text: str) -> None:
        """Say once what is wrong with the spool."""
        if text != self._spool_fault:
            logger.warning("%s", text)
            self._spool_fault = text

    def _observed_ns(self) -> int | None:
        """When the latest event that the log holds of what is observed happened, UTC nanoseconds. Raises LogError."""
        return self.log.query(_OBSERVED, [self.log.host])[0][0] if self.log.exists() else None

    def save(self) -> bool:
        """Move what is in memory to the spool; whether that worked."""
        if not self._memory:
            return True
        events = list(cut_down(self._memory, self.log.job_details or JobDetails.ALL))
        try:
            self.spool.write(events)
        except LogError as error:
            if not self._save_in_memory(events):
                self._report_spool(f"{error}; events wait in memory")
                return False
            self._report_spool(f"{error}; events wait in {self._in_memory.path}, until this machine restarts at most")
        else:
            self._spool_fault = ""
        self._memory.clear()
        return True

    def _save_in_memory(self, events: Sequence[Event]) -> bool:
        folder = self._in_memory.path.parent
        with suppress(OSError):
            folder.mkdir(mode=0o700)
        if not is_private(folder):
            return False
        with suppress(LogError, OSError):
            self._in_memory.write(events)
            return True
        return False

    def close(self) -> bool:
        """Append all that waits, or leave it in the spool; whether nothing was lost."""
        try:
            return self.flush() or self.save()
        except LogError as error:
            logger.warning("%s", error)
            return self.save()

    def _gap(self) -> list[Event]:
        if not self._given_up:
            return []
        first, last = self._given_up
        return [
            Event(
                last.time_ns,
                Kind.GAP,
                began_ns=first.time_ns,
                attributes={"reason": "neither log nor spool could be written and memory ran out"},
            )
        ]


def _with_gaps(spooled: Sequence[Event | None], known_ns: int | None) -> list[Event]:
    """The events of the spool, and a gap in place of each run of lines that cannot be read.

    What those said happened between what is recorded before and after them.

    Args:
        spooled: the events, None for a line that cannot be read.
        known_ns: when the latest event before them happened, UTC nanoseconds; None: there is none.
    """
    found, lost = list[Event](), False
    # Nothing follows the last line but what happens from now on.
    for event in (*spooled, Event(time.time_ns(), Kind.GAP)):
        if event is None:
            lost = True
            continue
        if event.kind.traits.watching:
            if lost:
                moments = (event.time_ns, event.time_ns if known_ns is None else known_ns)
                reason = {"reason": "lines of the spool could not be read"}
                found.append(Event(max(moments), Kind.GAP, began_ns=min(moments), attributes=reason))
                lost = False
            known_ns = event.time_ns
        found.append(event)
    return found[:-1]
