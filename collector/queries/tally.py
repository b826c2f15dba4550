"""What a log adds up to, for counters that go on where they were after a restart."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

import duckdb

from collector.eventlog.log import METRICS, EventLog
from collector.eventlog.pace import Pace, rest
from collector.eventlog.sql import sql_list
from collector.model.errors import LogError
from collector.model.events import ITEM_ENDS, USES, Kind, with_effect
from collector.model.traits import Effect, Use
from collector.model.untrusted import read_object
from collector.queries.project_costs import ProjectCosts

_NS = 1e9
# What a long log adds up to needs no more memory than a short one, and keeps nobody out for long.
PACE = Pace(100_000, 500_000)
"""So many events are taken at a time."""
# What so many events add up to is stored in the log: a collector that starts reads no more of them.
_STORED_EVERY = 50_000
Row = tuple[Any, ...]
Layers = tuple[tuple[str, int], ...]
_PLAIN = ("gaps", "gap_ns", "repulls", "repulled_bytes", "freed_bytes", "last_prune", "reached", "policy")


@dataclass
class Tally:
    """Sums over a host's events, carried on with each `advance`. Sizes are bytes, times UTC seconds.

    Attributes:
        events: how many of each kind.
        last_use: the latest observed use of each image, by image ID.
        gaps, gap_ns: intervals that were not observed; how long they are in all, nanoseconds.
        repulls, repulled_bytes: images pulled again after they had been removed, and the layers that
            had to come with them.
        prunes: how many ended, by outcome.
        items: removals of prunes, by (item, result).
        freed_bytes: what prunes freed.
        last_prune: when the latest prune ended.
        reached: whether it reached its target.
        policy: what the latest prune went by, in words.
        costs: what each project's jobs had pulled.
    """

    events: Counter[str] = field(default_factory=Counter)
    last_use: dict[str, float] = field(default_factory=dict)
    gaps: int = 0
    gap_ns: int = 0
    repulls: int = 0
    repulled_bytes: int = 0
    prunes: Counter[str] = field(default_factory=Counter)
    items: Counter[tuple[str, str]] = field(default_factory=Counter)
    freed_bytes: int = 0
    last_prune: float | None = None
    reached: bool | None = None
    policy: str = ""
    costs: ProjectCosts = field(default_factory=ProjectCosts)
    _seq: int = -1
    _stored: int = 0
    _held: dict[str, list[str]] = field(default_factory=dict)
    _holders: Counter[str] = field(default_factory=Counter)
    _gone: set[str] = field(default_factory=set)
    _returning: set[str] = field(default_factory=set)

    def advance(self, log: EventLog) -> None:
        """Take what was recorded since the last time; after a LogError the next call continues where this one got to.

        Raises:
            LogError: the log cannot be read.
        """
        if self._seq < 0:
            vars(self).update(vars(self.of_json(log.position(METRICS) or "{}")))
        newest = None
        while newest is None or self._seq < newest:
            # What was read stays in memory until the log is closed; and others want to append.
            began = time.monotonic()
            with log.reading(as_recorded=True) as connection, PACE.step() as step:
                (newest,) = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0]
                if self._seq > newest or (self._seq and connection.execute(_FORGOTTEN, [self._seq]).fetchall()[0][0]):
                    # What was forgotten, or lost with a damaged file, must not come back from here.
                    vars(self).update(vars(Tally(_seq=0)))
                self.take(connection, log.host, min(newest, self._seq + step))
            if self._seq < newest:
                rest(began)
        if self._seq - self._stored >= _STORED_EVERY:
            self._stored = self._seq
            with suppress(LogError):  # on a full disk, say: the next start then reads more events
                log.append([], (METRICS, self._to_json()))

    def take(self, connection: duckdb.DuckDBPyConnection, host: str, newest: int) -> None:
        """Take a host's events up to a number, from a log that shows times as they were recorded."""
        while self._seq < newest:
            until, set_ns = min(self._seq + PACE.size, newest), None
            if set_back := connection.execute(_SET_BACK, [host, self._seq, until]).fetchall():
                until, set_ns = set_back[0]
            images = _LATER_IMAGES if self._seq else _ALL_IMAGES
            found = {
                sql: connection.execute(sql, [host, self._seq, until]).fetchall()
                for sql in (_COUNTS, _USES, _GAPS, images, _ITEMS, _PRUNES, _POLICY)
            }
            self._seq = until
            self._fold(found, found[images])
            if set_ns is not None:
                self._happened_by(set_ns / _NS)

    def _happened_by(self, time: float) -> None:
        """All so far has happened by a time, UTC seconds, whatever the clock showed: see `views.true_times`."""
        self.last_use = {image: min(used, time) for image, used in self.last_use.items()}
        self.last_prune = self.last_prune and min(self.last_prune, time)
        self.costs.happened_by(time)

    def _to_json(self) -> str:
        """All that the next call goes on from."""
        numbers: dict[str, int] = {}
        held = {
            image: [numbers.setdefault(chain, len(numbers)) for chain in chains] for image, chains in self._held.items()
        }
        return json.dumps(
            {
                "version": VERSION,
                "seq": self._seq,
                "plain": {name: getattr(self, name) for name in _PLAIN},
                "events": self.events,
                "last_use": self.last_use,
                "prunes": self.prunes,
                "items": [[*item, count] for item, count in self.items.items()],
                "costs": self.costs.to_json(),
                "chains": list(numbers),
                "held": held,
                "gone": sorted(self._gone),
                "returning": sorted(self._returning),
            },
            separators=(",", ":"),
        )

    @classmethod
    def of_json(cls, text: str) -> Tally:
        """What was stored; nothing where it was not stored by this version, or cannot be read."""
        found = read_object(text) or {}
        try:
            if found["version"] != VERSION:
                return cls(_seq=0)
            held = {image: [found["chains"][i] for i in chains] for image, chains in found["held"].items()}
            return cls(
                **found["plain"],
                events=Counter({kind: int(count) for kind, count in found["events"].items()}),
                last_use=found["last_use"],
                prunes=Counter(found["prunes"]),
                items=Counter({(item, result): count for item, result, count in found["items"]}),
                costs=ProjectCosts.from_json(found["costs"]),
                _seq=found["seq"],
                _stored=found["seq"],
                _held=held,
                _holders=Counter(chain for chains in held.values() for chain in chains),
                _gone=set(found["gone"]),
                _returning=set(found["returning"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return cls(_seq=0)

    def unlike_events(self, connection: duckdb.DuckDBPyConnection, host: str) -> list[str]:
        """Which totals are not what a host's events come to that they are of; see `take`."""
        afresh = Tally(_seq=0)
        afresh.take(connection, host, self._seq)
        removed = connection.execute(_THINNED, [host]).fetchall()[0][0] or 0
        # Events that a compaction has made sums of are in the totals: so many, and who paid for pulls among them.
        is_counted = afresh.events <= self.events and (self.events - afresh.events).total() <= removed
        expected = {"_stored": True, "events": is_counted, "costs": removed > 0}
        names = [one.name for one in fields(self) if getattr(self, one.name) != getattr(afresh, one.name)]
        return [name.strip("_") for name in names if not expected.get(name)]

    def _fold(self, found: dict[str, list[Row]], changes: list[Row]) -> None:
        self.events.update(dict(found[_COUNTS]))
        for image, used_ns in found[_USES]:
            self.last_use[image] = max(self.last_use.get(image, 0.0), used_ns / _NS)
        self.gaps += len(found[_GAPS])
        self.gap_ns += sum(ns for (ns,) in found[_GAPS])
        for kind, image, time_ns, project, chains, sizes in changes:
            if project is not None:
                self.costs.used(image, project, time_ns / _NS)
            else:
                self._follow(Kind(kind), image, time_ns / _NS, tuple(zip(chains or (), sizes or (), strict=True)))
        self.items.update({(item, result): count for item, result, count in found[_ITEMS]})
        for ended_ns, outcome, freed in found[_PRUNES]:
            self.prunes[outcome] += 1
            self.freed_bytes += max(0, freed or 0)
            self.last_prune, self.reached = ended_ns / _NS, outcome == "target reached"
        self.policy = found[_POLICY][0][0] or self.policy

    def _follow(self, kind: Kind, image: str, time: float, layers: Layers) -> None:
        """Follow one image: what is observed again after its removal, and a pull, was pulled again."""
        if kind.traits.use is Use.PULL:
            if image in self._gone:
                self._returning.add(image)
            if image not in self._held:
                self.costs.pulled(image, time)
            return
        if kind.traits.effect is Effect.GOES:
            if image in self._held:
                self._holders.subtract(self._held.pop(image))
                self._gone.add(image)
            return
        before = self._held.pop(image, None)
        if before is not None:
            self._holders.subtract(before)
        else:
            missing = sum(size for chain, size in layers if self._holders[chain] <= 0)
            again = image in self._returning
            self.repulls += again
            self.repulled_bytes += missing if again else 0
            self.costs.arrived(image, missing, again=again)
        self._gone.discard(image)
        self._returning.discard(image)
        self._held[image] = [chain for chain, _ in layers]
        self._holders.update(self._held[image])


def differences(log: EventLog) -> list[str]:
    """Which totals that are stored are not what the events come to; reads all of them. Raises LogError."""
    sql = "SELECT host, position FROM position WHERE source = ? ORDER BY host"
    with log.reading(as_recorded=True) as connection:
        stored = connection.execute(sql, [METRICS]).fetchall()
        names = [name for host, text in stored for name in Tally.of_json(text).unlike_events(connection, host)]
    return [f"the metrics' stored total '{name}' is not what the events come to" for name in names]


# What brings an image, shows it or takes it away.
_PULLS = tuple(kind for kind in USES if kind.traits.use is Use.PULL)
_SEEN = with_effect(Effect.SEEN)
_PRESENCE = (*_PULLS, *_SEEN, *with_effect(Effect.GOES))
_BY_JOBS = (Kind.CONTAINER_CREATED, Kind.JOB_IMAGE_USED)
_SPAN = "host = ? AND seq > ? AND seq <= ?"
_FORGOTTEN = "SELECT count(*) FROM event WHERE seq > ? AND kind = 'data_forgotten'"
_SET_BACK = (
    f"SELECT seq, epoch_ns(time) FROM event WHERE {_SPAN} AND kind = '{Kind.CLOCK_SET_BACK}' ORDER BY seq LIMIT 1"
)
_THINNED = f"""
SELECT sum(TRY_CAST(attributes ->> '$.events_removed' AS BIGINT)) FROM event
WHERE host = ? AND kind = '{Kind.LOG_COMPACTED}'
"""
_COUNTS = f"SELECT kind, count(*) FROM event WHERE {_SPAN} GROUP BY kind"
_USES = f"""
SELECT image_id, max(epoch_ns(time)) FROM event JOIN image USING (image) WHERE {_SPAN} AND kind IN ({sql_list(USES)})
GROUP BY image_id
"""
_GAPS = f"SELECT epoch_ns(time) - epoch_ns(began) FROM event WHERE {_SPAN} AND kind = 'gap' AND began NOTNULL"
_USED = "FROM seen WHERE NOT is_presence"
# A pull of an image that is there changes nothing: most are of that sort. Of uses by jobs only the first after each of
# the others counts: who came first paid for the pull.
_LATER_IMAGES = f"""
WITH seen AS (
    SELECT seq, time, kind, image, host, job, kind IN ({sql_list(_PRESENCE)}) AS is_presence,
        CASE WHEN kind IN ({sql_list(_SEEN)}) THEN attributes END AS attributes
    FROM event
    WHERE {_SPAN} AND image NOTNULL
        AND (kind IN ({sql_list(_PRESENCE)}) OR job NOTNULL AND kind IN ({sql_list(_BY_JOBS)}))
), changes AS (
    FROM seen WHERE is_presence QUALIFY kind NOT IN ({sql_list(_PULLS)}) OR coalesce(
        last_value(CASE WHEN kind NOT IN ({sql_list(_PULLS)}) THEN kind END IGNORE NULLS)
            OVER (PARTITION BY image ORDER BY seq ROWS UNBOUNDED PRECEDING) NOT IN ({sql_list(_SEEN)}), true)
), happened AS (
    FROM (FROM changes UNION ALL {_USED})
    QUALIFY is_presence OR coalesce(lag(is_presence) OVER (PARTITION BY image ORDER BY seq), true)
), described AS (
    SELECT seq, kind, image_id, epoch_ns(time) AS time,
        CASE WHEN NOT is_presence THEN coalesce(project, 'project ' || project_id, ci, '?') END AS project,
        CASE WHEN is_presence THEN json_transform(attributes -> '$.layers',
            '[{{"chain_id": "VARCHAR", "bytes": "BIGINT"}}]') END AS layers
    FROM happened JOIN image USING (image) LEFT JOIN job USING (host, job)
)
SELECT kind, image_id, time, project, list_transform(layers, lambda l: l.chain_id),
    list_transform(layers, lambda l: coalesce(l.bytes, 0))
FROM described ORDER BY seq
"""
# From the beginning of the log, nobody can pay for what was never pulled.
_ALL_IMAGES = _LATER_IMAGES.replace(
    _USED, f"{_USED} AND image IN (SELECT image FROM changes WHERE kind IN ({sql_list(_PULLS)}))"
)
_ITEMS = f"""
SELECT coalesce((attributes ->> '$.item'), 'image'), if(kind = 'item_removed', 'removed', 'kept'), count(*)
FROM event WHERE {_SPAN} AND kind IN ({sql_list(ITEM_ENDS)}) GROUP BY ALL
"""
_PRUNES = f"""
SELECT epoch_ns(time), coalesce((attributes ->> '$.outcome'), 'unknown'), bytes
FROM event WHERE {_SPAN} AND kind = 'prune_finished' ORDER BY seq
"""
_POLICY = f"""
SELECT arg_max(attributes ->> '$.policy.text', seq) FROM event WHERE {_SPAN} AND kind = 'prune_started'
"""
VERSION = hashlib.sha256(
    repr((_SET_BACK, _COUNTS, _USES, _GAPS, _LATER_IMAGES, _ALL_IMAGES, _ITEMS, _PRUNES, _POLICY)).encode()
).hexdigest()[:16]
"""What distinguishes these rules from others: what others added up is added up again."""
