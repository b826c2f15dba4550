"""What could not be removed: it counts nothing for the rest of a run, and goes last in the runs after it."""

from __future__ import annotations

from dataclasses import dataclass

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.events import ITEM_ENDS
from collector.model.units import DAY_S

# Whatever made the engine refuse may be gone by then: the item gets its usual place again.
_REMEMBERED_S = 7 * DAY_S

ItemId = tuple[str, str]
"""What an item is (the value of an `ItemKind`) and what the engine calls it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an item could not be removed.

    Attributes:
        error: what stood in the way, in the engine's own words where it refused.
        time: when it was tried, UTC seconds.
        in_this_run: whether the run that is under way has tried it: then it is not tried again.
    """

    error: str
    time: float
    in_this_run: bool = False


def read_refusals(log: EventLog, now: float) -> dict[ItemId, Refusal]:
    """What the engine refused to remove when it was last asked to. Raises LogError.

    Args:
        log: the log.
        now: UTC seconds.
    """
    since = now - _REMEMBERED_S
    rows = log.query(_REFUSALS, [log.host, int(since * 1e9)], whole_since=since)
    return {(item, key): Refusal(error, time) for item, key, error, time in rows}


_REFUSALS = f"""
SELECT item, name, arg_max(attributes ->> '$.error', seq), epoch_ns(max(time)) / 1e9
FROM (
    SELECT coalesce(attributes ->> '$.item', 'image') AS item, coalesce(image_id, container, reference) AS name,
        seq, time, attributes
    FROM event LEFT JOIN image USING (image)
    WHERE host = $1 AND kind IN ({sql_list(ITEM_ENDS)}) AND time >= make_timestamp_ns($2)
)
WHERE name IS NOT NULL
GROUP BY item, name HAVING arg_max(coalesce(attributes ->> '$.refused', 'false'), seq) = 'true'
"""
