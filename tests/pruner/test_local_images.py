"""Images that exist only on the host: which of them may go all the same, when, and how that is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collector.machine.disk import DiskSample
from collector.model.origin import Origin
from collector.queries.coverage import Coverage
from pruner.planning.decision import Reason
from pruner.planning.plan import Plan, plan
from pruner.policy.file import policy_from
from pruner.policy.local_images import by_end, idle_since
from pruner.state.inventory import Image, Inventory
from tests.pruner.test_stages import MB, NOW, image

DAY = 86400.0
MONTH = Coverage(first=NOW - 30 * DAY, last=NOW)


def built(name: str, hours: float, repository: str = "ci/app", **more: object) -> Image:
    """A local image of 10 MB, tagged by its name; the order of first sight is that of the list."""
    names = tuple(f"{one}:{name}" for one in repository.split())
    return replace(image(name, hours), references=names, names=names, origin=Origin.LOCAL, **more)  # type: ignore[arg-type]


def made(images: list[Image], missing: int, seen: Coverage = MONTH, **given: str) -> Plan:
    policy = policy_from({"threshold": "500MB", "min_age": "1h", "order": "lru", **given}, "test")
    disk = DiskSample("/", 1000 * MB, (500 - missing) * MB, 0, 0)
    return plan(policy, Inventory(tuple(images), disk, NOW, coverage=seen))


def reasons(found: Plan) -> dict[str, Reason]:
    return {verdict.image.image_id.removeprefix("image-of-"): verdict.reason for verdict in found.verdicts}


def test_what_is_superseded_and_idle_goes_once_all_that_was_idle_as_long_is_gone() -> None:
    images = [
        built("old", 24 * 20),
        image("from-registry", 24 * 9),
        image("used-today", 8),
        built("young", 24 * 6),
        built("latest", 24 * 8),
    ]
    assert reasons(made(images, 10)) == {
        "from-registry": Reason.EVICT,
        "old": Reason.TARGET_REACHED,
        "used-today": Reason.TARGET_REACHED,
        "young": Reason.LOCAL,
        "latest": Reason.LOCAL,
    }
    assert [one for one, reason in reasons(made(images, 20)).items() if reason.evicts] == ["from-registry", "old"]
    everything = reasons(made(images, 500))
    assert [one for one, reason in everything.items() if reason.evicts] == ["from-registry", "old", "used-today"]
    assert everything["old"] is Reason.EVICT_LOCAL
    assert reasons(made(images, 500, local_images="keep"))["old"] is Reason.LOCAL
    assert reasons(made(images, 500, local_idle="21d"))["old"] is Reason.LOCAL


def test_it_is_named_as_what_exists_only_on_this_host() -> None:
    found = made([built("old", 24 * 20), built("latest", 24 * 8)], 10)
    (removal,) = found.removals
    assert removal.reason == "evict_local"
    assert removal.detail.startswith("EXISTS ONLY ON THIS HOST")
    (stays,) = [one.detail for one in found.verdicts if not one.evicts]
    assert stays == (
        "exists only on this host "
        "(local_images = superseded: it is the latest of a repository, or not yet seen unused for 7 d)"
    )


@pytest.mark.parametrize(
    "stays",
    [
        built("latest-elsewhere", 24 * 20, "ci/app ci/other"),
        built("alone", 24 * 20, "ci/other"),
        replace(built("nameless", 24 * 20), references=(), names=(), digests=("ci/x@sha256:00",)),
        built("running", 24 * 20, containers=1),
        built("labelled", 24 * 20, kept_by="keep"),
    ],
    ids=lambda one: one.image_id,
)
def test_what_stays(stays: Image) -> None:
    found = made([stays, built("latest", 1)], 500)
    assert not any(one.evicts for one in found.verdicts)


def test_a_later_one_that_has_lost_its_name_does_not_count() -> None:
    later = replace(built("moved", 24 * 8), references=(), digests=())
    assert not reasons(made([built("old", 24 * 20), later], 500, MONTH, **{"dangling.enabled": "false"}))["old"].evicts


def test_a_later_one_that_has_moved_to_another_repository_does_not_count() -> None:
    later = replace(built("moved", 24 * 8, "ci/other"), names=("ci/app:passing", "ci/other:moved"))
    assert not any(one.evicts for one in made([built("old", 24 * 20), later], 500).verdicts)


def test_of_two_that_were_first_seen_and_built_at_the_same_time_none_is_the_later_one() -> None:
    """Reproducible builds all bear the same time, and the first inventory sees them all at once."""
    pair = [built("one", 24 * 20), built("two", 24 * 20)]
    assert not any(one.evicts for one in made(pair, 500).verdicts)


@pytest.mark.parametrize(
    ("seen", "goes"),
    [
        (Coverage(NOW - 8 * DAY, NOW), True),
        (Coverage(NOW - 6 * DAY, NOW), False),  # nobody saw whether it was used on the seventh day
        (Coverage(NOW - 8 * DAY, NOW, ((NOW - 3 * DAY, NOW - 1 * DAY),)), False),
        (Coverage(NOW - 8 * DAY, NOW, ((NOW - 3 * DAY, NOW - 2.5 * DAY),)), True),
        (Coverage(NOW - 30 * DAY, NOW - 14 * DAY), False),  # the collector has been off since
        (Coverage(NOW - 30 * DAY, NOW - 12 * DAY), True),
        (Coverage(), False),
    ],
)
def test_idle_is_what_was_seen_to_be(seen: Coverage, *, goes: bool) -> None:
    assert reasons(made([built("old", 24 * 20), built("latest", 1)], 10, seen))["old"].evicts is goes


def test_the_time_that_was_observed_leaves_out_gaps_each_once() -> None:
    gaps = by_end([(10.0, 20.0), (40.0, 60.0), (50.0, 70.0), (45.0, 46.0)])
    assert idle_since(100.0, 30.0, 0.0, gaps) == 70.0
    assert idle_since(100.0, 31.0, 0.0, gaps) == 39.0
    assert idle_since(100.0, 55.0, 0.0, gaps) == 5.0
    assert idle_since(100.0, 61.0, 0.0, gaps) == float("-inf")
    assert idle_since(100.0, 31.0, 0.0, by_end([(90.0, 120.0)])) == 59.0
