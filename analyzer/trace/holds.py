"""What jobs in flight held, as `pruner.state.jobs_in_flight` would have it, from a log.

A flight's end, its evidence and its guesses are the pruner's own, with three differences: a pull policy is what the
log shows in the end, for the runner's configuration is not in it; what a job's project used lately is that of the time
when the job began; and what was pulled since the job began is what was pulled in fact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from collector.eventlog.sql import sql_list
from collector.model.events import CONTAINERS
from collector.model.jobs import HELPER_ROLES, SLOT
from collector.model.units import format_count
from pruner.state.job_memory import LATELY_S, read_pull_policies
from pruner.state.jobs_in_flight import MARGIN_S, PREPARATION_S, SETTLE_S, UNSEEN_S

_ANY = "SELECT 1 FROM job WHERE host = ? AND ci = 'gitlab' AND project_id IS NOT NULL LIMIT 1"
_HELPERS = sql_list(sorted(HELPER_ROLES))
_NS = 10**9
# When each job was in flight; `settled`: when a job source named the image that it builds in.
_FLIGHTS = f"""
    CREATE OR REPLACE TEMP TABLE flight AS
    WITH seen AS (
        SELECT job, min(epoch_ns(coalesce(least(began, time), time))) AS began, bool_or(container IS NOT NULL) AS shown,
            min(epoch_ns(time)) FILTER (kind = 'job_finished' OR kind = 'container_created' AND role = 'build') AS over,
            min(epoch_ns(time)) FILTER (kind = 'job_image_used' AND role = 'build') AS settled,
            bool_or(kind = 'job_started') AS open,
            max(regexp_extract(attributes ->> '$.name', $slot)) FILTER (kind = 'container_created') AS slot
        FROM event SEMI JOIN (FROM job WHERE host = $host AND ci = 'gitlab' AND job_id IS NOT NULL) USING (host, job)
        WHERE host = $host GROUP BY job
    ), stop AS (
        -- Only what creates a container says whose it is.
        SELECT own.job, max(epoch_ns(event.time)) AS stopped FROM event JOIN (
            SELECT container, job FROM event SEMI JOIN seen USING (job)
            WHERE host = $host AND kind = 'container_created'
        ) AS own USING (container)
        WHERE host = $host AND kind IN ('container_died', 'container_destroyed') GROUP BY own.job
    ), followed AS (
        SELECT *, CASE WHEN slot <> '' THEN lead(began) OVER (PARTITION BY slot ORDER BY began, job) END AS later
        FROM seen
    )
    SELECT job, job.job_id, project_id, runner, ref, name, followed.began, settled,
        least(over, later, CASE WHEN NOT open THEN stopped + {int(SETTLE_S * _NS)} END,
            followed.began + CASE WHEN shown THEN {int(PREPARATION_S * _NS)} ELSE {int(UNSEEN_S * _NS)} END) AS ended
    FROM followed LEFT JOIN stop USING (job) JOIN (FROM job WHERE host = $host) AS job USING (job)
"""
# What a job's source names stays until the job has its build container; a job names it when that is logged.
_NAMED = f"""
    SELECT greatest(time, began) AS time, ended AS until, image, job FROM (
        SELECT job, image, min(epoch_ns(time)) AS time FROM event
        WHERE host = $host AND kind = 'job_image_used' AND image IS NOT NULL
            AND (role IS NULL OR role NOT IN ({_HELPERS}))
        GROUP BY ALL
    ) JOIN flight USING (job) WHERE ended > time ORDER BY ALL
"""
_ASKED = """
    SELECT DISTINCT job, image FROM event SEMI JOIN flight USING (job)
    WHERE host = $host AND kind = 'container_created' AND image IS NOT NULL
"""
# When a project's jobs, by name or ref or all of them, had used an image lately. Services alone count once the
# job's own image is known.
_LATELY = f"""
    CREATE OR REPLACE TEMP TABLE lately AS
    WITH used AS (
        SELECT project_id, ref, name, image, role = 'service' AS service, epoch_ns(time) AS time
        FROM event JOIN job USING (host, job)
        WHERE host = $host AND ci = 'gitlab' AND project_id IS NOT NULL AND image IS NOT NULL
            AND kind IN ('job_image_used', {sql_list(CONTAINERS)})
            AND (role IS NULL OR role NOT IN ({_HELPERS}))
    ), under AS (
        SELECT project_id, 1 AS level, name AS value, image, coalesce(service, false) AS service, time
        FROM used WHERE name IS NOT NULL
        UNION ALL SELECT project_id, 2, ref, image, coalesce(service, false), time FROM used WHERE ref IS NOT NULL
        UNION ALL SELECT project_id, 3, '', image, coalesce(service, false), time FROM used
    ), apart AS (
        SELECT *, coalesce(time - lag(time) OVER same > {int(LATELY_S * _NS)}, true) AS begins FROM under
        WINDOW same AS (PARTITION BY project_id, level, value, image, service ORDER BY time)
    ), numbered AS (
        SELECT *, sum(begins::INTEGER) OVER (
            PARTITION BY project_id, level, value, image, service ORDER BY time ROWS UNBOUNDED PRECEDING
        ) AS number FROM apart
    )
    SELECT project_id, level, value, image, service, min(time) AS since, max(time) + {int(LATELY_S * _NS)} AS until
    FROM numbered GROUP BY project_id, level, value, image, service, number
"""
_GUESSED = f"""
    WITH part AS (
        SELECT *, began AS from_ns, least(ended, coalesce(settled, ended)) AS until_ns, false AS services FROM flight
        UNION ALL SELECT *, greatest(began, settled), ended, true FROM flight WHERE settled IS NOT NULL
    ), guessing AS (
        FROM part WHERE from_ns < until_ns
            AND NOT list_contains($always::VARCHAR[], concat_ws(chr(10), project_id, runner))
    ), found AS (
        SELECT job, from_ns, until_ns, services, image, level FROM guessing JOIN lately
            ON guessing.project_id = lately.project_id AND (lately.service OR NOT services)
            AND value = CASE level WHEN 1 THEN name WHEN 2 THEN ref ELSE '' END AND from_ns BETWEEN since AND until
    )
    SELECT from_ns AS time, until_ns AS until, image, 2 AS rank, job FROM found
    QUALIFY level = min(level) OVER (PARTITION BY job, services)
    UNION ALL
    SELECT greatest(epoch_ns(time), from_ns), until_ns, event.image, 1, guessing.job
    FROM guessing JOIN event ON epoch_ns(time) >= from_ns - {int(MARGIN_S * _NS)} AND epoch_ns(time) < until_ns
    WHERE host = $host AND kind = 'image_pulled' AND image IS NOT NULL AND NOT services
    ORDER BY ALL
"""
Columns = dict[str, NDArray[Any]]


class JobHolds(NamedTuple):
    """What jobs in flight held, by the log's numbers of images; times in UTC nanoseconds.

    Attributes:
        firm: what stayed, by evidence or because no pull could have brought it back: columns time, until and image.
        guesses: what would have gone last: columns time, until, image and rank.
        notes: what to say of them.
    """

    firm: Columns
    guesses: Columns
    notes: tuple[str, ...]


def read_holds(connection: duckdb.DuckDBPyConnection, host: str, local: NDArray[Any], end: int) -> JobHolds | None:
    """What GitLab's jobs in flight held; None: the log knows of no project's jobs.

    Args:
        connection: the log.
        host: whose history.
        local: the log's numbers of the images that exist only on the host.
        end: where the history ends, UTC nanoseconds.
    """
    if not connection.execute(_ANY, [host]).fetchone():
        return None
    connection.execute(_FLIGHTS, {"host": host, "slot": SLOT.pattern})
    connection.execute(_LATELY, {"host": host})
    always = read_pull_policies(connection, host, end / _NS - LATELY_S)
    named = _columns(connection, _NAMED, {"host": host})
    pairs = ["\n".join(filter(None, pair)) for pair in always]
    guessed = _columns(connection, _GUESSED, {"host": host, "always": pairs})
    asked = _columns(connection, _ASKED, {"host": host})
    lost = np.isin(guessed["image"], local)
    firm = {
        name: np.concatenate((named[name], guessed[name][lost])).astype(np.int64)
        for name in ("time", "until", "image", "job")
    }
    guesses = {name: column[~lost].astype(np.int64) for name, column in guessed.items()}
    notes = []
    for columns, what in (
        (firm, "images stay for jobs in flight that need them"),
        (guesses, "images go last that jobs in flight may need, judging by their projects' past"),
    ):
        if count := len(_jobs_and_images(columns)):
            over = {name: column[columns["until"] <= end] for name, column in columns.items()}
            vain = len(_jobs_and_images(over) - _jobs_and_images(asked))
            of = "for an image of which the job then had no container"
            notes.append(f"{what}: {format_count(count, 'hold')}, {vain:,} of them {of}")
    return JobHolds(firm, guesses, tuple(notes))


def _columns(connection: duckdb.DuckDBPyConnection, sql: str, parameters: object) -> Columns:
    return {name: np.asarray(column) for name, column in connection.execute(sql, parameters).fetchnumpy().items()}


def _jobs_and_images(columns: Columns) -> set[tuple[int, int]]:
    return set(zip(columns["job"].tolist(), columns["image"].tolist(), strict=True))
