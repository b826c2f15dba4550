"""What may go other than images, in which order and why: plain functions of plain values, without I/O.

The stages come one after the other, and each goes only as far as the target needs: stopped
containers, images without a name, volumes, build cache, images by the policy's order, and in an
emergency allowlisted images. The image stages are the decision function's (`pruner.planning.decision`);
this module holds the others and what all have in common.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from collector.model.units import format_bytes, format_duration
from pruner.policy.policy import BuildCache, Containers, Policy, Volumes, first_match
from pruner.state.inventory import STOPPED, BuildCacheUsage, Container, Image, Volume
from pruner.state.refusals import Refusal


class ItemKind(StrEnum):
    """What an item of a plan is; the value is what the log's attribute `item` holds."""

    CONTAINER = "container"
    LOG = "container_log"
    IMAGE = "image"
    VOLUME = "volume"
    BUILD_CACHE = "build_cache"


class ItemReason(StrEnum):
    """Why something other than an image stays or goes. The values are stored in logs."""

    ENOUGH_SPACE = "enough_space"
    SWITCHED_OFF = "switched_off"
    RUNNING = "running"
    SERVICE = "service"
    IN_USE = "in_use"
    KEPT = "kept"
    LABELLED = "labelled"
    NOT_LISTED = "not_listed"
    ELSEWHERE = "elsewhere"
    YOUNG = "young"
    SMALL = "small"
    TARGET_REACHED = "target_reached"
    REFUSED = "refused"
    EXPIRED = "expired"

    @property
    def is_removed(self) -> bool:
        """Whether the item goes."""
        return self is ItemReason.EXPIRED


ITEM_REASON_MEANING: dict[ItemReason, str] = {
    ItemReason.ENOUGH_SPACE: "free space is above the threshold: nothing is removed",
    ItemReason.SWITCHED_OFF: "the policy switches this kind off",
    ItemReason.RUNNING: "it is not stopped",
    ItemReason.SERVICE: "a restart policy or an orchestrator starts it: it is somebody's service",
    ItemReason.IN_USE: "a container refers to it",
    ItemReason.KEPT: "the policy's `keep` names it",
    ItemReason.LABELLED: "a label keeps it (keep_labels)",
    ItemReason.NOT_LISTED: "a named volume that the policy's `named` does not list",
    ItemReason.ELSEWHERE: "its driver or options put its data elsewhere: removing it frees nothing here",
    ItemReason.YOUNG: "not unused for long enough",
    ItemReason.SMALL: "all of it is in use, too young, or within what the policy keeps",
    ItemReason.TARGET_REACHED: "removals before it free enough",
    ItemReason.REFUSED: "it could not be removed in this run",
    ItemReason.EXPIRED: "unused for longer than the policy asks, while free space is under the target",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a plan speaks of, other than an image.

    Attributes:
        kind: what it is.
        key: what the engine calls it: a container's ID, a volume's name.
        name: what people call it.
        reason: why it stays or goes.
        frees: bytes that its removal frees; 0 if it stays.
        detail: the reason in words, with its figures.
        subject: what it was judged by.
        keep: for build cache, bytes that its removal leaves.
        age: for build cache, seconds unused after which a record may go.
        last: whether it is tried after all else, because the engine refused it before: it counts nothing.
    """

    kind: ItemKind
    key: str
    name: str
    reason: ItemReason
    frees: int
    detail: str
    subject: Container | Volume | BuildCacheUsage
    keep: int = 0
    age: float = 0.0
    last: bool = False

    @property
    def is_removed(self) -> bool:
        """Whether it goes."""
        return self.reason.is_removed


@dataclass(slots=True)
class Shortage:
    """What is still missing to the target while a plan is made: bytes and inodes.

    No engine reports inodes: an item's share of those in use is taken to be as large as its share of
    the bytes in use.

    Attributes:
        bytes: missing bytes; 0 or less: none.
        inodes: missing inodes.
        inodes_per_byte: inodes that removing a byte frees.
    """

    bytes: float
    inodes: float
    inodes_per_byte: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is missing any more."""
        return self.bytes <= 0 and self.inodes <= 0

    def take(self, size: float) -> None:
        """So many bytes will be freed."""
        self.bytes -= size
        self.inodes -= size * self.inodes_per_byte


def containers(policy: Containers, found: Sequence[Container], now: float, shortage: Shortage | None) -> list[Item]:
    """Judge containers: those of CI jobs first, the longest stopped first.

    Args:
        policy: what may go.
        found: all containers, in any state.
        now: UTC seconds.
        shortage: what is missing, lessened by what goes; None: nothing is to be removed.
    """
    ordered = sorted(found, key=lambda one: (one.job is None, one.stopped_at, one.container_id))
    return [_container(policy, one, now, shortage) for one in ordered]


def _container(policy: Containers, one: Container, now: float, shortage: Shortage | None) -> Item:
    grace = policy.grace if one.job is None else policy.job_grace
    idle = now - one.stopped_at
    state = f"{'created and never started' if one.never_started else one.state} {format_duration(max(0.0, idle))} ago"
    owner = f"job {one.job}" if one.job is not None else "no CI job"
    if one.external:
        state, owner = f"last changed {format_duration(max(0.0, idle))} ago", "of a build, by Buildah"
    if one.state not in STOPPED or one.held_by:
        reason, detail = ItemReason.RUNNING, f"it is {one.held_by or one.state}"
    elif not policy.enabled:
        reason, detail = ItemReason.SWITCHED_OFF, ITEM_REASON_MEANING[ItemReason.SWITCHED_OFF]
    elif one.kept_by:
        reason, detail = ItemReason.LABELLED, f"{ITEM_REASON_MEANING[ItemReason.LABELLED]}: {one.kept_by}"
    elif one.restarts:
        reason, detail = ItemReason.SERVICE, ITEM_REASON_MEANING[ItemReason.SERVICE]
    elif one.orchestrator is not None:
        reason, detail = ItemReason.SERVICE, f"{one.orchestrator} starts and removes it"
    elif (entry := first_match(policy.keep, one.name)) is not None:
        reason, detail = ItemReason.KEPT, f"{ITEM_REASON_MEANING[ItemReason.KEPT]} ({entry})"
    elif idle < grace:
        reason, detail = ItemReason.YOUNG, f"{state}, within its grace of {format_duration(grace)} ({owner})"
    else:
        story = f"{state}, past its grace of {format_duration(grace)} ({owner}); {_data_of(one)}"
        reason, detail = _when_short(shortage, story)
    return _item(ItemKind.CONTAINER, one.container_id, one.name, reason, one.bytes, detail, one, shortage)


def logs(
    policy: Containers, judged: Sequence[Item], refusals: Collection[str], shortage: Shortage | None
) -> list[Item]:
    """The logs of stopped containers that stay only for their age or as somebody's service: emptying needs no block.

    Args:
        policy: whether any may be emptied.
        judged: the verdicts on containers.
        refusals: IDs of containers whose logs could not be emptied in this run.
        shortage: what is missing, lessened by what goes; None: nothing is to be removed.
    """
    found = []
    for item in judged if policy.empty_logs else ():
        one = item.subject
        if isinstance(one, Container) and item.reason in _LOG_MAY_GO and _is_json_log(one) and item.key not in refusals:
            story = f"the disk is completely full: its log is emptied, the {one.state} container stays"
            reason, detail = _when_short(shortage, story)
            found.append(_item(ItemKind.LOG, item.key, one.name, reason, one.log_bytes, detail, one, shortage))
    return found


_LOG_MAY_GO = frozenset({ItemReason.YOUNG, ItemReason.SERVICE})


def _is_json_log(one: Container) -> bool:
    """Whether a stopped container's log is a file of Docker's json-file driver, at its usual place."""
    usual = f"/{one.container_id}/{one.container_id}-json.log"
    return one.log_bytes > 0 and one.state in STOPPED and one.log_path.endswith(usual)


def _data_of(one: Container) -> str:
    """What data goes with a container, in words, and what stays."""
    parts = [f"what it wrote ({format_bytes(one.bytes - one.log_bytes)})", f"its log ({format_bytes(one.log_bytes)})"]
    gone = f"{' and '.join(parts)} go with it"
    return f"{gone}, its volumes stay ({', '.join(one.volumes)})" if one.volumes else gone


def volumes(policy: Volumes, found: Sequence[Volume], now: float, shortage: Shortage | None) -> list[Item]:
    """Judge volumes: anonymous ones first, then caches, then listed ones; the longest unused first.

    Args:
        policy: what may go.
        found: all volumes.
        now: UTC seconds.
        shortage: what is missing, lessened by what goes; None: nothing is to be removed.
    """
    ordered = sorted(found, key=lambda one: (_RANK[one.sort], one.last_use, one.name))
    return [_volume(policy, one, now, shortage) for one in ordered]


_RANK = {"anonymous": 0, "cache": 1, "builder": 2, "named": 3}


def _of_builder(one: Volume) -> str:
    """How a builder's state is made smaller while the builder exists."""
    if one.sort != "builder":
        return ""
    name = one.name.removeprefix("buildx_buildkit_").removesuffix("_state").rstrip("0123456789")
    return f": `docker buildx prune --builder {name}` shrinks it, `docker buildx rm {name}` removes it"


def _volume(policy: Volumes, one: Volume, now: float, shortage: Shortage | None) -> Item:
    age = {
        "anonymous": policy.anonymous_age,
        "cache": policy.cache_age,
        "builder": policy.builder_age,
        "named": policy.named_age,
    }[one.sort]
    idle = now - one.last_use
    story = f"{one.sort} volume, unused for {format_duration(max(0.0, idle))} ({one.evidence})"
    if one.containers:
        reason, detail = ItemReason.IN_USE, f"{ITEM_REASON_MEANING[ItemReason.IN_USE]}{_of_builder(one)}"
    elif one.kept_by:
        reason, detail = ItemReason.LABELLED, f"{ITEM_REASON_MEANING[ItemReason.LABELLED]}: {one.kept_by}"
    elif not policy.enabled:
        reason, detail = ItemReason.SWITCHED_OFF, ITEM_REASON_MEANING[ItemReason.SWITCHED_OFF]
    elif not one.here:
        reason, detail = ItemReason.ELSEWHERE, ITEM_REASON_MEANING[ItemReason.ELSEWHERE]
    elif (entry := first_match(policy.keep, one.name)) is not None:
        reason, detail = ItemReason.KEPT, f"{ITEM_REASON_MEANING[ItemReason.KEPT]} ({entry})"
    elif one.sort == "named" and first_match(policy.named, one.name) is None:
        reason, detail = ItemReason.NOT_LISTED, ITEM_REASON_MEANING[ItemReason.NOT_LISTED]
    elif one.orphaned:
        reason, detail = ItemReason.YOUNG, "its container was removed by this very run"
    elif not one.last_use:
        reason, detail = ItemReason.YOUNG, "when it was last used is not known"
    elif idle < age:
        reason, detail = ItemReason.YOUNG, f"{story}, within its age of {format_duration(age)}"
    else:
        data = f"{format_bytes(one.bytes)} of data go with it, for good"
        reason, detail = _when_short(shortage, f"{story}, past its age of {format_duration(age)}; {data}")
    return _item(ItemKind.VOLUME, one.name, one.name, reason, one.bytes, detail, one, shortage)


def build_cache(policy: BuildCache, found: BuildCacheUsage, now: float, shortage: Shortage | None) -> list[Item]:
    """Judge the build cache as one item, which may go in part: the engine chooses the records.

    Args:
        policy: how much stays.
        found: its records.
        now: UTC seconds.
        shortage: what is missing, lessened by what goes; None: nothing is to be removed.
    """
    if not found.records:
        return []
    total = found.bytes
    missing = max(0.0, shortage.bytes) if shortage is not None else 0.0
    if shortage is not None and shortage.inodes > 0:
        missing = total
    keep = max(policy.keep, int(total - missing))
    free = _reclaimable(found, total - keep, now - policy.age)
    story = f"{format_bytes(total)} of build cache, {format_bytes(policy.keep)} to keep"
    if not policy.enabled:
        reason, detail = ItemReason.SWITCHED_OFF, ITEM_REASON_MEANING[ItemReason.SWITCHED_OFF]
    elif total <= policy.keep or (not free and shortage is not None and not shortage.over):
        reason, detail = ItemReason.SMALL, f"{ITEM_REASON_MEANING[ItemReason.SMALL]} ({story})"
    else:
        reason, detail = _when_short(shortage, f"{story}: what was unused for {format_duration(policy.age)} goes")
    made = _item(ItemKind.BUILD_CACHE, "build_cache", "build cache", reason, free, detail, found, shortage)
    return [replace(made, keep=keep, age=policy.age)]


def _reclaimable(found: BuildCacheUsage, surplus: float, unused_since: float) -> int:
    """Bytes that go when the surplus does, the longest unused records first."""
    freed = 0
    for record in sorted(found.records, key=lambda record: record.last_use):
        if freed >= surplus:
            break
        if not record.in_use and not record.shared and record.last_use <= unused_since:
            freed += record.bytes
    return freed


def _when_short(shortage: Shortage | None, detail: str) -> tuple[ItemReason, str]:
    if shortage is None:
        return ItemReason.ENOUGH_SPACE, ITEM_REASON_MEANING[ItemReason.ENOUGH_SPACE]
    if shortage.over:
        return ItemReason.TARGET_REACHED, ITEM_REASON_MEANING[ItemReason.TARGET_REACHED]
    return ItemReason.EXPIRED, detail


def _item(
    kind: ItemKind,
    key: str,
    name: str,
    reason: ItemReason,
    size: int,
    detail: str,
    subject: Container | Volume | BuildCacheUsage,
    shortage: Shortage | None,
) -> Item:
    if not reason.is_removed:
        return Item(kind, key, name, reason, 0, detail, subject)
    if shortage is not None:
        shortage.take(size)
    return Item(kind, key, name, reason, size, detail, subject)


def after_refusal(
    found: Container | Volume | BuildCacheUsage,
    refusal: Refusal,
    policy: Policy,
    now: float,
    shortage: Shortage | None,
) -> list[Item]:
    """Judge what could not be removed before, once all else has been judged; none if there is nothing to judge.

    Nobody knows what it frees, so it counts nothing; and in the run that has tried it, it stays.

    Args:
        found: the item.
        refusal: what stood in the way.
        policy: what may go.
        now: UTC seconds.
        shortage: what is missing after all else has gone; None: nothing is to be removed.
    """
    missing = None if shortage is None else replace(shortage)
    if isinstance(found, Container):
        judged = containers(policy.containers, [found], now, missing)
    elif isinstance(found, Volume):
        judged = volumes(policy.volumes, [found], now, missing)
    else:
        judged = build_cache(policy.build_cache, found, now, missing)
    return [_after_refusal(item, refusal, now) if item.is_removed else item for item in judged]


def _after_refusal(item: Item, refusal: Refusal, now: float) -> Item:
    if refusal.in_this_run:
        detail = f"{ITEM_REASON_MEANING[ItemReason.REFUSED]}: {refusal.error}"
        return replace(item, reason=ItemReason.REFUSED, frees=0, detail=detail)
    return replace(item, frees=0, detail=f"{item.detail}; {goes_last(refusal, now)}", last=True)


def goes_last(refusal: Refusal, now: float) -> str:
    """In words, why an item is tried after all others."""
    return f"last, for the engine refused it {format_duration(max(0.0, now - refusal.time))} ago: {refusal.error}"


def is_dangling(image: Image, bearers: Mapping[str, str], policy: Policy) -> bool:
    """Whether an image counts as one without a name.

    It has no tag, and either no registry's digest speaks for it, or a tag that it had is now
    another image's: a newer version took its place. An image that was only ever pulled by digest
    is not dangling: that is how pinned CI images live.

    Args:
        image: the image.
        bearers: which image each tag means now.
        policy: whether there is such a stage at all.
    """
    if not policy.dangling.enabled or image.references:
        return False
    return not image.digests or any(bearers.get(name, image.image_id) != image.image_id for name in image.names)
