"""A disk that is full now: what fills it, by name; and the steps, the least harmful first."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from collector.engine.leftovers import Leftover, find_leftovers
from collector.model.errors import EngineRefusedError, HindsightError
from collector.model.observation import Place
from pruner import cli
from pruner.planning.emergency_steps import prospects, steps
from pruner.planning.holdings import described, holdings, to_json
from pruner.planning.plan import plan
from pruner.policy.policy import Space
from pruner.removal import client
from pruner.report.terminal import print_emergency
from pruner.state.inventory import BuildCacheUsage, CacheRecord
from tests.fake_engine import FakeEngine
from tests.pruner.test_executor import Bench, bench, old_image  # noqa: F401 - a fixture
from tests.pruner.test_plan_report import full_host
from tests.pruner.test_stages import DAY, MB, NOW, container, image, inventory, policy, volume


def test_each_step_gives_more_at_a_higher_cost_and_nothing_that_somebody_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = replace(full_host(), build_cache=BuildCacheUsage((CacheRecord(6 * MB, NOW - DAY / 2),)))
    made = plan(policy(99), state)
    found = list(prospects(made, steps(policy(99))))
    assert [one.gain // MB for one in found] == [10, 6, 3, 20, 10, 2]
    assert [one.count for one in found] == [1, 1, 1, 2, 1, 1]
    last = plan(found[-1].step.policy, state)
    assert {"busy:1", "local:1", "data", "c"}.isdisjoint(one.name for one in last.removals)
    print_emergency(made, found)
    shown = capsys.readouterr().out
    assert "all unused build cache" in shown
    assert "less than asked for" in shown


def test_what_the_policy_switches_off_or_never_removes_stays_in_every_step() -> None:
    off = {"build_cache": "enabled", "containers": "enabled", "volumes": "enabled", "dangling": "enabled"}
    chosen = policy(99)
    chosen = replace(
        chosen,
        emergency=Space.parse("never"),
        **{part: replace(getattr(chosen, part), **{switch: False}) for part, switch in off.items()},
    )
    state = replace(full_host(), build_cache=BuildCacheUsage((CacheRecord(6 * MB, NOW - DAY / 2),)))
    found = list(prospects(plan(chosen, state), steps(chosen)))
    # Only images that the policy's own rules let go: the old one, and at last the young ones.
    assert [one.gain // MB for one in found] == [10, 0, 0, 20, 0, 0]
    assert [one.step.cost.rpartition(": ")[2] for one in found if not one.gain] == [
        "--build-cache-enabled true",
        "--containers-enabled true",
        "--emergency 100% does",
        "--volumes-enabled true",
    ]


@pytest.mark.parametrize("nobody_reads", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ["emergency", "--yes", "--free", "100%"],
        ["run", "--now", "--free", "100%"],
        ["run", "--now", "--free", "100%", "--format", "json"],
    ],
)
def test_space_is_freed_also_where_the_output_has_no_room_or_no_reader(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    nobody_reads: bool,
) -> None:
    old_image(bench, "a:1")
    monkeypatch.setattr(client, "DockerRemovingEngine", lambda _: bench.engine)
    monkeypatch.setattr("collector.engine.client.DockerEngine", lambda _: bench.engine)
    into, out = os.pipe()
    os.close(into)
    if not nobody_reads:
        os.dup2(os.open("/dev/full", os.O_WRONLY), out)
    with os.fdopen(out, "w", encoding="utf-8") as output, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        with contextlib.suppress(HindsightError):  # the target need not be reached
            cli.app([*command, "--log", str(bench.log.path)], standalone_mode=False)
    assert bench.engine.image_table == {}


def test_what_fills_the_disk_adds_up_and_long_logs_and_dead_containers_are_named() -> None:
    shared = ("base", 10 * MB)
    images = [replace(image(name, 5), layers=(shared, (name, MB))) for name in ("a", "b")]
    talker = replace(container("talker", 1, size=61 * MB, state="running"), log_bytes=60 * MB)
    dead = container("gone-wrong", 1, size=0, state="dead")
    build = replace(container("working", 2, size=0, state="external"), mounted=True, held_by="mounted by a build")
    state = replace(
        inventory(images, (talker, dead, build), (volume("v", "named", 1, 4 * MB),), free=5 * MB),
        leftovers=(Leftover("/var/lib/docker/overlay2/0", 3 * MB),),
    )
    found = {one.what: one.bytes // MB for one in holdings(state)}
    assert found == {
        "images": 12,
        "containers": 1,
        "container logs": 60,
        "volumes": 4,
        "build cache": 0,
        "leftovers": 3,
        "unaccounted": 15,
    }
    lines = list(described(state))
    assert any(line.startswith("long log: 57.2 MiB of container talker") for line in lines)
    assert any(line.startswith("dead container gone-wrong") and "docker rm" in line for line in lines)
    assert any(line.startswith("container working of a build") and "unchanged for" in line for line in lines)
    assert any("1 orphaned layer (2.86 MiB): /var/lib/docker/overlay2/0" in line for line in lines)
    assert to_json(state)["long_logs"] == [{"container": "talker", "name": "talker", "bytes": 60 * MB}]


def test_layers_that_no_record_names_are_orphans_and_young_or_building_ones_are_not(tmp_path: Path) -> None:
    ids = {
        name: digit * 64 for name, digit in zip(("image", "mount", "orphan", "young", "build"), "abcde", strict=True)
    }
    records = tmp_path / "image/overlay2/layerdb"
    for folder, record, name in (("sha256/1", "cache-id", "image"), ("mounts/2", "mount-id", "mount")):
        (records / folder).mkdir(parents=True)
        (records / folder / record).write_text(ids[name])
    (records / "mounts/2/init-id").write_text(f"{ids['mount']}-init")
    (tmp_path / "buildkit").mkdir()
    (tmp_path / "buildkit/snapshots.db").write_bytes(b"..." + ids["build"].encode())
    names = [*ids.values(), f"{ids['mount']}-init", f"{ids['image']}-removing", "l", "not-a-layer"]
    old = time.time() - DAY
    for name in names:
        (tmp_path / "overlay2" / name / "diff").mkdir(parents=True)
        (tmp_path / "overlay2" / name / "diff/file").write_bytes(b"x" * 5000)
        if name != ids["young"]:
            os.utime(tmp_path / "overlay2" / name, (old, old))
    engine = FakeEngine(tmp_path, places=(Place("images", str(tmp_path / "overlay2"), ""),))
    found = find_leftovers(engine)
    assert {Path(one.path).name for one in found} == {ids["orphan"], f"{ids['image']}-removing"}
    assert all(one.bytes >= 8192 for one in found)
    engine.places = (Place("images", str(tmp_path / "none/overlay2"), ""),)
    assert find_leftovers(engine) == ()


def aged(folder: Path) -> None:
    """A folder that nobody has touched for long, with something in it."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * 5000)
    os.utime(folder, (0, 0))


def test_what_podman_no_longer_records_is_found_unless_the_records_cannot_be_read(tmp_path: Path) -> None:
    known, volatile, orphan = ("a" * 64, "b" * 64, "c" * 64)
    for name in (known, volatile, orphan, "l", "tempdirs"):
        aged(tmp_path / "overlay" / name)
    for name in (known, orphan):
        aged(tmp_path / "overlay-containers" / name)
    for name in ("kept", "forgotten"):
        aged(tmp_path / "volumes" / name)
    places = (("images", "overlay"), ("containers", "overlay-containers"), ("volumes", "volumes"))
    engine = FakeEngine(
        tmp_path, store="podman", places=tuple(Place(what, str(tmp_path / f), "") for what, f in places)
    )
    engine.add_volume("kept")
    forgotten = {("volume", "forgotten")}

    def found() -> set[tuple[str, str]]:
        return {(one.what, Path(one.path).name) for one in find_leftovers(engine)}

    assert found() == forgotten
    layers = tmp_path / "overlay-layers"
    layers.mkdir()
    (layers / "volatile-layers.json").write_text(json.dumps([{"id": volatile}]))
    (layers / "layers.json").write_text("[{")
    assert found() == forgotten
    (layers / "layers.json").write_text(json.dumps([{"id": known}]))
    (tmp_path / "overlay-containers/volatile-containers.json").write_text(json.dumps([{"id": known}]))
    assert found() == forgotten | {("layer", orphan), ("container", orphan)}
    engine.fail("volumes", error=EngineRefusedError(engine.host, "no", 500))
    assert found() == set()
