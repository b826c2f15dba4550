"""Every image that the engine holds, with its last use."""

from __future__ import annotations

import time
from dataclasses import dataclass

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import sql_list, sql_names
from collector.model.events import COUNTED, Kind
from collector.model.units import DAY_S


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
    evidence_source: str | None
    uses: int
    uses_7_days: int
    containers: int
    origin: str

    @property
    def name(self) -> str:
        """What people call it: its first reference, else its first digest."""
        return (self.references or self.digests or ["<none>"])[0]


def images(log: EventLog, now: float | None = None) -> list[ImageRow]:
    """Every image that the engine holds, most recently used first. Raises LogError."""
    now = time.time() if now is None else now
    since = now - 7 * DAY_S
    with log.one_state():
        with log.reading(whole_since=since) as connection:
            connection.execute(_RECENT_USES, [log.host, int(since * 1e9)])
        with log.reading(whole_since=ONLY_KEPT) as connection:
            return [ImageRow(*row) for row in connection.execute(_IMAGES, [log.host]).fetchall()]


_RECENT_USES = f"""
CREATE OR REPLACE TEMP TABLE recent AS
SELECT image, count(DISTINCT container) + count(*) FILTER (kind IN ({sql_list(COUNTED)})) AS uses_7_days FROM event
WHERE host = $1 AND kind IN ('{Kind.CONTAINER_CREATED}', {sql_list(COUNTED)}) AND time >= make_timestamp_ns($2)
GROUP BY image
"""


_IMAGES = f"""
WITH held AS (SELECT image FROM present_images WHERE host = $1),
    shared AS (
        SELECT chain_id, count(DISTINCT image) AS holders
        FROM image_layers SEMI JOIN held USING (image) WHERE host = $1 GROUP BY chain_id
    ),
    own AS (
        SELECT image, sum(l.bytes) FILTER (holders = 1) AS own_bytes
        FROM image_layers AS l JOIN shared USING (chain_id) WHERE host = $1 GROUP BY image
    ),
    living AS (
        SELECT image, count(*) AS containers FROM uses
        WHERE host = $1 AND evidence = 'container' AND ended IS NULL GROUP BY image
    )
SELECT image_id, {sql_names("o.attributes -> '$.references'")}, {sql_names("o.attributes -> '$.digests'")},
    coalesce(TRY_CAST(o.attributes ->> '$.size' AS BIGINT), 0), coalesce(TRY_CAST(own_bytes AS BIGINT), 0),
    epoch_ns(last_use) / 1e9, evidence, evidence_source, coalesce(uses, 0), coalesce(uses_7_days, 0),
    coalesce(containers, 0),
    o.origin
FROM held JOIN image_observations AS o USING (image) JOIN image USING (image)
    LEFT JOIN own USING (image) LEFT JOIN recent USING (image) LEFT JOIN living USING (image)
    LEFT JOIN (SELECT * EXCLUDE (image_id, host) FROM last_use WHERE host = $1) AS u USING (image)
WHERE o.host = $1
ORDER BY last_use DESC NULLS LAST, image_id
"""
