"""The containers of which the log says that they are there, or that a listing no longer showed them."""

from __future__ import annotations

from collector.engine.translate import HIDEABLE, OpenContainer, Translator
from collector.eventlog.log import ONLY_KEPT, EventLog


def restore_containers(translator: Translator, log: EventLog) -> None:
    """Let the translator know the containers of the log. Raises LogError."""
    found = log.query(_OPEN_CONTAINERS, [sorted(HIDEABLE), log.host], whole_since=ONLY_KEPT)
    for container, image, began_ns, hidden in found:
        translator.open[container] = OpenContainer(image, began_ns, frozenset(hidden or ()))
    # The engine is asked again for what a listing was quicker to see; their labels are not known any more.
    for container, image, began_ns in reversed(log.query(_CLOSED, [log.host], whole_since=ONLY_KEPT)):
        translator.closed[container] = OpenContainer(image, began_ns, HIDEABLE)


_CLOSED = """
SELECT container, any_value(image_id), epoch_ns(max(coalesce(began, time)))
FROM event LEFT JOIN image USING (image)
WHERE kind = 'container_destroyed' AND host = ? AND container IS NOT NULL AND (attributes ->> '$.inferred') = 'true'
GROUP BY container ORDER BY max(seq) DESC LIMIT 1000
"""
_OPEN_CONTAINERS = """
SELECT c.container, any_value(image_id), min(epoch_ns(c.time)),
    any_value(list_intersect(json_keys(c.attributes -> '$.labels'), ?::VARCHAR[]))
FROM event AS c LEFT JOIN image USING (image)
WHERE c.kind = 'container_created' AND c.host = ? AND NOT EXISTS (
    FROM event AS d WHERE d.kind = 'container_destroyed' AND d.container = c.container AND d.host = c.host)
GROUP BY c.container
"""
