"""What is known of jobs: from the log, and from the runner's configuration where it may be read."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.events import ARRIVALS, Effect, with_effect
from collector.model.jobs import HELPER_ROLES, SLOT
from collector.model.paths import read_bounded
from collector.model.references import familiar
from pruner.state.jobs_in_flight import (
    ALWAYS,
    NEVER,
    PREPARATION_S,
    Build,
    Flight,
    JobMemory,
    PastUse,
    pull_policies,
)

if TYPE_CHECKING:
    import duckdb

LATELY_S = 7 * 86400.0
# Containers of jobs that had begun before.
_OVERLAP_S = 86400.0
_IF_NOT_PRESENT = "if-not-present"
# What GitLab puts before the part of a token that the runner shows.
_TOKEN_MARKS = ("", "glrt-", "glrt-t1_", "glrt-t2_", "glrt-t3_", "GR1348941")


def read_jobs(log: EventLog, now: float, runner_config: Path | None = None) -> JobMemory:
    """What is known of jobs. Raises LogError.

    Args:
        log: the log.
        now: UTC seconds; what a job names is of use for as long as its preparation may take.
        runner_config: GitLab Runner's config.toml; one that cannot be read adds nothing.
    """
    host, since, lately = log.host, int((now - PREPARATION_S) * 1e9), int((now - LATELY_S) * 1e9)
    with log.reading(whole_since=now - LATELY_S - _OVERLAP_S) as connection:

        def ask(question: str, *values: object) -> list[Any]:
            return connection.execute(question, list(values)).fetchall()

        recent = ask(_RECENT, host, since)
        used = ask(_USES, host, lately)
        policies = read_pull_policies(connection, host, now - LATELY_S)
        begun = ask(_BEGUN, host, since)
        logged = ask(_LOGGED_JOBS, host, since)
        slots = ask(_SLOTS, host, lately, SLOT.pattern)
    images: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    settled: set[str] = set()
    for job_id, role, image, reference in recent:
        if role in HELPER_ROLES:
            continue
        if image is not None:
            images[job_id].add(image)
        if reference is not None:
            names[job_id].add(familiar(reference))
        if role == "build":
            settled.add(job_id)
    uses: dict[str, list[PastUse]] = defaultdict(list)
    for project, *use in used:
        uses[project].append(PastUse(*use))
    return JobMemory(
        {job: frozenset(found) for job, found in images.items()},
        {job: frozenset(found) for job, found in names.items()},
        frozenset(settled),
        {project: tuple(found) for project, found in uses.items()},
        policies,
        RunnerPolicies(configured_policies(runner_config)),
        tuple(Flight(job, project, at, None, runner, ref, name) for job, project, at, runner, ref, name in begun),
        frozenset(job for job, ended in logged if not ended),
        frozenset(job for job, ended in logged if ended),
        {slot: (time, job) for slot, job, time in slots},
    )


def read_pull_policies(
    connection: duckdb.DuckDBPyConnection, host: str, since: float
) -> dict[tuple[str, str | None], str]:
    """The pull policies that jobs have shown, by project ID and runner; see `pull_policies`.

    Args:
        connection: the log.
        host: whose jobs.
        since: from when on they count, UTC seconds.
    """
    builds = [Build(*row) for row in connection.execute(_BUILDS, [host, int(since * 1e9)]).fetchall()]
    images = sorted({build.image for build in builds})
    events: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for image, time, kind in connection.execute(_ARRIVALS, [host, images]).fetchall():
        events[image].append((time, kind))
    return pull_policies(builds, events)


class RunnerPolicies(dict[str, str]):
    """Pull policies by token; asked by the short token that the runner shows."""

    def get(self, short: str, default: Any = None) -> Any:
        """The policy of the runner whose token begins so."""
        if not short:
            return default
        found = {
            policy
            for token, policy in self.items()
            for mark in _TOKEN_MARKS
            if token.startswith(mark) and token.removeprefix(mark).startswith(short)
        }
        return found.pop() if len(found) == 1 else default


def configured_policies(path: Path | None) -> dict[str, str]:
    """The pull policy of each runner in a config.toml, by token; those whose jobs may choose are left out."""
    if path is None:
        return {}
    try:
        runners = tomllib.loads(read_bounded(path)).get("runners", [])
    except (OSError, ValueError, RecursionError):
        return {}
    found = {}
    for runner in runners if isinstance(runners, list) else ():
        docker = runner.get("docker") if isinstance(runner, dict) else None
        if not isinstance(docker, dict) or docker.get("allowed_pull_policies"):
            continue
        asked = docker.get("pull_policy") or ALWAYS
        first = asked[0] if isinstance(asked, list) else asked
        if isinstance(runner.get("token"), str) and first in {ALWAYS, _IF_NOT_PRESENT, NEVER}:
            found[runner["token"]] = str(first)
    return found


_RECENT = """
SELECT DISTINCT job_id, role, image_id, CASE WHEN evidence <> 'container' THEN asked END
FROM (SELECT * FROM job_images WHERE host = $1 AND began >= make_timestamp_ns($2) AND ci = 'gitlab')
WHERE job_id IS NOT NULL
"""
_HELPERS = sql_list(sorted(HELPER_ROLES))
_USES = f"""
SELECT DISTINCT project_id, image_id, ref, name, coalesce(role = 'service', false) FROM job_images
WHERE host = $1 AND began >= make_timestamp_ns($2)
    AND ci = 'gitlab' AND project_id IS NOT NULL AND image_id IS NOT NULL
    AND (role IS NULL OR role NOT IN ({_HELPERS}))
"""
_BUILDS = """
SELECT j.job_id, j.project_id, j.runner, image_id, epoch_ns(min(f.began)) / 1e9, epoch_ns(c.began) / 1e9
FROM job_containers AS c JOIN job AS j ON j.job = c.job AND j.host = c.host
    JOIN job_containers AS f ON f.job = c.job AND f.host = c.host JOIN image ON c.image = image.image
WHERE c.host = $1 AND c.began >= make_timestamp_ns($2) AND c.role = 'build' AND j.ci = 'gitlab'
    AND j.project_id IS NOT NULL AND j.job_id IS NOT NULL
GROUP BY c.container, j.job_id, j.project_id, j.runner, image_id, c.began
QUALIFY row_number() OVER (PARTITION BY j.project_id, j.runner ORDER BY c.began DESC) <= 20
"""
_ARRIVALS = f"""
SELECT image_id, epoch_ns(time) / 1e9, kind FROM event JOIN image USING (image)
WHERE host = $1 AND image_id IN (SELECT unnest($2::VARCHAR[]))
    AND kind IN ({sql_list((*ARRIVALS, *with_effect(Effect.GOES)))})
ORDER BY time
"""
_BEGUN = """
SELECT job_id, project_id, epoch_ns(j.began) / 1e9, runner, ref, name FROM jobs AS j
WHERE host = $1 AND ci = 'gitlab' AND job_id IS NOT NULL AND j.began >= make_timestamp_ns($2)
    AND EXISTS (FROM event AS e WHERE e.host = $1 AND e.job = j.job AND e.kind IN ('job_started', 'job_image_used'))
    AND NOT EXISTS (FROM event AS e WHERE e.host = $1 AND e.job = j.job AND e.kind = 'job_finished')
    AND NOT EXISTS (FROM job_containers AS c WHERE c.host = $1 AND c.job = j.job
        AND (c.role = 'build' OR c.ended IS NULL))
"""
_LOGGED_JOBS = """
SELECT job_id, bool_or(kind = 'job_finished') FROM event JOIN job USING (host, job)
WHERE host = $1 AND time >= make_timestamp_ns($2) AND kind IN ('job_started', 'job_finished')
    AND ci = 'gitlab' AND job_id IS NOT NULL
GROUP BY job_id
"""
_SLOTS = """
SELECT regexp_extract(attributes ->> '$.name', $3) AS slot, arg_max(job_id, time), epoch_ns(max(time)) / 1e9
FROM event JOIN job USING (host, job)
WHERE host = $1 AND time >= make_timestamp_ns($2) AND kind = 'container_created'
    AND ci = 'gitlab' AND job_id IS NOT NULL AND attributes ->> '$.name' LIKE 'runner-%'
GROUP BY slot HAVING slot <> ''
"""
