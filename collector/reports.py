"""What the log can be asked without an analyzer: its own state, and every image's last use."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from collector.log import EventLog
from collector.spool import Spool
from collector.writer import spool_path

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a log. Times are UTC seconds, sizes bytes, shares 0 to 1."""

    log: str
    schema_version: int
    file_bytes: int
    spooled_events: int
    events: int
    events_by_kind: dict[str, int]
    first_event: float | None
    last_event: float | None
    lag_seconds: float | None
    gaps: int
    gap_seconds: float
    coverage_7_days: float | None
    coverage_30_days: float | None
    images: int
    image_bytes: int | None
    free_bytes: int | None
    total_bytes: int | None
    data_root: str | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image that the engine holds. Times are UTC seconds, sizes bytes."""

    image_id: str
    references: list[str]
    digests: list[str]
    size_bytes: int
    own_bytes: int
    last_use: float | None
    evidence: str | None
    witness: str | None
    uses: int
    uses_7_days: int
    containers: int

    @property
    def name(self) -> str:
        """What people call it: its first reference, else its first digest."""
        return (self.references or self.digests or ["<none>"])[0]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def as_json(found: Status) -> dict[str, Any]:
    """All fields of a status."""
    return asdict(found)


def status(log: EventLog, now: float | None = None) -> Status:
    """The state of a log. Raises LogError."""
    now = time.time() if now is None else now
    with log.reading() as connection:
        kinds = dict(connection.execute("SELECT kind, count(*) FROM event GROUP BY kind ORDER BY kind").fetchall())
        first, last, recorded = connection.execute(
            "SELECT epoch_ns(min(time)) / 1e9, epoch_ns(max(time)) / 1e9, epoch_ns(max(recorded)) / 1e9 FROM event"
        ).fetchall()[0]
        gaps = connection.execute(
            "SELECT epoch_ns(began) / 1e9, epoch_ns(ended) / 1e9 FROM gaps ORDER BY began"
        ).fetchall()
        disk = connection.execute(
            "SELECT image_bytes, free_bytes, total_bytes, path FROM disk ORDER BY time DESC LIMIT 1"
        ).fetchall()
        images = connection.execute("SELECT count(*) FROM present_images").fetchall()[0][0]
    image_bytes, free, total, path = disk[0] if disk else (None, None, None, None)
    return Status(
        log=str(log.path),
        schema_version=log.schema_version(),
        file_bytes=log.path.stat().st_size,
        spooled_events=Spool(spool_path(log.path)).waiting(),
        events=sum(kinds.values()),
        events_by_kind=kinds,
        first_event=first,
        last_event=last,
        lag_seconds=None if recorded is None else max(0.0, now - recorded),
        gaps=len(gaps),
        gap_seconds=sum(ended - began for began, ended in gaps),
        coverage_7_days=coverage(first, last, gaps, now - 7 * DAY_S, now),
        coverage_30_days=coverage(first, last, gaps, now - 30 * DAY_S, now),
        images=images,
        image_bytes=image_bytes,
        free_bytes=free,
        total_bytes=total,
        data_root=path,
    )


def coverage(
    first: float | None, last: float | None, gaps: list[tuple[float, float]], since: float, until: float
) -> float | None:
    """The share of an interval that was witnessed: from the first event to the last, less the gaps.

    Args:
        first: time of the first event, UTC seconds; None: there is none.
        last: time of the last event, UTC seconds.
        gaps: (began, ended), UTC seconds.
        since: begin of the interval, UTC seconds.
        until: its end, UTC seconds.
    """
    if first is None or last is None:
        return None
    seen = max(0.0, min(last, until) - max(first, since))
    blind = sum(max(0.0, min(ended, until) - max(began, since)) for began, ended in gaps)
    return max(0.0, seen - blind) / (until - since)


def images(log: EventLog, now: float | None = None) -> list[ImageRow]:
    """Every image that the engine holds, most recently used first. Raises LogError."""
    now = time.time() if now is None else now
    return [ImageRow(*row) for row in log.query(_IMAGES, [log.host, int((now - 7 * DAY_S) * 1e9)])]


_IMAGES = """
WITH held AS (SELECT image FROM present_images WHERE host = $1),
    shared AS (
        SELECT chain_id, count(DISTINCT image) AS holders
        FROM image_layers SEMI JOIN held USING (image) WHERE host = $1 GROUP BY chain_id
    ),
    own AS (
        SELECT image, sum(l.bytes) FILTER (holders = 1) AS own_bytes
        FROM image_layers AS l JOIN shared USING (chain_id) WHERE host = $1 GROUP BY image
    ),
    recent AS (
        SELECT image, count(DISTINCT container) + count(*) FILTER (kind = 'job_image_used') AS uses_7_days FROM event
        WHERE host = $1 AND kind IN ('container_created', 'job_image_used') AND time >= make_timestamp_ns($2)
        GROUP BY image
    ),
    living AS (
        SELECT image, count(*) AS containers FROM uses
        WHERE host = $1 AND evidence = 'container' AND ended IS NULL GROUP BY image
    )
SELECT image_id, CAST(o.attributes -> '$.references' AS VARCHAR[]), CAST(o.attributes -> '$.digests' AS VARCHAR[]),
    CAST(o.attributes ->> '$.size' AS BIGINT), coalesce(own_bytes, 0)::BIGINT,
    epoch_ns(last_use) / 1e9, evidence, witness, coalesce(uses, 0), coalesce(uses_7_days, 0), coalesce(containers, 0)
FROM held JOIN image_observations AS o USING (image) JOIN image USING (image)
    LEFT JOIN own USING (image) LEFT JOIN recent USING (image) LEFT JOIN living USING (image)
    LEFT JOIN (SELECT * EXCLUDE (image_id, host) FROM last_use WHERE host = $1) AS u USING (image)
WHERE o.host = $1
ORDER BY last_use DESC NULLS LAST, image_id
"""
