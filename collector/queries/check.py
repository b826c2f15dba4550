"""Whether a log is what the program promises of it: each rule is a query for what breaks it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from collector.eventlog import experience, hourly
from collector.eventlog.compaction import differences
from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.events import ITEM_ENDS
from collector.queries import tally


@dataclass(frozen=True, slots=True)
class Violation:
    """One event, or one fact of the log, that breaks a rule.

    Attributes:
        rule: which, in one word.
        seq: the number of the event; None: it is not about one event.
        text: what is wrong.
    """

    rule: str
    seq: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its name, what an event that breaks it does, and SQL for (number of the event, detail) of each.

    Attributes:
        as_recorded: whether it holds for times as they were recorded: true ones may be equal after a step of the clock.
    """

    name: str
    broken: str
    sql: str
    as_recorded: bool = False


RULES = (
    Rule(
        "number", "has the number of another event", "SELECT seq, count(*) FROM event GROUP BY seq HAVING count(*) > 1"
    ),
    Rule(
        "identity",
        "is stored more than once",
        "SELECT max(seq), any_value(kind) FROM event GROUP BY host, time, key HAVING count(*) > 1",
        as_recorded=True,
    ),
    Rule("interval", "ends before it begins", "SELECT seq, kind FROM event WHERE began > time"),
    Rule(
        "cause",
        "is recorded before what must have come first",
        """
        SELECT e.seq, e.kind FROM event AS e JOIN (
            SELECT host, container, min(seq) AS seq, min(time) AS time FROM event
            WHERE kind = 'container_created' GROUP BY host, container
        ) AS c USING (host, container) WHERE e.kind = 'container_destroyed' AND (e.time < c.time OR e.seq < c.seq)
        """,
    ),
    Rule(
        "plan",
        "was not planned by a prune that had begun",
        f"""
        SELECT e.seq, coalesce(i.image_id, e.container, e.reference) FROM event AS e LEFT JOIN image AS i USING (image)
        WHERE e.kind IN ({sql_list(ITEM_ENDS)}) AND NOT EXISTS (
            FROM event AS p WHERE p.kind = 'prune_started' AND p.host = e.host AND p.seq < e.seq
                AND p.attributes ->> '$.prune' = e.attributes ->> '$.prune'
                AND (i.image_id IS NULL OR contains(CAST(p.attributes AS VARCHAR), i.image_id)))
        """,
    ),
    Rule(
        "prune",
        "ends a prune that never began",
        """
        SELECT e.seq, e.attributes ->> '$.prune' FROM event AS e WHERE e.kind = 'prune_finished' AND NOT EXISTS (
            FROM event AS p WHERE p.kind = 'prune_started' AND p.host = e.host AND p.seq < e.seq
                AND p.attributes ->> '$.prune' = e.attributes ->> '$.prune')
        """,
    ),
    Rule(
        "closed",
        "closes an interval a second time, or leaves it neither open nor closed",
        """
        SELECT max(seq) FILTER (kind = 'container_destroyed'), container FROM event
        WHERE kind IN ('container_created', 'container_destroyed') GROUP BY host, container
        HAVING count(*) FILTER (kind = 'container_destroyed' AND began NOTNULL) > 1
            OR (bool_or(kind = 'container_created') AND bool_or(kind = 'container_destroyed')
                AND NOT bool_or(kind = 'container_destroyed' AND began NOTNULL))
        UNION ALL
        SELECT max(seq), attributes ->> '$.prune' FROM event WHERE kind IN ('prune_started', 'prune_finished')
        GROUP BY host, kind, attributes ->> '$.prune' HAVING count(*) > 1
        """,
    ),
    Rule(
        "reference",
        "names an image or a job that the log does not know",
        """
        SELECT seq, kind FROM event AS e
        WHERE (image NOTNULL AND NOT EXISTS (FROM image AS i WHERE i.image = e.image))
            OR (job NOTNULL AND NOT EXISTS (FROM job AS j WHERE j.job = e.job))
        """,
    ),
)


def check(log: EventLog) -> list[Violation]:
    """All that breaks a rule in a log; reads the whole of it. Raises LogError."""
    return list(_violations(log))


def _violations(log: EventLog) -> Iterator[Violation]:
    log.require()
    if not log.has_current_views():
        text = "the views in the file are not those of this program: the next event that is stored replaces them"
        yield Violation("views", None, text)
    for rule in RULES:
        for seq, detail in log.query(rule.sql, as_recorded=rule.as_recorded):
            yield Violation(rule.name, seq, f"event {seq} ({detail}) {rule.broken}")
    with log.reading(as_recorded=True) as connection:
        for seq, text in differences(connection):
            yield Violation("projection", seq, text if seq is None else f"event {seq} {text}")
    with log.reading() as connection:
        for text in experience.differences(connection, time.time_ns()):
            yield Violation("projection", None, text)
        for text in hourly.differences(connection):
            yield Violation("projection", None, text)
    for text in tally.differences(log):
        yield Violation("projection", None, text)
