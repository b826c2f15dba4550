"""The stages that concern images: which go, and why each stays or goes. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from collector.model.origin import Origin
from collector.model.references import repository
from collector.model.units import format_duration
from pruner.planning import stages
from pruner.planning.decision import EVICT as EVICTS
from pruner.planning.decision import MEANING, Reason, evict, in_turn, recent_use
from pruner.planning.stages import ItemKind, Shortage
from pruner.policy.local_images import EVICT, SUPERSEDED, by_end, idle_since, in_their_turn, superseded
from pruner.policy.orders import ORDERS, Facts
from pruner.policy.policy import Levels, Policy
from pruner.state.inventory import Image, Inventory
from pruner.state.learning import Learned
from pruner.state.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one image, and why.

    Attributes:
        image: the image.
        reason: why it stays or goes.
        frees: bytes that its removal frees at its turn; 0 if it stays.
        explain: says the reason in words, with the figures that led to it.
    """

    image: Image
    reason: Reason
    frees: int
    explain: Callable[[], str] = field(repr=False, compare=False)

    @property
    def evicts(self) -> bool:
        """Whether the image goes."""
        return self.reason >= EVICTS

    @property
    def detail(self) -> str:
        """The reason in words, with the figures that led to it. Of most images nobody asks for it."""
        return self.explain()


class Ranking:
    """The images of an inventory in the order in which they go, and their layers; all levels of space have the same."""

    def __init__(self, policy: Policy, inventory: Inventory) -> None:
        disk, images = inventory.disk, inventory.images
        self.layers = _Layers(images, disk.total_inodes - disk.free_inodes, disk.total_bytes - disk.free_bytes)
        own, order_of = self.layers.own_bytes(), ORDERS[policy.order]
        keys = [order_of(facts(image, inventory.now, own[i], inventory.learned)) for i, image in enumerate(images)]
        # What a job in flight may need, and what the engine refused before, is for when nothing else is left.
        self.late = [(_refusal(inventory, image) is not None, _rank(inventory, image)) for image in images]
        self.order = sorted(range(len(images)), key=lambda i: (self.late[i], keys[i], i))


class ImageStages:
    """The stages that concern images: each a call of the decision function on what the ones before left."""

    def __init__(
        self, policy: Policy, inventory: Inventory, levels: Levels, gone: frozenset[str], ranking: Ranking
    ) -> None:
        self._policy, self._inventory, self._levels = policy, inventory, levels
        self._images = inventory.images
        self._left = Counter(one.image for one in inventory.containers if one.container_id not in gone)
        self._listed = Counter(one.image for one in inventory.containers)
        self._superseded: frozenset[int] = frozenset()
        self._order, self._when, self._layers = ranking.order, ranking.late, ranking.layers
        self._holders = list(self._layers.holders)
        self._reasons: dict[int, Reason] = {}
        self._dangling: list[int] = []
        # Those without a name that the engine refused before: they wait for the end of the order.
        self._late: set[int] = set()

    def decide_on_dangling(self, shortage: Shortage) -> None:
        """Choose among the images without a name; what they free lessens the shortage."""
        bearers = {reference: image.image_id for image in self._images for reference in image.references}
        found = [i for i in self._order if stages.is_dangling(self._images[i], bearers, self._policy)]
        chosen = [i for i in found if self._when[i] == _IN_TIME]
        self._late = {i for i in found if i not in chosen}
        held = [self._blocked(i) for i in range(len(self._images))]
        # Nobody can pull what has no name, and nobody can ask for it either: local_images is for
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
            Verdict(self._images[i], self._reasons[i], frees.get(i, 0), partial(self._explain, i))
            for i in [*going, *staying]
        )

    def _local_in_turn(self, order: list[int]) -> list[int]:
        """The same images, those that exist only on the host at their turn; which of these may go is noted."""
        policy, inventory = self._policy, self._inventory
        if policy.local_images != SUPERSEDED:
            return order
        # What goes as an image without a name, now or soon, is no later one that stays.
        staying = [i for i in sorted(order) if self._images[i].local and self._is_named(i)]
        seen = inventory.coverage
        # Nobody knows yet what happened since the collector recorded anything.
        unobserved = () if seen.last is None else ((seen.last, inventory.now),)
        quiet = idle_since(inventory.now, policy.local_idle, seen.first, by_end((*seen.gaps, *unobserved)))
        last_use = [image.last_use for image in self._images]
        current = [(*image.references, *image.digests) for image in self._images]
        found = superseded_among(self._images, staying, current)
        self._superseded = frozenset(i for i in found if last_use[i] <= quiet)
        if not self._superseded:
            return order
        turn = in_their_turn(order, [image.local for image in self._images], last_use, quiet)
        return sorted(turn, key=self._when.__getitem__)

    def _is_named(self, number: int) -> bool:
        return bool(self._images[number].references or self._images[number].digests)

    def _explain(self, number: int) -> str:
        image, reason, now = self._images[number], self._reasons[number], self._inventory.now
        said = explain(image, reason, self._policy, now)
        refusal, hold = _refusal(self._inventory, image), self._inventory.holds.get(image.image_id)
        if reason is Reason.HELD and (rollback := self._inventory.rollbacks.get(image.image_id)) is not None:
            said = rollback
        elif hold is not None and reason is Reason.HELD:
            said = f"{said}: {hold.summary(now)}"
        elif hold is not None and reason.evicts:
            said = f"{said}; last, for it may be needed by {hold.summary(now)}"
        if refusal is None or not (reason.evicts or reason is Reason.REFUSED):
            return said
        return f"{said}: {refusal.error}" if refusal.in_this_run else f"{said}; {stages.goes_last(refusal, now)}"

    def _without_name(self, number: int, reason: Reason) -> Reason:
        return Reason.ENOUGH_SPACE if reason is Reason.LOCAL and not self._images[number].digests else reason

    def _blocked(self, number: int) -> Reason:
        image = self._images[number]
        refusal = _refusal(self._inventory, image)
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
        min_age, blind_until = max(policy.age, age), inventory.coverage.blind_until
        verdict = [0] * len(self._images)
        target = self._levels.target
        evict(
            order,
            [int(reason) for reason in held],
            [policy.protects(image.names) is not None for image in self._images],
            [recent_use(image.last_use, blind_until, policy.age) for image in self._images],
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
# Neither refused before nor held for a job in flight.
_IN_TIME = (False, 0)


def _refusal(inventory: Inventory, image: Image) -> Refusal | None:
    return inventory.refusals.get((ItemKind.IMAGE.value, image.image_id))


def _rank(inventory: Inventory, image: Image) -> int:
    hold = inventory.holds.get(image.image_id)
    return 0 if hold is None else hold.rank


def superseded_among(images: Sequence[Image], staying: Iterable[int], current: Sequence[Collection[str]]) -> list[int]:
    """Local images of which a later one is there in each of their repositories: see `local_images.superseded`.

    Args:
        images: images in order of first sight.
        staying: numbers of the local ones that stay unless the policy's order takes them, in that order.
        current: the names that each has now.
    """
    order = list(staying)
    ever = {i: set(map(repository, images[i].names)) for i in order}
    now = {i: set(map(repository, current[i])) for i in order}
    return superseded(order, ever, now, {i: (images[i].first_seen, images[i].created) for i in order})


def still_superseded(image: Image, images: Sequence[Image], current: Mapping[str, Collection[str]]) -> bool:
    """Whether a later image of each repository of a local image is there in this moment.

    Args:
        image: the image.
        images: those that a plan was made of, in order of first sight.
        current: the names that each image has now, by ID.
    """
    named = [one for one in images if one.local and current.get(one.image_id)]
    found = superseded_among(named, range(len(named)), [current[one.image_id] for one in named])
    return any(named[i].image_id == image.image_id for i in found)


def facts(image: Image, now: float, own_bytes: int, learned: Learned) -> Facts:
    """What an order may look at."""
    idle, superseded = now - image.last_use, image.superseded <= now
    return Facts(
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
        forecast=learned.forecast(idle, image.uses, image.gap, now - image.superseded, image.recent),
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
    return f": it is the latest of a repository, or not yet seen unused for {format_duration(policy.local_idle)}"


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
