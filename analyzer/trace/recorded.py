"""What a host's log says of its disk as it was: free space, prunes, and whose jobs used which image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from analyzer.trace.load import DiskOverride
from analyzer.trace.trace import Flags, Floats, Integers, Trace
from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.model.events import with_effect
from collector.model.traits import Effect
from collector.queries.pulls import PullKind, read_pulls
from collector.queries.status import disk_holds

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Presence:
    """When the engine held which image, as recorded, by image, then in time; k intervals.

    Attributes:
        image: whose, the trace's number; shape (k,).
        begin: when it came, seconds after the trace's origin; shape (k,).
        end: when it was removed, or the end of the trace; shape (k,).
        pulled: bytes that were pulled for it; 0 if it came another way, or was there before; shape (k,).
    """

    image: Integers
    begin: Floats
    end: Floats
    pulled: Integers

    @property
    def again(self) -> Flags:
        """Whether the image had been there before; shape (k,)."""
        found: Flags = np.diff(self.image, prepend=-1) == 0
        return found


@dataclass(frozen=True, slots=True)
class Recorded:
    """The host as recorded. Times are seconds after the trace's origin, sizes bytes.

    Attributes:
        seconds: when the disk was sampled, ascending; shape (k,).
        free: free bytes then; shape (k,).
        prunes: (when, bytes freed) of each recorded prune.
        holds: what filled its disk when it was last sampled, bytes by kind.
        projects: of each image, by its ID, the uses by each known project.
        assumed: whether the disk replayed on is not the recorded one, so that its samples say nothing.
        presence: when the engine held which image; None: no collector watched it.
    """

    seconds: Floats
    free: Integers
    prunes: tuple[tuple[float, int], ...] = ()
    projects: dict[str, dict[str, int]] | None = None
    holds: dict[str, int] = field(default_factory=dict)
    assumed: bool = False
    presence: Presence | None = None


_DISK = """
SELECT epoch_ns(time) AS time, free_bytes AS free FROM disks
WHERE host = ? AND main AND free_bytes IS NOT NULL ORDER BY disks.time
"""
_PRUNES = "SELECT epoch_ns(started), coalesce(freed_bytes, 0) FROM prunes WHERE host = ? AND started IS NOT NULL"
_PROJECTS = """
SELECT image_id, coalesce(project, project_id) AS owner, count(*) FROM job_images
WHERE host = ? AND image_id IS NOT NULL AND coalesce(project, project_id) IS NOT NULL GROUP BY image_id, owner
"""

# Only a collector sees images come and go; an imported list of jobs names them.
_CHANGES = f"""
WITH change AS (
    SELECT image_id, epoch_ns(time) AS moment, seq, kind IN ({sql_list(with_effect(Effect.GOES))}) AS gone
    FROM event JOIN image USING (image)
    WHERE host = $host AND kind IN ({sql_list(with_effect(Effect.COMES, Effect.SEEN, Effect.GOES))})
        AND EXISTS (FROM event WHERE host = $host AND kind = 'collector_started')
), turn AS (SELECT *, lag(gone) OVER (PARTITION BY image_id ORDER BY seq) AS before FROM change)
SELECT image_id, moment, gone FROM turn WHERE before IS DISTINCT FROM gone AND NOT (before IS NULL AND gone)
ORDER BY image_id, seq
"""


def read_recorded(log: EventLog, trace: Trace, disk: DiskOverride | None = None) -> Recorded:
    """What the log says of the trace's host, whose disk may have been replaced. Raises LogError."""
    assumed = disk is not None and disk != DiskOverride()
    with log.reading() as connection:
        query = f"{_DISK}{' LIMIT 0' if assumed else ''}"
        samples = cast("dict[str, NDArray[np.int64]]", connection.execute(query, [trace.host]).fetchnumpy())
        prunes = connection.execute(_PRUNES, [trace.host]).fetchall()
        filled = {} if assumed else disk_holds(connection, trace.host)
        owners = connection.execute(_PROJECTS, [trace.host]).fetchall()
        presence = _presence(connection, trace)
    projects: dict[str, dict[str, int]] = {}
    for image_id, owner, uses in owners:
        projects.setdefault(image_id, {})[str(owner)] = uses
    return Recorded(
        seconds=(samples["time"].astype(np.int64) - trace.origin_ns) / 1e9,
        free=samples["free"].astype(np.int64),
        prunes=tuple(sorted(((started - trace.origin_ns) / 1e9, int(freed)) for started, freed in prunes)),
        projects=projects,
        holds=filled,
        assumed=assumed,
        presence=presence,
    )


def _presence(connection: duckdb.DuckDBPyConnection, trace: Trace) -> Presence | None:
    number = {image_id: k for k, image_id in enumerate(trace.image_ids)}
    rows = connection.execute(_CHANGES, {"host": trace.host}).fetchall()
    changes = [(number[image], (at - trace.origin_ns) / 1e9, gone) for image, at, gone in rows if image in number]
    if not changes:
        return None
    found: list[list[float]] = []
    for image, at, gone in sorted(changes, key=lambda change: change[0]):
        if gone:
            found[-1][2] = at
        else:
            found.append([image, max(0.0, at), trace.end, 0.0])
    begins = np.array([(image, begin) for image, begin, _, _ in found])
    ids = dict(connection.execute("SELECT image, image_id FROM image").fetchall())
    for pull in read_pulls(connection, trace.host):
        if pull.kind is PullKind.UP_TO_DATE or ids[pull.image] not in number:
            continue
        # The inventory sees an image some moments after its pull has ended, or before the engine reports it.
        near = np.abs(begins[:, 1] - (pull.time_ns - trace.origin_ns) / 1e9)
        at = int(np.argmin(np.where(begins[:, 0] == number[ids[pull.image]], near, np.inf)))
        found[at][3] += pull.bytes
    columns = np.array(found)
    return Presence(columns[:, 0].astype(np.int64), columns[:, 1], columns[:, 2], columns[:, 3].astype(np.int64))
