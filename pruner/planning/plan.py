"""The plan: a verdict with its reason for all that the engine holds, from an inventory and a policy. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from collector.machine.disk import DiskSample
from pruner.planning import stages
from pruner.planning.decision import Reason
from pruner.planning.image_stages import ImageStages, Ranking, Verdict
from pruner.planning.stages import Item, ItemKind, Shortage
from pruner.policy.policy import Levels, Policy
from pruner.state.inventory import BuildCacheUsage, Container, Image, Inventory, Volume
from pruner.state.refusals import Refusal

# With less free than this an engine may be unable to write, and refuse removals for which it has to.
FULL_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Removal:
    """One step of a plan, in words that hold for whatever is removed.

    Attributes:
        kind: what goes.
        key: what the engine calls it.
        name: what people call it.
        reason: why it goes, as the log keeps it.
        frees: bytes that it frees at its turn.
        references: an image's tags, all of which go.
        of: what it was decided on.
    """

    kind: ItemKind
    key: str
    name: str
    reason: str
    frees: int
    references: tuple[str, ...]
    of: Verdict | Item

    @property
    def detail(self) -> str:
        """The reason in words."""
        return self.of.detail

    @classmethod
    def of_image(cls, verdict: Verdict) -> Removal:
        """The removal of an image."""
        image, reason = verdict.image, verdict.reason.word
        return cls(ItemKind.IMAGE, image.image_id, image.name, reason, verdict.frees, image.references, verdict)

    @classmethod
    def of_item(cls, item: Item) -> Removal:
        """The removal of something else."""
        return cls(item.kind, item.key, item.name, item.reason.value, item.frees, (), item)


@dataclass(frozen=True)
class Plan:
    """Verdicts on all that the engine holds: what goes first, in the order of its removal.

    Attributes:
        policy: what was decided by.
        inventory: what was decided on.
        levels: the policy's amounts on this disk.
        verdicts: one per image.
        items: verdicts on containers, volumes and build cache, stage by stage.
        ranking: the order of the images, for other plans of the same inventory.
    """

    policy: Policy
    inventory: Inventory
    levels: Levels
    verdicts: tuple[Verdict, ...]
    items: tuple[Item, ...]
    ranking: Ranking = field(repr=False, compare=False)

    @cached_property
    def evictions(self) -> tuple[Verdict, ...]:
        """The images that go, in order."""
        return tuple(verdict for verdict in self.verdicts if verdict.evicts)

    @cached_property
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

    @cached_property
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

    def _special(self, image: Image) -> dict[str, Any]:
        """For which job an image is held, and whether it could not be removed before, where that is so."""
        hold = self.inventory.holds.get(image.image_id)
        refused = ("image", image.image_id) in self.inventory.refusals
        found = {"hold": hold and hold.to_json(), "last": Reason.REFUSED.word if refused else None}
        return {name: value for name, value in found.items() if value is not None}

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
                    "reason": verdict.reason.word,
                    "frees": verdict.frees,
                    "last_use": verdict.image.last_use,
                    "evidence": verdict.image.evidence,
                    "origin": verdict.image.origin.value,
                    **self._special(verdict.image),
                }
                for verdict in self.verdicts
            ],
        }


def plan(
    policy: Policy,
    inventory: Inventory,
    job_slots: int | None = None,
    *,
    levels: Levels | None = None,
    ranking: Ranking | None = None,
) -> Plan:
    """Decide on all that the engine holds, stage by stage.

    Args:
        policy: what may be removed, when, and in which order.
        inventory: what there is, and the disk as it is.
        job_slots: free job slots of the runner, for amounts per job; None: as in the inventory.
        levels: levels of free space instead of the policy's (one manual clean-up).
        ranking: of another plan of this inventory by a policy with the same order; None: it is worked out.

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
    ranking = ranking or Ranking(policy, inventory)
    gone = frozenset(item.key for item in containers if item.is_removed)
    images = ImageStages(policy, inventory, levels, gone, ranking)
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
    return Plan(policy, inventory, levels, verdicts, tuple(items), ranking)


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


def short(free_bytes: float, free_inodes: float, level: tuple[float, float]) -> bool:
    """Whether bytes or inodes are under a level."""
    return free_bytes < level[0] or free_inodes < level[1]


def next_in_line(made: Plan) -> tuple[Removal, ...]:
    """What would go, in order, if the disk were full: all that the policy lets go but in an emergency."""
    total = made.inventory.disk.total_bytes
    wanted = (float(total), made.levels.target[1])
    levels = Levels(wanted, wanted, (-1.0, -1.0))
    return plan(made.policy, made.inventory, levels=levels, ranking=made.ranking).removals
