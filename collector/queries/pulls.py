"""What each pull cost, and who paid for it: the bytes of the layers that were missing at that moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import duckdb

from collector.eventlog.sql import sql_list, sql_text
from collector.model.events import with_effect
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


def fold(rows: Iterable[tuple[int, str, int, str | None, int | None]], layers: Layers) -> list[Pull]:
    """The pulls among what happened to images.

    Args:
        rows: (UTC nanoseconds, kind of event, image, reference, job), in order.
        layers: (chain ID, bytes) of each image.
    """
    held = _Held(layers)
    found = []
    for time_ns, event, image, reference, job in rows:
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
    pulls = fold(_read_rows(connection, host, images), {})
    if all(pull.kind is PullKind.UP_TO_DATE for pull in pulls):
        return pulls
    layers = read_layers(connection, host, images)
    found = fold(_read_rows(connection, host, {*images, *layers}), layers)
    return [pull for pull in found if pull.image in images]


def _read_rows(
    connection: duckdb.DuckDBPyConnection, host: str, images: Collection[int] | None = None
) -> list[tuple[int, str, int, str | None, int | None]]:
    """What happened to images, as `fold` takes it; None: to all."""
    chosen = "image IS NOT NULL" if images is None else f"image IN ({', '.join(map(str, images))})"
    return connection.execute(_ROWS.format(chosen=chosen), {"host": host}).fetchall()


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
        found = {f"contains(last::VARCHAR, {sql_text(chain)})" for _, chain, _ in own}
        chosen, sharing = "true", " OR ".join(sorted(found)) or "false"
    layers: dict[int, list[tuple[str, int]]] = {}
    for image, chain, size in connection.execute(_LAYERS.format(chosen=chosen, sharing=sharing), [host]).fetchall():
        layers.setdefault(image, []).append((chain, size))
    return {image: tuple(of_image) for image, of_image in layers.items()}


# As the view `image_layers`, which can't be asked for few images.
_LAYERS = """
WITH seen AS (
    SELECT image, max_by(attributes, seq) AS last FROM event WHERE host = ? AND kind = 'image_observed' AND {chosen}
    GROUP BY image HAVING {sharing}
), each AS (
    SELECT image, unnest(TRY_CAST(last -> '$.layers' AS JSON[])) AS layer,
        generate_subscripts(TRY_CAST(last -> '$.layers' AS JSON[]), 1) AS position FROM seen
), named AS (SELECT image, coalesce(layer ->> '$.chain_id', layer ->> '$.diff_id') AS chain, layer, position FROM each)
SELECT image, chain, coalesce(TRY_CAST(layer ->> '$.bytes' AS BIGINT), 0) FROM named WHERE chain IS NOT NULL
ORDER BY image, position
"""
_CHANGES = sql_list(with_effect(Effect.COMES, Effect.SEEN, Effect.GOES))
# A host whose engine nobody watches is known by its jobs' logs only: they name their pulls.
_ROWS = f"""
WITH watched AS (SELECT count(*) > 0 AS yes FROM event WHERE host = $host AND kind = 'image_pulled'),
    happened AS (
        SELECT time, seq, kind, image, reference, CAST(NULL AS INTEGER) AS job FROM event
        WHERE host = $host AND {{chosen}} AND kind IN ({_CHANGES})
        UNION ALL
        SELECT time, seq, 'image_pulled', image, reference, job FROM event, watched
        WHERE host = $host AND NOT yes AND {{chosen}} AND kind = 'job_image_used'
            AND attributes ->> '$.pulled' = 'true'
    ),
    started AS (SELECT image, began, job AS user FROM job_containers WHERE host = $host AND {{chosen}})
SELECT epoch_ns(time), kind, h.image, reference, coalesce(job,
    CASE WHEN kind = 'image_pulled' AND epoch_ns(began) - epoch_ns(time) <= 3600000000000 THEN user END)
FROM happened AS h ASOF LEFT JOIN started AS s ON h.image = s.image AND h.time <= s.began
ORDER BY time, seq
"""
