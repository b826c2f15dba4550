"""What each pull cost, and who paid for it: the bytes of the layers that were missing at that moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import duckdb

from collector.eventlog.sql import sql_list, sql_text
from collector.model.events import CONTAINERS, with_effect
from collector.model.traits import Effect


class PullKind(StrEnum):
    """What a pull was for."""

    FIRST = "first"
    AGAIN = "again"
    UP_TO_DATE = "up to date"


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull.

    Attributes:
        time_ns: when it ended, UTC nanoseconds.
        image: the log's number of the image.
        reference: what was asked for.
        kind: whether the image was new to the host, had been there before, or was there.
        bytes: of the layers that no image held at that moment.
        job: the log's number of the job that used it first afterwards; None: no job did within an hour.
    """

    time_ns: int
    image: int
    reference: str | None
    kind: PullKind
    bytes: int
    job: int | None


Row = tuple[int, int, str, int, str | None, int | None]
Layers = Mapping[int, tuple[tuple[str, int], ...]]


class _Held:
    """Which images, and so which layers, the engine holds."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._holders: dict[str, int] = {}
        self.images: set[int] = set()
        self.ever: set[int] = set()

    def add(self, image: int) -> int:
        """Take an image in; bytes of its layers that were not there."""
        if image in self.images:
            return 0
        missing = 0
        for chain, size in self._layers.get(image, ()):
            missing += size if not self._holders.get(chain) else 0
            self._holders[chain] = self._holders.get(chain, 0) + 1
        self.images.add(image)
        self.ever.add(image)
        return missing

    def remove(self, image: int) -> None:
        if image in self.images:
            self.images.remove(image)
            for chain, _ in self._layers.get(image, ()):
                self._holders[chain] -= 1


def fold(rows: Iterable[Row], layers: Layers) -> list[Pull]:
    """The pulls among what happened to images.

    Args:
        rows: (UTC nanoseconds, number of the event, its kind, image, reference, job), in order.
        layers: (chain ID, bytes) of each image.
    """
    held = _Held(layers)
    found = []
    for time_ns, _, event, image, reference, job in rows:
        if event == "image_deleted":
            held.remove(image)
        elif event != "image_pulled":
            held.add(image)
        elif image in held.images:
            found.append(Pull(time_ns, image, reference, PullKind.UP_TO_DATE, 0, job))
        else:
            kind = PullKind.AGAIN if image in held.ever else PullKind.FIRST
            found.append(Pull(time_ns, image, reference, kind, held.add(image), job))
    return found


def read_pulls(connection: duckdb.DuckDBPyConnection, host: str, images: Collection[int] | None = None) -> list[Pull]:
    """All pulls on a host, in order.

    Args:
        connection: the log.
        host: whose.
        images: of which images; None: of all. Layers are read only if a pull of these fetched any.
    """
    if images is None:
        return fold(_read_rows(connection, host), read_layers(connection, host))
    rows = _read_rows(connection, host, images)
    pulls = fold(rows, {})
    if all(pull.kind is PullKind.UP_TO_DATE for pull in pulls):
        return pulls
    layers = read_layers(connection, host, images)
    # Which jobs others were pulled for need not be known.
    others = _read_rows(connection, host, layers.keys() - set(images), by_jobs=False)
    found = fold(sorted((*rows, *others), key=lambda row: row[:2]), layers)
    return [pull for pull in found if pull.image in images]


def _read_rows(
    connection: duckdb.DuckDBPyConnection, host: str, images: Collection[int] | None = None, *, by_jobs: bool = True
) -> list[Row]:
    """What happened to images, as `fold` takes it; None: to all. Whether with the jobs that pulls were for."""
    if images is not None and not images:
        return []
    values, of = {"host": host}, "image IS NOT NULL" if images is None else f"image IN ({', '.join(map(str, images))})"
    is_watched = connection.execute(_WATCHED, values).fetchall()
    happened = _HAPPENED.format(of=of) + ("" if is_watched else f" UNION ALL {_NAMED.format(of=of)}")
    if not by_jobs:
        return connection.execute(f"SELECT epoch_ns(time), * EXCLUDE (time) FROM ({happened})", values).fetchall()
    among = f"SELECT container FROM event WHERE host = $host AND {of} AND kind IN ({_CONTAINERS})"
    among = "" if images is None else f"AND container IN ({among})"
    return connection.execute(_BY_JOBS.format(happened=happened, of=of, among=among), values).fetchall()


# Where pulls are shorter than that, or smaller, it is the preparation of a job that takes the time.
_LEAST_BYTES, _LEAST_PULLS = 10 * 2**20, 10


def pull_rate(pulls: Iterable[Pull], begun: Mapping[int, int]) -> float | None:
    """How fast the host pulls, in bytes of layers on its disk per second; None: too few pulls show it.

    A runner prepares a job's images one by one: a pull began when the job did, or when the one before had ended.

    Args:
        pulls: in order.
        begun: when each job began, UTC nanoseconds, by the log's number.
    """
    since = dict(begun)
    rates = []
    for pull in pulls:
        if pull.job not in since:
            continue
        took = pull.time_ns - since[pull.job]
        if took > 0:
            since[pull.job] = pull.time_ns
            if pull.bytes >= _LEAST_BYTES:
                rates.append(1e9 * pull.bytes / took)
    return median(rates) if len(rates) >= _LEAST_PULLS else None


def read_pull_rate(connection: duckdb.DuckDBPyConnection, host: str) -> float | None:
    """How fast a host pulls, as `pull_rate` has it, by the jobs of which a runner's log says when they began."""
    begun = dict(connection.execute(_BEGUN, [host]).fetchall())
    return pull_rate(read_pulls(connection, host), begun) if begun else None


_BEGUN = """
SELECT job, epoch_ns(min(time)) FROM event WHERE host = ? AND kind = 'job_started' AND job IS NOT NULL GROUP BY job
"""


def read_layers(connection: duckdb.DuckDBPyConnection, host: str, images: Collection[int] | None = None) -> Layers:
    """(chain ID, bytes) of each image's layers, base first, by the log's number of the image.

    Args:
        connection: the log.
        host: whose.
        images: only of these and of those that share layers with them; None: of all.
    """
    chosen = sharing = "true"
    if images is not None:
        chosen = f"image IN ({', '.join(map(str, images))})"
        own = connection.execute(_LAYERS.format(chosen=chosen, sharing=sharing), [host]).fetchall()
        # To look for some texts takes less than to take all attributes apart.
        found = {f"contains(attributes::VARCHAR, {sql_text(chain)})" for _, chain, _ in own}
        chosen, sharing = "true", " OR ".join(sorted(found)) or "false"
    layers: dict[int, list[tuple[str, int]]] = {}
    for image, chain, size in connection.execute(_LAYERS.format(chosen=chosen, sharing=sharing), [host]).fetchall():
        layers.setdefault(image, []).append((chain, size))
    return {image: tuple(of_image) for image, of_image in layers.items()}


# As the view `image_layers`, which can't be asked for few images.
_LAYERS = """
WITH seen AS (
    SELECT image, arg_max_null(CASE WHEN {sharing} THEN attributes END, seq) AS last FROM event
    WHERE host = ? AND kind = 'image_observed' AND attributes IS NOT NULL AND {chosen}
    GROUP BY image HAVING last IS NOT NULL
), each AS (
    SELECT image, unnest(TRY_CAST(last -> '$.layers' AS JSON[])) AS layer,
        generate_subscripts(TRY_CAST(last -> '$.layers' AS JSON[]), 1) AS position FROM seen
), named AS (SELECT image, coalesce(layer ->> '$.chain_id', layer ->> '$.diff_id') AS chain, layer, position FROM each)
SELECT image, chain, coalesce(TRY_CAST(layer ->> '$.bytes' AS BIGINT), 0) FROM named WHERE chain IS NOT NULL
ORDER BY image, position
"""
_CHANGES = sql_list(with_effect(Effect.COMES, Effect.SEEN, Effect.GOES))
_CONTAINERS = sql_list(CONTAINERS)
_HAPPENED = f"""
SELECT time, seq, kind, image, reference, CAST(NULL AS INTEGER) AS job FROM event
WHERE host = $host AND {{of}} AND kind IN ({_CHANGES})
"""
# A host whose engine nobody watches is known by its jobs' logs only: they name their pulls.
_WATCHED = "SELECT 1 FROM event WHERE host = $host AND kind = 'image_pulled' LIMIT 1"
_NAMED = """
SELECT time, seq, 'image_pulled', image, reference, job FROM event
WHERE host = $host AND {of} AND kind = 'job_image_used' AND attributes ->> '$.pulled' = 'true'
"""
# Containers are those of the view `job_containers`, which can't be asked for those of few images.
_BY_JOBS = f"""
WITH happened AS ({{happened}}), started AS (
    SELECT image, began, user FROM (
        SELECT max(image) AS image, least(min(began), min(time)) AS began, max(job) AS user FROM event
        WHERE host = $host AND kind IN ({_CONTAINERS}) {{among}} GROUP BY container HAVING max(job) IS NOT NULL
    ) WHERE {{of}}
)
SELECT epoch_ns(time), seq, kind, h.image, reference, coalesce(job,
    CASE WHEN kind = 'image_pulled' AND epoch_ns(began) - epoch_ns(time) <= 3600000000000 THEN user END)
FROM happened AS h ASOF LEFT JOIN started AS s ON h.image = s.image AND h.time <= s.began
ORDER BY time, seq
"""
