"""Which part of a host's time was observed, and whose log it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import sql_list
from collector.model.errors import LogError
from collector.model.events import LIVE, WATCHING, reported_by
from collector.model.traits import Reporter

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which part of a host's time was observed. Times are UTC seconds.

    Attributes:
        first: when observation began; None: it never did.
        last: when the collector last recorded anything.
        gaps: (began, ended) in order; they may overlap.
        known_from: since when the log knows all that happened, except in gaps: what the engine remembered
            from before the first start is known, too.
    """

    first: float | None = None
    last: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    known_from: float | None = None

    @property
    def blind_until(self) -> float | None:
        """The end of the latest gap, the time before the log began being one; None: nothing was ever observed."""
        ends = [ended for _, ended in self.gaps]
        return max(ends if self.known_from is None else [*ends, self.known_from], default=None)

    def seen(self, since: float, until: float) -> float:
        """Seconds of an interval that were observed."""
        if self.first is None or self.last is None:
            return 0.0
        began, ended = max(self.first, since), min(self.last, until)
        return max(0.0, ended - began) - self.lost(began, ended)

    def lost(self, since: float, until: float) -> float:
        """Seconds of an interval that gaps take, each counted once."""
        total, reached = 0.0, since
        for began, ended in self.gaps:
            total += max(0.0, min(ended, until) - max(began, reached))
            reached = max(reached, ended)
        return total

    def coverage(self, since: float, until: float) -> float | None:
        """The share of an interval that was observed, 0 to 1; None if nothing ever was."""
        return None if self.first is None else self.seen(since, until) / (until - since)

    def blind(self, since: float, until: float) -> float:
        """Seconds of an interval that were not observed, from the beginning of observation on."""
        if self.first is None:
            return until - since
        began = max(self.first, since)
        return max(0.0, until - began - self.seen(since, until))


def coverage(connection: duckdb.DuckDBPyConnection, host: str) -> Coverage:
    """Which part of a host's time was observed, from an open log."""
    first, last = connection.execute(OBSERVED_SPAN, [host]).fetchall()[0]
    if first is None:
        return Coverage()
    remembered = connection.execute(_REMEMBERED, [host, first]).fetchall()[0][0]
    gaps = tuple(connection.execute(_GAPS, [host]).fetchall())
    return Coverage(first / _NS, (last or first) / _NS, gaps, (remembered or first) / _NS)


def last_observed_ns(log: EventLog) -> int | None:
    """When the collector last recorded anything, UTC nanoseconds. Raises LogError."""
    found = log.query(OBSERVED_SPAN, [log.host], whole_since=ONLY_KEPT)[0][1]
    return None if found is None else int(found)


def known_host(connection: duckdb.DuckDBPyConnection, host: str) -> str:
    """The host that is meant: this one, or the only one in a log that came from elsewhere.

    Raises:
        LogError: the log came from elsewhere and holds several.
    """
    hosts = [str(row[0]) for row in connection.execute("SELECT DISTINCT host FROM event ORDER BY host").fetchall()]
    if host in hosts or not hosts:
        return host
    if len(hosts) > 1:
        raise LogError(
            f"the event log holds the hosts {', '.join(hosts)}, not this one ({host}): copy theirs to a file of its own"
        )
    return hosts[0]


def of_known_host(log: EventLog) -> EventLog:
    """The log, as that of the host that is meant; see `known_host`. Raises LogError."""
    with log.reading(whole_since=ONLY_KEPT) as connection:
        return EventLog(log.path, known_host(connection, log.host), log.wait)


_NS = 1e9


# The pruner and job sources write to the log, too, whether or not a collector runs; and a collector may have been
# started, and stopped, while the engine was away: then its stop has attributes that say so.
OBSERVED_SPAN = f"""
SELECT epoch_ns(coalesce(min(time) FILTER (kind IN ({sql_list(LIVE)})), min(time))),
    epoch_ns(max(time) FILTER (kind <> 'collector_started'))
FROM event
WHERE host = ? AND kind IN ({sql_list(WATCHING)}, 'collector_started')
    AND (kind <> 'collector_stopped' OR attributes IS NULL)
"""


_REMEMBERED = f"""
SELECT epoch_ns(min(time)) FROM event
WHERE host = ? AND time < make_timestamp_ns(?) AND kind IN ({sql_list(reported_by(Reporter.ENGINE))})
    AND coalesce(attributes ->> '$.inferred', 'false') <> 'true'
"""


_GAPS = "SELECT epoch_ns(began) / 1e9, epoch_ns(ended) / 1e9 FROM gaps WHERE host = ? ORDER BY began, ended"
