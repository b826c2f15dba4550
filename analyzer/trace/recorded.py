"""What a host's log says of its disk as it was: free space, prunes, and whose jobs used which image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from analyzer.trace.load import DiskOverride
from analyzer.trace.trace import Floats, Integers, Trace
from collector.eventlog.log import EventLog


@dataclass(frozen=True, slots=True)
class Recorded:
    """The host as recorded. Times are seconds after the trace's origin, sizes bytes.

    Attributes:
        seconds: when the disk was sampled, ascending; shape (k,).
        free: free bytes then; shape (k,).
        prunes: (when, bytes freed) of each recorded prune.
        assumed: whether the disk replayed on is not the recorded one, so that its samples say nothing.
        projects: of each image, by its ID, the uses by each known project.
    """

    seconds: Floats
    free: Integers
    prunes: tuple[tuple[float, int], ...] = ()
    projects: dict[str, dict[str, int]] | None = None
    assumed: bool = False


_DISK = """
SELECT epoch_ns(time) AS time, free_bytes AS free FROM disk
WHERE host = ? AND free_bytes IS NOT NULL ORDER BY disk.time
"""
_PRUNES = "SELECT epoch_ns(started), coalesce(freed_bytes, 0) FROM prunes WHERE host = ? AND started IS NOT NULL"
_PROJECTS = """
SELECT image_id, coalesce(project, project_id) AS owner, count(*) FROM job_images
WHERE host = ? AND image_id IS NOT NULL AND coalesce(project, project_id) IS NOT NULL GROUP BY image_id, owner
"""


def read_recorded(log: EventLog, trace: Trace, disk: DiskOverride | None = None) -> Recorded:
    """What the log says of the trace's host, whose disk may have been replaced. Raises LogError."""
    assumed = disk is not None and disk != DiskOverride()
    with log.reading() as connection:
        query = f"{_DISK}{' LIMIT 0' if assumed else ''}"
        samples = cast("dict[str, NDArray[np.int64]]", connection.execute(query, [trace.host]).fetchnumpy())
        prunes = connection.execute(_PRUNES, [trace.host]).fetchall()
        owners = connection.execute(_PROJECTS, [trace.host]).fetchall()
    projects: dict[str, dict[str, int]] = {}
    for image_id, owner, uses in owners:
        projects.setdefault(image_id, {})[str(owner)] = uses
    return Recorded(
        seconds=(samples["time"].astype(np.int64) - trace.origin_ns) / 1e9,
        free=samples["free"].astype(np.int64),
        prunes=tuple(sorted(((started - trace.origin_ns) / 1e9, int(freed)) for started, freed in prunes)),
        projects=projects,
        assumed=assumed,
    )
