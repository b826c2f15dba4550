"""What is known of jobs: from the log, and from the runner's configuration where it may be read."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collector.eventlog.log import EventLog
from collector.eventlog.sql import CHOSEN_BY_JOB, sql_list
from collector.model.events import ARRIVALS, CONTAINERS, with_effect
from collector.model.jobs import HELPER_ROLES, SLOT
from collector.model.paths import read_bounded
from collector.model.references import familiar
from collector.model.traits import Effect
from collector.model.units import DAY_S
from pruner.state.jobs_in_flight import (
    ALWAYS,
    NEVER,
    PREPARATION_S,
    Flight,
    JobMemory,
    PastUse,
    flights,
)
from pruner.state.pull_policies import Build, pull_policies

if TYPE_CHECKING:
    import duckdb

    from collector.model.observation import ListedContainer

LATELY_S = 7 * DAY_S
# Containers of jobs that had begun before.
_OVERLAP_S = 86400.0
_REACH_S = LATELY_S + _OVERLAP_S
# So many builds of a project on a runner show its pull policy.
_LATEST = 20
# So many jobs of one name show what the next one of this name may need, and so many where names are unknown.
_LATEST_OF_NAME, _LATEST_UNNAMED = 50, 1000
_CONTAINERS = sql_list(CONTAINERS)
_PLAINLY = "seq, time, host, kind, image, reference, container, began, job, role"
_IF_NOT_PRESENT = "if-not-present"
# What GitLab puts before the part of a token that the runner shows.
_TOKEN_MARKS = ("", "glrt-", "glrt-t1_", "glrt-t2_", "glrt-t3_", "GR1348941")


def read_jobs(
    log: EventLog, now: float, runner_config: Path | None = None, listed: Sequence[ListedContainer] = ()
) -> JobMemory:
    """What is known of jobs. Raises LogError.

    What the log knows of single jobs and of their projects' past is read for those in flight alone: of `listed` at
    once, of others when they are asked for.

    Args:
        log: the log.
        now: UTC seconds; what a job names is of use for as long as its preparation may take.
        runner_config: GitLab Runner's config.toml; one that cannot be read adds nothing.
        listed: the containers that the engine lists.
    """
    host, since = log.host, int((now - PREPARATION_S) * 1e9)
    with log.reading(whole_since=now - _REACH_S) as connection:

        def ask(question: str, *values: object) -> list[Any]:
            return connection.execute(question, list(values)).fetchall()

        logged = ask(_LOGGED_JOBS, host, since)
        slots = ask(_SLOTS, host, since, SLOT.pattern)
        going = [job for (job,) in ask(_GOING, host, since)]
        begun: list[Any] = []
        if going:
            _show_jobs(connection, host, now, going, 0.0)
            begun = ask(_BEGUN, host, since, going)
    memory = JobMemory(
        configured=RunnerPolicies(configured_policies(runner_config)),
        begun=tuple(Flight(job, project, at, None, runner, ref, name) for job, project, at, runner, ref, name in begun),
        open=frozenset(job for job, ended in logged if not ended),
        ended=frozenset(job for job, ended in logged if ended),
        slots={slot: (time, job) for slot, job, time in slots},
    )
    past = _Past(log, now, memory)
    past.look_up(flights(listed, memory, now, {}))
    return replace(memory, look_up=past.look_up)


class _Past:
    """What the log knows of jobs in flight and of their projects' past, read once for each.

    Args:
        log: the log.
        now: UTC seconds.
        memory: what else is known of jobs.
    """

    def __init__(self, log: EventLog, now: float, memory: JobMemory) -> None:
        self._log = log
        self._now = now
        self._memory = memory
        self._jobs: set[str] = set()
        self._projects: set[str] = set()

    def look_up(self, flying: Iterable[Flight]) -> JobMemory:
        """What is known of these jobs. Raises LogError."""
        flying = list(flying)
        jobs = {flight.job_id for flight in flying} - self._jobs
        projects = {flight.project_id for flight in flying if flight.project_id is not None} - self._projects
        if jobs or projects:
            self._memory = self._read(sorted(jobs), sorted(projects))
            self._jobs |= jobs
            self._projects |= projects
        return self._memory

    def _read(self, jobs: list[str], projects: list[str]) -> JobMemory:
        host, since, lately = self._log.host, int((self._now - PREPARATION_S) * 1e9), self._now - LATELY_S
        with self._log.reading(whole_since=self._now - _REACH_S) as connection:
            numbers = connection.execute(_NUMBERS, [host, int((self._now - _REACH_S) * 1e9), jobs, projects]).fetchall()
            _show_jobs(connection, host, self._now, [number for (number,) in numbers], self._now - PREPARATION_S)
            recent = connection.execute(_RECENT, [host, since, jobs]).fetchall()
            used = connection.execute(_USES, [host, int(lately * 1e9), projects]).fetchall()
            policies = read_pull_policies(connection, host, lately)
            # What is read next fills as much memory as this has.
            connection.execute("DROP TABLE of_jobs")
        images: dict[str, set[str]] = defaultdict(set)
        names: dict[str, set[str]] = defaultdict(set)
        for job_id, role, image, reference in recent:
            if role in HELPER_ROLES:
                continue
            if image is not None:
                images[job_id].add(image)
            if reference is not None:
                names[job_id].add(familiar(reference))
        settled = {job_id for job_id, role, *_ in recent if role == "build"}
        uses: dict[str, list[PastUse]] = defaultdict(list)
        for project, *use in used:
            uses[project].append(PastUse(*use))
        known = self._memory
        return replace(
            known,
            images={**known.images, **{job: frozenset(found) for job, found in images.items()}},
            names={**known.names, **{job: frozenset(found) for job, found in names.items()}},
            settled=known.settled | settled,
            uses={**known.uses, **{project: tuple(found) for project, found in uses.items()}},
            policies={**known.policies, **{who: what for who, what in policies.items() if who[0] in projects}},
        )


def _show_jobs(connection: duckdb.DuckDBPyConnection, host: str, now: float, jobs: list[int], since: float) -> None:
    """Let a connection see no more than what concerns some jobs, and who pulled their images.

    Args:
        connection: the log.
        host: whose.
        now: UTC seconds.
        jobs: the log's numbers of the jobs.
        since: from when on all events of their containers are needed, UTC seconds; of those before these do that are
            known to be of the job, which show whose a container was, unless they do not say of which image.
    """
    connection.execute(_OF_JOBS, {"host": host, "jobs": jobs, "lately": int((now - LATELY_S) * 1e9)})
    since_ns = int(since * 1e9)
    theirs = dict(connection.execute(_THEIRS, [since_ns]).fetchall())
    for containers, from_ns in (list(theirs), since_ns), ([one for one in theirs if theirs[one]], 0):
        if containers:
            connection.execute(_MORE, {"host": host, "since": from_ns, "containers": containers})
    connection.execute("CREATE OR REPLACE TEMP VIEW event AS FROM of_jobs")


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
WHERE job_id IN (SELECT unnest($3::VARCHAR[]))
"""
_USES = f"""
SELECT DISTINCT project_id, image_id, ref, name, coalesce(role = 'service', false) FROM job_images
WHERE host = $1 AND began >= make_timestamp_ns($2)
    AND ci = 'gitlab' AND project_id IN (SELECT unnest($3::VARCHAR[])) AND image_id IS NOT NULL
    AND {CHOSEN_BY_JOB}
"""
# The latest builds of each project on each runner, and then the first sign of their jobs.
_BUILDS = f"""
WITH recent AS (
    SELECT DISTINCT container FROM event WHERE host = $1 AND time >= make_timestamp_ns($2)
        AND kind IN ({_CONTAINERS}) AND role = 'build' AND job IS NOT NULL
), build AS (
    SELECT max(job) AS job, max(image) AS image, least(min(began), min(time)) AS began
    FROM event SEMI JOIN recent USING (container) WHERE host = $1 AND kind IN ({_CONTAINERS})
    GROUP BY container HAVING max(role) = 'build' AND least(min(began), min(time)) >= make_timestamp_ns($2)
), latest AS (
    SELECT job, job_id, project_id, runner, image_id, build.began
    FROM build JOIN (FROM job WHERE host = $1) AS job USING (job) JOIN image USING (image)
    WHERE ci = 'gitlab' AND project_id IS NOT NULL AND job_id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY project_id, runner ORDER BY build.began DESC) <= {_LATEST}
), sign AS (
    SELECT job, least(min(began), min(time)) AS first FROM event SEMI JOIN latest USING (job)
    WHERE host = $1 AND kind IN ({_CONTAINERS}) AND container IS NOT NULL GROUP BY job
)
SELECT job_id, project_id, runner, image_id, epoch_ns(first) / 1e9, epoch_ns(began) / 1e9
FROM latest JOIN sign USING (job)
"""
_CHANGES = sql_list((*ARRIVALS, *with_effect(Effect.GOES)))
_ARRIVALS = f"""
SELECT image_id, epoch_ns(time) / 1e9, kind FROM event JOIN image USING (image)
WHERE host = $1 AND image_id IN (SELECT unnest($2::VARCHAR[]))
    AND kind IN ({_CHANGES})
ORDER BY time
"""
# Jobs of which a source has said something lately, but not their end.
_GOING = """
SELECT job FROM event WHERE host = $1 AND time >= make_timestamp_ns($2) AND job IS NOT NULL
    AND kind IN ('job_started', 'job_image_used', 'job_finished')
GROUP BY job HAVING NOT bool_or(kind = 'job_finished')
"""
_BEGUN = """
SELECT job_id, project_id, epoch_ns(j.began) / 1e9, runner, ref, name FROM jobs AS j
WHERE host = $1 AND ci = 'gitlab' AND job_id IS NOT NULL AND j.began >= make_timestamp_ns($2)
    AND job IN (SELECT unnest($3::INTEGER[]))
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
# Jobs are numbered as they are first heard of: those of which nothing happened lately need not be looked through. Of a
# busy project's past the latest of each name are enough.
_NUMBERS = f"""
SELECT job FROM job WHERE host = $1 AND ci = 'gitlab'
    AND job >= (SELECT min(job) FROM event WHERE host = $1 AND time >= make_timestamp_ns($2))
    AND (job_id IN (SELECT unnest($3::VARCHAR[])) OR project_id IN (SELECT unnest($4::VARCHAR[])))
QUALIFY job_id IN (SELECT unnest($3::VARCHAR[]))
    OR row_number() OVER (PARTITION BY project_id, runner, name ORDER BY job DESC)
        <= CASE WHEN name IS NULL THEN {_LATEST_UNNAMED} ELSE {_LATEST_OF_NAME} END
"""
# All events of these jobs and of their containers, and those of other jobs that may have pulled the same images.
_OF_JOBS = f"""
CREATE OR REPLACE TEMP TABLE of_jobs AS
WITH own AS (SELECT unnest($jobs::INTEGER[]) AS job),
build AS (
    SELECT image, event.time, row_number() OVER (PARTITION BY project_id, runner ORDER BY event.time DESC) AS latest
    FROM event SEMI JOIN own USING (job) JOIN job USING (host, job)
    WHERE host = $host AND role = 'build' AND image IS NOT NULL AND container IS NOT NULL
        AND event.time >= make_timestamp_ns($lately)
), built AS (
    SELECT image, min(time) - to_seconds({int(PREPARATION_S)}) AS since FROM build WHERE latest <= {_LATEST}
    GROUP BY image
), wanted AS (
    FROM own UNION SELECT job FROM event JOIN built USING (image)
    WHERE host = $host AND role = 'build' AND job IS NOT NULL AND container IS NOT NULL AND time >= since
)
FROM event SEMI JOIN wanted USING (job) WHERE host = $host AND kind NOT IN ({_CONTAINERS})
UNION ALL BY NAME SELECT {_PLAINLY} FROM event SEMI JOIN wanted USING (job)
WHERE host = $host AND kind IN ({_CONTAINERS})
UNION ALL BY NAME SELECT {_PLAINLY} FROM event ANTI JOIN wanted USING (job) SEMI JOIN built USING (image)
WHERE host = $host AND kind IN ({_CHANGES})
"""
# What else happened to these containers lately, and ever where it is not known yet of which image they are.
_THEIRS = """
SELECT container, bool_or(image IS NULL) FROM of_jobs WHERE container IS NOT NULL
GROUP BY container HAVING max(time) >= make_timestamp_ns(?) OR bool_or(image IS NULL)
"""
_MORE = f"""
INSERT INTO of_jobs BY NAME SELECT {_PLAINLY} FROM event
WHERE host = $host AND kind IN ({_CONTAINERS}) AND time >= make_timestamp_ns($since)
    AND container IN (SELECT unnest($containers::VARCHAR[])) AND seq NOT IN (SELECT seq FROM of_jobs)
"""
