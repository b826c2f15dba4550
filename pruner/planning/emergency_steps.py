"""The steps of an emergency, from what costs nothing to what costs most, and what each would free. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pruner.planning.plan import Plan, plan
from pruner.policy.policy import NEVER, Levels, Policy, Space


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what goes, what that costs, and the policy that lets it and all steps before it go."""

    title: str
    cost: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Prospect:
    """A step, and what it would free on this host after the steps before it: bytes, and how many things."""

    step: Step
    gain: int
    count: int


def steps(policy: Policy) -> tuple[Step, ...]:
    """The steps that a policy leaves, least harmful first.

    Ages and graces count no more; what the policy keeps by name, switches off or never removes stays in all of them.
    """
    whole, never = Space.parse("100%"), Space.parse(NEVER)
    usual = replace(policy, threshold=whole, target=None, emergency=never)
    builds = replace(usual, build_cache=replace(policy.build_cache, keep=0, age=0.0))
    stopped = replace(
        builds,
        containers=replace(policy.containers, grace=0.0, job_grace=0.0),
        dangling=replace(policy.dangling, age=0.0),
    )
    images = replace(stopped, min_age=0.0)
    spared = policy.emergency == never
    listed = images if spared else replace(images, emergency=whole)
    volumes = replace(listed, volumes=replace(policy.volumes, anonymous_age=0.0, cache_age=0.0, builder_age=0.0))
    builds_cost = _cost("the next builds take longer", "build-cache", lets=policy.build_cache.enabled)
    stopped_cost = _cost("what these containers wrote, and their logs", "containers", lets=policy.containers.enabled)
    volumes_cost = _cost("caches fill again; other data is lost", "volumes", lets=policy.volumes.enabled)
    return (
        Step("what the policy lets go", "nothing that the policy does not accept", usual),
        Step("all unused build cache", builds_cost, builds),
        Step("stopped containers and nameless images of any age", stopped_cost, stopped),
        Step("unused images of any age", "jobs pull them again", images),
        Step(
            "unused allowlisted images",
            "the policy never removes them: --emergency 100% does" if spared else "jobs pull them again",
            listed,
        ),
        Step("unused anonymous, cache and builder volumes", volumes_cost, volumes),
    )


def _cost(cost: str, section: str, *, lets: bool) -> str:
    """What a step costs, or which option lets it take what the policy switches off."""
    return cost if lets else f"the policy switches {section.replace('-', ' ')} off: --{section}-enabled true"


def prospects(made: Plan, wanted: Sequence[Step]) -> Iterator[Prospect]:
    """What each step would give back, one after the other."""
    total = made.inventory.disk.total_bytes
    freed = count = 0
    for step in wanted:
        level = float(total) if step.policy.emergency != Space.parse(NEVER) else -1.0
        target = (float(total), made.levels.target[1])
        levels = Levels(target, target, (level, -1.0))
        found = plan(step.policy, made.inventory, levels=levels, ranking=made.ranking)
        gain, more = found.frees - freed, len(found.removals) - count
        yield Prospect(step, max(0, gain), max(0, more))
        freed, count = max(freed, found.frees), max(count, len(found.removals))
