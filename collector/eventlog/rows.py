"""From events to rows: image IDs and jobs interned, duplicates left out, everything within what a log can hold."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb

from collector.eventlog.repeated import without_repeated
from collector.eventlog.schema import STORED_KEY
from collector.model.events import Event, JsonObject, Kind
from collector.model.jobs import JOB_FIELDS, Job, attribution
from collector.model.untrusted import LAST_NS, MOST_BYTES

_BATCH = 20_000
# So much of attributes that are not JSON is kept, characters.
_KEPT = 2_000
# `json.dumps` with these makes an encoder for each call.
_as_json = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode


def storable(event: Event) -> Event:
    """The event as a log can hold it: numbers within bounds, text that is UTF-8; what is neither is left out."""
    times = (event.time_ns, event.began_ns or 0)
    texts = (event.image, event.reference, event.container)
    if (
        all(type(time_ns) is int and 0 <= time_ns <= LAST_NS for time_ns in times)
        and (event.bytes is None or (type(event.bytes) is int and abs(event.bytes) <= MOST_BYTES))
        and all(text is None or (type(text) is str and text.isascii()) for text in texts)
    ):
        return event
    return replace(
        event,
        time_ns=min(max(0, _whole(event.time_ns) or 0), LAST_NS),
        began_ns=None if _whole(event.began_ns) is None else min(max(0, int(event.began_ns or 0)), LAST_NS),
        bytes=event.bytes if abs(_whole(event.bytes) or 0) <= MOST_BYTES and _whole(event.bytes) is not None else None,
        image=_text(event.image),
        reference=_text(event.reference),
        container=_text(event.container),
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def unseen(connection: duckdb.DuckDBPyConnection, host: str, events: Sequence[Event]) -> dict[tuple[int, int], Event]:
    """The events that are not stored yet, each once, in order."""
    new: dict[tuple[int, int], Event] = {}
    for event in map(storable, events):
        new.setdefault((event.time_ns, event.key), event)
    times = [time_ns for time_ns, _ in new]
    # A range on `time` lets DuckDB skip all but the newest blocks; no index has to be kept.
    stored = connection.execute(
        f"SELECT epoch_ns(time), key & {STORED_KEY} FROM event"
        " WHERE time BETWEEN make_timestamp_ns(?) AND make_timestamp_ns(?) AND host = ?",
        [min(times), max(times), host],
    ).fetchall()
    known = set(stored)
    return {(time_ns, key): event for (time_ns, key), event in new.items() if (time_ns, key & STORED_KEY) not in known}


def insert(connection: duckdb.DuckDBPyConnection, host: str, events: dict[tuple[int, int], Event]) -> None:
    """Add events that are not stored yet, in order: see `unseen`."""
    numbers = _intern(connection, {event.image for event in events.values() if event.image})
    attributed = [_attribution(event) for event in events.values()]
    jobs = _intern_jobs(connection, host, [found and found[0] for found in attributed])
    texts = [
        _json(event.attributes if stored is None or found is None else without_repeated(event, stored[1], found[1]))
        for event, found, stored in zip(events.values(), attributed, jobs, strict=True)
    ]
    last = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
    rows = list(events.values())
    connection.execute(
        """
        INSERT INTO event (seq, time, key, recorded, host, kind, image, reference, container, bytes, began,
            attributes, job, role)
        SELECT unnest(?::BIGINT[]), make_timestamp_ns(unnest(?::BIGINT[])), unnest(?::BIGINT[]),
            make_timestamp_ns(?), ?, unnest(?::VARCHAR[]), unnest(?::INTEGER[]), unnest(?::VARCHAR[]),
            unnest(?::VARCHAR[]), unnest(?::BIGINT[]), make_timestamp_ns(unnest(?::BIGINT[])),
            unnest(?::VARCHAR[])::JSON, unnest(?::INTEGER[]), unnest(?::VARCHAR[])
        """,
        [
            list(range(last + 1, last + 1 + len(rows))),
            [time_ns for time_ns, _ in events],
            [key & STORED_KEY for _, key in events],
            time.time_ns(),
            host,
            [event.kind.value for event in rows],
            [numbers.get(event.image or "") for event in rows],
            [event.reference for event in rows],
            [event.container for event in rows],
            [event.bytes for event in rows],
            [event.began_ns for event in rows],
            texts,
            [stored and stored[0] for stored in jobs],
            [found and found[1] for found in attributed],
        ],
    )


def _attribution(event: Event) -> tuple[Job, str | None] | None:
    """The job of an event; None also where what says so makes no sense."""
    try:
        found = attribution(event)
    except (ValueError, TypeError, AttributeError):
        return None
    if found is None or not all(map(_is_text, found[0].values())) or not _is_text(found[1]):
        return None
    return found


def _is_text(value: object) -> bool:
    """Whether something is UTF-8 or nothing."""
    return value is None or (type(value) is str and value.isascii()) or _text(value) == value


def _json(attributes: JsonObject) -> str | None:
    if not attributes:
        return None
    try:
        text = _as_json(attributes)
        # The only escapes that JSON for Python allows and JSON for others does not.
        if "\\ud" not in text:
            return text
        text = json.dumps(attributes, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()
    except (ValueError, TypeError, RecursionError):
        return json.dumps({"unreadable": _beginning(attributes)})


def _beginning(value: object) -> str:
    """The beginning of something as ASCII, whatever it is."""
    try:
        return ascii(value)[:_KEPT]
    except (RecursionError, ValueError):
        return ""


def _intern(connection: duckdb.DuckDBPyConnection, image_ids: set[str]) -> dict[str, int]:
    """The number of each image ID; new ones get the next."""
    wanted = sorted(image_ids)
    numbers: dict[str, int] = dict(
        connection.execute(
            "SELECT image_id, image FROM image WHERE image_id IN (SELECT unnest(?::VARCHAR[]))", [wanted]
        ).fetchall()
    )
    missing = [image_id for image_id in wanted if image_id not in numbers]
    if missing:
        first = connection.execute("SELECT coalesce(max(image) + 1, 0) FROM image").fetchall()[0][0]
        fresh = dict(zip(missing, range(first, first + len(missing)), strict=True))
        connection.execute(
            "INSERT INTO image SELECT unnest(?::INTEGER[]), unnest(?::VARCHAR[])",
            [list(fresh.values()), list(fresh)],
        )
        numbers.update(fresh)
    return numbers


def _intern_jobs(
    connection: duckdb.DuckDBPyConnection, host: str, wanted: Sequence[Job | None]
) -> list[tuple[int, Job] | None]:
    """The number of each job, and all that is known of it: new ones get the next number, known ones what is new."""
    distinct = list(dict.fromkeys(job for job in wanted if job is not None))
    if not distinct:
        return [None] * len(wanted)
    known = _known_jobs(connection, host, distinct)
    following = connection.execute("SELECT coalesce(max(job) + 1, 0) FROM job").fetchall()[0][0]
    numbers: dict[Job, int] = {}
    stored: dict[int, Job] = {}
    changed: dict[int, Job] = {}
    first_new = following
    for job in distinct:
        candidates = known.setdefault((job.ci, job.job_id), {})
        number = next((number for number, other in candidates.items() if other.is_same(job)), following)
        following += number == following
        merged = candidates[number].merged(job) if number in candidates else job
        if candidates.get(number) != merged:
            candidates[number] = changed[number] = merged
        numbers[job], stored[number] = number, merged
    connection.execute(
        "DELETE FROM job WHERE job IN (SELECT unnest(?::INTEGER[]))",
        [[number for number in changed if number < first_new]],
    )
    _store_jobs(connection, host, changed)
    return [None if job is None else (numbers[job], stored[numbers[job]]) for job in wanted]


def _known_jobs(
    connection: duckdb.DuckDBPyConnection, host: str, wanted: Sequence[Job]
) -> dict[tuple[str, str | None], dict[int, Job]]:
    """Stored jobs with the same IDs (or without any), by system and ID, then by number."""
    rows = connection.execute(
        f"SELECT job, {', '.join(JOB_FIELDS)} FROM job"
        " WHERE host = ? AND (job_id IS NULL OR job_id IN (SELECT unnest(?::VARCHAR[])))",
        [host, [job.job_id for job in wanted if job.job_id is not None]],
    ).fetchall()
    found: dict[tuple[str, str | None], dict[int, Job]] = {}
    for number, *values in rows:
        job = Job(*values)
        found.setdefault((job.ci, job.job_id), {})[number] = job
    return found


def _store_jobs(connection: duckdb.DuckDBPyConnection, host: str, jobs: dict[int, Job]) -> None:
    if not jobs:
        return
    columns = [list(column) for column in zip(*(job.values() for job in jobs.values()), strict=True)]
    connection.execute(
        f"INSERT INTO job (job, host, {', '.join(JOB_FIELDS)})"
        f" SELECT unnest(?::INTEGER[]), ?, {', '.join('unnest(?::VARCHAR[])' for _ in JOB_FIELDS)}",
        [list(jobs), host, *columns],
    )


def attribute_old_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Type the jobs of what was stored before they were."""
    last = 0
    while rows := connection.execute(_ATTRIBUTABLE, [last, _BATCH]).fetchall():
        last = rows[-1][0]
        for host in sorted({row[1] for row in rows}):
            reported = [_attributed(seq, kind, attributes) for seq, of, kind, attributes in rows if of == host]
            found = [row for row in reported if row is not None]
            jobs = _intern_jobs(connection, host, [job for _, job, _ in found])
            connection.execute(
                "UPDATE event SET job = n.job, role = n.role FROM ("
                "SELECT unnest(?::BIGINT[]) AS seq, unnest(?::INTEGER[]) AS job, unnest(?::VARCHAR[]) AS role) AS n"
                " WHERE event.seq = n.seq",
                [
                    [seq for seq, _, _ in found],
                    [stored and stored[0] for stored in jobs],
                    [role for _, _, role in found],
                ],
            )


def _attributed(seq: int, kind: str, attributes: str) -> tuple[int, Job, str | None] | None:
    found = _attribution(Event(0, Kind(kind), attributes=json.loads(attributes)))
    return None if found is None else (seq, *found)


_ATTRIBUTABLE = """
SELECT seq, host, kind, attributes FROM event
WHERE seq > ? AND ((attributes -> '$.labels') IS NOT NULL OR (attributes -> '$.job') IS NOT NULL)
ORDER BY seq LIMIT ?
"""
