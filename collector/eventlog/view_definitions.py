"""The SQL of the log's views.

They may use all of the newest tables; those in the file are for whoever opens it with the `duckdb` shell, and are
replaced where this program's differ. The program itself only ever asks views of its own text.
"""

from __future__ import annotations

import hashlib
import re

from collector.eventlog.repeated import sql_restored
from collector.eventlog.sql import CHOSEN_BY_JOB, sql_case, sql_list, sql_names
from collector.model.events import CONTAINERS, COUNTED, MOMENTS, NAME_GIVING, NAMING, USES, of_origin, reported_by
from collector.model.origin import Origin
from collector.model.traits import Reporter

_CONTAINERS = sql_list(CONTAINERS)
_NAMING = sql_list(NAMING)
_NAME_GIVING = sql_list(NAME_GIVING)
_COUNTED = sql_list(COUNTED)


def sql_names_in(events: str) -> str:
    """SQL of each time that one of these rows of `event` says a name of an image."""
    return f"""
    FROM (
        SELECT host, image, time, seq, kind, unnest({sql_names("lists[1]")} || {sql_names("lists[2]")}) AS name
        FROM (
            SELECT host, image, time, seq, kind, json_extract(attributes, ['$.references', '$.digests']) AS lists
            FROM {events} WHERE kind = 'image_observed'
        )
        UNION ALL
        SELECT host, image, time, seq, kind, reference FROM {events}
        WHERE kind IN ({_NAMING}) AND reference IS NOT NULL
    ) WHERE NOT regexp_full_match(name, '(sha256:)?[0-9a-f]{{64}}')"""


VIEWS = f"""
CREATE OR REPLACE VIEW events AS
    SELECT e.seq, e.time, e.recorded, e.host, e.kind, image_id, e.reference, e.container, e.bytes, e.began,
        {sql_restored("e", "j")} AS attributes, e.job, e.role
    FROM event AS e LEFT JOIN image USING (image) LEFT JOIN job AS j ON j.job = e.job;
COMMENT ON VIEW events IS 'every event, in the order in which it was recorded; times in UTC';

CREATE OR REPLACE VIEW image_origins AS
    WITH store AS (
        SELECT host, bool_or(attributes ->> '$.store' = 'podman') AS podman,
            bool_or(attributes ->> '$.store' = 'containerd') AS containerd
        FROM event WHERE kind = 'collector_started' GROUP BY host
    ), said AS (
        SELECT host, image, seq, kind, texts[1] AS origin, coalesce(TRY_CAST(texts[2] AS BOOLEAN), false) AS bare
        FROM (
            SELECT host, image, seq, kind, json_extract_string(attributes, ['$.origin', '$.local']) AS texts
            FROM event WHERE kind = 'image_observed'
        )
        UNION ALL
        SELECT host, image, seq, kind, NULL, NULL
        FROM event SEMI JOIN (FROM store WHERE containerd OR podman) USING (host)
        WHERE kind IN ({sql_list(of_origin(Origin.REGISTRY, Origin.LOCAL))}) AND image IS NOT NULL
    ), seen AS (
        SELECT host, image, coalesce(podman, false) AS podman, coalesce(containerd, false) AS containerd,
            coalesce(bool_or(origin = 'registry'), false) AS given, max(seq) FILTER (origin = 'local') AS made,
            max(seq) FILTER (kind IN ({sql_list(of_origin(Origin.REGISTRY))})) AS fetched,
            bool_or(kind IN ({sql_list(of_origin(Origin.LOCAL))})) AS built,
            coalesce(bool_and(bare) FILTER (kind = 'image_observed' AND origin IS NULL), false) AS bare,
            bool_or(kind = 'image_observed' AND origin IS NULL) AS older
        FROM said LEFT JOIN store USING (host)
        GROUP BY ALL HAVING bool_or(kind = 'image_observed')
    ), arrival AS (
        SELECT host, image, min(time) AS first
        FROM event SEMI JOIN (
            FROM seen WHERE containerd AND NOT given AND made IS NULL AND fetched IS NULL
        ) USING (host, image) GROUP BY host, image
    ), sample AS (
        SELECT host, time AS sampled FROM event SEMI JOIN arrival USING (host) WHERE kind = 'disk_sampled'
    ), blind AS (
        SELECT host, time AS ended FROM event SEMI JOIN arrival USING (host) WHERE kind IN ('gap', 'collector_started')
    ), came AS (
        SELECT a.host, image FROM arrival AS a ASOF JOIN sample AS s ON a.host = s.host AND first > sampled
            ASOF LEFT JOIN blind AS b ON a.host = b.host AND first >= ended
        WHERE ended IS NULL OR ended < sampled
    )
    SELECT seen.host, seen.image, CASE
        WHEN given THEN 'registry'
        WHEN NOT podman AND fetched > coalesce(made, -1) THEN 'registry'
        WHEN made IS NOT NULL OR bare THEN 'local'
        WHEN older AND NOT podman AND NOT containerd THEN 'registry'
        WHEN podman AND built OR came.image IS NOT NULL THEN 'local'
        ELSE 'unknown' END AS origin
    FROM seen LEFT JOIN came USING (host, image);
COMMENT ON VIEW image_origins IS 'where each image can be pulled again: a registry has it, only this host (local), or
unknown; from what the engine''s records showed, from pulls and pushes, and from what arrived while the collector ran';

CREATE OR REPLACE VIEW image_observations AS
    SELECT seen.*, origin, origin <> 'registry' AS local FROM (
        SELECT host, image, max_by(attributes, seq) AS attributes,
            min(time) AS first_observed, max(time) AS last_observed
        FROM event WHERE kind = 'image_observed' GROUP BY host, image
    ) AS seen JOIN image_origins USING (host, image);

CREATE OR REPLACE VIEW present_images AS
    SELECT host, image FROM event WHERE kind IN ('image_observed', 'image_deleted')
    GROUP BY host, image HAVING arg_max(kind, seq) = 'image_observed';
COMMENT ON VIEW present_images IS 'the images that the engine holds, as far as observed';

CREATE OR REPLACE VIEW images AS
    SELECT host, image, image_id,
        attributes ->> '$.references' AS image_references,
        attributes ->> '$.digests' AS digests,
        TRY_CAST(attributes ->> '$.size' AS BIGINT) AS size_bytes,
        TRY_CAST(attributes ->> '$.created' AS TIMESTAMP) AS created,
        local, origin, first_observed, last_observed
    FROM image_observations JOIN image USING (image);
COMMENT ON VIEW images IS 'what the latest inventory showed of each image';

CREATE OR REPLACE VIEW image_layers AS
    SELECT host, image, image_id, position,
        layer ->> '$.chain_id' AS chain_id, layer ->> '$.diff_id' AS diff_id,
        TRY_CAST(layer ->> '$.bytes' AS BIGINT) AS bytes
    FROM (
        SELECT host, image, unnest(TRY_CAST(attributes -> '$.layers' AS JSON[])) AS layer,
            generate_subscripts(TRY_CAST(attributes -> '$.layers' AS JSON[]), 1) - 1 AS position
        FROM image_observations
    ) JOIN image USING (image);
COMMENT ON VIEW image_layers IS 'the layers of each image, base first; chain_id is what the engine stores once';

CREATE OR REPLACE VIEW uses AS
    SELECT host, image, began, time AS ended, 'container' AS evidence, container, NULL AS reference
    FROM event WHERE kind = 'container_destroyed' AND image IS NOT NULL AND began IS NOT NULL
    UNION ALL
    SELECT host, image, min(time), CAST(NULL AS TIMESTAMP_NS), 'container', container, NULL
    FROM event AS e WHERE kind = 'container_created' AND image IS NOT NULL
        AND NOT EXISTS (FROM event AS d
            WHERE d.kind = 'container_destroyed' AND d.container = e.container AND d.host = e.host)
    GROUP BY host, image, container
    UNION ALL
    SELECT host, image, time, time,
        {sql_case("kind", {kind: kind.traits.evidence for kind in MOMENTS})},
        NULL, reference
    FROM event WHERE image IS NOT NULL AND kind IN ({sql_list(MOMENTS)});
COMMENT ON VIEW uses IS 'each observed use as an interval; ended is NULL while the container exists';

CREATE OR REPLACE VIEW image_uses AS
    SELECT host, image, sum(uses)::BIGINT AS uses FROM (
        SELECT host, image, count(DISTINCT container) + count(*) FILTER (kind IN ({_COUNTED})) AS uses
        FROM event WHERE image IS NOT NULL AND kind IN ({_CONTAINERS}, {_COUNTED}) GROUP BY host, image
        UNION ALL SELECT host, image, len(jobs) FROM thinned_use
    ) GROUP BY host, image HAVING sum(uses) > 0;
COMMENT ON VIEW image_uses IS 'how many containers and jobs used each image';

CREATE OR REPLACE VIEW kind_counts AS SELECT host, kind, count(*) AS events FROM event GROUP BY host, kind;
COMMENT ON VIEW kind_counts IS 'how many events of each kind there are';

CREATE OR REPLACE VIEW last_use AS
    WITH observed AS (
        SELECT host, image, time, seq, {sql_case("kind", {kind: kind.traits.happened for kind in USES})} AS evidence,
            kind, container, reference
        FROM event WHERE image IS NOT NULL AND kind IN ({sql_list(USES)})
    )
    SELECT host, image, image_id, last_use, evidence, evidence_source, last_pull, coalesce(uses, 0) AS uses, first_use
    FROM (
        SELECT host, image, max(time) AS last_use, arg_max(evidence, (time, seq)) AS evidence,
            arg_max(coalesce(container, reference), (time, seq)) AS evidence_source,
            max(time) FILTER (kind = 'image_pulled') AS last_pull, min(time) AS first_use
        FROM observed GROUP BY host, image
    ) JOIN image USING (image) LEFT JOIN image_uses USING (host, image);
COMMENT ON VIEW last_use IS 'the latest observed use of each image, with the evidence for it';

CREATE OR REPLACE VIEW disks AS
    SELECT host, time, bytes AS free_bytes,
        TRY_CAST(attributes ->> '$.total_bytes' AS BIGINT) AS total_bytes,
        TRY_CAST(attributes ->> '$.used_bytes' AS BIGINT) AS used_bytes,
        TRY_CAST(attributes ->> '$.free_inodes' AS BIGINT) AS free_inodes,
        TRY_CAST(attributes ->> '$.total_inodes' AS BIGINT) AS total_inodes,
        TRY_CAST(attributes ->> '$.image_bytes' AS BIGINT) AS image_bytes,
        TRY_CAST(attributes ->> '$.container_bytes' AS BIGINT) AS container_bytes,
        TRY_CAST(attributes ->> '$.volume_bytes' AS BIGINT) AS volume_bytes,
        TRY_CAST(attributes ->> '$.build_cache_bytes' AS BIGINT) AS build_cache_bytes,
        attributes ->> '$.path' AS path,
        attributes ->> '$.file_system' AS file_system,
        TRY_CAST(attributes -> '$.holds' AS VARCHAR[]) AS holds,
        coalesce(TRY_CAST(attributes ->> '$.main' AS BOOLEAN), true) AS main,
        coalesce(TRY_CAST(attributes ->> '$.least' AS BOOLEAN), false) AS least
    FROM event WHERE kind = 'disk_sampled';
COMMENT ON VIEW disks IS 'each disk with bytes of the engine over time; file_system (its mount point) and holds are
NULL where there is only one; least: the least free space between two samples, while a pull may have been under way;
used_bytes: without the blocks that the file system keeps for root';

CREATE OR REPLACE VIEW disk AS SELECT * EXCLUDE (file_system, holds, main, least) FROM disks WHERE main AND NOT least;
COMMENT ON VIEW disk IS 'the disk of the images over time: bytes and inodes, total and free, and what images hold';

CREATE OR REPLACE VIEW gaps AS
    SELECT host, coalesce(began, time) AS began, time AS ended, attributes ->> '$.reason' AS reason
    FROM event WHERE kind = 'gap';
COMMENT ON VIEW gaps IS 'the intervals in which nothing was observed';

CREATE OR REPLACE VIEW prunes AS
    WITH parts AS (
        SELECT host, kind, time, bytes, attributes, attributes ->> '$.prune' AS prune FROM event
        WHERE kind IN ({sql_list(reported_by(Reporter.PRUNER))})
    )
    SELECT host, prune, min(time) FILTER (kind = 'prune_started') AS started,
        max(time) FILTER (kind = 'prune_finished') AS finished,
        any_value(attributes ->> '$.trigger') FILTER (kind = 'prune_started') AS trigger,
        count(*) FILTER (kind = 'item_removed') AS removed,
        count(*) FILTER (kind = 'item_failed') AS failed,
        any_value(bytes) FILTER (kind = 'prune_finished') AS freed_bytes,
        any_value(attributes ->> '$.outcome') FILTER (kind = 'prune_finished') AS outcome,
        any_value(attributes) FILTER (kind = 'prune_started') AS plan
    FROM parts GROUP BY host, prune;
COMMENT ON VIEW prunes IS 'each prune: when, why, what it removed and how much that freed';

-- As `collector.model.references.repository`. To trim takes longer than to see that there is nothing to trim, and to
-- find all that comes before a tag longer than to find the tag.
CREATE OR REPLACE MACRO repository_of(name) AS regexp_replace(regexp_replace(
    lower(regexp_replace(split_part(CASE WHEN contains(name, ' ') THEN trim(name) ELSE name END, '@', 1),
        '(?s)(.):[^/:]*$', '\\1')),
    '^(index\\.)?docker\\.io/', ''), '^library/([^/]+)$', '\\1');

CREATE OR REPLACE VIEW image_references AS
    WITH named AS ({sql_names_in("event")})
    SELECT host, image, image_id, name, kind, time, seq FROM named JOIN image USING (image);
COMMENT ON VIEW image_references IS 'every name that an image ever had, each time that something said so';

CREATE OR REPLACE VIEW image_names AS
    SELECT host, image, image_id, coalesce(
        arg_max(attributes ->> '$.references[0]', seq) FILTER (attributes ->> '$.references[0]' IS NOT NULL),
        arg_max(attributes ->> '$.digests[0]', seq) FILTER (attributes ->> '$.digests[0]' IS NOT NULL),
        arg_max(reference, seq) FILTER (reference IS NOT NULL AND NOT starts_with(reference, 'sha256:'))) AS name
    FROM event JOIN image USING (image)
    WHERE kind IN ({_NAME_GIVING})
    GROUP BY host, image, image_id;
COMMENT ON VIEW image_names IS 'what people call each image: its latest reference, else digest';

CREATE OR REPLACE VIEW job_containers AS
    SELECT host, max(job) AS job, max(role) AS role, container, max(image) AS image, max(reference) AS reference,
        least(min(began), min(time)) AS began, max(time) FILTER (kind = 'container_destroyed') AS ended
    FROM event WHERE kind IN ({_CONTAINERS})
    GROUP BY host, container HAVING max(job) IS NOT NULL;
COMMENT ON VIEW job_containers IS 'each container of a job, with its role; ended is NULL while it exists';

CREATE OR REPLACE VIEW job_images AS
    SELECT * EXCLUDE (found, called), found AS asked,
        coalesce(called, CASE WHEN NOT starts_with(found, 'sha256:') THEN found END) AS reference
    FROM (
        SELECT host, job, role, image, reference AS found, began, ended, 'container' AS evidence, container
        FROM job_containers
        UNION ALL
        SELECT host, job, role, image, reference, time, time,
            coalesce(attributes ->> '$.source', 'job metadata'), NULL
        FROM event WHERE kind = 'job_image_used' AND job IS NOT NULL
    ) JOIN job USING (host, job) LEFT JOIN image USING (image)
        LEFT JOIN (SELECT host, image, name AS called FROM image_names) USING (host, image);
COMMENT ON VIEW job_images IS 'which job used which image when, in which role, and what shows it';

CREATE OR REPLACE VIEW jobs AS
    WITH seen AS (
        SELECT host, job, min(began) AS began, max(ended) AS ended, count(*) AS containers,
            bool_or(ended IS NULL) AS living,
            count(DISTINCT image) FILTER ({CHOSEN_BY_JOB}) AS images
        FROM job_containers GROUP BY host, job
    ), reported AS (
        SELECT host, job, min(time) AS first_report,
            min(time) FILTER (kind = 'job_started') AS started,
            max(time) FILTER (kind = 'job_finished') AS finished,
            any_value(attributes ->> '$.outcome') FILTER (kind = 'job_finished') AS outcome,
            any_value(TRY_CAST(attributes ->> '$.seconds' AS DOUBLE)) FILTER (kind = 'job_finished') AS seconds,
            count(DISTINCT coalesce(image, hash(reference)))
                FILTER (kind = 'job_image_used' AND {CHOSEN_BY_JOB}) AS images
        FROM event WHERE kind IN ({sql_list(reported_by(Reporter.JOBS))}) AND job IS NOT NULL
        GROUP BY host, job
    )
    SELECT j.*, least(seen.began, coalesce(reported.started, reported.first_report)) AS began,
        coalesce(reported.finished, CASE WHEN NOT seen.living THEN seen.ended END) AS ended,
        reported.outcome, reported.seconds, coalesce(seen.containers, 0) AS containers,
        greatest(coalesce(seen.images, 0), coalesce(reported.images, 0)) AS images
    FROM job AS j LEFT JOIN seen USING (host, job) LEFT JOIN reported USING (host, job);
COMMENT ON VIEW jobs IS 'each job: whose, when, how it ended; ended is NULL while it runs';

CREATE OR REPLACE VIEW failed_pulls AS
    SELECT host, time, job, image, reference, attributes ->> '$.error' AS error,
        coalesce(attributes ->> '$.disk_full' = 'true', false) AS disk_full
    FROM event WHERE kind = 'pull_failed'
    UNION ALL
    SELECT host, min(time), job, NULL, reference, NULL, false FROM event AS e
    WHERE kind = 'job_image_used' AND image IS NULL AND job IS NOT NULL
        AND EXISTS (FROM event AS f WHERE f.kind = 'job_finished' AND f.host = e.host AND f.job = e.job
            AND f.attributes ->> '$.outcome' NOT IN ('success', 'runner restarted'))
        AND NOT EXISTS (FROM event AS p WHERE p.kind = 'pull_failed' AND p.host = e.host AND p.job = e.job)
        AND NOT EXISTS (FROM image_references AS r WHERE r.host = e.host AND r.name = e.reference)
    GROUP BY host, job, reference;
COMMENT ON VIEW failed_pulls IS 'each pull that failed, as a runner''s log says, and each image that a failed job asked
for and that never came';
"""

# What distinguishes the views in a file from those of this program.
FINGERPRINT = hashlib.sha256(VIEWS.encode()).hexdigest()[:16]
# The same views for one connection: they come before those that a file may hold under the same names.
_WITHOUT_COMMENTS = re.sub(r"COMMENT ON \w+ \w+ IS '(?:[^']|'')*';", "", VIEWS)
TEMPORARY_VIEWS = re.sub("CREATE OR REPLACE (VIEW|MACRO)", r"CREATE OR REPLACE TEMP \1", _WITHOUT_COMMENTS)
# Functions that a log may hold, for whoever asks its views in the shell.
FUNCTIONS = frozenset(re.findall(r"CREATE OR REPLACE MACRO (\w+)", VIEWS))
