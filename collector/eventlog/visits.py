"""From the events of a host to how its images were visited: the SQL of each step of `collector.eventlog.experience`.

Each statement makes one temporary table, of what the connection shows as `event` and of the tables made before.
"""

from __future__ import annotations

from collector.eventlog.sql import BUILT_NS, STORED_NS, sql_case, sql_list
from collector.model.events import EVIDENCE_USE, MOMENTS
from collector.model.traits import Use

NEVER = 9 * 10**18
"""When a use ends that goes on, UTC nanoseconds."""
KNOWN = """
CREATE OR REPLACE TEMP TABLE known AS
SELECT * EXCLUDE (host) FROM folded_habit ANTI JOIN again USING (image) WHERE host = $host AND $from > 0
"""
# When an inventory first saw each image, and its latest use as far as the engine reports.
OBSERVED = f"""
CREATE OR REPLACE TEMP TABLE observed AS
SELECT image, first, created, least(coalesce(stored, built, 0), first) AS ended
FROM (
    SELECT image, epoch_ns(min(time)) AS first, arg_max_null({STORED_NS}, seq) AS stored,
        arg_max_null({BUILT_NS}, seq) AS built,
        TRY_CAST(arg_max_null(attributes ->> '$.created', seq) AS TIMESTAMP) AS created
    FROM event WHERE host = $host AND kind = 'image_observed' AND image IS NOT NULL GROUP BY image
)
"""


def _repositories(names: str) -> str:
    """SQL of the repositories that each image is or was in, by a view or table of all its names."""
    return f"""
CREATE OR REPLACE TEMP TABLE repository AS
SELECT DISTINCT image, repository_of(name) AS repository
FROM (SELECT DISTINCT image, name FROM {names} WHERE host = $host)
"""


REPOSITORIES = _repositories("image_references")
# The same where all events that are kept for decisions are seen.
REPOSITORIES_KNOWN = _repositories("known_names")
# Uses as intervals, as in the view `uses`: those that began since, those of images to fold again, and those that had
# begun and went on.
USED = f"""
CREATE OR REPLACE TEMP TABLE used AS
WITH reported AS (
    SELECT seq, image, container, kind, epoch_ns(time) AS at_ns, epoch_ns(began) AS began FROM event
    WHERE host = $host AND image IS NOT NULL
        AND kind IN ('container_created', 'container_destroyed', {sql_list(MOMENTS)})
        AND (time >= make_timestamp_ns($from) OR seq > $seq OR image IN (FROM again))
), uses AS (
    SELECT image, began, at_ns AS ended, 'container' AS evidence, container FROM reported
    WHERE kind = 'container_destroyed' AND began IS NOT NULL
    UNION ALL
    SELECT image, min(at_ns), {NEVER}, 'container', container FROM reported AS c
    WHERE kind = 'container_created' AND NOT EXISTS (
        FROM event AS d WHERE d.kind = 'container_destroyed' AND d.container = c.container AND d.host = $host)
    GROUP BY image, container
    UNION ALL
    SELECT image, at_ns, at_ns, {sql_case("kind", {kind: kind.traits.evidence for kind in MOMENTS})}, NULL
    FROM reported WHERE kind IN ({sql_list(MOMENTS)})
)
SELECT uses.*, o.image IS NOT NULL AS went_on
FROM uses LEFT JOIN (SELECT image, container FROM folded_open_use ANTI JOIN again USING (image)
    WHERE host = $host AND $from > 0) AS o USING (image, container)
WHERE began <= $now
"""
# What began before the log did was there when it began, and what an inventory found before any use was last used when
# the engine stored it, else when it was built. The first entry of an image that is known stands for all before.
ENTRIES = f"""
CREATE OR REPLACE TEMP TABLE entry AS
WITH found AS (
    SELECT image, first AS began, ended FROM observed WHERE first <= $now
), first AS (
    SELECT image, min(began) AS began FROM (
        SELECT image, began FROM used UNION ALL SELECT image, used_first FROM known
    ) GROUP BY image
), every AS (
    SELECT image, greatest(began, $origin) AS began, began AS seen, ended,
        CASE WHEN began < $origin THEN 'found' ELSE evidence END AS evidence, container, true AS is_use
    FROM used WHERE NOT went_on
    UNION ALL
    SELECT image, began, began, ended, 'found', NULL, false FROM found ANTI JOIN first
        ON first.image = found.image AND first.began <= found.began
    WHERE began >= $from OR image IN (FROM again) OR image NOT IN (SELECT image FROM known)
), went_on AS (
    SELECT image, max(coalesce(used.ended, {NEVER})) AS ended
    FROM (SELECT image, container FROM folded_open_use SEMI JOIN known USING (image) WHERE host = $host) AS o
    LEFT JOIN used USING (image, container) GROUP BY image
)
SELECT *, CAST(kind IN (2, 4) AS BIGINT) AS weight, 0 AS returns, false AS is_known
FROM (SELECT *, {sql_case("evidence", {"found": Use.FOUND, **EVIDENCE_USE})} AS kind FROM every)
UNION ALL BY NAME
SELECT image, k.began, greatest(k.ended, coalesce(w.ended, 0)) AS ended, 0 AS kind, uses AS weight, returns,
    true AS is_known
FROM known AS k LEFT JOIN went_on AS w USING (image)
"""
SUPERSEDED = """
CREATE OR REPLACE TEMP TABLE superseded AS
WITH sight AS (
    SELECT image, min(first) AS first, min(demanded) AS demanded FROM (
        SELECT image, min(seen) AS first, min(began) FILTER (kind BETWEEN 2 AND 4) AS demanded FROM entry
        WHERE NOT is_known GROUP BY image
        UNION ALL SELECT image, first, demanded FROM known
    ) GROUP BY image
), numbered AS (
    SELECT image, demanded, row_number() OVER (ORDER BY first, coalesce(epoch_us(created), 0), image_id) AS number
    FROM sight JOIN image USING (image) LEFT JOIN (SELECT image, created FROM observed) AS o USING (image)
), later AS (
    SELECT image, min(demanded) OVER (
        PARTITION BY repository ORDER BY number ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS since
    FROM numbered JOIN repository USING (image)
)
SELECT image, CASE WHEN bool_and(since IS NOT NULL) THEN max(since) END AS since FROM later GROUP BY image
"""
# Images about whose past something new is known: an earlier use, another pull time, another successor.
DOUBTED = f"""
CREATE OR REPLACE TEMP TABLE doubted AS
SELECT image FROM entry ANTI JOIN again USING (image) WHERE NOT is_known AND began < $from
UNION
SELECT image FROM known AS k JOIN observed AS o USING (image) WHERE k.found <> o.ended
UNION
SELECT image FROM known AS k LEFT JOIN superseded AS s USING (image)
WHERE coalesce(k.since, {NEVER}) <> coalesce(s.since, {NEVER})
    AND least(coalesce(k.since, {NEVER}), coalesce(s.since, {NEVER})) < $from
UNION
-- What was taken to go on had ended by then.
SELECT image FROM used WHERE went_on AND ended < $from
"""
# What an inventory found has an end before it was seen: nobody observed that idle time.
VISITS = """
CREATE OR REPLACE TEMP TABLE visit AS
WITH ended AS (
    SELECT image, began, kind, is_known, returns AS returns_before, max(ended) OVER so_far AS ended,
        CAST(sum(weight) OVER so_far AS BIGINT) AS uses
    FROM entry
    WINDOW so_far AS (PARTITION BY image ORDER BY is_known DESC, began, kind ROWS UNBOUNDED PRECEDING)
), gap AS (
    SELECT *, coalesce(kind BETWEEN 2 AND 4 AND lag(ended) OVER each >= lag(began) OVER each
            AND began - lag(ended) OVER each > $session, false) AS returned,
        began - lag(ended) OVER each AS gap,
        lead(began) OVER each AS next, lead(kind) OVER each BETWEEN 2 AND 4 AS demanded
    FROM ended WINDOW each AS (PARTITION BY image ORDER BY is_known DESC, began, kind)
)
SELECT *, CAST(sum(returns_before + returned::INTEGER) OVER (
    PARTITION BY image ORDER BY is_known DESC, began, kind ROWS UNBOUNDED PRECEDING) AS BIGINT) AS returns
FROM gap
"""
GAPS = """
CREATE OR REPLACE TEMP TABLE latest AS
SELECT image, returns, gap / 1e9 AS gap FROM visit WHERE returned
UNION ALL
SELECT image, returns - len(gaps) + generate_subscripts(gaps, 1), unnest(gaps) FROM known WHERE len(gaps) > 0
"""
USUAL = """
CREATE OR REPLACE TEMP TABLE usual AS
SELECT image, returns, list_reduce(gaps[greatest(returns - first + 1 - $remembered, 1) : returns - first + 1],
    lambda average, gap: average + $weight * (gap - average)) AS usual
FROM (SELECT DISTINCT image, returns FROM visit)
JOIN (SELECT image, list(gap ORDER BY returns) AS gaps, min(returns) AS first FROM latest GROUP BY image) USING (image)
WHERE returns >= first
"""
PIECES = """
CREATE OR REPLACE TEMP TABLE piece AS
WITH idle AS (
    SELECT image, began, ended, uses, usual, since, demanded, next, least(coalesce(next, $midnight), $midnight) AS last,
        CASE WHEN image IN (SELECT image FROM known) THEN $from ELSE 0 END AS begin
    FROM visit LEFT JOIN usual USING (image, returns) LEFT JOIN superseded USING (image)
    WHERE ended < least(coalesce(next, $midnight), $midnight)
), piece AS (
    SELECT image, age, least(CAST(floor(log2(greatest(uses, 0.5))) AS INTEGER) + 1, $buckets - 1) AS often,
        CASE WHEN usual IS NULL THEN 0
            ELSE least(greatest(CAST(floor(log2(usual)) AS INTEGER) + 1 - $lowest_habit, 0), $habits - 2) + 1
            END AS habit,
        stage,
        greatest(began, ended + CASE WHEN age > $lowest THEN power(2, age - 1)::BIGINT * 1000000000 ELSE 0 END,
            CASE WHEN stage > 0 THEN coalesce(since + ($phases)[stage], 9e18::BIGINT) ELSE 0 END) AS start,
        least(last,
            CASE WHEN age < $highest THEN ended + power(2, age)::BIGINT * 1000000000 ELSE $midnight END,
            CASE WHEN stage < len($phases) THEN coalesce(since + ($phases)[stage + 1], $midnight)
                ELSE $midnight END) AS stop,
        begin, next, demanded
    FROM idle, range($lowest, $highest + 1) AS ages(age), range(len($phases) + 1) AS stages(stage)
    WHERE (stage = 0 OR since IS NOT NULL)
        AND (age = $lowest OR ended + power(2, age - 1)::BIGINT * 1000000000 < last)
)
SELECT image, CAST(((age - $lowest) * $buckets + often) * $habits * (len($phases) + 1) + habit * (len($phases) + 1)
        + stage AS INTEGER) AS cell,
    count(*) FILTER (demanded AND stop = next) AS returns,
    CAST(sum(greatest(stop - greatest(start, begin), 0)) AS BIGINT) AS exposure
FROM piece WHERE stop > start AND stop >= begin GROUP BY image, cell
"""
