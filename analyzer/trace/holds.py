"""What jobs in flight held, as `pruner.state.jobs_in_flight` would have it, from a log.

A flight's end, its evidence and its guesses are the pruner's own, with three differences: a pull policy is what the
log shows in the end, for the runner's configuration is not in it; what a job's project used lately is that of the time
when the job began; and what was pulled since the job began is what was pulled in fact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from collector.eventlog.sql import CHOSEN_BY_JOB, sql_list
from collector.model.events import CONTAINERS
from collector.model.jobs import SLOT
from collector.model.units import format_count
from pruner.state.job_memory import LATELY_S, read_pull_policies
from pruner.state.jobs_in_flight import MARGIN_S, PREPARATION_S, SETTLE_S, UNSEEN_S

_NS = 10**9
_MS = 10**6
_MS_BITS = 42
_NEVER = 2**62
_LATELY_NS = int(LATELY_S * _NS)
# Who runs a job: jobs that have these in common are guessed to need the same.
_WHO = """
    CREATE OR REPLACE TEMP TABLE who AS SELECT row_number() OVER () - 1 AS who, * FROM (
        SELECT DISTINCT project_id, ref, name, runner FROM job WHERE host = ? AND ci = 'gitlab'
    )
"""
_JOBS = """
    CREATE OR REPLACE TEMP TABLE of_who AS
    SELECT job, who, job_id IS NOT NULL AS flies FROM job JOIN who ON job.project_id IS NOT DISTINCT FROM who.project_id
        AND job.ref IS NOT DISTINCT FROM who.ref AND job.name IS NOT DISTINCT FROM who.name
        AND job.runner IS NOT DISTINCT FROM who.runner
    WHERE host = ? AND ci = 'gitlab'
"""
_OVER, _SETTLED, _OPEN = 1, 2, 3
# `settled`: a job source named the image that the job builds in.
_SAID = f"""
    SELECT job, time, least(began, time) AS first, container IS NOT NULL AS shown, CAST(CASE
        WHEN kind = 'job_finished' OR kind = 'container_created' AND role = 'build' THEN {_OVER}
        WHEN kind = 'job_image_used' AND role = 'build' THEN {_SETTLED}
        WHEN kind = 'job_started' THEN {_OPEN} ELSE 0 END AS UTINYINT) AS sign
    FROM event WHERE host = $host AND job IS NOT NULL
"""
# When the next job in the same slot of its runner began.
_LATER = """
    SELECT job, lead(began) OVER (PARTITION BY slot ORDER BY began, job) AS later FROM (
        SELECT job, contested.began, max(regexp_extract(attributes ->> '$.name', $slot)) AS slot
        FROM event JOIN contested USING (job) WHERE host = $host AND kind = 'container_created' GROUP BY ALL
    ) WHERE slot <> '' QUALIFY later IS NOT NULL
"""
# Only what creates a container says whose it is.
_STOPPED = """
    SELECT own.job, max(epoch_ns(event.time)) AS stopped FROM event JOIN (
        SELECT container, job FROM event SEMI JOIN waiting USING (job) WHERE host = $host AND kind = 'container_created'
    ) AS own USING (container)
    WHERE host = $host AND kind IN ('container_died', 'container_destroyed') GROUP BY own.job
"""
# What a job's source names stays until the job has its build container; a job names it when that is logged.
_NAMED = f"""
    SELECT greatest(time, began) AS time, ended AS until, image, job FROM (
        SELECT job, image, min(epoch_ns(time)) AS time FROM event SEMI JOIN flight USING (job)
        WHERE host = $host AND kind = 'job_image_used' AND image IS NOT NULL
            AND {CHOSEN_BY_JOB}
        GROUP BY ALL
    ) JOIN flight USING (job) WHERE ended > time ORDER BY ALL
"""
_ASKED = """
    SELECT job, image FROM event SEMI JOIN flight USING (job)
    WHERE host = $host AND kind = 'container_created' AND image IS NOT NULL
"""
# When a project's jobs, by name or ref or all of them, had used an image lately. Services alone count once the
# job's own image is known. Times within less than that of each other need not be distinguished.
_LATELY = f"""
    CREATE OR REPLACE TEMP TABLE lately AS
    WITH used AS (
        SELECT who, image, coalesce(role = 'service', false) AS service, epoch_ns(time) // {_LATELY_NS} AS week,
            min(epoch_ns(time)) AS first, max(epoch_ns(time)) AS last
        FROM event JOIN of_who USING (job)
        WHERE host = $host AND image IS NOT NULL AND kind IN ('job_image_used', {sql_list(CONTAINERS)})
            AND {CHOSEN_BY_JOB}
        GROUP BY ALL
    ), under AS (
        SELECT alike, image, service, week, min(first) AS first, max(last) AS last FROM used JOIN alike USING (who)
        GROUP BY ALL
    ), apart AS (
        SELECT *, coalesce(first - lag(last) OVER same > {_LATELY_NS}, true) AS begins FROM under
        WINDOW same AS (PARTITION BY alike, image, service ORDER BY week)
    ), numbered AS (
        SELECT *, sum(begins::INTEGER) OVER (
            PARTITION BY alike, image, service ORDER BY week ROWS UNBOUNDED PRECEDING
        ) AS number FROM apart
    )
    SELECT alike, image, service, min(first) AS since, max(last) + {_LATELY_NS} AS until
    FROM numbered GROUP BY alike, image, service, number
"""
# Jobs of the same project and name, of the same project and ref, of the same project.
_ALIKE = """
    CREATE OR REPLACE TEMP TABLE alike AS
    SELECT who, level, dense_rank() OVER (ORDER BY level, project_id, value) AS alike FROM (
        SELECT who, project_id, 1 AS level, name AS value FROM who
        UNION ALL SELECT who, project_id, 2, ref FROM who
        UNION ALL SELECT who, project_id, 3, '' FROM who
    ) WHERE project_id IS NOT NULL AND value IS NOT NULL
"""
_GUESSING = """
    CREATE OR REPLACE TEMP TABLE guessing AS
    SELECT job, who, from_ns, until_ns, services FROM (
        SELECT job, who, began AS from_ns, least(ended, settled) AS until_ns, false AS services FROM flight
        UNION ALL SELECT job, who, greatest(began, settled), ended, true FROM flight
    ) JOIN who USING (who)
    WHERE from_ns < until_ns AND NOT list_contains($always::VARCHAR[], concat_ws(chr(10), project_id, runner))
"""
_SIMILAR = """
    SELECT job, from_ns, until_ns, services, image FROM {guessing} JOIN alike USING (who) JOIN lately USING (alike)
    WHERE level = {level} AND (service OR NOT services) AND from_ns BETWEEN since AND until
"""
_GUESSED = f"""
    WITH by_name AS ({_SIMILAR.format(level=1, guessing="guessing")}),
    nameless AS (FROM guessing ANTI JOIN by_name USING (job, services)),
    by_ref AS ({_SIMILAR.format(level=2, guessing="nameless")}),
    refless AS (FROM nameless ANTI JOIN by_ref USING (job, services)),
    found AS (FROM by_name UNION ALL FROM by_ref UNION ALL {_SIMILAR.format(level=3, guessing="refless")})
    SELECT from_ns AS time, until_ns AS until, image, 2 AS rank, job FROM found
"""
_UNSETTLED = "SELECT job, from_ns, until_ns FROM guessing WHERE NOT services"
_PULLED = """
    SELECT epoch_ns(time) AS time, image FROM event WHERE host = $host AND kind = 'image_pulled' AND image IS NOT NULL
    ORDER BY time
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


def read_holds(connection: duckdb.DuckDBPyConnection, host: str, local: NDArray[Any], end: int) -> JobHolds:
    """What GitLab's jobs in flight held.

    Args:
        connection: the log.
        host: whose history.
        local: the log's numbers of the images that exist only on the host.
        end: where the history ends, UTC nanoseconds.
    """
    connection.execute(_WHO, [host])
    connection.execute(_JOBS, [host])
    firm, guesses = _no_holds(), _no_holds()
    if _find_flights(connection, host):
        firm, guesses = _read_held(connection, host, local, end)
        asked = _distinct(_pairs(_columns(connection, _ASKED, {"host": host})))
    notes = []
    for columns, what in (
        (firm, "images stay for jobs in flight that need them"),
        (guesses, "images go last that jobs in flight may need, judging by their projects' past"),
    ):
        pairs = _pairs(columns)
        if count := len(_distinct(pairs)):
            over = _distinct(pairs[columns["until"] <= end])
            vain = len(over) - int(np.sum(np.diff(np.searchsorted(asked, (over, over + 1)), axis=0)))
            of = "for an image of which the job then had no container"
            notes.append(f"{what}: {format_count(count, 'hold')}, {vain:,} of them {of}")
    return JobHolds(firm, guesses, tuple(notes))


def _read_held(
    connection: duckdb.DuckDBPyConnection, host: str, local: NDArray[Any], end: int
) -> tuple[Columns, Columns]:
    connection.execute(_ALIKE)
    connection.execute(_LATELY, {"host": host})
    always = read_pull_policies(connection, host, end / _NS - LATELY_S)
    connection.execute(_GUESSING, {"always": ["\n".join(filter(None, pair)) for pair in always]})
    named = _columns(connection, _NAMED, {"host": host})
    guessed = _in_order(
        _columns(connection, _GUESSED),
        _pulled_since(_columns(connection, _PULLED, {"host": host}), _columns(connection, _UNSETTLED)),
    )
    lost = np.isin(guessed["image"], local)
    firm = {
        name: np.concatenate((named[name], guessed[name][lost])).astype(np.int64)
        for name in ("time", "until", "image", "job")
    }
    return firm, {name: column[~lost] for name, column in guessed.items()}


def _pulled_since(pulls: Columns, guessing: Columns) -> Columns:
    """What was pulled while each job was in flight."""
    first = np.searchsorted(pulls["time"], guessing["from_ns"] - int(MARGIN_S * _NS))
    count = np.searchsorted(pulls["time"], guessing["until_ns"]) - first
    of = np.repeat(np.arange(len(count)), count)
    pull = np.arange(len(of)) + np.repeat(first - (np.cumsum(count) - count), count)
    return {
        "time": np.maximum(pulls["time"][pull], guessing["from_ns"][of]),
        "until": guessing["until_ns"][of],
        "image": pulls["image"][pull],
        "rank": np.ones(len(of), dtype=np.int64),
        "job": guessing["job"][of],
    }


def _in_order(*parts: Columns) -> Columns:
    """The rows of these, by time and then by the other columns."""
    columns = {name: np.concatenate([part[name] for part in parts]).astype(np.int64) for name in parts[0]}
    last = columns["image"] << 34 | columns["rank"] << 32 | columns["job"]
    order = np.lexsort((last, columns["until"], columns["time"]))
    return {name: column[order] for name, column in columns.items()}


def _find_flights(connection: duckdb.DuckDBPyConnection, host: str) -> int:
    """Make the table of when each job was in flight; returns how many were."""
    jobs = _columns(connection, "FROM of_who ORDER BY job")
    # What is known of each job stands at its place among them: a foreign log may number them as it likes.
    number, who, span = jobs["job"], jobs["who"], len(jobs["job"])
    said = _columns(connection, _SAID, {"host": host})
    at = np.minimum(np.searchsorted(number, said["job"]), span - 1)
    kept = jobs["flies"][at] & (number[at] == said["job"])
    at, sign = at[kept], said["sign"][kept]
    time, first = said["time"][kept].view(np.int64), said["first"][kept].view(np.int64)
    shown, is_open = np.zeros((2, span), dtype=np.bool_)
    shown[at[said["shown"][kept]]] = True
    is_open[at[sign == _OPEN]] = True
    began, over, settled = np.full((3, span), _NEVER)
    np.minimum.at(began, at, first)
    for moment, of in ((over, _OVER), (settled, _SETTLED)):
        np.minimum.at(moment, at[sign == of], time[sign == of])
    ended = np.minimum(over, began + np.where(shown, int(PREPARATION_S * _NS), int(UNSEEN_S * _NS)))
    contested = np.flatnonzero(_are_contested(connection, who, began, ended))
    if len(contested):
        with _shown(connection, "contested", job=number[contested], began=began[contested]):
            later = _columns(connection, _LATER, {"host": host, "slot": SLOT.pattern})
        np.minimum.at(ended, np.searchsorted(number, later["job"]), later["later"])
    # A container ends after it began: only a job that waits for long can be over by that.
    waiting = np.flatnonzero(~is_open & (ended - began > int(SETTLE_S * _NS)))
    if len(waiting):
        with _shown(connection, "waiting", job=number[waiting]):
            stops = _columns(connection, _STOPPED, {"host": host})
        np.minimum.at(ended, np.searchsorted(number, stops["job"]), stops["stopped"] + int(SETTLE_S * _NS))
    flying = np.flatnonzero(began < ended)
    facts = {"job": number[flying], "who": who[flying]}
    facts |= {"began": began[flying], "settled": settled[flying], "ended": ended[flying]}
    with _shown(connection, "found", **facts):
        connection.execute("CREATE OR REPLACE TEMP TABLE flight AS FROM found")
    return len(flying)


def _are_contested(
    connection: duckdb.DuckDBPyConnection, who: NDArray[Any], began: NDArray[Any], ended: NDArray[Any]
) -> NDArray[np.bool_]:
    """Which jobs began while another of their project was in flight, or the other way round: they may share a slot."""
    found = np.zeros(len(who), dtype=np.bool_)
    known = np.flatnonzero(began < _NEVER)
    if not len(known):
        return found
    projects = _columns(connection, "SELECT dense_rank() OVER (ORDER BY project_id) AS project FROM who ORDER BY who")
    # One number for project and millisecond, for one sort and one running maximum.
    base = began[known].min()
    line = projects["project"].astype(np.int64)[who[known]] << _MS_BITS
    begins = line + (began[known] - base) // _MS
    reaches = np.where(ended[known] > began[known], line + (ended[known] - base) // _MS, -1)
    order = np.argsort(begins, kind="stable")
    known, begins, reaches = known[order], begins[order], reaches[order]
    follows = begins[1:] <= np.maximum.accumulate(reaches)[:-1]
    found[known[1:][follows]] = True
    found[known[:-1][begins[1:] <= reaches[:-1]]] = True
    return found


@contextmanager
def _shown(connection: duckdb.DuckDBPyConnection, name: str, **columns: NDArray[Any]) -> Iterator[None]:
    """Let queries read columns as a table."""
    connection.register(name, columns)
    try:
        yield
    finally:
        connection.unregister(name)


def _no_holds() -> Columns:
    return {name: np.empty(0, dtype=np.int64) for name in ("time", "until", "image", "rank", "job")}


def _columns(connection: duckdb.DuckDBPyConnection, sql: str, parameters: object = None) -> Columns:
    return {name: np.asarray(column) for name, column in connection.execute(sql, parameters).fetchnumpy().items()}


def _pairs(columns: Columns) -> NDArray[np.int64]:
    """Job and image of each row as one number."""
    found: NDArray[np.int64] = columns["job"].astype(np.int64) << 32 | columns["image"].astype(np.int64)
    return found


def _distinct(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted: `numpy.unique` takes ten times as long for millions."""
    ordered = np.sort(pairs)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
