"""The Ansible role, applied by Ansible itself on a machine with a real systemd."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from pathlib import Path

import pytest

from tests.engine.machine import Machine
from tests.needs import cannot_run

pytestmark = [pytest.mark.engine, pytest.mark.slow]
PACKAGING = Path(__file__).parents[2] / "packaging"
# Ansible with what it imports, in plain Python where the machine's Python is another than the tests'.
LIBRARIES = ("ansible-core", "jinja2", "markupsafe", "packaging", "pyyaml", "resolvelib")
# The machine has Debian's packages of this host's release; Ansible's `apt` needs this one, and fetches it otherwise.
APT = Path("/usr/lib/python3/dist-packages")
POLICY = "/etc/docker-hindsight/policy.toml"


def copy_library(name: str, target: Path) -> None:
    """Copy an installed library with what says its version."""
    for file in importlib.metadata.files(name) or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), place)


def test_the_role_installs_and_changes_nothing_the_second_time(bare: Machine, package: Path) -> None:
    if not (APT / "apt").is_dir():
        cannot_run("python3-apt is not installed: run .ci/install-packages")
    shutil.copytree(APT / "apt", bare.path(f"{APT}/apt"))
    for module in (*APT.glob("apt_pkg.*.so"), *APT.glob("apt_inst.*.so")):
        shutil.copy(module, bare.path(str(APT)))
    for name in LIBRARIES:
        copy_library(name, bare.path("/root/libraries"))
    shutil.copytree(PACKAGING / "ansible", bare.path("/root/project/packaging/ansible"))
    bare.path("/root/project/dist").mkdir()
    shutil.copy(package, bare.path("/root/project/dist"))

    def play(*options: str) -> str:
        environment = ("LC_ALL=C.UTF-8", "HOME=/root", "PYTHONPATH=/root/libraries", "ANSIBLE_NOCOLOR=1")
        program = ("python3", "-c", "from ansible.cli.playbook import main; main()")
        where = ("--inventory", "localhost,", "--connection", "local")
        book = "/root/project/packaging/ansible/runners.yml"
        said = bare.run("env", *environment, *program, *where, *options, book)
        assert "failed=0" in said
        assert "unreachable=0" in said
        (changed,) = re.findall(r"changed=(\d+)", said)
        return str(changed)

    assert play("--check") != "0"
    assert not bare.path("/usr/bin/pruner").exists()
    assert play() != "0"
    assert bare.run("dpkg-query", "--show", "--showformat=${Status}", "docker-hindsight") == "install ok installed"
    assert bare.run("cat", POLICY) == 'threshold = "auto"\n'
    assert bare.run("systemctl", "is-enabled", "collector.service").strip() == "enabled"
    assert bare.run("systemctl", "is-enabled", "pruner.timer", status=1).strip() == "disabled"
    # All is as it was, but for what is asked for now.
    assert play("--extra-vars", '{"docker_hindsight_prune": true}') == "1"
    for unit in ("pruner.timer", "pruner.path"):
        assert bare.show(unit, "ActiveState") == "active"
        assert bare.run("systemctl", "is-enabled", unit).strip() == "enabled"
    # Written so on the command line it is text, which is true to templates whatever it says.
    assert play("--extra-vars", "docker_hindsight_prune=false") == "1"
    assert bare.show("pruner.timer", "ActiveState") == "inactive"
