"""What the rules of a policy hold back of the space that is missing, and which option would give it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from collector.model.units import format_bytes
from pruner.planning.decision import Reason
from pruner.planning.image_stages import Verdict
from pruner.planning.plan import Plan
from pruner.planning.stages import Item, ItemKind, ItemReason
from pruner.state.inventory import Volume


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What one rule keeps.

    Attributes:
        rule: the rule, as the policy calls it where it does.
        count: how many things it keeps.
        bytes: what they would free together, after all that goes.
        remedy: the option or the step that would give it.
    """

    rule: str
    count: int
    bytes: int
    remedy: str

    def __str__(self) -> str:
        return f"{self.rule} {format_bytes(self.bytes)} ({self.remedy})"


_IMAGES = {
    Reason.PINNED: ("containers", "remove containers that nobody needs"),
    Reason.HELD: ("jobs in flight and rollbacks", "wait until jobs have ended, or --rollback-grace 0s"),
    Reason.REFUSED: ("refused by the engine", "follow what the engine says about each"),
    Reason.LOCAL: ("local_images", "--local-images evict: these exist only on this host"),
    Reason.YOUNG: ("min_age", "--min-age 0s"),
    Reason.LABELLED: ("keep_labels", "a narrower --keep-labels"),
    Reason.PROTECTED: ("allowlist", "a higher --emergency"),
}
_ITEMS = {
    (ItemKind.CONTAINER, ItemReason.YOUNG): ("containers' grace", "--containers-grace 0s --containers-job-grace 0s"),
    (ItemKind.CONTAINER, ItemReason.SERVICE): ("services", "remove services that nobody needs"),
    (ItemKind.CONTAINER, ItemReason.REFUSED): ("refused by the engine", "follow what the engine says about each"),
    (ItemKind.VOLUME, ItemReason.REFUSED): ("refused by the engine", "follow what the engine says about each"),
    (ItemKind.CONTAINER, ItemReason.KEPT): ("containers.keep", "a narrower --containers-keep"),
    (ItemKind.CONTAINER, ItemReason.SWITCHED_OFF): ("containers.enabled", "--containers-enabled true"),
    (ItemKind.VOLUME, ItemReason.IN_USE): ("volumes of containers", "remove containers that nobody needs"),
    (ItemKind.VOLUME, ItemReason.NOT_LISTED): ("named volumes", "--volumes-named NAME"),
    (ItemKind.VOLUME, ItemReason.KEPT): ("volumes.keep", "a narrower --volumes-keep"),
    (ItemKind.VOLUME, ItemReason.SWITCHED_OFF): ("volumes.enabled", "--volumes-enabled true"),
    (ItemKind.BUILD_CACHE, ItemReason.SMALL): ("build_cache.keep", "--build-cache-keep 0 --build-cache-age 0s"),
    (ItemKind.BUILD_CACHE, ItemReason.SWITCHED_OFF): ("build_cache.enabled", "--build-cache-enabled true"),
}


def held_back(made: Plan) -> list[HeldBack]:
    """What each rule keeps of what could be freed, the most first.

    An image's layers count under a rule if nothing but images that this rule keeps would still hold them.
    """
    found = [*_of_images(made), *_of_items(made.items)]
    return sorted((one for one in found if one.bytes), key=lambda one: -one.bytes)


def _of_images(made: Plan) -> Iterable[HeldBack]:
    staying = [one for one in made.verdicts if not one.evicts]
    holders = Counter(chain for one in staying for chain, _ in dict(one.image.layers).items())
    for reason, (rule, remedy) in _IMAGES.items():
        group = [one for one in staying if one.reason is reason]
        if group:
            yield HeldBack(rule, len(group), _freed_together(group, holders), remedy)


def _freed_together(group: Iterable[Verdict], holders: Counter[str]) -> int:
    left, freed = Counter(holders), 0
    for one in group:
        for chain, size in dict(one.image.layers).items():
            left[chain] -= 1
            freed += size if not left[chain] else 0
    return freed


def _of_items(items: Iterable[Item]) -> Iterable[HeldBack]:
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault(_rule_of(item), []).append(item)
    for (rule, remedy), group in groups.items():
        if rule:
            yield HeldBack(rule, len(group), sum(item.subject.bytes for item in group), remedy)


def _rule_of(item: Item) -> tuple[str, str]:
    if isinstance(item.subject, Volume) and item.reason is ItemReason.YOUNG:
        sort = item.subject.sort
        return f"volumes.{sort}_age", f"--volumes-{sort}-age 0s"
    if item.reason is ItemReason.LABELLED:
        return "keep_labels", "a narrower --keep-labels"
    return _ITEMS.get((item.kind, item.reason), ("", ""))
