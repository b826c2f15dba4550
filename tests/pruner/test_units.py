"""The unit files: valid, hardened, and for this installation; written, and taken away again."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.machine.reserve import DEFAULT_SIZE, FOLDER, NAME
from pruner.policy.file import load_policy
from pruner.policy.policy import Policy
from tests.commands import run
from tests.needs import cannot_run

BIN = Path(sys.executable).parent
RESERVE = re.compile(r"^ExecStartPre=-\+/bin/sh -c '(umask 077; for folder in .*)'$", re.MULTILINE)
UNITS = (
    "collector.service",
    "pruner.service",
    "collector-ship.service",
    "collector-ship.timer",
    "pruner.timer",
    "pruner.path",
)


Pruner = Callable[..., str]


@pytest.fixture
def pruner(monkeypatch: pytest.MonkeyPatch) -> Pruner:
    """Runs the command in this process, as by sudo; what it said."""
    monkeypatch.setenv("SUDO_USER", "ops")

    def said(*argv: str, status: int = 0) -> str:
        done = run("pruner", *argv)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    return said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "etc/group").write_text("root:x:0:\ndocker:x:990:\n")
    return made


def unit(root: Path, name: str) -> str:
    return (root / "etc/systemd/system" / name).read_text()


@pytest.mark.parametrize("user", ["docker-hindsight", "root"])
def test_units_are_valid_and_hardened(pruner: Pruner, root: Path, user: str) -> None:
    if shutil.which("systemd-analyze") is None:
        cannot_run("systemd-analyze is not installed: run .ci/install-packages")
    pruner("install-units", "--root", str(root), "--user", user)
    folder = root / "etc/systemd/system"
    checked = subprocess.run(
        ["systemd-analyze", "verify", *(folder / name for name in UNITS)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    for name in UNITS[:3]:
        judged = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--root={root}", name],
            capture_output=True,
            text=True,
            check=True,
        )
        exposure = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
        assert exposure is not None
        assert float(exposure[1]) < 3.0


def test_every_hardening_line_is_explained() -> None:
    for package, name in (
        ("collector", "collector.service"),
        ("collector", "collector-ship.service"),
        ("pruner", "pruner.service"),
    ):
        text = (Path(__file__).parents[2] / package / "systemd" / name).read_text()
        sandbox = text.partition("# What it may do")[2].partition("@PATHS@")[0]
        blocks = re.split(r"\n(?=#)", sandbox)
        assert len(blocks) >= 7
        for block in blocks[1:]:
            assert block.startswith("# "), block


def test_they_start_this_installation_as_an_unprivileged_user_of_the_engine(pruner: Pruner, root: Path) -> None:
    output = pruner("install-units", "--root", str(root))
    assert "start with: sudo systemctl enable --now collector.service pruner.timer pruner.path" in output
    assert "try it on this host: sudo pruner plan\n" in output
    commands = ("collector run", "pruner run", "collector ship")
    for name, command in zip(UNITS, commands, strict=False):
        text = unit(root, name)
        assert f"\nExecStart={BIN}/{command} " in text
        assert "\nUser=docker-hindsight\n" in text
        assert "\nSupplementaryGroups=docker\n" in text
        assert "\nStateDirectoryMode=0750\n" in text
        assert "@" not in re.sub(r"@(system-service|privileged|resources)", "", text)
    assert "Type=notify" in unit(root, "collector.service")
    assert "WatchdogSec=" in unit(root, "collector.service")
    assert "m docker-hindsight docker" in (root / "etc/sysusers.d/docker-hindsight.conf").read_text()
    assert load_policy(root / "etc/docker-hindsight/policy.toml") == Policy()


def test_without_the_group_the_operator_is_reported(pruner: Pruner, root: Path) -> None:
    (root / "etc/group").unlink()
    output = pruner("install-units", "--root", str(root))
    assert "there is no group 'docker'" in output
    assert "SupplementaryGroups" not in unit(root, "pruner.service")


def test_only_the_collector_reads_the_journal_where_a_group_may(pruner: Pruner, root: Path) -> None:
    pruner("install-units", "--root", str(root))
    assert "systemd-journal" not in unit(root, "collector.service")
    with (root / "etc/group").open("a") as file:
        file.write("systemd-journal:x:101:\n")
    pruner("install-units", "--root", str(root))
    assert "\nSupplementaryGroups=systemd-journal\n" in unit(root, "collector.service")
    assert "systemd-journal" not in unit(root, "pruner.service")


def test_a_dry_run_writes_nothing(pruner: Pruner, root: Path) -> None:
    output = pruner("install-units", "--root", str(root), "--dry-run")
    assert f"would write {root}/etc/systemd/system/pruner.timer" in output
    assert not (root / "etc/systemd").exists()


def test_several_engines_have_their_own_units_logs_and_policies(pruner: Pruner, root: Path) -> None:
    pruner("install-units", "--root", str(root))
    pruner("install-units", "--root", str(root), "--instance", "b", "--host", "unix:///run/b 2.sock")
    text = unit(root, "pruner-b.service")
    assert "--policy /etc/docker-hindsight/b.toml" in text
    assert 'Environment="DOCKER_HOST=unix:///run/b\\x202.sock"' in text
    assert "/var/lib/docker-hindsight-b/events.duckdb" in text
    assert "Unit=pruner-b.service" in unit(root, "pruner-b.path")
    pruner("uninstall-units", "--root", str(root), "--instance", "b")
    assert sorted(path.name for path in (root / "etc/systemd/system").iterdir()) == sorted(UNITS)


def test_an_engine_on_tcp_and_a_data_root_under_home_are_let_through(pruner: Pruner, root: Path) -> None:
    pruner("install-units", "--root", str(root), "--host", "tcp://127.0.0.1:2375", "--data-root", "/home/docker")
    text = unit(root, "pruner.service")
    assert "PrivateNetwork" not in text
    assert "ProtectHome=tmpfs" in text
    assert "BindReadOnlyPaths=-/home/docker" in text


def test_the_units_of_a_rootless_engine_run_as_its_user_and_see_socket_and_data(pruner: Pruner, root: Path) -> None:
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nci:x:1234:1235::/home/ci:/bin/sh\n")
    output = pruner("install-units", "--root", str(root), "--user-engine", "ci")
    assert "sudo loginctl enable-linger ci" in output
    own = "--log /var/lib/docker-hindsight-ci/events.duckdb --host unix:///run/user/1234/docker.sock"
    assert f"sudo pruner plan --policy /etc/docker-hindsight/ci.toml {own}\n" in output
    for name in ("collector-ci.service", "pruner-ci.service"):
        text = unit(root, name)
        assert "\nUser=ci\n" in text
        assert "SupplementaryGroups" not in text
        assert 'Environment="DOCKER_HOST=unix:///run/user/1234/docker.sock"' in text
        assert "ProtectHome=tmpfs" in text
        for path in ("/run/user", "/home/ci/.local/share/docker", "/home/ci/.local/share/containers/storage"):
            assert f"\nBindReadOnlyPaths=-{path}\n" in text
    assert not (root / "etc/sysusers.d").exists()
    assert (
        "d /var/lib/docker-hindsight-ci 0750 ci 1235\n"
        in (root / "etc/tmpfiles.d/docker-hindsight-ci.conf").read_text()
    )
    (root / "run/user/1234/podman").mkdir(parents=True)
    (root / "run/user/1234/podman/podman.sock").touch()
    pruner("install-units", "--root", str(root), "--user-engine", "ci")
    assert "unix:///run/user/1234/podman/podman.sock" in unit(root, "pruner-ci.service")
    pruner("uninstall-units", "--root", str(root), "--instance", "ci")
    assert not list((root / "etc/systemd/system").iterdir())
    output = pruner("install-units", "--root", str(root), "--user-engine", "nobody-here", status=2)
    assert output == "pruner: --user-engine: there is no user 'nobody-here' on that system\n"


def test_uninstalling_takes_what_was_installed_and_leaves_policy_and_log(pruner: Pruner, root: Path) -> None:
    pruner("install-units", "--root", str(root))
    policy = root / "etc/docker-hindsight/policy.toml"
    policy.write_text('threshold = "20%"\n')
    packaged = root / "usr/lib/systemd/system/pruner.service"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert "these units hide those of the package" in pruner("install-units", "--root", str(root))
    assert policy.read_text() == 'threshold = "20%"\n'
    output = pruner("uninstall-units", "--root", str(root))
    assert "removed" in output
    assert [path for path in (root / "etc").rglob("*") if path.is_file()] == [root / "etc/group", policy]
    assert "no units of ours" in pruner("uninstall-units", "--root", str(root))


def test_programs_that_only_root_may_use_are_named(pruner: Pruner, root: Path) -> None:
    programs = root / "opt/tools/bin"
    programs.mkdir(parents=True)
    (programs / "collector").touch(0o755)
    options = ("install-units", "--root", str(root), "--bin", str(programs))
    assert "is closed to user" not in pruner(*options)
    programs.chmod(0o700)
    assert f"{programs} is closed to user docker-hindsight, whom the services run as" in pruner(*options)
    assert "is closed to user" not in pruner(*options, "--user", "root")


def test_a_root_that_is_not_there_is_not_made(pruner: Pruner, root: Path) -> None:
    missing = root / "mistyped"
    assert f"--root: there is no folder {missing}" in pruner("install-units", "--root", str(missing), status=2)
    assert not missing.exists()


def test_units_of_others_are_left_alone(pruner: Pruner, root: Path) -> None:
    other = root / "etc/systemd/system/collector.service"
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\nExecStart=/bin/true\n")
    output = pruner("install-units", "--root", str(root), status=1)
    assert output == f"pruner: {other} exists and was not written by `pruner install-units`: move it away first\n"
    assert "no units of ours" in pruner("uninstall-units", "--root", str(root))
    assert other.exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--user", "a b"), ("--user", "Root%"), ("--instance", "../x"), ("--bin", "/nowhere")]
)
def test_impossible_names_are_one_line(pruner: Pruner, root: Path, option: str, value: str) -> None:
    output = pruner("install-units", "--root", str(root), option, value, status=2)
    assert output.startswith(f"pruner: {option}" if option != "--bin" else "pruner: ")
    assert len(output.splitlines()) == 1


def test_root_keeps_space_back_on_the_engines_disk_if_the_log_is_on_another(pruner: Pruner, tmp_path: Path) -> None:
    pruner("install-units", "--root", str(tmp_path), "--bin", str(BIN), "--data-root", "/dev/shm")  # noqa: S108
    found = RESERVE.search((tmp_path / "etc/systemd/system/pruner.service").read_text())
    assert found is not None
    state = tmp_path / "state"
    state.mkdir()
    engine = Path("/dev/shm") / f"docker-hindsight-test-{os.getpid()}"  # noqa: S108
    engine.mkdir()
    # As systemd gives it to the shell.
    script = found[1].replace("$$", "$").replace("%%", "%").replace("/dev/shm;", f"{engine};")  # noqa: S108
    script = script.replace("/var/lib/docker-hindsight", str(state)).replace(
        "docker-hindsight:", f"{pwd.getpwuid(os.getuid()).pw_name}:"
    )
    try:
        subprocess.run(["sh", "-c", script], check=True)
        laid = engine / FOLDER / NAME
        assert (laid.stat().st_size, laid.stat().st_uid) == (DEFAULT_SIZE, os.getuid())
        # From then on it is the service's: root touches it no more, whatever the service makes of it.
        laid.unlink()
        laid.symlink_to(state / "elsewhere")
        subprocess.run(["sh", "-c", script], check=True)
        assert not (state / "elsewhere").exists()
        # Beside the log there is one already.
        subprocess.run(["sh", "-c", script.replace(str(engine), str(state))], check=True)
        assert list(state.iterdir()) == []
    finally:
        shutil.rmtree(engine)
