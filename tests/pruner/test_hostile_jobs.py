"""What a job may do to others and to the disk by what it names, pulls and tags: the table of SECURITY.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collector.machine.disk import DiskSample
from collector.model.jobs import job_of, slot_of
from collector.model.origin import Origin
from pruner.planning.decision import Reason
from pruner.planning.plan import Plan, plan
from pruner.policy.file import policy_from
from pruner.policy.policy import Policy
from pruner.state.inventory import Image, Inventory
from pruner.state.volumes import sort_of
from tests.pruner.test_local_images import reasons
from tests.pruner.test_stages import MB, NOW, image

TOTAL = 1000 * MB
ALLOWED = "registry.example.org/mesa/x"


def made(images: list[Image], free: int, policy: Policy) -> Plan:
    disk = DiskSample("/", TOTAL, free, 0, 0)
    return plan(policy, Inventory(tuple(images), disk, NOW))


def policy(**more: str) -> Policy:
    wanted = {"threshold": "20%", "min_age": "1h", "allowlist": ["registry.example.org/mesa/*"], "order": "lru", **more}
    return policy_from(wanted, "test")


def test_endless_pulls_take_neither_what_is_used_nor_what_is_allowlisted_and_go_themselves() -> None:
    endless = [image(f"evil{number}", 2 - number / 100) for number in range(40)]
    others = [
        image("in-use", 500, containers=1),
        image("just-used", 0.5),
        replace(image("base", 300), references=(f"{ALLOWED}:1",), names=(f"{ALLOWED}:1",)),
    ]
    found = reasons(made([*others, *endless], 50 * MB, policy()))
    assert found["in-use"] is Reason.PINNED
    assert found["just-used"] is Reason.YOUNG
    assert found["base"] is Reason.PROTECTED
    removed = [name for name, reason in found.items() if reason is Reason.EVICT]
    assert len(removed) == 15  # 150 MB are missing, 10 MB each
    assert all(name.startswith("evil") for name in removed)


def borrowed(hours: float, origin: Origin = Origin.REGISTRY) -> Image:
    """An image that a job has given a name of the allowlist."""
    return replace(
        image("evil", hours), references=(f"{ALLOWED}:1", "evil:1"), names=(f"{ALLOWED}:1", "evil:1"), origin=origin
    )


@pytest.mark.parametrize(
    ("hours", "free", "expected"),
    [
        (20, 199, Reason.EVICT_EMERGENCY),  # all others are gone, and it is the last that may go
        (24 * 15, 199, Reason.EVICT),  # unused for longer than `allowlist_idle`
        (0.5, 199, Reason.YOUNG),
    ],
)
def test_a_borrowed_name_protects_until_it_is_unused_or_all_others_are_gone(
    hours: float, free: int, expected: Reason
) -> None:
    found = reasons(made([borrowed(hours)], free * MB, policy()))
    assert found["evil"] is expected


def test_a_borrowed_name_protects_while_others_may_go() -> None:
    found = reasons(made([borrowed(20), image("other", 10)], 195 * MB, policy()))
    assert found == {"evil": Reason.PROTECTED, "other": Reason.EVICT}


def test_images_that_a_job_builds_stay_or_go_as_the_policy_says_of_local_images() -> None:
    kept = reasons(made([replace(image("built", 500), origin=Origin.LOCAL)], 50 * MB, policy(local_images="keep")))
    gone = reasons(made([replace(image("built", 500), origin=Origin.LOCAL)], 50 * MB, policy(local_images="evict")))
    assert (kept["built"], gone["built"]) == (Reason.LOCAL, Reason.EVICT_LOCAL)


def test_a_container_s_name_makes_no_gitlab_job_and_no_cache_of_a_volume() -> None:
    name = "runner-abc-project-7-concurrent-0-1234-build"
    assert job_of({}, name) is None
    # It counts as a sign of life of the slot's cache, which then stays longer.
    assert slot_of(name) == "runner-abc-project-7-concurrent-0"
    assert sort_of("data", {"com.gitlab.gitlab-runner.job.id": "1"}) == "named"
