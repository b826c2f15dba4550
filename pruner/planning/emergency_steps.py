"""The steps of an emergency, from what costs nothing to what costs most, and what each would free. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pruner.planning.plan import Plan, plan
from pruner.policy.policy import BuildCache, Levels, Policy, Space


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
    """The steps that a policy leaves, least harmful first; what its `keep` lists name stays in all of them."""
    whole, never = Space.parse("100%"), Space.parse("never")
    usual = replace(policy, threshold=whole, target=None, emergency=never)
    builds = replace(usual, build_cache=BuildCache(enabled=True, keep=0, age=0.0))
    stopped = replace(
        builds,
        containers=replace(policy.containers, enabled=True, grace=0.0, job_grace=0.0),
        dangling=replace(policy.dangling, enabled=True, age=0.0),
    )
    images = replace(stopped, min_age=0.0)
    listed = replace(images, emergency=whole)
    volumes = replace(
        listed, volumes=replace(policy.volumes, enabled=True, anonymous_age=0.0, cache_age=0.0, builder_age=0.0)
    )
    return (
        Step("what the policy lets go", "nothing that the policy does not accept", usual),
        Step("all unused build cache", "the next builds take longer", builds),
        Step(
            "stopped containers and nameless images of any age", "what these containers wrote, and their logs", stopped
        ),
        Step("unused images of any age", "jobs pull them again", images),
        Step("unused allowlisted images", "jobs pull them again", listed),
        Step("unused anonymous, cache and builder volumes", "caches fill again; other data is lost", volumes),
    )


def prospects(made: Plan, wanted: Sequence[Step]) -> Iterator[Prospect]:
    """What each step would give back, one after the other."""
    total = made.inventory.disk.total_bytes
    freed = count = 0
    for step in wanted:
        level = float(total) if step.policy.emergency != Space.parse("never") else -1.0
        target = (float(total), made.levels.target[1])
        found = plan(step.policy, made.inventory, levels=Levels(target, target, (level, -1.0)))
        gain, more = found.frees - freed, len(found.removals) - count
        yield Prospect(step, max(0, gain), max(0, more))
        freed, count = max(freed, found.frees), max(count, len(found.removals))
