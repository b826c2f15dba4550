"""The state that is decided on: images with their layers, and each one's last use with its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from collector.engine.leftovers import Leftover
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.machine.disk import DiskSample
from collector.model.observation import ImageObservation
from collector.model.origin import Origin
from collector.model.times import parse_rfc3339
from collector.model.untrusted import past_seconds
from collector.queries.coverage import Coverage, coverage
from pruner.state.jobs_in_flight import Hold, JobMemory
from pruner.state.learning import Habits, Learned
from pruner.state.refusals import ItemId, Refusal


@dataclass(frozen=True, slots=True)
class Image:
    """One image that the engine holds. Times are UTC seconds, sizes bytes.

    Attributes:
        image_id: the engine's ID.
        references: its tags, ``name:tag``.
        digests: its ``name@sha256:…``.
        names: every name that it was ever seen with: an allowlist may match any of them.
        size: bytes of all its layers.
        layers: (chain ID, bytes), base first.
        content: what of each layer's bytes is compressed content on another disk than the unpacked layer; empty: none,
            or not known.
        created: build time, 0 if unknown.
        first_seen: when it was first observed (or stored, or built, if nothing else is known).
        last_use: latest use; `evidence` says how it is known.
        evidence: what shows the last use.
        pulled: when it was last pulled, else `first_seen`.
        uses: observed uses.
        origin: where it can be pulled again.
        containers: how many containers refer to it, in any state.
        returns: how often it was used again after an idle time (see `pruner.state.learning`).
        gap: moving average of those idle times, seconds; 0 without any.
        superseded: since when a later image has been used in each of its repositories; infinite: not.
        recent: recent uses of its repository (see `pruner.state.learning.Habits`).
        kept_by: the label that keeps it whatever happens; empty: none.
    """

    image_id: str
    references: tuple[str, ...]
    digests: tuple[str, ...]
    names: tuple[str, ...]
    size: int
    layers: tuple[tuple[str, int], ...]
    created: float
    first_seen: float
    last_use: float
    evidence: str
    pulled: float
    uses: int
    origin: Origin
    containers: int = 0
    returns: int = 0
    gap: float = 0.0
    superseded: float = math.inf
    recent: int = 0
    kept_by: str = ""
    content: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What people call it: its first reference, else its first digest, else its ID."""
        return (*self.references, *self.digests, self.image_id)[0]

    @property
    def local(self) -> bool:
        """Whether no registry is known to be able to give it back."""
        return self.origin is not Origin.REGISTRY


@dataclass(frozen=True, slots=True)
class Container:
    """One container of the engine. Times are UTC seconds, sizes bytes.

    Attributes:
        container_id: the engine's ID.
        name: its name.
        image: ID of the image that it was created from.
        state: the engine's word for its state, lower case.
        stopped_at: when it stopped; when it was created, if it never started.
        never_started: whether it never started.
        job: the CI job that it belongs to; None: no job.
        restarts: whether it has a restart policy.
        orchestrator: who starts and removes it without one, in words; None: nobody is known to.
        bytes: what its removal frees: its writable layer and its log.
        log_bytes: what its log holds of that, which may lie on another disk.
        volumes: names of the volumes that it refers to.
        kept_by: the label that keeps it; empty: none.
        external: whether it lies in the engine's storage without being managed by it, as those of builds.
        held_by: what works in such a container, in words; empty: nothing is known to.
        mounted: whether such a container of a build is mounted: the build works in it, or was killed.
        log_path: its log's file, as the engine says; empty: not known, as of containers that run.
    """

    container_id: str
    name: str
    image: str
    state: str
    stopped_at: float
    never_started: bool = False
    job: str | None = None
    restarts: bool = False
    orchestrator: str | None = None
    bytes: int = 0
    log_bytes: int = 0
    volumes: tuple[str, ...] = ()
    kept_by: str = ""
    external: bool = False
    held_by: str = ""
    mounted: bool = False
    log_path: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of the engine. Times are UTC seconds, sizes bytes.

    Attributes:
        name: its name.
        sort: ``anonymous``, ``cache`` (of GitLab Runner), ``builder`` (the state of a buildx builder) or ``named``.
        created: when it was created, as the engine says.
        last_use: latest sign of use; `evidence` says which.
        evidence: what shows it.
        bytes: what it holds.
        containers: how many containers refer to it, in any state.
        here: whether its data is on a disk of the engine's.
        path: the folder of its data, as the engine says.
        kept_by: the label that keeps it; empty: none.
        orphaned: whether its container was removed by the very run that looks now.
    """

    name: str
    sort: str
    created: float
    last_use: float
    evidence: str
    bytes: int = 0
    containers: int = 0
    here: bool = True
    path: str = ""
    orphaned: bool = False
    kept_by: str = ""


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """One record of the build cache: bytes, last use in UTC seconds, and what forbids its removal."""

    bytes: int
    last_use: float
    in_use: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class BuildCacheUsage:
    """The build cache; without records where the engine has none."""

    records: tuple[CacheRecord, ...] = ()

    @property
    def bytes(self) -> int:
        """What all records hold."""
        return sum(record.bytes for record in self.records)


class ImageRecord(NamedTuple):
    """What the log knows of one image. Times are UTC seconds."""

    first_seen: float
    last_use: float | None = None
    evidence: str = ""
    pulled: float | None = None
    uses: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What the log knows. Times are UTC seconds.

    Attributes:
        images: by image ID.
        observed: the latest observation of each image, by image ID.
        unfinished: prunes that began and have not ended, oldest first.
        coverage: which part of the time was observed.
    """

    images: dict[str, ImageRecord] = field(default_factory=dict)
    observed: dict[str, ImageObservation] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that a decision looks at.

    Attributes:
        images: in the order of first sight: the position is the image's number.
        disk: the file system that is decided on: that of the images, unless `disks` has several.
        now: when the state was read, UTC seconds.
        holds: what jobs in flight may need, by image ID.
        jobs: what the log knows of jobs, to ask the same again before each removal.
        warnings: what the decision has to do without, one line each.
        learned: what the host's past says of images in each situation.
        containers: all containers, in any state.
        volumes: all volumes.
        build_cache: the build cache.
        leftovers: folders that the engine no longer knows of; root alone can see them.
        free_slots: job slots of the runners that are free now; None: unknown, or nobody asked.
        refusals: what could not be removed before, or in this run.
        rollbacks: why images stay that services ran before their last change, by image ID.
        disks: each file system that holds bytes of the engine, that of the images first; empty: only `disk`.
        coverage: which part of the time was observed.
    """

    images: tuple[Image, ...]
    disk: DiskSample
    now: float
    holds: Mapping[str, Hold] = field(default_factory=dict)
    jobs: JobMemory = field(default_factory=JobMemory)
    warnings: tuple[str, ...] = ()
    learned: Learned = field(default_factory=Learned)
    containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    build_cache: BuildCacheUsage = field(default_factory=BuildCacheUsage)
    free_slots: int | None = None
    leftovers: tuple[Leftover, ...] = ()
    refusals: Mapping[ItemId, Refusal] = field(default_factory=dict)
    rollbacks: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[DiskSample, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)


# All observations of images together take as much memory as what is made of them.
_AT_ONCE = 1000
# The state of a container that the engine does not manage: nobody starts it.
EXTERNAL = "external"
# All other states are of containers that run, are about to, or are being removed by somebody.
STOPPED = frozenset({"created", "configured", "exited", "stopped", "dead", EXTERNAL})
# Docker goes on to list a container as this when its removal has failed; its inspection says that it is dead.
ENDED = STOPPED | {"removing"}


def stop_times(containers: Iterable[Container]) -> dict[str, float]:
    """When stopped containers did, UTC seconds, by ID."""
    return {one.container_id: one.stopped_at for one in containers if one.state in STOPPED}


def image_of(
    observation: ImageObservation,
    past: ImageRecord | None,
    containers: Sequence[Container],
    now: float,
    kept_by: str = "",
) -> Image:
    """Put together what the engine holds, its containers of the image, and what the log knows.

    Without an observed use the image counts as used when the engine stored it, else when it was
    built: poor evidence, and said to be.
    """
    seen = min(past.first_seen, now) if past else now
    # Nobody has built it after it was seen: such a time, which older logs still hold, is ignored.
    created = past_seconds(parse_rfc3339(observation.created), seen) or 0.0
    stored = observation.stored
    weak = (stored, "stored or tagged, as the engine says") if stored else (created, "built; no use was observed")
    first_seen = past.first_seen if past else weak[0]
    last_use, evidence = (past.last_use, past.evidence) if past and past.last_use is not None else weak
    if any(container.state not in STOPPED for container in containers):
        last_use, evidence = now, "a container exists"
    elif containers and (stopped := max(one.stopped_at for one in containers)) > (last_use or 0.0):
        last_use, evidence = stopped, "a container stopped"
    names = tuple(sorted({*observation.references, *observation.digests, *(past.names if past else ())}))
    return Image(
        image_id=observation.image,
        references=observation.references,
        digests=observation.digests,
        names=names,
        size=observation.size,
        layers=tuple((layer.chain_id, layer.bytes) for layer in observation.layers),
        created=created,
        first_seen=first_seen,
        last_use=float(last_use or 0.0),
        evidence=evidence,
        pulled=past.pulled if past and past.pulled is not None else first_seen,
        uses=past.uses if past else 0,
        origin=observation.origin,
        containers=len(containers),
        kept_by=kept_by,
    )


def number(images: Iterable[Image]) -> tuple[Image, ...]:
    """Order images by first sight; what was seen at the same time, by build time and ID."""
    return tuple(sorted(images, key=lambda image: (image.first_seen, image.created, image.image_id)))


def used_later(image: Image, time: float, evidence: str) -> Image:
    """The image with a later use, if it is later."""
    if time <= image.last_use:
        return image
    pulled = time if evidence == "pulled" else image.pulled
    return replace(image, last_use=time, evidence=evidence, pulled=max(pulled, image.pulled))


def with_habits(image: Image, habits: Habits) -> Image:
    """The image with what its past says of its future."""
    return replace(image, **habits._asdict())


def read_history(log: EventLog) -> HostRecord:
    """Fold the log to what a decision needs. Raises LogError."""
    with log.reading(whole_since=ONLY_KEPT) as connection:
        host = [log.host]
        # IDs are long: each is read once.
        id_of = dict(connection.execute("SELECT image, image_id FROM image").fetchall())
        first = dict(connection.execute(_FIRST_SEEN, host).fetchall())
        used = {row[0]: row[1:] for row in connection.execute(_LAST_USE, host).fetchall()}
        observed, found = {}, connection.execute(_OBSERVED, host)
        while rows := found.fetchmany(_AT_ONCE):
            for number, *row in rows:
                if number in id_of:
                    observed[id_of[number]] = ImageObservation.from_log(id_of[number], *row)
        names = dict(connection.execute(_NAMES, host).fetchall())
        covered = coverage(connection, log.host)
        unfinished = connection.execute(
            "SELECT prune FROM prunes WHERE host = ? AND started NOTNULL AND finished IS NULL ORDER BY started", host
        ).fetchall()
    images = {}
    for image, seen in first.items():
        if image in id_of:
            last_use, evidence, pulled, uses = used.get(image, (None, "", None, 0))
            images[id_of[image]] = ImageRecord(seen, last_use, evidence, pulled, uses, tuple(names.get(image) or ()))
    return HostRecord(images, observed, tuple(row[0] for row in unfinished), covered)


_FIRST_SEEN = """
SELECT image, epoch_ns(min(time)) / 1e9 FROM event WHERE host = ? GROUP BY image
"""
_LAST_USE = """
SELECT image, epoch_ns(last_use) / 1e9, evidence, epoch_ns(last_pull) / 1e9, uses FROM last_use WHERE host = ?
"""
_OBSERVED = """
SELECT image, attributes::VARCHAR, origin FROM image_observations WHERE host = ?
"""
_NAMES = """
SELECT image, list(name) FROM known_names WHERE host = ? GROUP BY image
"""
