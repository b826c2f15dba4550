"""The event vocabulary: what the log can say, in the standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from typing import Any, Self

from collector.model.origin import Origin
from collector.model.traits import Effect, Reporter, Traits, Use
from collector.model.untrusted import LAST_NS, MOST_BYTES

JsonObject = Mapping[str, Any]


def _said_by(
    reporter: Reporter,
    value: str,
    meaning: str,
    use: Use | None = None,
    evidence: str = "",
    happened: str = "",
    **more: Any,
) -> tuple[str, Traits]:
    """An entry of the table, in the order of `Traits`."""
    return value, Traits(reporter, meaning, use, evidence, happened, **more)


def _engine(*said: Any, effect: Effect = Effect.NONE, **more: Any) -> tuple[str, Traits]:
    """An entry of what the engine reports: it shows that the collector followed the engine."""
    changes_disk = effect in {Effect.COMES, Effect.GOES}
    return _said_by(Reporter.ENGINE, *said, effect=effect, changes_disk=changes_disk, watching=True, **more)


_collector = partial(_said_by, Reporter.COLLECTOR)
_jobs = partial(_said_by, Reporter.JOBS)
_pruner = partial(_said_by, Reporter.PRUNER)
# `Kind(value)` looks a kind up; only an entry of the table below has traits of its own.
_UNSAID = Traits(Reporter.COLLECTOR, "")


class Kind(StrEnum):
    """What happened; the value is what the log's `kind` column holds. All lists of kinds derive from this table."""

    _value_: str
    traits: Traits

    def __new__(cls, value: str, traits: Traits = _UNSAID) -> Self:
        """Make one entry: its value and its traits."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.traits = traits
        return member

    IMAGE_PULLED = _engine(
        "image_pulled",
        "a client asked for the image, even if it was already up to date",
        Use.PULL,
        "pull",
        "pulled",
        effect=Effect.COMES,
        origin=Origin.REGISTRY,
        names=True,
    )
    IMAGE_TAGGED = _engine(
        "image_tagged", "the image got a reference", Use.TAG, "tag", "tagged", effect=Effect.RENAMED, names=True
    )
    IMAGE_UNTAGGED = _engine(
        "image_untagged", "the image lost a reference", happened="untagged", effect=Effect.RENAMED, names=True
    )
    IMAGE_DELETED = _engine("image_deleted", "the image left the engine", happened="removed", effect=Effect.GOES)
    IMAGE_LOADED = _engine(
        "image_loaded",
        "the image came from an archive (docker load)",
        Use.ARRIVED,
        "load",
        "loaded",
        effect=Effect.COMES,
        names=True,
    )
    IMAGE_IMPORTED = _engine(
        "image_imported",
        "the image came from a root file system (docker import)",
        Use.ARRIVED,
        "import",
        "imported",
        effect=Effect.COMES,
        origin=Origin.LOCAL,
        names=True,
    )
    IMAGE_BUILT = _engine(
        "image_built",
        "the image was built or committed on this host",
        Use.ARRIVED,
        "build",
        "built",
        effect=Effect.COMES,
        origin=Origin.LOCAL,
        names=True,
    )
    IMAGE_PUSHED = _engine(
        "image_pushed",
        "the image was pushed to a registry (Podman also reports failed pushes)",
        happened="pushed",
        effect=Effect.RENAMED,
        origin=Origin.REGISTRY,
        names=True,
    )
    BASE_USED = _collector(
        "base_used",
        "an image was built on this one: its layers begin with this one's; attributes: by, evidence",
        Use.ARRIVED,
        "base",
        "built upon",
        watching=True,
    )
    IMAGE_OBSERVED = _collector(
        "image_observed",
        "an inventory saw the image; attributes: references, digests, created, size, layers, origin",
        effect=Effect.SEEN,
        names=True,
        changes_disk=True,
        watching=True,
        live=True,
    )
    CONTAINER_CREATED = _engine(
        "container_created",
        "a container of the image was created; attributes: labels, name",
        Use.CONTAINER,
        "container",
        "container created",
    )
    CONTAINER_STARTED = _engine(
        "container_started", "a container was started", Use.CONTAINER, "container", "container started"
    )
    CONTAINER_DIED = _engine(
        "container_died",
        "a container's process ended; attributes: exit_code",
        Use.CONTAINER,
        "container",
        "container died",
    )
    CONTAINER_DESTROYED = _engine(
        "container_destroyed",
        "a container was removed; `began` is when it had been created",
        Use.CONTAINER,
        "container",
        "container removed",
    )
    DISK_SAMPLED = _collector(
        "disk_sampled",
        "free bytes of the engine's file system; attributes: total_bytes, inodes, image bytes",
        watching=True,
        live=True,
    )
    JOB_STARTED = _jobs("job_started", "a runner took a job, as its log says; attributes: job")
    JOB_IMAGE_USED = _jobs(
        "job_image_used",
        "a job source (job log, runner log) names the image that a job uses; attributes: job, role",
        Use.JOB,
        "job",
        "used by a job",
        names=True,
    )
    JOB_FINISHED = _jobs(
        "job_finished", "a job ended, as a job source says; attributes: job, outcome, seconds, disk_full"
    )
    PULL_FAILED = _jobs(
        "pull_failed",
        "a runner could not pull an image for a job, as its log says; attributes: job, error, disk_full",
        Use.JOB,
        "job",
        "asked for by a job",
    )
    EVENT_UNREADABLE = _collector(
        "event_unreadable",
        "the engine reported something that cannot be read; attributes: raw (cut), error",
        watching=True,
    )
    GAP = _collector("gap", "nothing was observed from `began` to `time`; attributes: reason", watching=True)
    CLOCK_SET_BACK = _collector(
        "clock_set_back",
        "the clock was set back: everything recorded before this event had happened by `time`; attributes: seconds",
    )
    HOST_CHANGED = _collector(
        "host_changed", "the host has another name, machine or engine; attributes: changes, each from and to"
    )
    DATA_FORGOTTEN = _collector(
        "data_forgotten",
        "what the log held of a project's jobs or of an image was removed on request; attributes: of, jobs, "
        "images, events (how many of each)",
    )
    LOG_COMPACTED = _collector(
        "log_compacted",
        "events older than `began` were thinned: the history is complete from then on; without `began` the file "
        "was only rewritten; attributes: events_removed",
    )
    COLLECTOR_STARTED = _collector("collector_started", "the collector was started", live=True)
    COLLECTOR_STOPPED = _collector("collector_stopped", "the collector stopped normally", watching=True)
    PRUNE_STARTED = _pruner(
        "prune_started", "a prune started; attributes: trigger, policy, plan with the reason for every image"
    )
    ITEM_REMOVED = _pruner(
        "item_removed", "the prune removed a planned item; bytes: freed; attributes: predicted, reason"
    )
    ITEM_FAILED = _pruner("item_failed", "the prune did not remove a planned item; attributes: error")
    PRUNE_FINISHED = _pruner(
        "prune_finished", "a prune ended; bytes: freed; attributes: outcome, free space before and after"
    )

    @property
    def shows_use(self) -> bool:
        """Whether an event of it is a sign of use of its image."""
        return self.traits.use is not None

    @property
    def by_engine(self) -> bool:
        """Whether the engine reports it."""
        return self.traits.reporter is Reporter.ENGINE


def reported_by(reporter: Reporter) -> tuple[Kind, ...]:
    """The kinds that one of them reports."""
    return tuple(kind for kind in Kind if kind.traits.reporter is reporter)


def of_origin(*origins: Origin) -> tuple[Kind, ...]:
    """The kinds that say of an image that it can be pulled again there."""
    return tuple(kind for kind in Kind if kind.traits.origin in origins)


def with_effect(*effects: Effect) -> tuple[Kind, ...]:
    """The kinds that do something to the engine's images."""
    return tuple(kind for kind in Kind if kind.traits.effect in effects)


USES = tuple(kind for kind in Kind if kind.shows_use)
# Those for which an image has to be there.
DEMANDS = tuple(kind for kind in USES if kind.traits.use is not None and kind.traits.use.demands)
# Signs of use that are a moment each: those of containers are intervals, from creation to removal.
MOMENTS = tuple(kind for kind in USES if kind.traits.use is not Use.CONTAINER)
CONTAINERS = tuple(kind for kind in USES if kind.traits.use is Use.CONTAINER)
# Each event of these counts as one use, beside each container.
COUNTED = tuple(kind for kind in MOMENTS if kind.traits.use is Use.JOB)
# What the view `uses` calls the evidence, as a use.
EVIDENCE_USE = {kind.traits.evidence: kind.traits.use or Use.FOUND for kind in USES}
NAMING = tuple(kind for kind in Kind if kind.traits.names)
# They show that the engine holds the image, from then on.
ARRIVALS = (*with_effect(Effect.COMES, Effect.SEEN), Kind.IMAGE_TAGGED)
# After these the image has the reference that they carry.
NAME_GIVING = tuple(kind for kind in NAMING if kind is not Kind.IMAGE_UNTAGGED)
# What becomes of a planned item.
ITEM_ENDS = (Kind.ITEM_REMOVED, Kind.ITEM_FAILED)
WATCHING = tuple(kind for kind in Kind if kind.traits.watching)
LIVE = tuple(kind for kind in Kind if kind.traits.live)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened on a host.

    Attributes:
        time_ns: when it happened, UTC, nanoseconds since 1970 (the engine's own where it has one).
        kind: what happened.
        image: image ID (``sha256:…``) where one is concerned and known.
        reference: what a client called the image: ``name:tag``, ``name@sha256:…`` or an ID.
        container: full container ID.
        bytes: the size that the kind speaks of (see its `Traits.meaning`), bytes.
        began_ns: for a kind that ends an interval, when that began, UTC nanoseconds.
        attributes: all else, as JSON.
        identity: what makes the event the same when the engine reports it again; together with
            `time_ns` it is stored at most once. It must not depend on anything looked up later.
    """

    time_ns: int
    kind: Kind
    image: str | None = None
    reference: str | None = None
    container: str | None = None
    bytes: int | None = None
    began_ns: int | None = None
    attributes: JsonObject = field(default_factory=dict)
    identity: str = ""

    @property
    def key(self) -> int:
        """63-bit hash of the identity: with `time_ns`, what idempotent appends compare."""
        identity = self.identity or "\0".join((self.kind, self.image or "", self.reference or "", self.container or ""))
        return int.from_bytes(hashlib.blake2b(identity.encode(errors="replace"), digest_size=8).digest()) >> 1

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON object, for the spool."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """The event that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the object is not one that `to_json` wrote.
        """
        if not isinstance(data["attributes"], dict):
            raise TypeError("attributes must be an object")
        for key, low, high in (("time_ns", 0, LAST_NS), ("began_ns", 0, LAST_NS), ("bytes", -MOST_BYTES, MOST_BYTES)):
            number = data.get(key)
            if number is None and key != "time_ns":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
                raise ValueError(f"{key} is not a number that a log can hold")
        for key in ("image", "reference", "container", "identity"):
            text = data.get(key)
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{key} must be text")
            (text or "").encode()
        return cls(**{**data, "kind": Kind(data["kind"])})


_FIELDS = tuple(one.name for one in fields(Event))
