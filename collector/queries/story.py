"""The story of one image as a timeline: came, used, named, gone and by whom, come back at which cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.sql import sql_list
from collector.eventlog.views import show_wholly, table_of_events
from collector.model.errors import UsageError
from collector.model.events import CONTAINERS, Kind
from collector.model.origin import Origin
from collector.model.references import meant, similar
from collector.model.units import format_bytes
from collector.queries.pulls import PullKind, read_pulls
from collector.queries.timeline import SAME_NS, Episode, TimelineBuilder, UseRun

logger = logging.getLogger(__name__)

# The events of an image lie all over a long log, and what was read of it need not stay in memory; an image that is in
# constant use takes more.
_MEMORY = ("64MB", "256MB")
LATEST = 200_000
"""So many events of a log, up to an image's last, are looked through for uses of it; earlier ones are only counted."""


@dataclass(frozen=True, slots=True)
class Story:
    """An image's names, its timeline, and where it can be pulled again; `gone`: the engine no longer holds it."""

    image_id: str
    names: list[str]
    gone: bool
    episodes: list[Episode]
    origin: Origin


def stories(log: EventLog, text: str, latest: int | None = LATEST) -> list[Story]:
    """The stories of all images that a user who writes `text` may mean.

    Args:
        log: the log.
        text: a reference, a digest, or the beginning of an ID.
        latest: how many events of the log are looked through for uses, up to the image's last; None: all.

    Raises:
        UsageError: no image of this host was ever called so.
        LogError: the log cannot be read.
    """
    for memory in _MEMORY:
        with log.reading(whole_since=ONLY_KEPT, memory=memory) as connection:
            try:
                return _stories(connection, log.host, text, latest)
            except duckdb.OutOfMemoryException:
                logger.debug("the story of %s takes more memory than %s", text, memory)
    with log.reading(whole_since=ONLY_KEPT) as connection:
        return _stories(connection, log.host, text, latest)


def _stories(connection: duckdb.DuckDBPyConnection, host: str, text: str, latest: int | None) -> list[Story]:
    values = {"host": host}
    ids = dict(connection.execute(_IDS, values).fetchall())
    names = dict(connection.execute(_NAMES, values).fetchall())
    called = {image_id: names.get(image, []) for image, image_id in ids.items()}
    found = set(meant(text, called))
    chosen = [image for image, image_id in ids.items() if image_id in found]
    if not chosen:
        like = similar(text, called)
        hint = f"did you mean {' or '.join(like)}?" if like else "`collector images` lists those it holds"
        raise UsageError(f"no image that this host has ever held is '{text}': {hint}")
    of_chosen = f"host = $host AND image IN ({', '.join(map(str, chosen))})"
    held = {image for (image,) in connection.execute(_HELD + of_chosen, values).fetchall()}
    origins = {image: Origin(origin) for image, origin in connection.execute(_ORIGINS + of_chosen, values).fetchall()}
    triggers = dict(connection.execute(_TRIGGERS.format(events=table_of_events(connection)), values).fetchall())
    uses = dict(connection.execute(_COUNTS + of_chosen, values).fetchall())
    # What was kept of the past shows which pulls fetched something; all others found the image up to date.
    pulls = read_pulls(connection, host, set(chosen))
    fetched = [pull for pull in pulls if pull.kind is not PullKind.UP_TO_DATE]
    show_wholly(connection, chosen, latest)
    pulled = {"images": [pull.image for pull in fetched], "times": [pull.time_ns for pull in fetched]}
    connection.execute(_FETCHED, pulled)
    connection.execute(_USES, values)
    owners = {(image, at_ns): project for image, at_ns, project in connection.execute(_OWNERS, values).fetchall()}
    own = {(pull.image, pull.time_ns): pull for pull in fetched}
    builders = {image: TimelineBuilder(image, own, owners) for image in chosen}
    for image, *row, prune, inferred in connection.execute(_EVENTS, values).fetchall():
        builders[image].add((*row, triggers.get(prune), inferred))
    for image, runs in _runs(connection, builders).items():
        builders[image].take(runs)
    for image, number, began, ended, shown in connection.execute(_EARLIER).fetchall():
        builders[image].take_earlier(number, began, ended, uses.get(image, 0) - shown)
    return [
        Story(
            ids[image],
            called[ids[image]],
            image not in held,
            builders[image].episodes(),
            origins.get(image, Origin.UNKNOWN),
        )
        for image in chosen
    ]


def _runs(connection: duckdb.DuckDBPyConnection, builders: Mapping[int, TimelineBuilder]) -> dict[int, list[UseRun]]:
    """The uses of each image, summed between what else happened to it."""
    places = [(image, at_ns, seq) for image, builder in builders.items() for at_ns, seq in builder.places]
    images, times, numbers = ([place[k] for place in places] for k in range(3))
    connection.execute(_PLACES, {"images": images, "times": times, "numbers": numbers})
    found: dict[tuple[int, int], UseRun] = {}
    for image, *row in connection.execute(_RUNS).fetchall():
        found[image, row[0]] = UseRun(*row)
    for image, number, project, jobs in connection.execute(_PROJECTS).fetchall():
        found[image, number].projects[project] = jobs
    runs: dict[int, list[UseRun]] = {image: [] for image in builders}
    for (image, _), run in found.items():
        runs[image].append(run)
    return runs


def size_of(episode: Episode) -> str:
    """Bytes for people; nothing where they are not known."""
    return "" if episode.bytes is None else format_bytes(episode.bytes)


_NAMES = """
SELECT image, list(name ORDER BY name) FROM known_names WHERE host = $host GROUP BY image
"""
_IDS = "SELECT image, image_id FROM image SEMI JOIN (FROM event WHERE host = $host) USING (image) ORDER BY image"
_FETCHED = """
CREATE OR REPLACE TEMP TABLE fetched AS SELECT unnest($images::INTEGER[]) AS image, unnest($times::BIGINT[]) AS at_ns
"""
# A pull was for the job that used the image first within an hour.
_OWNERS = """
SELECT image, at_ns, coalesce(project, 'project ' || project_id, ci)
FROM (
    SELECT f.image, at_ns, job FROM fetched AS f ASOF JOIN (
        FROM use_of WHERE is_container AND job IS NOT NULL) AS u ON f.image = u.image AND at_ns <= u.began
    WHERE u.began - at_ns <= 3600000000000
) JOIN job USING (job) WHERE host = $host
"""
_ORIGINS = "SELECT image, origin FROM image_origins WHERE "
_HELD = "SELECT image FROM present_images WHERE "
_COUNTS = "SELECT image, uses FROM image_uses WHERE "
_TRIGGERS = """
SELECT attributes ->> '$.prune', attributes ->> '$.trigger' FROM {events} WHERE host = $host AND kind = 'prune_started'
"""
# Uses and pulls that found the image up to date; of uses that a compaction took no more is left than whose they were.
_USES = f"""
CREATE OR REPLACE TEMP TABLE use_of AS
SELECT *, began::HUGEINT * (1::HUGEINT << 40) + seq AS place FROM (
    SELECT image, coalesce(epoch_ns(least(min(began), min(time))), epoch_ns(min(time))) AS began,
        epoch_ns(max(time) FILTER (kind = 'container_destroyed')) AS ended, max(job) AS job, min(seq) AS seq, 1 AS uses,
        0 AS pulls, true AS is_container, bool_or(kind = 'container_created') AS is_created
    FROM event WHERE host = $host AND image IN (SELECT image FROM shown_wholly) AND kind IN ({sql_list(CONTAINERS)})
    GROUP BY image, container
    UNION ALL
    SELECT image, epoch_ns(time), epoch_ns(time), job, seq, 1, 0, false, false FROM event
    WHERE host = $host AND image IN (SELECT image FROM shown_wholly) AND kind = 'job_image_used'
    UNION ALL
    SELECT image, epoch_ns(time), epoch_ns(time), NULL, seq, 0, 1, false, false FROM event
    ANTI JOIN fetched ON event.image = fetched.image AND epoch_ns(time) = at_ns
    WHERE host = $host AND image IN (SELECT image FROM shown_wholly) AND kind = 'image_pulled'
    UNION ALL
    SELECT image, epoch_ns(began), epoch_ns(ended), NULL, seq, 0, checks, false, false FROM thinned_use
    WHERE host = $host AND image IN (SELECT image FROM shown_wholly)
    UNION ALL
    SELECT image, began, ended, known.job, seq, 1, 0, false, false FROM (
        SELECT image, epoch_ns(began) AS began, epoch_ns(ended) AS ended, seq, unnest(jobs) AS job FROM thinned_use
        WHERE host = $host AND image IN (SELECT image FROM shown_wholly)
    ) AS t LEFT JOIN (SELECT job FROM job WHERE host = $host) AS known ON known.job = t.job
) WHERE began IS NOT NULL  -- a forged time may be infinite
"""
_PLACES = """
CREATE OR REPLACE TEMP TABLE placed AS
WITH happened AS (
    SELECT image, at_ns::HUGEINT * (1::HUGEINT << 40) + seq AS place,
        row_number() OVER (PARTITION BY image ORDER BY at_ns, seq) AS number
    FROM (SELECT unnest($images::INTEGER[]) AS image, unnest($times::BIGINT[]) AS at_ns,
        unnest($numbers::BIGINT[]) AS seq)
)
SELECT u.* EXCLUDE (place), coalesce(number, 0) AS number,
    -- Of a container that was created earlier nothing says whose it was.
    since > 0 AND (u.seq < since OR is_container AND NOT is_created) AS is_earlier
FROM use_of AS u JOIN shown_wholly USING (image)
    ASOF LEFT JOIN happened AS h ON u.image = h.image AND u.place >= h.place
"""
_RUNS = """
SELECT image, number, min(began), CASE WHEN count(ended) = count(*) THEN max(ended) END, sum(uses)::BIGINT,
    sum(pulls)::BIGINT, count(DISTINCT job), count(*) FILTER (uses > 0 AND job IS NULL)
FROM placed WHERE NOT is_earlier GROUP BY image, number
"""
# What is kept of earlier uses has the first of them, and those that go on.
_EARLIER = """
SELECT image, min(number) FILTER (is_earlier), min(began) FILTER (is_earlier),
    CASE WHEN bool_and(ended IS NOT NULL OR NOT is_earlier)
        THEN coalesce(min(began) FILTER (NOT is_earlier), max(ended)) END,
    coalesce(sum(uses) FILTER (NOT is_earlier), 0)::BIGINT
FROM placed GROUP BY image HAVING bool_or(is_earlier)
"""
_PROJECTS = """
SELECT image, number, coalesce(project, 'project ' || project_id, ci, '?') AS owner, count(*)
FROM (SELECT DISTINCT image, number, job FROM placed WHERE job IS NOT NULL AND NOT is_earlier) LEFT JOIN job USING (job)
GROUP BY image, number, owner
"""
# The engine reports a removal by the pruner, too, at about the same time.
_EVENTS = f"""
WITH own AS (
    SELECT image, epoch_ns(time) AS at_ns, seq, kind, reference, bytes,
        CASE kind WHEN 'item_failed' THEN attributes ->> '$.error'
            ELSE coalesce(attributes ->> '$.detail', attributes ->> '$.reason') END AS why,
        attributes ->> '$.prune' AS prune, coalesce(attributes ->> '$.inferred' = 'true', false) AS inferred
    FROM event WHERE host = $host AND image IN (SELECT image FROM shown_wholly)
        AND kind NOT IN ({sql_list((*CONTAINERS, Kind.JOB_IMAGE_USED))})
        AND (kind <> 'image_pulled' OR EXISTS (
            FROM fetched AS f WHERE f.image = event.image AND f.at_ns = epoch_ns(time)))
)
SELECT image, at_ns, seq, kind, reference, bytes, kind = 'image_deleted' AND EXISTS (
        FROM own AS r WHERE r.image = own.image AND r.kind = 'item_removed'
            AND abs(r.at_ns - own.at_ns) <= {SAME_NS}) AS is_ours, why, prune, inferred
FROM own WHERE at_ns IS NOT NULL ORDER BY at_ns, seq
"""
