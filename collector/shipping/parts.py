"""How shipped logs are laid out, and how readers know which of it counts.

::

    event/host=HOST/day=YYYY-MM-DD/STREAM-FIRST.parquet
    job/host=HOST/STREAM-FIRST-YYYY-MM-DD.parquet
    manifest/host=HOST/owner.json
    manifest/host=HOST/STREAM-FIRST-LAST-YYYY-MM-DD.json
    merged/host=HOST/STREAM-FIRST-LAST.event.parquet
    merged/host=HOST/STREAM-FIRST-LAST.job.parquet
    manifest/host=HOST/STREAM-FIRST-LAST-merged.json

A part is what one batch of sequence numbers, FIRST to LAST, holds of one day. It counts once its manifest is there,
which is written last, so that a reader sees each part whole or not at all. A batch that was interrupted is written
again under the same names. A stream is one log's numbering: a new log begins another. A merged part holds what many
parts do, merged ones or others, whose batches it names as one: see `shipping.merge`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import quote, unquote

from collector.eventlog.identity import Identity, KnownHost
from collector.eventlog.schema import SCHEMA_VERSION
from collector.model.untrusted import read_object, texts

EVENTS, JOBS, MERGED, MANIFESTS = "event", "job", "merged", "manifest"
FORMAT = 1
_HOST = "host="
_ID_SHOWN = 8
_NAME = re.compile(
    r"([0-9a-f]{8})\.([0-9]{1,4})-([0-9]{12,18})-([0-9]{12,18})-([0-9]{4}-[0-9]{2}-[0-9]{2}|merged)\.json"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTITY = ("name", "machine", "hardware", "engine", "data_root")

# Nearly all events are of containers, and few questions are about them: in a merged part the others come first, where
# they are found without looking through all. Each in the form with which DuckDB knows sooner where it need not look.
OF_CONTAINERS, OF_OTHERS = "kind BETWEEN 'container_' AND 'container_~'", "NOT starts_with(kind, 'container_')"
MERGED_ORDER = "starts_with(kind, 'container_'), seq"

# One part's rows, as other tools read them: image IDs in place of this log's numbers for them.
EVENT_ROWS = f"""
    SELECT event.* EXCLUDE (image) REPLACE ($name AS host), image_id, {SCHEMA_VERSION} AS schema_version,
        strftime(time, '%Y-%m-%d') AS day
    FROM event LEFT JOIN image USING (image)
    WHERE host = $host AND seq BETWEEN $first AND $last AND strftime(time, '%Y-%m-%d') = $day ORDER BY seq
"""
# A job is only ever changed together with an event that speaks of it, so its newest row comes with the newest of them.
JOB_ROWS = """
    SELECT * REPLACE ($name AS host) FROM job WHERE host = $host AND job IN (
        SELECT job FROM event WHERE host = $host AND seq BETWEEN $first AND $last
            AND strftime(time, '%Y-%m-%d') = $day
    ) ORDER BY job
"""


@dataclass(frozen=True, slots=True, order=True)
class Stream:
    """One log's numbering of one host's events.

    Attributes:
        id: the beginning of the host's own ID in that log.
        number: which log of that host it was, from 1.
    """

    id: str
    number: int

    def __str__(self) -> str:
        return f"{self.id}.{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """What the name of a manifest says.

    Attributes:
        stream: whose numbering.
        first, last: the batch's sequence numbers.
        day: the day of the part, UTC; `MERGED`: all days of these batches.
    """

    stream: Stream
    first: int
    last: int
    day: str

    @classmethod
    def parsed(cls, path: str) -> Name | None:
        """What a path in the store says; None: it is not a manifest of a part."""
        found = _NAME.fullmatch(path.rpartition("/")[2])
        return found and cls(Stream(found[1], int(found[2])), int(found[3]), int(found[4]), found[5])

    @property
    def is_merged(self) -> bool:
        """Whether it is of a merged part."""
        return self.day == MERGED

    def covers(self, other: Name) -> bool:
        """Whether a merged part holds what another part does."""
        return self.stream == other.stream and self.first <= other.first and other.last <= self.last

    def manifest(self, host: str) -> str:
        """Where the manifest is."""
        return f"{manifests_of(host)}/{self.stream}-{self.first:012}-{self.last:012}-{self.day}.json"

    def events(self, host: str) -> str:
        """Where the part's events are. An interrupted batch that has grown since is written over."""
        if self.is_merged:
            return f"{self._merged(host)}.event.parquet"
        return f"{EVENTS}/{partition(host)}/day={self.day}/{self.stream}-{self.first:012}.parquet"

    def jobs(self, host: str) -> str:
        """Where the jobs are that the part's events speak of."""
        if self.is_merged:
            return f"{self._merged(host)}.job.parquet"
        return f"{JOBS}/{partition(host)}/{self.stream}-{self.first:012}-{self.day}.parquet"

    def _merged(self, host: str) -> str:
        return f"{MERGED}/{partition(host)}/{self.stream}-{self.first:012}-{self.last:012}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a part's manifest says.

    Attributes:
        schema_version: of the log that it was written from.
        host: whose part it is.
        days: all days of the batch: it is whole once each has its manifest.
        first, last: the part's own first and last sequence number.
        rows: how many events there are.
        sha256: checksum of the file of events.
        jobs_sha256: checksum of the file of jobs; None: there is none.
        anchor: time (UTC nanoseconds) and key of the event with the batch's last sequence number.
        shipped_ns: when it was written, UTC nanoseconds; of a merged part, when the first of its parts was.
        until_ns: when the last of its parts was; None: it is not merged.
        merged_ns: when it was merged, UTC nanoseconds; None: it is not.
        becoming: checksums that the files may have, too: they are being written again; see `shipping.forget`.
    """

    schema_version: int
    host: KnownHost
    days: tuple[str, ...]
    first: int
    last: int
    rows: int
    sha256: str
    jobs_sha256: str | None
    anchor: tuple[int, int]
    shipped_ns: int
    until_ns: int | None = None
    merged_ns: int | None = None
    becoming: tuple[str, ...] = ()

    @property
    def last_shipped_ns(self) -> int:
        """When the last of it was shipped, UTC nanoseconds."""
        return self.shipped_ns if self.until_ns is None else self.until_ns

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return _stored({**asdict(self), "host": _host(self.host)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """What is stored. Raises ValueError with what is wrong."""
        found = _read(data)
        known: dict[str, Any] = {field.name: found.get(field.name) for field in fields(cls)}
        numbers = [known[name] for name in ("schema_version", "first", "last", "rows", "shipped_ns")]
        days, anchor, sums = known["days"], known["anchor"], (known["sha256"], known["jobs_sha256"] or "0" * 64)
        if (
            not all(_is_number(number) for number in (*numbers, known["until_ns"] or 0, known["merged_ns"] or 0))
            or not (isinstance(days, list) and all(isinstance(day, str) for day in days))
            or not (isinstance(anchor, list) and len(anchor) == 2 and all(type(part) is int for part in anchor))  # noqa: PLR2004
            or not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in sums)
        ):
            raise ValueError("the manifest is damaged")
        known |= {"host": host_from(known["host"]), "becoming": tuple(texts(known["becoming"]))}
        return cls(**{**known, "days": tuple(days), "anchor": tuple(anchor)})


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def checksum(data: bytes) -> str:
    """The checksum of a file, as manifests have it."""
    return hashlib.sha256(data).hexdigest()


def partition(host: str) -> str:
    """The folder of a host, as Hive writes names."""
    return _HOST + quote(host, safe=" ()")


def host_of(folder: str) -> str:
    """The host of such a folder; empty: it is not such a folder."""
    return unquote(folder.removeprefix(_HOST)) if folder.startswith(_HOST) else ""


def manifests_of(host: str) -> str:
    """Where the manifests of a host are."""
    return f"{MANIFESTS}/{partition(host)}"


def listed(paths: Iterable[str]) -> list[Name]:
    """The parts whose manifests are among these paths, in order."""
    return sorted(one for path in paths if (one := Name.parsed(path)) is not None)


def widest(names: Iterable[Name]) -> list[Name]:
    """The merged parts among these that no other merged one covers, in order."""
    merged = sorted(one for one in names if one.is_merged)
    return [one for one in merged if not any(other != one and other.covers(one) for other in merged)]


def owner_of(host: str) -> str:
    """Where it stands which host has this name."""
    return f"{manifests_of(host)}/owner.json"


def distinct_name(host: KnownHost) -> str:
    """What a host is called whose name another has already."""
    return f"{host.key} ({host.id[:_ID_SHOWN]})"


def stream_id(host: KnownHost) -> str:
    """What distinguishes the streams of a host from those of others."""
    return host.id[:_ID_SHOWN]


def is_same_host(one: KnownHost, other: KnownHost) -> bool:
    """Whether both are one host as far as can be seen: a new log gives it another ID."""
    same_engine = one.identity.engine is not None and one.identity.engine == other.identity.engine
    known = one.identity.is_same_machine(other.identity) or same_engine
    return one.id == other.id or (known and one.identity.doubt(other.identity) is None)


def owner_bytes(host: KnownHost) -> bytes:
    """As it is stored whose name it is."""
    return _stored({"host": _host(host)})


def owner_from(data: bytes) -> KnownHost:
    """Whose name it is. Raises ValueError."""
    return host_from(_read(data).get("host"))


def host_from(found: Any) -> KnownHost:
    """A host as manifests have it. Raises ValueError."""
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("key", "id", "name")):
        raise ValueError("the manifest does not say whose it is")
    if not all(found.get(name) is None or isinstance(found.get(name), str) for name in _IDENTITY):
        raise ValueError("the manifest does not say whose it is")
    identity: dict[str, Any] = {name: found.get(name) for name in _IDENTITY}
    return KnownHost(found["key"], found["id"], Identity(**identity))


def _host(host: KnownHost) -> dict[str, str | None]:
    return {"key": host.key, "id": host.id, **asdict(host.identity)}


def _stored(value: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **value}, indent=1).encode() + b"\n"


def _read(data: bytes) -> dict[str, Any]:
    found = read_object(data)
    if found is None:
        raise ValueError("the manifest is damaged")
    if found.get("format") != FORMAT:
        raise ValueError("the manifest is of another version of docker-hindsight")
    return found
