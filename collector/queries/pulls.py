"""What each pull cost, and who paid for it: the bytes of the layers that were missing at that moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import duckdb

from collector.eventlog.sql import sql_list
from collector.model.events import Effect, with_effect


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


def read_pulls(connection: duckdb.DuckDBPyConnection, host: str) -> list[Pull]:
    """All pulls on a host, in order."""
    return fold(connection.execute(_ROWS, {"host": host}).fetchall(), read_layers(connection, host))


def read_layers(connection: duckdb.DuckDBPyConnection, host: str) -> dict[int, tuple[tuple[str, int], ...]]:
    """(chain ID, bytes) of each image's layers, base first, by the log's number of the image."""
    found: dict[int, list[tuple[str, int]]] = {}
    for image, chain, size in connection.execute(_LAYERS, [host]).fetchall():
        found.setdefault(image, []).append((chain, size))
    return {image: tuple(layers) for image, layers in found.items()}


_LAYERS = """
SELECT image, coalesce(chain_id, diff_id), coalesce(bytes, 0) FROM image_layers WHERE host = ? ORDER BY image, position
"""
_CHANGES = sql_list(with_effect(Effect.COMES, Effect.SEEN, Effect.GOES))
# A host whose engine nobody watches is known by its jobs' logs only: they name their pulls.
_ROWS = f"""
WITH watched AS (SELECT count(*) > 0 AS yes FROM event WHERE host = $host AND kind = 'image_pulled'),
    happened AS (
        SELECT time, seq, kind, image, reference, CAST(NULL AS INTEGER) AS job FROM event
        WHERE host = $host AND image IS NOT NULL AND kind IN ({_CHANGES})
        UNION ALL
        SELECT time, seq, 'image_pulled', image, reference, job FROM event, watched
        WHERE host = $host AND NOT yes AND image IS NOT NULL AND kind = 'job_image_used'
            AND attributes ->> '$.pulled' = 'true'
    ),
    started AS (SELECT image, began, job AS user FROM job_containers WHERE host = $host AND image IS NOT NULL)
SELECT epoch_ns(time), kind, h.image, reference, coalesce(job,
    CASE WHEN kind = 'image_pulled' AND epoch_ns(began) - epoch_ns(time) <= 3600000000000 THEN user END)
FROM happened AS h ASOF LEFT JOIN started AS s ON h.image = s.image AND h.time <= s.began
ORDER BY time, seq
"""
