"""Where the bytes lie: images in a containerd of their own, engines elsewhere, removals that free nothing here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeEngine
from tests.engine.disk import LoopDisk
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.ports import free_port
from tests.engine.registry import Registry, base_layer, random_layer
from tests.needs import cannot_run

pytestmark = pytest.mark.engine
MIB = 2**20
# What pushes images that are pulled a moment ago within reach of a prune.
OLD_ENOUGH = ("--min-age", "1s")


def pull(engine: Engine, registry: Registry, name: str, size: int, count: int = 1) -> list[str]:
    """Pull images of one layer each; their names."""
    client = engine.client()
    pushed = [
        registry.push_image(f"{name}/{k}", "1", [base_layer(), random_layer(100 * len(name) + k, size)])
        for k in range(count)
    ]
    for image in pushed:
        client.images.pull(image.reference)
    client.close()
    return [image.reference for image in pushed]


def test_the_disk_of_a_containerd_beside_the_engine_is_the_one_that_counts(
    make_engine: MakeEngine, registry: Registry
) -> None:
    engine = make_engine("docker26-separate", 300 * MIB)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    pull(engine, registry, "split", 35 * MIB, 3)
    engine.image_disk.fill_to(30 * MIB)
    host.run("collector", "run", "--once")
    rows = host.log.query("SELECT path, file_system, holds, total_bytes, main FROM disks ORDER BY main DESC")
    assert [(row[1], row[2], row[3], row[4]) for row in rows] == [
        (str(engine.image_disk.path), ["images", "content"], engine.image_disk.total(), True),
        (str(engine.disk.path), ["containers", "volumes"], engine.disk.total(), False),
    ]
    # What the log's origins and sizes are looked up in is that containerd's root, too.
    assert host.log.query("SELECT DISTINCT origin FROM images") == [("registry",)]
    sizes = [row[0] for row in host.log.query("SELECT sum(bytes) FROM image_layers GROUP BY image_id")]
    assert min(sizes) > 2 * 35 * MIB

    found = {row["subject"]: row for row in host.json("collector", "doctor")}
    assert str(engine.image_disk.path) in found["disk"]["detail"]
    assert found["disk of containers, volumes"]["answer"] == "measured"
    planned = host.json("pruner", "plan", "--threshold", "20%", *OLD_ENOUGH)
    assert (planned["file_system"], planned["other_disks"][0]["frees"]) == (str(engine.image_disk.path), 0)
    before = engine.image_disk.free()
    printed = host.run("pruner", "run", "--threshold", "20%", *OLD_ENOUGH)
    assert "removed 1 image" in printed
    # containerd's database grows a little meanwhile, on a disk that is nearly full.
    assert abs(engine.image_disk.free() - before - planned["frees"]) < 5 * MIB, printed

    # A volume that fills the other disk is that disk's affair, and images stay for it.
    engine.disk.fill_to(20 * MIB)
    plans = host.json("pruner", "plan", "--threshold", "20%", *OLD_ENOUGH)
    assert [one["reason"] for one in plans["images"]] == ["enough_space"] * 2
    assert plans["other_disks"][0]["images"] == []
    assert "free space is still under the target" in host.run("pruner", "run", "--threshold", "20%", status=3)
    levels = json.loads((host.log_path.parent / "events.duckdb.levels").read_text())
    assert [value[0] for value in levels["others"].values()] == [round(engine.disk.total() * 0.2)]


def test_content_and_snapshots_on_two_disks_count_each_on_its_own(make_engine: MakeEngine, registry: Registry) -> None:
    engine = make_engine("docker26-separate", 300 * MIB)
    engine.stop()
    snapshots = engine.containerd_root / "io.containerd.snapshotter.v1.overlayfs"
    disk = LoopDisk(engine.folder / "snapshots", 300 * MIB)
    shutil.copytree(snapshots, disk.path / "overlayfs")
    subprocess.run(["mount", "--bind", disk.path / "overlayfs", snapshots], check=True)
    engine.start()
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    pull(engine, registry, "halves", 30 * MIB, 2)
    host.run("collector", "run", "--once")
    planned = host.json("pruner", "plan", "--threshold", "100%", *OLD_ENOUGH)
    # What goes for the sake of the first disk is gone for the other.
    assert (planned["file_system"], abs(planned["frees"] - 60 * MIB) < 5 * MIB) == (str(snapshots), True), planned
    disks = (disk, engine.image_disk)
    before = [one.free() for one in disks]
    host.run("pruner", "run", "--threshold", "100%", *OLD_ENOUGH, status=3)
    assert all(abs(one.free() - free - 60 * MIB) < 5 * MIB for one, free in zip(disks, before, strict=True))


def test_removals_that_free_nothing_here_stop_the_run(make_engine: MakeEngine, registry: Registry) -> None:
    """The wrong disk is named on purpose; images that cannot lie there are seen before anything goes."""
    engine = make_engine("docker26-separate", 700 * MIB)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    pull(engine, registry, "useless", 70 * MIB, 4)
    wrong = engine.disk.path / "containerd"
    wrong.mkdir()
    setting = {"DOCKER_HINDSIGHT_CONTAINERD_ROOT": str(wrong)}
    argv = [*host.command("pruner", "run", "--threshold", "100%"), *OLD_ENOUGH]
    done = subprocess.run(argv, env={**host.environment, **setting}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"is recorded under {wrong}/io.containerd.content.v1.content" in done.stderr
    # A link to the records hides that, and what images hold shows it.
    for name in ("io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt"):
        (wrong / name).symlink_to(engine.containerd_root / name)
    (wrong / "io.containerd.snapshotter.v1.overlayfs").mkdir()
    engine.disk.fill_to(engine.disk.total() // 2)
    engine.image_disk.fill_to(10 * MIB)
    done = subprocess.run(argv, env={**host.environment, **setting}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"3 removals were to free 2[01]\d MiB, and 0 B came", done.stderr)
    assert len(host.references()) == 1
    outcomes = host.log.query("SELECT attributes ->> '$.outcome' FROM event WHERE kind = 'prune_finished' ORDER BY seq")
    assert [row[0] for row in outcomes if row[0] != "failed"] == ["no effect"]


def test_on_btrfs_each_removal_frees_at_once_what_was_predicted(make_engine: MakeEngine, registry: Registry) -> None:
    """Each layer is a subvolume there; what was pulled a moment ago does not count yet."""
    if shutil.which("mkfs.btrfs") is None:
        cannot_run("mkfs.btrfs is not installed: run .ci/install-packages")
    engine = make_engine("docker20", file_system="btrfs")
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    pull(engine, registry, "late", 70 * MIB, 3)
    host.run("collector", "run", "--once")
    printed = host.run("pruner", "run", "--threshold", "100%", *OLD_ENOUGH, status=3)
    rows = host.log.query(
        "SELECT bytes, CAST(attributes ->> '$.predicted_bytes' AS BIGINT) FROM events WHERE kind = 'item_removed'"
    )
    assert len(rows) == 3, printed
    assert all(abs(freed - predicted) < 2 * MIB for freed, predicted in rows), printed
    # Nobody waits for more, nor plans again, after all has come.
    assert "removed 3 images, freed" in printed


def test_an_engine_elsewhere_is_refused_by_collector_and_pruner(
    make_engine: MakeEngine, registry: Registry, tmp_path: Path
) -> None:
    """Another engine's data root lies at the same path there: it is seen in a mount namespace of its own."""
    engine = make_engine("docker20")
    (name,) = pull(engine, registry, "elsewhere", MIB)
    address = f"tcp://127.0.0.1:{free_port()}"
    elsewhere = make_engine("docker20", hidden=True, tcp=address)
    pull(elsewhere, registry, "there", MIB)
    host = Host(elsewhere, tmp_path / "events.duckdb", address=address)
    for argv in (("pruner", "run", "--threshold", "100GiB", *OLD_ENOUGH), ("collector", "run", "--once")):
        output = host.run(*argv, status=1)
        assert "is not on this host (none of its images is recorded under" in output
        assert "--host unix:///path, or DOCKER_HOST" in output
    doctor = host.run("collector", "doctor", status=1)
    assert "host of the engine  fault  another host" in doctor
    assert elsewhere.client().images.list()
    assert name


def test_a_local_engine_may_be_reached_by_tcp(make_engine: MakeEngine, registry: Registry, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    engine = make_engine("docker20", tcp=address)
    host = Host(engine, tmp_path / "events.duckdb", address=address)
    # An engine without images and without an ID on the disk shows nothing.
    assert "is not shown to be on this host" in host.run("collector", "run", "--once", status=1)
    pull(engine, registry, "by-tcp", MIB)
    # A proxy of the surroundings is not asked for what is on this host.
    argv = host.command("collector", "run", "--once")
    proxied = {**host.environment, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(argv, env=proxied, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_renamed_host_keeps_its_history_and_another_engine_is_asked_about(
    any_engine: Engine, make_engine: MakeEngine, registry: Registry
) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    (name,) = pull(any_engine, registry, "renamed", MIB)
    with host.collecting():
        client = any_engine.client()
        client.containers.create(name, network_mode="none").remove()
        client.close()
        host.wait_for_events("container_destroyed", 1)

    def renamed(*argv: str) -> str:
        words = ["unshare", "--uts", "sh", "-c", 'hostname renamed; exec "$@"', "sh", *host.command(*argv)]
        done = subprocess.run(words, env=host.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "container removed" in renamed("pruner", "explain", name, "--threshold", "100%")
    renamed("collector", "run", "--once")
    rows = host.log.query("SELECT attributes ->> '$.changes.name.to' FROM event WHERE kind = 'host_changed'")
    assert rows == [("renamed",)]
    assert json.loads(renamed("collector", "status", "--format", "json"))["host"] == "renamed"
    assert host.log.query("SELECT count(DISTINCT host) FROM event") == [(1,)]
    if any_engine.variant == "docker26":
        other = Host(make_engine("docker26"), host.log_path)
        for argv in (("collector", "run", "--once"), ("pruner", "run", "--threshold", "100%")):
            assert "it was recorded on another engine" in other.run(*argv, status=1)
        assert "the history of 'renamed' continues here" in other.run("collector", "adopt")
        other.run("collector", "run", "--once")
