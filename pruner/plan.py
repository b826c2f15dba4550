"""The plan: a verdict with its reason for every image, from an inventory and a policy. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collector.units import format_bytes, format_duration
from pruner.decision import MEANING, Reason, evict
from pruner.inventory import Image, Inventory
from pruner.learning import Learned
from pruner.orders import ORDERS, Facts, PlainFacts
from pruner.policy import Levels, Policy

# After a gap every image may have been used unseen. Its jobs have long created their containers by
# then, so the doubt lasts as long as a job may take from pull to container, not a whole min_age.
GAP_GRACE_S = 600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one image, and why.

    Attributes:
        image: the image.
        reason: why it stays or goes.
        frees: bytes that its removal frees at its turn; 0 if it stays.
        detail: the reason in words, with the figures that led to it.
    """

    image: Image
    reason: Reason
    frees: int
    detail: str

    @property
    def evicts(self) -> bool:
        """Whether the image goes."""
        return self.reason.evicts


@dataclass(frozen=True, slots=True)
class Plan:
    """Verdicts on all images: those that go first, in the order of their removal.

    Attributes:
        policy: what was decided by.
        inventory: what was decided on.
        levels: the policy's amounts on this disk.
        verdicts: one per image.
    """

    policy: Policy
    inventory: Inventory
    levels: Levels
    verdicts: tuple[Verdict, ...]

    @property
    def evictions(self) -> tuple[Verdict, ...]:
        """The images that go, in order."""
        return tuple(verdict for verdict in self.verdicts if verdict.evicts)

    @property
    def frees(self) -> int:
        """Bytes that all removals free together."""
        return sum(verdict.frees for verdict in self.evictions)

    @property
    def needed(self) -> bool:
        """Whether free space is under the threshold."""
        disk = self.inventory.disk
        return short(disk.free_bytes, disk.free_inodes, self.levels.threshold)

    @property
    def reaches_target(self) -> bool:
        """Whether free space is at the target afterwards, as far as bytes go."""
        return self.inventory.disk.free_bytes + self.frees >= self.levels.target[0]

    def to_json(self) -> dict[str, Any]:
        """The plan as the log keeps it."""
        disk = self.inventory.disk
        return {
            "free_bytes": disk.free_bytes,
            "free_inodes": disk.free_inodes,
            "total_bytes": disk.total_bytes,
            "threshold_bytes": self.levels.threshold[0],
            "target_bytes": self.levels.target[0],
            "frees": self.frees,
            "warnings": list(self.inventory.warnings),
            "images": [
                {
                    "image": verdict.image.image_id,
                    "references": list(verdict.image.references),
                    "reason": verdict.reason.name.lower(),
                    "frees": verdict.frees,
                    "last_use": verdict.image.last_use,
                    "evidence": verdict.image.evidence,
                }
                for verdict in self.verdicts
            ],
        }


def plan(policy: Policy, inventory: Inventory, job_slots: int = 1, *, levels: Levels | None = None) -> Plan:
    """Decide on every image.

    Args:
        policy: what may be removed, when, and in which order.
        inventory: the images and the disk as they are.
        job_slots: free job slots of the runner, for thresholds given per job.
        levels: levels of free space instead of the policy's (one manual clean-up).

    Raises:
        ValueError: the policy contradicts itself on this disk.
    """
    images, disk = inventory.images, inventory.disk
    levels = levels or policy.levels(disk.total_bytes, disk.total_inodes, job_slots)
    layers = _Layers(images, disk.total_inodes - disk.free_inodes, disk.total_bytes - disk.free_bytes)
    own = layers.own_bytes()
    order_of = ORDERS[policy.order]
    keys = [order_of(facts(image, inventory.now, own[i], inventory.learned)) for i, image in enumerate(images)]
    order = sorted(range(len(images)), key=lambda i: (keys[i], i))
    verdict = [0] * len(images)
    evict(
        order,
        [int(blocked(image, policy, inventory.held)) for image in images],
        [policy.protects(image.names) is not None for image in images],
        [recent_use(image.last_use, inventory.blind_until, policy.min_age) for image in images],
        inventory.now - policy.min_age,
        inventory.now - policy.allowlist_idle,
        (disk.free_bytes, disk.free_inodes),
        levels.threshold,
        levels.target,
        levels.emergency,
        layers.first,
        layers.layer,
        layers.bytes,
        layers.inodes,
        list(layers.holders),
        verdict,
    )
    reasons = [Reason(value) for value in verdict]
    going = sorted((i for i in order if reasons[i].evicts), key=lambda i: reasons[i])
    frees = layers.freed_one_by_one(going)
    staying = [i for i in order if not reasons[i].evicts]
    return Plan(
        policy,
        inventory,
        levels,
        tuple(
            Verdict(images[i], reasons[i], frees.get(i, 0), explain(images[i], reasons[i], policy, inventory.now))
            for i in [*going, *staying]
        ),
    )


def facts(image: Image, now: float, own_bytes: int, learned: Learned) -> Facts:
    """What an order may look at."""
    return PlainFacts(
        now=now,
        last_use=image.last_use,
        pulled=image.pulled,
        created=image.created,
        first_seen=image.first_seen,
        uses=image.uses,
        returns=image.returns,
        gap=image.gap,
        bytes=image.size,
        own_bytes=own_bytes,
        superseded=int(image.superseded),
        hazard=learned.rate(now - image.last_use, image.uses, int(image.superseded)),
    )


def blocked(image: Image, policy: Policy, held: frozenset[str]) -> Reason:
    """The reason for which an image must stay whatever happens, else ENOUGH_SPACE (0)."""
    if image.containers:
        return Reason.PINNED
    if image.image_id in held:
        return Reason.HELD
    if image.local and policy.local_images == "keep":
        return Reason.LOCAL
    return Reason.ENOUGH_SPACE


def recent_use(last_use: float, blind_until: float | None, min_age: float) -> float:
    """When an image counts as last used for `min_age`, UTC seconds: a gap may have hidden a use."""
    if blind_until is None:
        return last_use
    return max(last_use, blind_until + min(min_age, GAP_GRACE_S) - min_age)


def short(free_bytes: float, free_inodes: float, level: tuple[float, float]) -> bool:
    """Whether bytes or inodes are under a level."""
    return free_bytes < level[0] or free_inodes < level[1]


def explain(image: Image, reason: Reason, policy: Policy, now: float) -> str:
    """The reason in words, with its figures."""
    idle = format_duration(max(0.0, now - image.last_use))
    if reason is Reason.PINNED:
        return f"{image.containers} containers refer to it" if image.containers > 1 else "a container refers to it"
    if reason is Reason.YOUNG:
        return f"used {idle} ago, within min_age {format_duration(policy.min_age)} ({image.evidence})"
    if reason in {Reason.PROTECTED, Reason.EVICT_EMERGENCY}:
        return f"{MEANING[reason]} ({policy.protects(image.names)})"
    if reason is Reason.EVICT:
        return f"{MEANING[reason]}: last used {idle} ago ({image.evidence})"
    return MEANING[reason]


class _Layers:
    """The layers of all images as the decision function takes them: numbered, each once.

    Inodes are not told by any engine: a layer's share of those in use is taken to be as large as
    its share of the bytes in use.
    """

    def __init__(self, images: Sequence[Image], used_inodes: int, used_bytes: int) -> None:
        numbers: dict[str, int] = {}
        self.bytes: list[int] = []
        self.holders: list[int] = []
        self.first = [0]
        self.layer: list[int] = []
        for image in images:
            for chain, size in image.layers:
                j = numbers.setdefault(chain, len(numbers))
                if j == len(self.bytes):
                    self.bytes.append(size)
                    self.holders.append(0)
                self.holders[j] += 1
                self.layer.append(j)
            self.first.append(len(self.layer))
        share = used_inodes / used_bytes if used_bytes > 0 else 0.0
        self.inodes = [size * share for size in self.bytes]

    def own_bytes(self) -> list[int]:
        """Bytes of each image's layers that no other image holds."""
        return [
            sum(self.bytes[j] for j in self.layer[a:b] if self.holders[j] == 1)
            for a, b in itertools.pairwise(self.first)
        ]

    def freed_one_by_one(self, going: Sequence[int]) -> dict[int, int]:
        """Bytes that each removal frees when its turn comes, by image number."""
        holders = list(self.holders)
        freed: dict[int, int] = {}
        for i in going:
            freed[i] = 0
            for j in self.layer[self.first[i] : self.first[i + 1]]:
                holders[j] -= 1
                if holders[j] == 0:
                    freed[i] += self.bytes[j]
        return freed


def summary(made: Plan) -> str:
    """The plan in one line."""
    disk = made.inventory.disk
    state = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
    if not made.needed:
        return f"{state}, threshold {format_bytes(made.levels.threshold[0])}: nothing to do"
    count = len(made.evictions)
    after = format_bytes(disk.free_bytes + made.frees)
    verb = "reaches" if made.reaches_target else "DOES NOT REACH"
    return (
        f"{state}, under the threshold of {format_bytes(made.levels.threshold[0])}: removing {count} "
        f"image{'s' if count != 1 else ''} frees {format_bytes(made.frees)}, leaves {after} free "
        f"and {verb} the target of {format_bytes(made.levels.target[0])}"
    )
