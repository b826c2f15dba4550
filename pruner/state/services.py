"""What services ran before their last change: the image that a rollback asks for."""

from __future__ import annotations

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.units import format_duration


def read_rollbacks(log: EventLog, now: float, grace: float) -> dict[str, str]:
    """Images that a swarm service or a service of a Compose project ran before its last change, and why they stay.

    Args:
        log: the event log.
        now: UTC seconds.
        grace: seconds from the change for which the image stays.

    Raises:
        LogError: the log cannot be read.
    """
    rows = log.query(_RUNS, [log.host], whole_since=ONLY_KEPT)
    ran: dict[str, dict[str, tuple[float, float]]] = {}
    for service, image, first, last in rows:
        ran.setdefault(service, {})[image] = (first, last)
    found = {}
    for service, images in ran.items():
        current = max(images, key=lambda image: images[image][1])
        before = {image: last for image, (_, last) in images.items() if image != current}
        if not before:
            continue
        previous = max(before, key=lambda image: before[image])
        # A service that has gone back to an image ran it before, too: the change is the end of the other.
        changed = max(images[current][0], before[previous])
        if changed > now - grace:
            found[previous] = (
                f"{service} ran it before its last change {format_duration(max(0.0, now - changed))} ago (rollback)"
            )
    return found


_RUNS = """
WITH made AS (
    SELECT image, time, attributes -> '$.labels' AS labels FROM event
    WHERE host = ? AND kind = 'container_created' AND image IS NOT NULL
        AND contains(attributes::VARCHAR, '"com.docker.')
)
SELECT coalesce('service ' || (labels ->> '$."com.docker.swarm.service.name"'),
        'compose service ' || (labels ->> '$."com.docker.compose.project"') || '/'
            || (labels ->> '$."com.docker.compose.service"')) AS service,
    image_id, epoch_ns(min(time)) / 1e9, epoch_ns(max(time)) / 1e9
FROM made JOIN image USING (image) WHERE service IS NOT NULL GROUP BY ALL
"""
