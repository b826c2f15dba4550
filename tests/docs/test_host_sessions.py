"""Every command that a document shows for a whole machine does what it says, on a machine under a real systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.console import Command, commands, script
from tests.docs.test_documents import DOCUMENTS, ROOT
from tests.engine import machine as machines
from tests.engine.engines import Engine
from tests.engine.machine import Machine
from tests.needs import cannot_run

# The tutorial begins with the Debian package, so it is followed where that is tested.
SHOWN = [path for path in DOCUMENTS if commands(path, host=True) and path.name != "tutorial.md"]
# Run by the gate itself, on the machine where this test runs.
ELSEWHERE = {"make demo", "make test"}
DOCKER_GID = 990
ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = "/srv/docker-hindsight.git"
# The address under which readers find the project leads to the tree under test; pip finds what it needs locally.
SETTINGS = f"""
set -eu
git config --system url.{REPOSITORY}.insteadOf https://example.org/docker-hindsight
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 LANG=C.UTF-8
cd ~
set +e
"""


def on_the_machine(document: Path) -> list[Command]:
    return [command for command in commands(document, host=True) if bare(command) not in ELSEWHERE]


def bare(command: Command) -> str:
    return command.text.partition(" #")[0].strip()


@pytest.fixture
def machine(docker20: Engine, state_root: Path) -> Iterator[Machine]:
    """A machine with an engine as Debian's package sets it up, and without docker-hindsight."""
    if (reason := machines.unavailable()) is not None:
        cannot_run(reason)
    os.chown(docker20.socket, 0, DOCKER_GID)
    docker20.socket.chmod(0o660)
    made = Machine(docker20.folder / "machine", None, docker20.folder, docker20.disk.path, state_root)
    made.run("groupadd", "--system", "--gid", str(DOCKER_GID), "docker")
    # The services do not see /tmp, where the tests' engines have their disks; a reader's is in /var/lib/docker.
    for unit in ("collector", "pruner"):
        shown = f"[Service]\nBindReadOnlyPaths={docker20.disk.path}\n"
        made.write(f"/etc/systemd/system/{unit}.service.d/disk.conf", shown)
    made.run("ln", "-s", "/run/engine/engine.sock", "/run/docker.sock")
    yield made
    made.stop()


def publish(target: Path) -> None:
    """The tree under test, uncommitted changes included, as a repository of one commit."""
    git: list[str | Path] = ["git", "--git-dir", target, "--work-tree", ROOT]
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", target], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *git[1:], "commit", "--quiet", "--message", "The tree under test"], check=True)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("document", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_do_what_they_say_on_a_machine(document: Path, machine: Machine, tmp_path: Path) -> None:
    found = on_the_machine(document)
    publish(tmp_path / "repository")
    shutil.copytree(tmp_path / "repository", machine.path(REPOSITORY))
    machine.write("/root/session.sh", SETTINGS + script(found))
    output = machine.run("env", "HOME=/root", f"PATH={ROOTS_PATH}", "bash", "/root/session.sh", patience_s=300)
    assert "Traceback" not in output
    for command in found:
        assert f"line {command.line}: {command.text}" in output
    assert machine.run("systemctl", "is-system-running", status=None).strip() == "running", machine.run(
        "systemctl", "--failed"
    )


def test_what_runs_elsewhere_is_run_by_the_gate() -> None:
    gate = (ROOT / ".ci" / "run").read_text().splitlines()
    shown = {bare(command) for document in SHOWN for command in commands(document, host=True)}
    for command in ELSEWHERE:
        assert command in gate
        assert command in shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_session_is_overlooked(document: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    # A block that says not what it is might hold commands that nobody tries.
    assert set(fences[::2]) <= {"console", "console host", "text", "toml", "yaml", "python"}
    assert set(fences[1::2]) <= {""}
