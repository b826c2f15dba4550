"""Engines without root: their user measures and prunes them, and so does root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.host import Host
from tests.engine.machine import Machine
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.rootless import RootlessEngine, UserHost, unavailable
from tests.needs import cannot_run

pytestmark = pytest.mark.engine
MIB = 2**20
SIZE = 20 * MIB


@pytest.mark.parametrize("variant", ["docker26", "podman"])
def test_a_rootless_engine_is_measured_and_pruned_by_its_user_and_by_root(
    variant: str, state_root: Path, registry: Registry, programs: Path
) -> None:
    if (reason := unavailable(variant)) is not None:
        cannot_run(reason)
    engine = RootlessEngine(variant, state_root / f"r{variant[0]}", registry.host)
    try:
        engine.start()
        client = engine.client()
        for number in range(3):
            layers = [base_layer(), random_layer(700 + number, SIZE)]
            client.images.pull(registry.push_image(f"rootless/image{number}", "1", layers).reference)
        client.close()
        own = UserHost(engine, engine.folder / "own" / "events.duckdb", programs=programs)
        for host in (own, Host(engine, engine.folder / "root" / "events.duckdb")):
            removes_one_image_and_frees_what_it_planned(host)
        assert "fault" not in own.run("collector", "doctor")
        if variant == "podman":
            services_see_the_user_s_socket_and_data(engine, programs, state_root)
    finally:
        engine.remove()
        shutil.rmtree(engine.folder, ignore_errors=True)


def removes_one_image_and_frees_what_it_planned(host: Host) -> None:
    disk, before = host.engine.disk, host.references()
    host.run("collector", "run", "--once")
    rows = host.log.query("SELECT DISTINCT path, total_bytes FROM disk")
    assert rows == [(str(host.engine.data_root), disk.total())]
    threshold = ("--threshold", f"{disk.free() + SIZE // 2}B", "--min-age", "1s")
    planned = host.json("pruner", "plan", *threshold)
    assert [image["origin"] for image in planned["images"]] == ["registry"] * len(before)
    free = disk.free()
    assert "removed 1 image" in host.run("pruner", "run", *threshold)
    assert len(host.references()) == len(before) - 1
    # containerd's database grows a little meanwhile.
    assert abs(disk.free() - free - planned["frees"]) < 5 * MIB


def services_see_the_user_s_socket_and_data(engine: RootlessEngine, programs: Path, state_root: Path) -> None:
    """The units of a user's engine, under a systemd that hides what other users' folders hold."""
    machine = Machine(engine.folder / "machine", programs, engine.folder, engine.disk.path, state_root)
    try:
        user, runtime = engine.user, f"/run/user/{engine.user.pw_uid}"
        account = ("--uid", str(user.pw_uid), "--no-create-home", "--home-dir", str(engine.home), "ci")
        machine.run("useradd", *account)
        # As systemd makes it where it is not in a container.
        machine.run("mount", "--make-rshared", "/")
        machine.run("mkdir", "--parents", runtime)
        machine.run("mount", "--bind", "/run/engine/run", runtime)
        output = machine.run("pruner", "install-units", "--user-engine", "ci", "--enable")
        assert "enable --now collector-ci.service pruner-ci.timer pruner-ci.path" in output
        units = [f"/etc/systemd/system/{unit}-ci.service" for unit in ("collector", "pruner")]
        assert machine.run("systemd-analyze", "verify", *units) == ""
        machine.run("systemctl", "start", "pruner-ci.service")
        assert machine.show("collector-ci.service", "ActiveState") == "active"
        log = "/var/lib/docker-hindsight-ci/events.duckdb"
        status = json.loads(machine.run("collector", "status", "--log", log, "--format", "json"))
        assert status["total_bytes"] == engine.disk.total(), status
        assert machine.run("stat", "--format", "%U", log).strip() == "ci"
        # After another login the folder is a new one.
        machine.run("umount", runtime)
        machine.run("mount", "-t", "tmpfs", "tmpfs", runtime)
        machine.run("touch", f"{runtime}/another")
        seen = ("nsenter", "--target", machine.show("collector-ci.service", "MainPID"), "--mount")
        machine.run(*seen, "test", "-e", f"{runtime}/another")
    finally:
        machine.stop()
