"""The Debian packages, each under its release's own systemd: installed, upgraded with a log, not downgraded, purged."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.console import commands, script
from tests.docs.test_documents import provide_images
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.machine import ROOT, TRIXIE_ROOT, Machine, unavailable
from tests.engine.registry import Registry, base_layer, random_layer
from tests.needs import cannot_run
from tools.dist import PROJECT

pytestmark = pytest.mark.engine
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
DOCKER_GID = 990
MIB = 2**20
OTHER_EXTRAS = ("pandas", "distributed", "obstore")  # what those bring along and the package does not
COMPILERS = ("cc", "gcc", "clang")
UNITS = "/usr/lib/systemd/system/collector*.service /usr/lib/systemd/system/pruner*"
FOUND = "find / -xdev -name 'docker[-_]hindsight*' -not -path '/srv/*' -not -path '/root/*'"


def few_jobs(libraries: str) -> str:
    """Commands that make /root/few.duckdb of the beginning of the year that comes along."""
    return f"""
data=$(echo {libraries}/analyzer/data/mesa-ci-2023-jobs.csv.gz)
zcat $data | head -500 >/root/jobs.csv
collector import /root/jobs.csv ${{data%jobs.csv.gz}}layers.csv.gz --log /root/few.duckdb --disk 35GiB
"""


def repacked(package: Path, version: str) -> Path:
    """The same as another version."""
    tree = package.parent / f"tree-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    was = subprocess.run(["dpkg-deb", "--field", package, "Version"], check=True, capture_output=True, text=True)
    for name in ("control", "preinst"):
        path = tree / "DEBIAN" / name
        path.write_text(path.read_text().replace(was.stdout.strip(), version))
    made = package.parent / f"docker-hindsight_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, capture_output=True)
    shutil.rmtree(tree)
    return made


@pytest.fixture
def machine(docker20: Engine, root: Path, state_root: Path) -> Iterator[Machine]:
    """A machine with an engine as Debian's package sets it up."""
    if (reason := unavailable(root)) is not None:
        cannot_run(reason)
    os.chown(docker20.socket, 0, DOCKER_GID)
    docker20.socket.chmod(0o660)
    made = Machine(docker20.folder / "machine", None, docker20.folder, docker20.disk.path, state_root, root)
    made.run("rm", "-f", *(f"/usr/bin/{name}" for name in COMPILERS))  # what the root has to run other tests
    made.run("groupadd", "--system", "--gid", str(DOCKER_GID), "docker")
    made.run("ln", "-s", "/run/engine/engine.sock", "/run/docker.sock")
    for unit in ("collector", "pruner"):  # /tmp, where the test's engine has its disk, is hidden from services
        shown = f"[Service]\nBindReadOnlyPaths={docker20.disk.path}\n"
        made.write(f"/etc/systemd/system/{unit}.service.d/disk.conf", shown)
    yield made
    made.stop()


def put(machine: Machine, package: Path) -> str:
    shutil.copy(package, machine.path("/root"))
    return f"/root/{package.name}"


@pytest.mark.parametrize("root", [ROOT, TRIXIE_ROOT], ids=lambda root: root.name)
def test_it_watches_at_once_and_leaves_nothing(
    machine: Machine, docker20: Engine, registry: Registry, package: Path
) -> None:
    old, newer = repacked(package, "0.0.9-1"), repacked(package, "99.0-1")

    said = machine.run("dpkg", "--install", put(machine, old))
    assert "sudo systemctl enable --now pruner.timer" in said
    Host.wait_for(lambda: machine.show("collector.service", "ActiveState") == "active", "the collector")
    assert machine.run("systemctl", "is-enabled", "collector.service").strip() == "enabled"
    for unit in ("pruner.timer", "pruner.path"):
        assert machine.show(unit, "ActiveState") == "inactive"
        assert machine.run("systemctl", "is-enabled", unit, status=1).strip() == "disabled"
    assert machine.run("sh", "-c", f"systemd-analyze verify {UNITS}") == ""
    image = registry.push_image("ops/kept", "1", [base_layer(), random_layer(7, MIB)])
    docker20.client().images.pull(image.reference)
    Host.wait_for(lambda: image.reference in machine.run("collector", "images"), "the image in the log")
    assert "nothing" in machine.run("pruner", "plan")
    # The kernel came along: no compiler is needed, and none of the messages about its absence appears.
    machine.run("sh", "-exc", few_jobs("/usr/lib/docker-hindsight"))
    simulated = machine.run("analyzer", "simulate", "--log", "/root/few.duckdb", "--threshold", "20%")
    assert "499 uses of 6 images" in simulated
    assert "kernel" not in simulated
    machine.run("analyzer", "report", "--log", "/root/few.duckdb", "-o", "/root/report.html")
    # Nothing is missed of what was left out.
    shutil.copy(Path(__file__).with_name("unpacked.py"), machine.path("/root"))
    tried = machine.run("python3", "-I", "/root/unpacked.py", "/usr/lib/docker-hindsight", *OTHER_EXTRAS)
    assert tried.endswith(" commands\n")

    machine.write("/etc/docker-hindsight/policy.toml", 'threshold = "7%"\n')
    machine.run("dpkg", "--install", "--force-confold", put(machine, package))
    assert machine.run("collector", "--version").strip() == f"docker-hindsight {PROJECT['version']}"
    Host.wait_for(lambda: machine.show("collector.service", "ActiveState") == "active", "the collector, upgraded")
    assert image.reference in machine.run("collector", "images")
    assert machine.run("cat", "/etc/docker-hindsight/policy.toml") == 'threshold = "7%"\n'
    assert machine.show("pruner.timer", "ActiveState") == "inactive"

    machine.run("dpkg", "--install", "--force-confold", put(machine, newer))
    refused = machine.run("dpkg", "--install", put(machine, package), status=1)
    assert "its log cannot be read by" in refused
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "docker-hindsight") == "99.0-1"
    assert machine.path("/usr/lib/docker-hindsight/collector/__pycache__").is_dir()

    machine.run("dpkg", "--purge", "docker-hindsight")
    for path in (
        "/var/lib/docker-hindsight",
        "/etc/docker-hindsight",
        "/usr/lib/docker-hindsight",
        "/usr/bin/collector",
    ):
        assert not machine.path(path).exists(), path
    assert "docker-hindsight" not in machine.run("getent", "passwd") + machine.run("getent", "group")
    assert machine.show("collector.service", "LoadState") == "not-found"
    assert machine.run("sh", "-c", FOUND) == ""


def test_the_tutorial_is_literally_true(machine: Machine, docker20: Engine, registry: Registry, package: Path) -> None:
    """As a user who may use sudo and is in no group of ours; each step in a login of its own."""
    provide_images(docker20, registry)
    machine.run("useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", "ops")
    machine.write("/etc/sudoers.d/ops", "ops ALL=(ALL) NOPASSWD: ALL\n")
    shutil.copy(package, machine.path("/home/ops"))
    found = commands(TUTORIAL, host=True)
    assert not commands(TUTORIAL)
    heads = [n for n, line in enumerate(TUTORIAL.read_text().splitlines(), 1) if line.startswith("## ")]
    for _, step in itertools.groupby(found, lambda command: bisect(heads, command.line)):
        machine.write("/home/ops/step.sh", script(list(step), as_root=False))
        said = machine.run("runuser", "--login", "ops", "-c", "bash step.sh", patience_s=600)
        assert "Traceback" not in said
    for unit in ("collector.service", "pruner.timer", "pruner.path"):
        assert machine.show(unit, "ActiveState") == "active"
    assert machine.run("systemctl", "is-system-running", status=None).strip() == "running"
    # What the collector says to somebody who has not joined the group yet.
    machine.run("useradd", "--create-home", "newcomer")
    for command in ("status", "doctor"):
        said = machine.run("runuser", "--login", "newcomer", "-c", f"collector {command}", status=1)
        assert "sudo usermod -aG docker-hindsight newcomer; log in again" in said


def test_lintian_finds_no_error(package: Path) -> None:
    if shutil.which("lintian") is None:
        cannot_run("lintian is not installed: run .ci/install-packages")
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", package], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
