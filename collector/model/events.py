"""The event vocabulary: what the log can say, in the standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from collector.model.origin import Origin
from collector.model.traits import Effect, Reporter, Traits, Use
from collector.model.untrusted import LAST_NS, MOST_BYTES

JsonObject = Mapping[str, Any]


def _engine(
    meaning: str,
    use: Use | None = None,
    evidence: str = "",
    happened: str = "",
    effect: Effect = Effect.NONE,
    *,
    origin: Origin | None = None,
    names: bool = False,
) -> Traits:
    changes_disk = effect in {Effect.COMES, Effect.GOES}
    return Traits(Reporter.ENGINE, meaning, use, evidence, happened, effect, origin, names, changes_disk, watching=True)


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

    IMAGE_PULLED = (
        "image_pulled",
        _engine(
            "a client asked for the image, even if it was already up to date",
            Use.PULL,
            "pull",
            "pulled",
            Effect.COMES,
            origin=Origin.REGISTRY,
            names=True,
        ),
    )
    IMAGE_TAGGED = (
        "image_tagged",
        _engine("the image got a reference", Use.TAG, "tag", "tagged", Effect.RENAMED, names=True),
    )
    IMAGE_UNTAGGED = (
        "image_untagged",
        _engine("the image lost a reference", happened="untagged", effect=Effect.RENAMED, names=True),
    )
    IMAGE_DELETED = "image_deleted", _engine("the image left the engine", happened="removed", effect=Effect.GOES)
    IMAGE_LOADED = (
        "image_loaded",
        _engine(
            "the image came from an archive (docker load)", Use.ARRIVED, "load", "loaded", Effect.COMES, names=True
        ),
    )
    IMAGE_IMPORTED = (
        "image_imported",
        _engine(
            "the image came from a root file system (docker import)",
            Use.ARRIVED,
            "import",
            "imported",
            Effect.COMES,
            origin=Origin.LOCAL,
            names=True,
        ),
    )
    IMAGE_BUILT = (
        "image_built",
        _engine(
            "the image was built or committed on this host",
            Use.ARRIVED,
            "build",
            "built",
            Effect.COMES,
            origin=Origin.LOCAL,
            names=True,
        ),
    )
    IMAGE_PUSHED = (
        "image_pushed",
        _engine(
            "the image was pushed to a registry (Podman also reports failed pushes)",
            happened="pushed",
            effect=Effect.RENAMED,
            origin=Origin.REGISTRY,
            names=True,
        ),
    )
    BASE_USED = (
        "base_used",
        Traits(
            Reporter.COLLECTOR,
            "an image was built on this one: its layers begin with this one's; attributes: by, evidence",
            Use.ARRIVED,
            "base",
            "built upon",
            watching=True,
        ),
    )
    IMAGE_OBSERVED = (
        "image_observed",
        Traits(
            Reporter.COLLECTOR,
            "an inventory saw the image; attributes: references, digests, created, size, layers, origin",
            effect=Effect.SEEN,
            names=True,
            changes_disk=True,
            watching=True,
            live=True,
        ),
    )
    CONTAINER_CREATED = (
        "container_created",
        _engine(
            "a container of the image was created; attributes: labels, name",
            Use.CONTAINER,
            "container",
            "container created",
        ),
    )
    CONTAINER_STARTED = (
        "container_started",
        _engine("a container was started", Use.CONTAINER, "container", "container started"),
    )
    CONTAINER_DIED = (
        "container_died",
        _engine("a container's process ended; attributes: exit_code", Use.CONTAINER, "container", "container died"),
    )
    CONTAINER_DESTROYED = (
        "container_destroyed",
        _engine(
            "a container was removed; `began` is when it had been created",
            Use.CONTAINER,
            "container",
            "container removed",
        ),
    )
    DISK_SAMPLED = (
        "disk_sampled",
        Traits(
            Reporter.COLLECTOR,
            "free bytes of the engine's file system; attributes: total_bytes, inodes, image bytes",
            watching=True,
            live=True,
        ),
    )
    JOB_STARTED = "job_started", Traits(Reporter.JOBS, "a runner took a job, as its log says; attributes: job")
    JOB_IMAGE_USED = (
        "job_image_used",
        Traits(
            Reporter.JOBS,
            "a job source (job log, runner log) names the image that a job uses; attributes: job, role",
            Use.JOB,
            "job",
            "used by a job",
            names=True,
        ),
    )
    JOB_FINISHED = (
        "job_finished",
        Traits(Reporter.JOBS, "a job ended, as a job source says; attributes: job, outcome, seconds, disk_full"),
    )
    PULL_FAILED = (
        "pull_failed",
        Traits(
            Reporter.JOBS,
            "a runner could not pull an image for a job, as its log says; attributes: job, error, disk_full",
            Use.JOB,
            "job",
            "asked for by a job",
        ),
    )
    EVENT_UNREADABLE = (
        "event_unreadable",
        Traits(
            Reporter.COLLECTOR,
            "the engine reported something that cannot be read; attributes: raw (cut), error",
            watching=True,
        ),
    )
    GAP = (
        "gap",
        Traits(Reporter.COLLECTOR, "nothing was observed from `began` to `time`; attributes: reason", watching=True),
    )
    CLOCK_SET_BACK = (
        "clock_set_back",
        Traits(
            Reporter.COLLECTOR,
            "the clock was set back: everything recorded before this event had happened by `time`; attributes: seconds",
        ),
    )
    HOST_CHANGED = (
        "host_changed",
        Traits(
            Reporter.COLLECTOR, "the host has another name, machine or engine; attributes: changes, each from and to"
        ),
    )
    DATA_FORGOTTEN = (
        "data_forgotten",
        Traits(
            Reporter.COLLECTOR,
            "what the log held of a project's jobs or of an image was removed on request; attributes: of, jobs, "
            "images, events (how many of each)",
        ),
    )
    LOG_COMPACTED = (
        "log_compacted",
        Traits(
            Reporter.COLLECTOR,
            "events older than `began` were thinned: the history is complete from then on; without `began` the file "
            "was only rewritten; attributes: events_removed",
        ),
    )
    COLLECTOR_STARTED = "collector_started", Traits(Reporter.COLLECTOR, "the collector was started", live=True)
    COLLECTOR_STOPPED = "collector_stopped", Traits(Reporter.COLLECTOR, "the collector stopped normally", watching=True)
    PRUNE_STARTED = (
        "prune_started",
        Traits(Reporter.PRUNER, "a prune started; attributes: trigger, policy, plan with the reason for every image"),
    )
    ITEM_REMOVED = (
        "item_removed",
        Traits(Reporter.PRUNER, "the prune removed a planned item; bytes: freed; attributes: predicted, reason"),
    )
    ITEM_FAILED = (
        "item_failed",
        Traits(Reporter.PRUNER, "the prune did not remove a planned item; attributes: error"),
    )
    PRUNE_FINISHED = (
        "prune_finished",
        Traits(Reporter.PRUNER, "a prune ended; bytes: freed; attributes: outcome, free space before and after"),
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
