"""The plan: a verdict with its reason for all that the engine holds, from an inventory and a policy. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from collector.machine.disk import DiskSample
from collector.model.origin import Origin
from collector.model.references import repository
from collector.model.units import format_bytes, format_count, format_duration
from pruner.planning import stages
from pruner.planning.decision import MEANING, Reason, evict, in_turn
from pruner.planning.stages import Item, ItemKind, Shortage
from pruner.policy.local_images import EVICT, SUPERSEDED, by_end, idle_since, in_their_turn, superseded
from pruner.policy.orders import ORDERS, Facts, PlainFacts
from pruner.policy.policy import Levels, Policy
from pruner.state.inventory import BuildCacheUsage, Container, Image, Inventory, Volume
from pruner.state.learning import Learned
from pruner.state.refusals import Refusal

# After a gap every image may have been used unseen. Its jobs have long created their containers by
# then, so the doubt lasts as long as a job may take from pull to container, not a whole min_age.
GAP_GRACE_S = 600.0
# With less free than this an engine may be unable to write, and refuse removals for which it has to.
FULL_BYTES = 2**20


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
class Removal:
    """One step of a plan, in words that hold for whatever is removed.

    Attributes:
        kind: what goes.
        key: what the engine calls it.
        name: what people call it.
        reason: why it goes, as the log keeps it.
        frees: bytes that it frees at its turn.
        detail: the reason in words.
        references: an image's tags, all of which go.
        of: what it was decided on.
    """

    kind: ItemKind
    key: str
    name: str
    reason: str
    frees: int
    detail: str
    references: tuple[str, ...]
    of: Verdict | Item

    @classmethod
    def of_image(cls, verdict: Verdict) -> Removal:
        """The removal of an image."""
        image, reason = verdict.image, verdict.reason.name.lower()
        return cls(
            ItemKind.IMAGE, image.image_id, image.name, reason, verdict.frees, verdict.detail, image.references, verdict
        )

    @classmethod
    def of_item(cls, item: Item) -> Removal:
        """The removal of something else."""
        return cls(item.kind, item.key, item.name, item.reason.value, item.frees, item.detail, (), item)


@dataclass(frozen=True, slots=True)
class Plan:
    """Verdicts on all that the engine holds: what goes first, in the order of its removal.

    Attributes:
        policy: what was decided by.
        inventory: what was decided on.
        levels: the policy's amounts on this disk.
        verdicts: one per image.
        items: verdicts on containers, volumes and build cache, stage by stage.
    """

    policy: Policy
    inventory: Inventory
    levels: Levels
    verdicts: tuple[Verdict, ...]
    items: tuple[Item, ...] = ()

    @property
    def evictions(self) -> tuple[Verdict, ...]:
        """The images that go, in order."""
        return tuple(verdict for verdict in self.verdicts if verdict.evicts)

    @property
    def removals(self) -> tuple[Removal, ...]:
        """All that goes, in order: containers, images without a name, volumes, build cache, images.

        What the engine refused before comes at the end. On a full disk what frees space without that the engine
        writes a table of names comes before all images.
        """
        images = {
            dangling: [
                Removal.of_image(verdict)
                for verdict in self.evictions
                if (verdict.reason is Reason.EVICT_DANGLING) is dangling
            ]
            for dangling in (True, False)
        }
        going = [item for item in self.items if item.is_removed]
        usual = [item for item in going if not item.last]
        containers = [Removal.of_item(item) for item in usual if item.kind is ItemKind.CONTAINER]
        others = [Removal.of_item(item) for item in usual if item.kind is not ItemKind.CONTAINER]
        late = [Removal.of_item(item) for item in going if item.last]
        if self.inventory.disk.free_bytes < FULL_BYTES:
            first = (ItemKind.LOG, ItemKind.BUILD_CACHE)
            free = [one for kind in first for one in others if one.kind is kind]
            rest = [one for one in others if one.kind not in first]
            return (*containers, *free, *rest, *images[True], *images[False], *late)
        return (*containers, *images[True], *others, *images[False], *late)

    @property
    def frees(self) -> int:
        """Bytes that all removals free together."""
        return sum(removal.frees for removal in self.removals)

    @property
    def needed(self) -> bool:
        """Whether free space is under the threshold."""
        disk = self.inventory.disk
        return short(disk.free_bytes, disk.free_inodes, self.levels.threshold)

    @property
    def reaches_target(self) -> bool:
        """Whether free space is at the target afterwards, as far as bytes go."""
        return self.inventory.disk.free_bytes + self.frees >= self.levels.target[0]

    def _hold(self, image: Image) -> dict[str, Any]:
        hold = self.inventory.holds.get(image.image_id)
        return {} if hold is None else {"hold": hold.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The plan as the log keeps it."""
        disk = self.inventory.disk
        return {
            "free_bytes": disk.free_bytes,
            "free_inodes": disk.free_inodes,
            "total_bytes": disk.total_bytes,
            **({"file_system": disk.mount, "holds": list(disk.holds)} if disk.holds else {}),
            "threshold_bytes": self.levels.threshold[0],
            "target_bytes": self.levels.target[0],
            "threshold_inodes": self.levels.threshold[1],
            "frees": self.frees,
            "min_age_seconds": self.policy.age,
            "min_age_evidence": self.policy.min_age_evidence or None,
            "warnings": list(self.inventory.warnings),
            "items": [
                {
                    "item": item.kind.value,
                    "key": item.key,
                    "name": item.name,
                    "reason": item.reason.value,
                    "detail": item.detail,
                    "frees": item.frees,
                    "bytes": item.subject.bytes,
                    **({"last": True} if item.last else {}),
                }
                for item in self.items
            ],
            "images": [
                {
                    "image": verdict.image.image_id,
                    "references": list(verdict.image.references),
                    "reason": verdict.reason.name.lower(),
                    "frees": verdict.frees,
                    "last_use": verdict.image.last_use,
                    "evidence": verdict.image.evidence,
                    "origin": verdict.image.origin.value,
                    **self._hold(verdict.image),
                    **({"last": "refused"} if ("image", verdict.image.image_id) in self.inventory.refusals else {}),
                }
                for verdict in self.verdicts
            ],
        }


def plan(policy: Policy, inventory: Inventory, job_slots: int | None = None, *, levels: Levels | None = None) -> Plan:
    """Decide on all that the engine holds, stage by stage.

    Args:
        policy: what may be removed, when, and in which order.
        inventory: what there is, and the disk as it is.
        job_slots: free job slots of the runner, for amounts per job; None: as in the inventory.
        levels: levels of free space instead of the policy's (one manual clean-up).

    Raises:
        ValueError: the policy contradicts itself on this disk.
    """
    disk = inventory.disk
    slots = job_slots if job_slots is not None else inventory.free_slots
    levels = levels or policy.levels(disk.total_bytes, disk.total_inodes, slots)
    shortage = _shortage(disk, levels)
    now = inventory.now
    usual, refused = _by_refusal(inventory)
    containers = stages.containers(policy.containers, usual.containers, now, shortage)
    images = _Images(policy, inventory, levels, frozenset(item.key for item in containers if item.is_removed))
    if shortage is not None:
        images.decide_on_dangling(shortage)
    full = disk.free_bytes < FULL_BYTES
    refused_logs = {key for (kind, key), one in inventory.refusals.items() if kind == ItemKind.LOG and one.in_this_run}
    items = [
        *containers,
        *(stages.logs(policy.containers, containers, refused_logs, shortage) if full else ()),
        *stages.volumes(policy.volumes, usual.volumes, now, shortage),
        *stages.build_cache(policy.build_cache, usual.build_cache, now, shortage),
    ]
    verdicts = images.decide(shortage)
    if shortage is not None:
        shortage.take(sum(one.frees for one in verdicts if one.reason is not Reason.EVICT_DANGLING))
    for found, refusal in refused:
        items += stages.after_refusal(found, refusal, policy, now, shortage)
    return Plan(policy, inventory, levels, verdicts, tuple(items))


def _by_refusal(inventory: Inventory) -> tuple[Inventory, list[tuple[Container | Volume | BuildCacheUsage, Refusal]]]:
    """What is judged in its usual place, and what could not be removed before."""
    if not inventory.refusals:
        return inventory, []
    found: list[tuple[ItemKind, str, Container | Volume | BuildCacheUsage]] = [
        *((ItemKind.CONTAINER, one.container_id, one) for one in inventory.containers),
        *((ItemKind.VOLUME, one.name, one) for one in inventory.volumes),
        (ItemKind.BUILD_CACHE, ItemKind.BUILD_CACHE.value, inventory.build_cache),
    ]
    refused = [
        (one, refusal) for kind, key, one in found if (refusal := inventory.refusals.get((kind.value, key))) is not None
    ]
    late = [one for one, _ in refused]
    usual = replace(
        inventory,
        containers=tuple(one for one in inventory.containers if one not in late),
        volumes=tuple(one for one in inventory.volumes if one not in late),
        build_cache=BuildCacheUsage() if inventory.build_cache in late else inventory.build_cache,
    )
    return usual, refused


def _shortage(disk: DiskSample, levels: Levels) -> Shortage | None:
    """What is missing to the target; None while free space is above the threshold."""
    if not short(disk.free_bytes, disk.free_inodes, levels.threshold):
        return None
    used_bytes, used_inodes = disk.total_bytes - disk.free_bytes, disk.total_inodes - disk.free_inodes
    return Shortage(
        levels.target[0] - disk.free_bytes,
        levels.target[1] - disk.free_inodes,
        used_inodes / used_bytes if used_bytes > 0 else 0.0,
    )


class _Images:
    """The stages that concern images: each a call of the decision function on what the ones before left."""

    def __init__(self, policy: Policy, inventory: Inventory, levels: Levels, gone: frozenset[str]) -> None:
        disk = inventory.disk
        self._policy, self._inventory, self._levels = policy, inventory, levels
        self._images = inventory.images
        self._left = Counter(one.image for one in inventory.containers if one.container_id not in gone)
        self._listed = Counter(one.image for one in inventory.containers)
        self._superseded: frozenset[int] = frozenset()
        self._layers = _Layers(self._images, disk.total_inodes - disk.free_inodes, disk.total_bytes - disk.free_bytes)
        self._holders = list(self._layers.holders)
        own, order_of = self._layers.own_bytes(), ORDERS[policy.order]
        keys = [
            order_of(facts(image, inventory.now, own[i], inventory.learned)) for i, image in enumerate(self._images)
        ]
        # What a job in flight may need, and what the engine refused before, is for when nothing else is left.
        late = [(self._refusal(image) is not None, self._rank(image)) for image in self._images]
        self._order = sorted(range(len(self._images)), key=lambda i: (*late[i], keys[i], i))
        self._reasons: dict[int, Reason] = {}
        self._dangling: list[int] = []
        # Those without a name that the engine refused before: they wait for the end of the order.
        self._late: set[int] = set()

    def decide_on_dangling(self, shortage: Shortage) -> None:
        """Choose among the images without a name; what they free lessens the shortage."""
        bearers = {reference: image.image_id for image in self._images for reference in image.references}
        found = [i for i in self._order if stages.is_dangling(self._images[i], bearers, self._policy)]
        chosen = [
            i
            for i in found
            if self._refusal(self._images[i]) is None and self._images[i].image_id not in self._inventory.holds
        ]
        self._late = {i for i in found if i not in chosen}
        held = [self._blocked(i) for i in range(len(self._images))]
        # Nobody can pull what bears no name, and nobody can ask for it either: local_images is for
        # images that somebody may ask for.
        blocked = [self._without_name(i, reason) for i, reason in enumerate(held)]
        before = list(self._holders)
        verdict = self._evict(chosen, blocked, self._policy.dangling.age, shortage, _NEVER)
        self._dangling = [i for i in chosen if Reason(verdict[i]).evicts]
        freed = sum(
            size for size, old, new in zip(self._layers.bytes, before, self._holders, strict=True) if old > new == 0
        )
        self._reasons = dict.fromkeys(self._dangling, Reason.EVICT_DANGLING)
        shortage.take(freed)

    def decide(self, shortage: Shortage | None) -> tuple[Verdict, ...]:
        """The verdicts on all images: those that go first, in their order."""
        rest = self._local_in_turn([i for i in self._order if i not in self._reasons])
        blocked = [self._blocked(i) for i in range(len(self._images))]
        for i in self._late:
            blocked[i] = self._without_name(i, blocked[i])
        if shortage is None:
            self._reasons.update({i: blocked[i] for i in rest})
        else:
            verdict = self._evict(rest, blocked, 0.0, shortage, self._levels.emergency)
            self._reasons.update({i: Reason(verdict[i]) for i in rest})
        going = [*self._dangling, *in_turn(rest, self._reasons)]
        frees = self._layers.freed_one_by_one(going)
        staying = [i for i in self._order if not self._reasons[i].evicts]
        local = [i for i in going if self._images[i].local and self._reasons[i] is Reason.EVICT]
        self._reasons.update(dict.fromkeys(local, Reason.EVICT_LOCAL))
        return tuple(
            Verdict(
                self._images[i],
                self._reasons[i],
                frees.get(i, 0),
                self._explain(i),
            )
            for i in [*going, *staying]
        )

    def _local_in_turn(self, order: list[int]) -> list[int]:
        """The same images, those that no registry can give back at their turn; which of these may go is noted."""
        policy, inventory = self._policy, self._inventory
        if policy.local_images != SUPERSEDED:
            return order
        # What goes as an image without a name, now or soon, is no later one that stays.
        staying = [i for i in sorted(order) if self._images[i].local and self._is_named(i)]
        seen = inventory.coverage
        quiet = idle_since(inventory.now, policy.local_idle, seen.first, by_end(seen.gaps))
        last_use = [image.last_use for image in self._images]
        repositories = [{repository(name) for name in image.names} for image in self._images]
        self._superseded = frozenset(i for i in superseded(staying, repositories) if last_use[i] <= quiet)
        if not self._superseded:
            return order
        turn = in_their_turn(order, [image.local for image in self._images], last_use, quiet)
        return sorted(turn, key=lambda i: (self._refusal(self._images[i]) is not None, self._rank(self._images[i])))

    def _is_named(self, number: int) -> bool:
        return bool(self._images[number].references or self._images[number].digests)

    def _explain(self, number: int) -> str:
        image, reason, now = self._images[number], self._reasons[number], self._inventory.now
        said = explain(image, reason, self._policy, now)
        refusal, hold = self._refusal(image), self._inventory.holds.get(image.image_id)
        if reason is Reason.HELD and (rollback := self._inventory.rollbacks.get(image.image_id)) is not None:
            said = rollback
        elif hold is not None and reason is Reason.HELD:
            said = f"{said}: {hold.summary(now)}"
        elif hold is not None and reason.evicts:
            said = f"{said}; last, for it may be needed by {hold.summary(now)}"
        if refusal is None or not (reason.evicts or reason is Reason.REFUSED):
            return said
        return f"{said}: {refusal.error}" if refusal.in_this_run else f"{said}; {stages.goes_last(refusal, now)}"

    def _refusal(self, image: Image) -> Refusal | None:
        return self._inventory.refusals.get((ItemKind.IMAGE.value, image.image_id))

    def _rank(self, image: Image) -> int:
        hold = self._inventory.holds.get(image.image_id)
        return 0 if hold is None else hold.rank

    def _without_name(self, number: int, reason: Reason) -> Reason:
        return Reason.ENOUGH_SPACE if reason is Reason.LOCAL and not self._images[number].digests else reason

    def _blocked(self, number: int) -> Reason:
        image = self._images[number]
        refusal = self._refusal(image)
        if refusal is not None and refusal.in_this_run:
            return Reason.REFUSED
        # Containers that came between two readings of the engine count, too.
        extra = image.containers - self._listed[image.image_id]
        hold = self._inventory.holds.get(image.image_id)
        reason = blocked(
            image,
            self._left[image.image_id] + extra,
            self._policy,
            held=(hold is not None and hold.firm) or image.image_id in self._inventory.rollbacks,
        )
        return Reason.ENOUGH_SPACE if reason is Reason.LOCAL and number in self._superseded else reason

    def _evict(
        self,
        order: Sequence[int],
        held: Sequence[Reason],
        age: float,
        shortage: Shortage,
        emergency: tuple[float, float],
    ) -> list[int]:
        """Call the decision function, which is to free what is missing now."""
        policy, inventory, layers = self._policy, self._inventory, self._layers
        min_age = max(policy.age, age)
        verdict = [0] * len(self._images)
        target = self._levels.target
        evict(
            order,
            [int(reason) for reason in held],
            [policy.protects(image.names) is not None for image in self._images],
            [recent_use(image.last_use, inventory.blind_until, policy.age) for image in self._images],
            inventory.now - min_age,
            inventory.now - policy.allowlist_idle,
            (target[0] - shortage.bytes, target[1] - shortage.inodes),
            # The threshold was crossed before the first stage: from then on the target counts.
            (math.inf, math.inf),
            target,
            emergency,
            layers.first,
            layers.layer,
            layers.bytes,
            layers.inodes,
            self._holders,
            verdict,
        )
        return verdict


_NEVER = (-1.0, -1.0)


def facts(image: Image, now: float, own_bytes: int, learned: Learned) -> Facts:
    """What an order may look at."""
    idle, superseded = now - image.last_use, image.superseded <= now
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
        superseded=int(superseded),
        hazard=learned.hazard(idle, image.uses, superseded),
        forecast=learned.forecast(idle, image.gap, now - image.superseded),
    )


def blocked(image: Image, containers: int, policy: Policy, *, held: bool) -> Reason:
    """The reason for which an image must stay whatever happens, else ENOUGH_SPACE (0).

    Args:
        image: the image.
        containers: how many containers will refer to it at its turn.
        policy: what becomes of local images.
        held: whether a job in flight needs it.
    """
    if containers:
        return Reason.PINNED
    if held:
        return Reason.HELD
    if image.kept_by:
        return Reason.LABELLED
    if image.local and policy.local_images != EVICT:
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
    if reason is Reason.LOCAL:
        unknown = "whether a registry has it is not known, so it counts as local (local_images)"
        said = unknown if image.origin is Origin.UNKNOWN else MEANING[reason]
        return said.replace("local_images", f"local_images = {policy.local_images}{_local_rule(policy)}")
    if reason is Reason.YOUNG:
        since = f" [{policy.min_age_evidence}]" if policy.min_age_evidence else ""
        return f"used {idle} ago, within min_age {policy.age_text} ({image.evidence}){since}"
    if reason in {Reason.LABELLED, Reason.PROTECTED, Reason.EVICT_EMERGENCY}:
        named = image.kept_by if reason is Reason.LABELLED else policy.protects(image.names)
        return f"{MEANING[reason]} ({named})"
    if reason in {Reason.EVICT, Reason.EVICT_DANGLING, Reason.EVICT_TOGETHER, Reason.EVICT_LOCAL}:
        return f"{MEANING[reason]}: last used {idle} ago ({image.evidence})"
    return MEANING[reason]


def _local_rule(policy: Policy) -> str:
    if policy.local_images != SUPERSEDED:
        return ""
    return f": it is the latest of a repository, or was used within {format_duration(policy.local_idle)}"


class _Layers:
    """The layers of all images as the decision function takes them: numbered, each once.

    No engine reports inodes: a layer's share of those in use is taken to be as large as
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


def next_in_line(made: Plan) -> tuple[Removal, ...]:
    """What would go, in order, if the disk were full: all that the policy lets go but in an emergency."""
    total = made.inventory.disk.total_bytes
    wanted = (float(total), made.levels.target[1])
    return plan(made.policy, made.inventory, levels=Levels(wanted, wanted, (-1.0, -1.0))).removals


def summary(made: Plan) -> str:
    """The plan in one line."""
    disk = made.inventory.disk
    where = f" on {disk.mount} ({', '.join(disk.holds)})" if disk.holds else ""
    state = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free{where}"
    if not made.needed:
        return f"{state}, threshold {format_bytes(made.levels.threshold[0])}: nothing to do"
    if not made.removals:
        return f"{state}, {_under(made)}: nothing may go, so the target of {_target(made)} IS NOT REACHED"
    after = format_bytes(disk.free_bytes + made.frees)
    verb = "reaches" if made.reaches_target else "DOES NOT REACH"
    return (
        f"{state}, {_under(made)}: removing {counted(made.removals)} "
        f"frees {format_bytes(made.frees)}, leaves {after} free, "
        f"and {verb} the target of {_target(made)}"
    )


def _target(made: Plan) -> str:
    return format_bytes(made.levels.target[0])


def _under(made: Plan) -> str:
    disk, level = made.inventory.disk, made.levels.threshold
    if disk.free_bytes >= level[0]:
        return f"{disk.free_inodes:,} inodes free, under the threshold of {level[1]:,.0f}"
    return f"under the threshold of {format_bytes(level[0])}"


_COUNTED = (
    (ItemKind.CONTAINER, "container"),
    (ItemKind.LOG, "container log"),
    (ItemKind.VOLUME, "volume"),
    (ItemKind.IMAGE, "image"),
)


def counted(removals: Sequence[Removal]) -> str:
    """How many of which kind, in words: ``2 containers, 1 image``; images always."""
    counts = Counter(removal.kind for removal in removals)
    parts = [format_count(counts[kind], word) for kind, word in _COUNTED if counts[kind] or kind is ItemKind.IMAGE]
    return ", ".join([*parts, *["build cache"] * (ItemKind.BUILD_CACHE in counts)])
