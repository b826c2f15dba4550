"""Which images a job in flight may need before its build container exists. Pure, but for one reader of the log.

Between the preparation of a job and the creation of its build container lies the time that fetching
its sources takes. The image has no container then, and under the pull policies `if-not-present` and
`never` no pull tells of it either; removed at that moment, it is pulled again, or the job fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.jobs import HELPER_ROLES, job_of
from collector.model.observation import ListedContainer
from collector.model.references import all_aliases, familiar

# A container of a job that has not come to its build by now is a left-over.
_PREPARATION_S = 6 * 3600.0
# A job that a side-band says has begun, and of which no container is seen by now, runs elsewhere.
_UNSEEN_S = 3600.0
# The pull ends some seconds before the first container is created.
_MARGIN_S = 60.0
_BUILD = "build"
# Until 12.9 these outlived their jobs.
_LEFT_OVER = "cache"


class Holdable(Protocol):
    """An image that the engine holds."""

    @property
    def image_id(self) -> str:
        """The engine's ID."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it was ever seen with."""

    @property
    def last_use(self) -> float:
        """Its latest use, UTC seconds."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A job whose build container does not exist yet; `began` in UTC seconds."""

    job_id: str
    project_id: str | None
    began: float


@dataclass(frozen=True, slots=True)
class JobMemory:
    """What the log knows of jobs.

    Attributes:
        images: IDs of the images that a recent job names or has used, by job ID.
        names: what a recent job calls the images that it names, by job ID.
        settled: recent jobs of which it is known which image they build in.
        projects: IDs of all images that a project's jobs have ever used, by project ID.
        always: projects whose jobs pull their image each time, even when it is there.
        begun: jobs that a side-band says have begun and not ended, and that no container shows.
    """

    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    projects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    always: frozenset[str] = frozenset()
    begun: tuple[Flight, ...] = ()


def flights(containers: Iterable[ListedContainer], memory: JobMemory, now: float) -> list[Flight]:
    """The jobs whose build container does not exist yet.

    Args:
        containers: all that the engine lists, in any state.
        memory: what the log knows.
        now: UTC seconds.
    """
    began: dict[str, Flight] = {}
    building: set[str] = set()
    for row in containers:
        found = job_of(row.labels)
        if found is None or found[0].ci != "gitlab" or found[0].job_id is None:
            continue
        job, role = found
        created = row.created_ns / 1e9
        if role == _BUILD:
            building.add(str(job.job_id))
        elif row.state == "running" or (role != _LEFT_OVER and created > now - _PREPARATION_S):
            known = began.get(str(job.job_id))
            first = created if known is None else min(created, known.began)
            began[str(job.job_id)] = Flight(str(job.job_id), job.project_id, first)
    for told in memory.begun:
        if told.began > now - _UNSEEN_S:
            began.setdefault(told.job_id, told)
    return [flight for job_id, flight in began.items() if job_id not in building]


def held_for_jobs(
    containers: Iterable[ListedContainer], images: Iterable[Holdable], memory: JobMemory, now: float
) -> frozenset[str]:
    """IDs of the images that jobs in flight may need.

    If a side-band or an earlier container tells the job's image, it is that one. Else it may be any
    that the project has used before (unless its jobs pull each time), or that was pulled or used
    since the job began.

    Args:
        containers: all that the engine lists, in any state.
        images: the images that the engine holds.
        memory: what the log knows.
        now: UTC seconds.
    """
    held: set[str] = set()
    present = list(images)
    for flight in flights(containers, memory, now):
        named = memory.names.get(flight.job_id, frozenset())
        held |= memory.images.get(flight.job_id, frozenset())
        held |= {image.image_id for image in present if not named.isdisjoint(all_aliases(image.names))}
        if flight.job_id in memory.settled:
            continue
        held |= {image.image_id for image in present if image.last_use >= flight.began - _MARGIN_S}
        if flight.project_id is not None and flight.project_id not in memory.always:
            held |= memory.projects.get(flight.project_id, frozenset())
    return frozenset(held)


def read_jobs(log: EventLog, now: float) -> JobMemory:
    """What the log knows of jobs. Raises LogError.

    Args:
        log: the log.
        now: UTC seconds; what a job names is of use for as long as its preparation may take.
    """
    since = int((now - _PREPARATION_S) * 1e9)
    with log.reading() as connection:
        host = [log.host]
        recent = connection.execute(_RECENT, [log.host, since]).fetchall()
        projects = connection.execute(_PROJECTS, host).fetchall()
        always = connection.execute(_ALWAYS, [log.host, _MARGIN_S]).fetchall()
        begun = connection.execute(_BEGUN, [log.host, since]).fetchall()
    images: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    settled: set[str] = set()
    for job_id, role, image, reference in recent:
        if role in HELPER_ROLES:
            continue
        if image is not None:
            images.setdefault(job_id, set()).add(image)
        if reference is not None:
            names.setdefault(job_id, set()).add(familiar(reference))
        if role == _BUILD:
            settled.add(job_id)
    return JobMemory(
        {job: frozenset(found) for job, found in images.items()},
        {job: frozenset(found) for job, found in names.items()},
        frozenset(settled),
        {project: frozenset(found) for project, found in projects},
        frozenset(project for (project,) in always),
        tuple(Flight(*row) for row in begun),
    )


_RECENT = """
SELECT DISTINCT job_id, role, image_id, CASE WHEN evidence <> 'container' THEN asked END
FROM (SELECT * FROM job_images WHERE host = $1 AND began >= make_timestamp_ns($2) AND ci = 'gitlab')
WHERE job_id IS NOT NULL
"""
_HELPERS = sql_list(sorted(HELPER_ROLES))
_PROJECTS = f"""
SELECT project_id, list(DISTINCT image_id) FROM job_images
WHERE host = ? AND ci = 'gitlab' AND project_id IS NOT NULL AND image_id IS NOT NULL
    AND (role IS NULL OR role NOT IN ({_HELPERS}))
GROUP BY project_id
"""
# Of the last jobs of a project, each was preceded by a pull of its image since it began.
_ALWAYS = """
WITH build AS (
    SELECT j.project_id, c.image, c.began AS created, min(f.began) AS first
    FROM job_containers AS c JOIN job AS j ON j.job = c.job AND j.host = c.host
        JOIN job_containers AS f ON f.job = c.job AND f.host = c.host
    WHERE c.host = $1 AND c.role = 'build' AND c.image IS NOT NULL AND j.ci = 'gitlab' AND j.project_id IS NOT NULL
    GROUP BY c.container, j.project_id, c.image, c.began
    QUALIFY row_number() OVER (PARTITION BY j.project_id ORDER BY c.began DESC) <= 20
), pull AS (SELECT image, time FROM event WHERE host = $1 AND kind = 'image_pulled' AND image IS NOT NULL)
SELECT project_id FROM build ASOF LEFT JOIN pull ON build.image = pull.image AND build.created >= pull.time
GROUP BY project_id
HAVING count(*) >= 3 AND bool_and(coalesce(epoch_ns(pull.time) >= epoch_ns(first) - $2 * 1000000000, false))
"""
_BEGUN = """
SELECT job_id, project_id, epoch_ns(began) / 1e9 FROM jobs
WHERE host = $1 AND ci = 'gitlab' AND job_id IS NOT NULL AND ended IS NULL AND containers = 0
    AND began >= make_timestamp_ns($2)
"""
