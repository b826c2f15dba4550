"""A live view of a host: its free space, what happened last, and what would go next."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from collector.engine.client import DockerEngine
from collector.eventlog.log import EventLog
from collector.machine.next_removals import NextRemoval
from collector.model.errors import EngineError, LogBusyError
from collector.model.units import format_bytes, format_duration, format_time
from collector.queries.coverage import known_host
from collector.queries.overview import Overview, overview
from collector.terminal import console
from collector.terminal.sparkline import sparkline
from collector.terminal.table import Table
from pruner.policy.policy import Policy
from pruner.removal.foresight import next_removals, plan_for_all

_NEXT = 5
_EVENTS = 8
_PRUNES = 3
_RECENT_S = 20 * 3600.0
_STALE_S = 15 * 60.0  # three times the usual time between samples
_LEAST_BARS, _MOST_BARS = 20, 72


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The host at one moment. Times are UTC seconds, sizes bytes.

    Attributes:
        host: its name in the log.
        now: when it was looked at.
        free, total: the disk, None if never measured.
        threshold: free space under which pruning starts; None: no engine was asked.
        samples: (time, free) of the last day.
        events: (time, kind, name), newest first.
        next_removals: what would go next, first to go first.
        source: where they come from, or why there are none.
        overview: what prunes removed and what came back, what was observed, and warnings.
    """

    host: str
    now: float
    free: int | None
    total: int | None
    threshold: float | None
    samples: tuple[tuple[float, int], ...]
    events: tuple[tuple[float, str, str], ...]
    next_removals: tuple[NextRemoval, ...]
    source: str
    overview: Overview | None = None


_SAMPLES = """
SELECT epoch_ns(time) / 1e9, free_bytes, total_bytes FROM disk
WHERE host = $host AND free_bytes IS NOT NULL
    AND disk.time > (SELECT max(time) FROM event WHERE kind = 'disk_sampled' AND host = $host) - INTERVAL 1 DAY
ORDER BY disk.time
"""
_LAST = """
SELECT epoch_ns(e.time) / 1e9, e.kind, coalesce(
    if(e.reference LIKE 'sha256:%', NULL, e.reference), n.name, i.image_id, left(e.container, 12), ''
)
FROM event AS e LEFT JOIN image AS i USING (image)
    LEFT JOIN (SELECT host, image, name FROM image_names) AS n ON n.host = e.host AND n.image = e.image
WHERE e.host = $host AND e.kind NOT IN ('image_observed', 'disk_sampled') ORDER BY e.seq DESC LIMIT $count
"""
_OLDEST = """
SELECT epoch_ns(last_use) / 1e9, coalesce(n.name, u.image_id)
FROM last_use AS u SEMI JOIN present_images USING (host, image)
    LEFT JOIN (SELECT host, image, name FROM image_names) AS n USING (host, image)
WHERE u.host = $host ORDER BY last_use, u.image_id LIMIT $count
"""


def look(log: EventLog, engine_host: str | None, policy: Policy) -> Snapshot:
    """Look once: at the log, and at the engine where one answers.

    Raises:
        LogError: there is no log, or it cannot be read.
        UsageError: the policy contradicts itself on this disk.
    """
    now = time.time()
    with log.reading() as connection:
        host = known_host(connection, log.host)
        samples = connection.execute(_SAMPLES, {"host": host}).fetchall()
        events = connection.execute(_LAST, {"host": host, "count": _EVENTS}).fetchall()
        oldest = connection.execute(_OLDEST, {"host": host, "count": _NEXT}).fetchall()
    free, total = samples[-1][1:] if samples else (None, None)
    threshold: float | None = None
    try:
        # What would go if space ran out now.
        made, threshold = plan_for_all(DockerEngine(engine_host), log, policy)
        free, total = made.inventory.disk.free_bytes, made.inventory.disk.total_bytes
        going, source = next_removals(made, _NEXT), str(policy)
    except EngineError:
        going = tuple(NextRemoval(name, None, used, "") for used, name in oldest)
        source = "no engine answers: the least recently used, from the log"
    line = tuple((when, amount) for when, amount, _ in samples)
    seen = overview(log, now)
    return Snapshot(host, now, free, total, threshold, line, tuple(events), going, source, seen)


def lines(snapshot: Snapshot, where: Console) -> Iterator[Text]:
    """What is seen, as wide as the console at most."""
    yield Text.assemble((snapshot.host, "bold"), f"  {format_time(snapshot.now)}")
    yield from _disk(snapshot, where)
    # Before all that a small screen cuts off.
    for warning in () if snapshot.overview is None else snapshot.overview.warnings:
        for line in textwrap.wrap(f"warning: {warning}", max(where.width, _LEAST_BARS)):
            yield Text(line, "yellow")
    yield Text()
    yield Text.assemble(("next to go", "bold"), f"  {snapshot.source}")
    if snapshot.next_removals:
        rows = [
            (format_bytes(one.frees), f"{format_duration(max(0.0, snapshot.now - one.last_use))} ago", one.name)
            for one in snapshot.next_removals
        ]
        yield from Table(("FREES", "LAST USE", "IMAGE"), rows, right=("FREES", "LAST USE"), names=("IMAGE",)).lines(
            where
        )
    else:
        yield Text("nothing may be removed", "dim")
    if snapshot.overview is not None:
        yield from _past(snapshot.overview, where)
    yield Text()
    yield Text("last events", "bold")
    events = [(_clock(when, snapshot.now), kind.replace("_", " "), name) for when, kind, name in snapshot.events]
    yield from Table(("TIME", "EVENT", "OF"), events, names=("OF",)).lines(where)


def _past(seen: Overview, where: Console) -> Iterator[Text]:
    """The latest prunes with their regret, and what was observed: as on the collector's page."""
    yield Text()
    share = seen.status.coverage_7_days
    observed = f"{'nothing' if share is None else f'{share:.0%}'} of the last 7 days observed"
    yield Text.assemble(("last prunes", "bold"), f"  {observed}")
    rows = [
        (
            _clock(one.time, seen.now),
            one.trigger,
            f"{one.removed:,}",
            format_bytes(one.freed),
            f"{one.returned:,} ({format_bytes(one.returned_bytes)})" if one.returned else "none",
        )
        for one in seen.prunes[:_PRUNES]
    ]
    if rows:
        heads = ("BEGAN", "STARTED BY", "REMOVED", "FREED", "CAME BACK")
        yield from Table(heads, rows, right=heads[2:]).lines(where)
    else:
        yield Text("nothing has been removed yet", "dim")


def _clock(when: float, now: float) -> str:
    """A time of the last hours by the clock, an older one with its day."""
    return format_time(when)[11:] if now - when < _RECENT_S else format_time(when)


def _ended(line: Text) -> Text:
    """A line that ends, where lines are shown together."""
    line.end = "\n"
    return line


def _disk(snapshot: Snapshot, where: Console) -> Iterator[Text]:
    if snapshot.free is None or not snapshot.total:
        yield Text("free space is not known: no disk sample yet", "dim")
        return
    short = snapshot.threshold is not None and snapshot.free < snapshot.threshold
    level = "" if snapshot.threshold is None else f"; pruning starts under {format_bytes(snapshot.threshold)}"
    share = f"{snapshot.free / snapshot.total:.1%}"
    words = f"{format_bytes(snapshot.free)} of {format_bytes(snapshot.total)} free ({share})"
    yield Text.assemble((words, "red" if short else "green"), level)
    if snapshot.samples:
        width = min(_MOST_BARS, where.width - 8, max(_LEAST_BARS, len(snapshot.samples)))
        yield Text(sparkline(snapshot.samples, float(snapshot.total), width, bars=console.bars(where)))
        when, least = min(snapshot.samples, key=lambda sample: sample[1])
        span = format_duration(snapshot.samples[-1][0] - snapshot.samples[0][0])
        yield Text(f"{span} of samples; least {format_bytes(least)} at {_clock(when, snapshot.now)}", "dim")
        age = snapshot.now - snapshot.samples[-1][0]
        if age > _STALE_S:
            yield Text(f"the latest sample is {format_duration(age)} old: is `collector run` running?", "yellow")


def watch(log: EventLog, engine_host: str | None, policy: Policy, interval: float, *, once: bool) -> None:
    """Show the host, again and again until it is interrupted; once where the output is not a terminal.

    Args:
        log: the event log.
        engine_host: the engine, None for the usual socket.
        policy: by what the next images are chosen.
        interval: seconds between looks.
        once: whether to look only once.

    Raises:
        LogError, UsageError: see `look`.
    """
    where = console.console()
    if once or not where.is_terminal:
        for line in lines(look(log, engine_host, policy), where):
            console.print_line(line, where)
        return
    with Live(console=where, screen=True, auto_refresh=False) as live:
        shown = False
        while True:
            try:
                seen = look(log, engine_host, policy)
                live.update(Group(*map(_ended, lines(seen, where))), refresh=True)
                shown = True
            except LogBusyError:
                if not shown:
                    raise
                # Somebody writes for long: what was seen last stays, with its time.
            time.sleep(interval)
