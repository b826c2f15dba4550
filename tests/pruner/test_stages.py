"""The stages before images: what goes, in which order, how far, and what never does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.machine.disk import DiskSample
from collector.model.origin import Origin
from pruner.planning import stages
from pruner.planning.decision import Reason
from pruner.planning.plan import Plan, plan
from pruner.planning.stages import ItemKind, ItemReason, Shortage
from pruner.policy.policy import BuildCache, Containers, Dangling, Policy, Space, Volumes
from pruner.state.inventory import BuildCacheUsage, CacheRecord, Container, Image, Inventory, Volume
from pruner.state.refusals import Refusal
from pruner.state.volumes import VolumeUses, read_volumes
from tests.fake_engine import FakeEngine
from tests.fake_holdings import FakeVolume

NOW = 1_000_000.0
HOUR, DAY = 3600.0, 86400.0
MB = 10**6


def container(name: str, hours: float, job: str | None = None, size: int = MB, state: str = "exited") -> Container:
    return Container(name, name, f"image-of-{name}", state, NOW - hours * HOUR, job=job, bytes=size)


def volume(name: str, sort: str, days: float, size: int = MB) -> Volume:
    return Volume(name, sort, NOW - days * DAY, NOW - days * DAY, "created", size)


def image(name: str, hours: float, size: int = 10 * MB, containers: int = 0) -> Image:
    last = NOW - hours * HOUR
    return Image(
        image_id=f"image-of-{name}",
        references=(f"{name}:1",),
        digests=(f"{name}@sha256:1",),
        names=(f"{name}:1", f"{name}@sha256:1"),
        size=size,
        layers=((name, size),),
        created=0.0,
        first_seen=last,
        last_use=last,
        evidence="container removed",
        pulled=last,
        uses=1,
        origin=Origin.REGISTRY,
        containers=containers,
    )


def decided(found: list[stages.Item]) -> dict[str, ItemReason]:
    return {item.key: item.reason for item in found}


def test_containers_of_jobs_go_first_the_longest_stopped_first_and_no_further_than_needed() -> None:
    found = [
        container("other", 48),
        container("job-new", 2, job="2"),
        container("job-old", 3, job="1"),
        container("other-old", 72),
    ]
    judged = stages.containers(Containers(), found, NOW, Shortage(2.5 * MB, 0))
    assert [(item.key, item.reason) for item in judged] == [
        ("job-old", ItemReason.EXPIRED),
        ("job-new", ItemReason.EXPIRED),
        ("other-old", ItemReason.EXPIRED),
        ("other", ItemReason.TARGET_REACHED),
    ]


def test_containers_that_run_are_young_kept_or_services_stay() -> None:
    found = [
        container("running", 1000, state="running"),
        container("paused", 1000, state="paused"),
        container("removing", 1000, state="removing"),
        container("young-job", 0.5, job="1"),
        container("young-other", 23),
        container("kept-database", 1000),
        replace(container("service", 1000), restarts=True),
        replace(container("task", 1000), orchestrator="Docker swarm"),
        replace(container("never-started", 0.5, job="3", state="created"), never_started=True),
    ]
    judged = stages.containers(Containers(keep=("*-database",)), found, NOW, Shortage(1e12, 0))
    assert decided(judged) == {
        "running": ItemReason.RUNNING,
        "paused": ItemReason.RUNNING,
        "removing": ItemReason.RUNNING,
        "young-job": ItemReason.YOUNG,
        "young-other": ItemReason.YOUNG,
        "kept-database": ItemReason.KEPT,
        "service": ItemReason.SERVICE,
        "task": ItemReason.SERVICE,
        "never-started": ItemReason.YOUNG,
    }
    switched_off = stages.containers(Containers(enabled=False), [container("old", 1000)], NOW, Shortage(1e12, 0))
    assert decided(switched_off) == {"old": ItemReason.SWITCHED_OFF}
    assert all(item.frees == 0 for item in (*judged, *switched_off))


def test_volumes_come_in_one_order_however_the_engine_lists_them(tmp_path: Path) -> None:
    """Docker lists them in another order each time, and a plan is to be what the run then does."""
    engine = FakeEngine(tmp_path)
    for name in ("c", "a", "b"):
        engine.volume_table[name] = FakeVolume(name, 0.0, MB, {})
    assert [one.name for one in read_volumes(engine, [], {}, VolumeUses())] == ["a", "b", "c"]


def test_volumes_go_by_kind_each_with_its_age_and_never_one_in_use() -> None:
    found = [
        volume("anonymous", "anonymous", 2),
        volume("anonymous-young", "anonymous", 0.5),
        volume("cache", "cache", 8),
        volume("cache-young", "cache", 6),
        volume("listed", "named", 15),
        volume("listed-kept", "named", 15),
        volume("data", "named", 1000),
        replace(volume("used", "anonymous", 1000), containers=1),
        replace(volume("nfs", "anonymous", 1000), here=False),
        replace(volume("orphan", "anonymous", 1000), orphaned=True),
        replace(volume("labelled", "anonymous", 1000), kept_by="keep"),
        volume("buildx_buildkit_old0_state", "builder", 15),
        replace(volume("buildx_buildkit_mine0_state", "builder", 15), containers=1),
    ]
    judged = stages.volumes(Volumes(named=("listed*",), keep=("*-kept",)), found, NOW, Shortage(1e12, 0))
    assert decided(judged) == {
        "anonymous": ItemReason.EXPIRED,
        "anonymous-young": ItemReason.YOUNG,
        "cache": ItemReason.EXPIRED,
        "cache-young": ItemReason.YOUNG,
        "listed": ItemReason.EXPIRED,
        "listed-kept": ItemReason.KEPT,
        "data": ItemReason.NOT_LISTED,
        "used": ItemReason.IN_USE,
        "nfs": ItemReason.ELSEWHERE,
        "orphan": ItemReason.YOUNG,
        "labelled": ItemReason.LABELLED,
        "buildx_buildkit_old0_state": ItemReason.EXPIRED,
        "buildx_buildkit_mine0_state": ItemReason.IN_USE,
    }
    assert [item.key for item in judged if item.is_removed] == [
        *("anonymous", "cache", "buildx_buildkit_old0_state", "listed")
    ]
    assert "docker buildx prune --builder mine" in next(item.detail for item in judged if "mine0" in item.key)


def test_a_plan_says_which_data_goes_with_a_container_or_a_volume() -> None:
    one = replace(container("c", 48, size=3 * MB), log_bytes=MB, volumes=("data",))
    (judged,) = stages.containers(Containers(), [one], NOW, Shortage(1e12, 0))
    assert judged.detail.endswith("what it wrote (1.91 MiB) and its log (977 KiB) go with it, its volumes stay (data)")
    (judged,) = stages.volumes(Volumes(), [volume("v", "anonymous", 9, 3 * MB)], NOW, Shortage(1e12, 0))
    assert judged.detail.endswith("2.86 MiB of data go with it, for good")


def test_build_cache_goes_down_to_what_is_kept_and_only_as_far_as_needed() -> None:
    records = tuple(CacheRecord(MB, NOW - k * DAY) for k in range(10))
    usage = BuildCacheUsage(records)
    policy = BuildCache(keep=3 * MB, age=DAY)

    def judge(missing: float, found: BuildCacheUsage = usage) -> stages.Item:
        (item,) = stages.build_cache(policy, found, NOW, Shortage(missing, 0))
        return item

    assert (judge(2.5 * MB).frees, judge(2.5 * MB).keep) == (3 * MB, 7.5 * MB)
    assert (judge(1e12).frees, judge(1e12).keep) == (7 * MB, 3 * MB)
    assert judge(0).reason is ItemReason.TARGET_REACHED
    assert judge(1e12, BuildCacheUsage(records[:3])).reason is ItemReason.SMALL
    held = BuildCacheUsage(tuple(replace(record, in_use=True) for record in records))
    assert judge(1e12, held).reason is ItemReason.SMALL
    assert stages.build_cache(policy, BuildCacheUsage(), NOW, Shortage(1e12, 0)) == []


def inventory(
    images: list[Image], containers: tuple[Container, ...] = (), volumes: tuple[Volume, ...] = (), free: int = 5 * MB
) -> Inventory:
    disk = DiskSample("/", 100 * MB, free, 1000, 900)
    return Inventory(tuple(images), disk, NOW, containers=containers, volumes=volumes)


def policy(target: float, **sections: object) -> Policy:
    return replace(Policy(threshold=Space.parse(f"{int(target * MB)}B"), allowlist=("base",)), **sections)  # type: ignore[arg-type]


def going(made: Plan) -> list[str]:
    return [removal.name for removal in made.removals]


def test_stages_come_in_order_and_stop_at_the_target() -> None:
    nameless = replace(image("nameless", 48), references=(), digests=(), names=(), origin=Origin.LOCAL)
    state = inventory(
        [image("app", 30), image("base", 40), nameless],
        (container("c", 48),),
        (volume("v", "anonymous", 9),),
    )
    full = ["c", "image-of-nameless", "v", "app:1", "base:1"]
    for target, count in ((5, 0), (5.5, 1), (7, 2), (16, 2), (16.5, 3), (18, 4), (28, 5)):
        assert going(plan(policy(target), state)) == full[:count], target
    made = plan(policy(99), state)
    assert going(made) == full
    assert [removal.reason for removal in made.removals] == [
        *("expired", "evict_dangling", "expired", "evict", "evict_emergency")
    ]
    assert made.frees == 32 * MB


def test_in_an_emergency_an_allowlisted_image_takes_along_what_has_the_same_layers() -> None:
    base = image("base", 60)
    state = inventory([replace(image("mirror", 30), layers=base.layers), base, image("app", 20)])
    made = plan(policy(15), state)
    assert going(made) == ["app:1"]
    assert [(verdict.image.name, verdict.reason) for verdict in made.verdicts[1:]] == [
        ("base:1", Reason.PROTECTED),
        ("mirror:1", Reason.FREES_NOTHING),
    ]
    made = plan(policy(25), state)
    assert [(one.name, one.reason, one.frees) for one in made.removals] == [
        ("app:1", "evict", 10 * MB),
        ("mirror:1", "evict_together", 0),
        ("base:1", "evict_emergency", 10 * MB),
    ]
    assert made.reaches_target


def test_an_image_whose_only_containers_go_is_a_candidate_in_the_same_plan() -> None:
    pinned = image("pinned", 48, containers=2)
    stopped = replace(container("old", 48), image=pinned.image_id)
    both = (stopped, replace(container("young", 1), image=pinned.image_id))
    assert going(plan(policy(20), inventory([pinned], both))) == ["old"]
    once = replace(pinned, containers=1)
    assert going(plan(policy(20), inventory([once], (stopped,)))) == ["old", "pinned:1"]
    # A container that came after the containers were listed pins it all the same.
    assert going(plan(policy(20), inventory([pinned], (stopped,)))) == ["old"]


def test_a_tag_that_moved_on_leaves_a_dangling_image_but_a_pinned_digest_does_not() -> None:
    old = replace(
        image("app", 48),
        references=(),
        image_id="old",
        names=("app:1", "app@sha256:0"),
        layers=(("old", 10 * MB),),
    )
    by_digest = replace(image("pin", 50), references=(), names=("pin@sha256:1",))
    made = plan(policy(8), inventory([by_digest, image("app", 60), old]))
    assert going(made) == [old.name]
    assert made.evictions[0].reason is Reason.EVICT_DANGLING
    off = plan(policy(8, dangling=Dangling(enabled=False)), inventory([by_digest, image("app", 60), old]))
    assert going(off) == ["app:1"]


def test_an_untagged_build_goes_although_it_exists_only_here_but_only_after_its_age() -> None:
    nameless = replace(image("build", 25), references=(), digests=(), names=(), origin=Origin.LOCAL)
    assert going(plan(policy(8), inventory([nameless]))) == ["image-of-build"]
    young = replace(nameless, last_use=NOW - 23 * HOUR)
    assert going(plan(policy(8), inventory([young]))) == []


def test_short_inodes_start_every_stage() -> None:
    state = replace(
        inventory([image("app", 30)], (container("c", 48),)),
        disk=DiskSample("/", 100 * MB, 50 * MB, 1000, 10),
    )
    made = plan(policy(5), state)
    assert made.needed
    assert going(made) == ["c", "app:1"]


items = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 20), st.sampled_from(["running", "exited", "created", "dead"])),
    max_size=8,
)


@given(items, st.integers(0, 200))
def test_no_stage_takes_what_it_may_not_or_more_than_it_must(rows: list[tuple[int, int, str]], missing: int) -> None:
    found = [container(f"c{k}", hours, size=size, state=state) for k, (hours, size, state) in enumerate(rows)]
    judged = stages.containers(Containers(), found, NOW, Shortage(float(missing), 0))
    gone = [item for item in judged if item.is_removed]
    assert {item.key for item in judged} == {one.container_id for one in found}
    assert all(rows[int(item.key[1:])][0] >= 24 and rows[int(item.key[1:])][2] != "running" for item in gone)
    # Without the last one it would not have been enough.
    assert not gone or sum(item.frees for item in gone[:-1]) < missing


@pytest.mark.parametrize("kind", list(ItemKind))
def test_kinds_are_what_the_log_holds(kind: ItemKind) -> None:
    assert kind.value in {"container", "container_log", "image", "volume", "build_cache"}


def test_every_reason_says_what_it_means() -> None:
    assert set(stages.ITEM_REASON_MEANING) == set(ItemReason)


def test_what_the_engine_refused_counts_nothing_and_goes_last() -> None:
    state = inventory(
        [image("stuck", 60), image("app", 30), image("base", 40)], (container("c", 48),), (volume("v", "anonymous", 9),)
    )
    refused = {("image", "image-of-stuck"): Refusal("in use by a container", NOW - 7200)}
    refused |= {(kind, key): Refusal("is busy", NOW - 60) for kind, key in (("container", "c"), ("volume", "v"))}
    full = ["app:1", "stuck:1", "base:1", "c", "v"]
    for target, count in ((5, 0), (14, 1), (16, 2), (26, 3), (36, 5)):
        made = plan(policy(target), replace(state, refusals=refused))
        assert going(made) == full[:count], target
    assert made.frees == 30 * MB
    details = {removal.name: removal.detail for removal in made.removals}
    assert details["stuck:1"].endswith("; last, for the engine refused it 2 h ago: in use by a container")
    assert "past its grace" in details["c"]
    assert details["c"].endswith("; last, for the engine refused it 1 min ago: is busy")
    # What this very run has tried is not tried again.
    tried = {item: replace(refusal, in_this_run=True) for item, refusal in refused.items()}
    made = plan(policy(36), replace(state, refusals=tried))
    assert going(made) == ["app:1", "base:1"]
    assert {verdict.image.name: verdict.reason for verdict in made.verdicts}["stuck:1"] is Reason.REFUSED
    assert {item.key: item.detail for item in made.items} == dict.fromkeys(
        ("c", "v"), "it could not be removed in this run: is busy"
    )


def test_an_image_without_a_name_that_the_engine_refused_goes_last_too() -> None:
    nameless = replace(image("nameless", 48), references=(), digests=(), names=(), origin=Origin.LOCAL)
    state = inventory([nameless, image("app", 30)])
    assert going(plan(policy(20), state)) == ["image-of-nameless", "app:1"]
    state = replace(state, refusals={("image", nameless.image_id): Refusal("no", NOW)})
    assert going(plan(policy(20), state)) == ["app:1", "image-of-nameless"]


def test_what_has_a_label_of_the_policy_stays_in_every_stage_and_in_an_emergency() -> None:
    assert Policy().kept_by({"docker-hindsight.keep": "true"}) == "docker-hindsight.keep=true"
    assert Policy().kept_by({"docker-hindsight.keep": "false", "else": "true"}) == ""
    assert Policy(keep_labels=("mine",)).kept_by({"mine": "whatever"}) == "mine"
    nameless = replace(image("nameless", 48), references=(), digests=(), names=())
    images = [replace(one, kept_by="mine") for one in (image("app", 30), image("base", 40), nameless)]
    labelled = replace(container("c", 48), kept_by="mine")
    made = plan(policy(99), inventory(images, (labelled,), (replace(volume("v", "anonymous", 9), kept_by="mine"),)))
    assert going(made) == []
    assert {verdict.reason for verdict in made.verdicts} == {Reason.LABELLED}
    assert {item.reason for item in made.items} == {ItemReason.LABELLED}


def test_on_a_full_disk_logs_of_containers_that_stay_are_emptied_where_the_policy_permits_it() -> None:
    def logged(name: str, **more: Any) -> Container:
        made = replace(container(name, 0.1, size=6 * MB), log_bytes=5 * MB)
        usual = f"/var/lib/docker/containers/{name}/{name}-json.log"
        return replace(made, **{"log_path": usual, **more})

    found = (
        *(logged("young"), logged("service", restarts=True), logged("runs", state="running")),
        *(logged("labelled", kept_by="keep=true"), logged("journald", log_path=""), logged("elsewhere", log_path="/x")),
    )
    permits = policy(50, containers=Containers(empty_logs=True))
    state = inventory([], found, free=0)
    emptied = [one.key for one in plan(permits, state).removals if one.kind is stages.ItemKind.LOG]
    assert sorted(emptied) == ["service", "young"]
    assert plan(policy(50), state).removals == ()
    roomy = replace(state, disk=replace(state.disk, free_bytes=2 * 2**20))
    assert plan(permits, roomy).removals == ()
    refused = replace(state, refusals={("container_log", "young"): Refusal("no", NOW, in_this_run=True)})
    assert [one.key for one in plan(permits, refused).removals] == ["service"]
