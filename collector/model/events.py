"""The event vocabulary: what the log can say, in the standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

JsonObject = Mapping[str, Any]


class Kind(StrEnum):
    """What happened; the value is what the log's `kind` column holds."""

    IMAGE_PULLED = "image_pulled"
    IMAGE_TAGGED = "image_tagged"
    IMAGE_UNTAGGED = "image_untagged"
    IMAGE_DELETED = "image_deleted"
    IMAGE_LOADED = "image_loaded"
    IMAGE_IMPORTED = "image_imported"
    IMAGE_BUILT = "image_built"
    IMAGE_PUSHED = "image_pushed"
    BASE_USED = "base_used"
    IMAGE_OBSERVED = "image_observed"
    CONTAINER_CREATED = "container_created"
    CONTAINER_STARTED = "container_started"
    CONTAINER_DIED = "container_died"
    CONTAINER_DESTROYED = "container_destroyed"
    DISK_SAMPLED = "disk_sampled"
    JOB_STARTED = "job_started"
    JOB_IMAGE_USED = "job_image_used"
    JOB_FINISHED = "job_finished"
    GAP = "gap"
    HOST_CHANGED = "host_changed"
    COLLECTOR_STARTED = "collector_started"
    COLLECTOR_STOPPED = "collector_stopped"
    PRUNE_STARTED = "prune_started"
    ITEM_REMOVED = "item_removed"
    ITEM_FAILED = "item_failed"
    PRUNE_FINISHED = "prune_finished"


KIND_MEANING: dict[Kind, str] = {
    Kind.IMAGE_PULLED: "a client asked for the image; also when it was already up to date",
    Kind.IMAGE_TAGGED: "a reference was given to the image",
    Kind.IMAGE_UNTAGGED: "a reference was taken from the image",
    Kind.IMAGE_DELETED: "the image left the engine",
    Kind.IMAGE_LOADED: "the image came from an archive (docker load)",
    Kind.IMAGE_IMPORTED: "the image came from a root file system (docker import)",
    Kind.IMAGE_BUILT: "the image was built or committed on this host",
    Kind.IMAGE_PUSHED: "a registry was given the image (Podman tells it of failed pushes, too)",
    Kind.BASE_USED: "an image was built on this one, whose layers it begins with; attributes: by, evidence",
    Kind.IMAGE_OBSERVED: "an inventory saw the image; attributes: references, digests, created, size, layers, origin",
    Kind.CONTAINER_CREATED: "a container of the image was created; attributes: labels, name",
    Kind.CONTAINER_STARTED: "a container was started",
    Kind.CONTAINER_DIED: "a container's process ended; attributes: exit_code",
    Kind.CONTAINER_DESTROYED: "a container was removed; `began` is when it had been created",
    Kind.DISK_SAMPLED: "free bytes of the engine's file system; attributes: total_bytes, inodes, image bytes",
    Kind.JOB_STARTED: "a runner took a job, as a side-band tells; attributes: job",
    Kind.JOB_IMAGE_USED: "a side-band (job log, runner log) names the image that a job uses; attributes: job, role",
    Kind.JOB_FINISHED: "a job ended, as a side-band tells; attributes: job, outcome, seconds",
    Kind.GAP: "nothing was witnessed from `began` to `time`; attributes: reason",
    Kind.HOST_CHANGED: "the host has another name, machine or engine; attributes: changes, each from and to",
    Kind.COLLECTOR_STARTED: "the collector began to witness",
    Kind.COLLECTOR_STOPPED: "the collector ended in order",
    Kind.PRUNE_STARTED: "a prune began; attributes: trigger, policy, plan with the reason for every image",
    Kind.ITEM_REMOVED: "the prune removed a planned item; bytes: freed; attributes: predicted, reason",
    Kind.ITEM_FAILED: "the prune could not, or in the end did not, remove a planned item; attributes: error",
    Kind.PRUNE_FINISHED: "a prune ended; bytes: freed; attributes: outcome, free space before and after",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened on a host.

    Attributes:
        time_ns: when it happened, UTC, nanoseconds since 1970 (the engine's own where it has one).
        kind: what happened.
        image: image ID (``sha256:…``) where one is concerned and known.
        reference: what a client called the image: ``name:tag``, ``name@sha256:…`` or an ID.
        container: full container ID.
        bytes: the size that the kind speaks of (see `KIND_MEANING`), bytes.
        began_ns: for a kind that ends an interval, when that began, UTC nanoseconds.
        attributes: all else, as JSON.
        identity: what makes the event the same when the engine tells it again; together with
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
        return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest()) >> 1

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON object, for the spool."""
        return {
            "time_ns": self.time_ns,
            "kind": self.kind.value,
            "image": self.image,
            "reference": self.reference,
            "container": self.container,
            "bytes": self.bytes,
            "began_ns": self.began_ns,
            "attributes": dict(self.attributes),
            "identity": self.identity,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """The event that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the object is not one that `to_json` wrote.
        """
        if not isinstance(data["time_ns"], int) or not isinstance(data["attributes"], dict):
            raise TypeError("time_ns must be an integer and attributes an object")
        return cls(**{**data, "kind": Kind(data["kind"])})
