"""Commands that messages advise work for whoever reads them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from collector.model import advice, environment, paths

ROOT, CI, SERVICE = 0, 1000, 990
NAMES = {ROOT: "root", CI: "ci", SERVICE: "docker-hindsight"}


class Reader:
    """Who reads, and the logs that are there."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._owners = patch, dict[Path, int]()
        self.folder, self.system = folder / "var/lib", folder / "var/lib/docker-hindsight/events.duckdb"
        self.own = folder / "home/docker-hindsight/events.duckdb"
        account, real = type("Account", (), {}), os.stat

        def named(number: int) -> object:
            found = account()
            found.pw_name = NAMES[number]
            return found

        def stat(path: Path, **more: bool) -> os.stat_result:
            found = list(real(path, **more))
            found[4] = self._owners.get(path, ROOT)
            return os.stat_result(found)

        patch.setattr(pwd, "getpwuid", named)
        patch.setattr(Path, "stat", stat)
        patch.setattr(os, "access", lambda path, _: self._owners.get(Path(path)) in {os.geteuid(), None})
        for module in (advice, paths):
            patch.setattr(module, "SYSTEM_LOG", self.system)
        patch.setenv("XDG_STATE_HOME", str(folder / "home"))
        patch.delenv(environment.LOG, raising=False)
        patch.delenv("SUDO_USER", raising=False)

    def be(self, number: int, sudo_user: str = "") -> None:
        self._patch.setattr(os, "geteuid", lambda: number)
        if sudo_user:
            self._patch.setenv("SUDO_USER", sudo_user)

    def log(self, path: Path, owner: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._owners[path] = owner
        return path


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(tmp_path, monkeypatch)


def test_a_user_needs_no_sudo_for_an_engine_and_log_of_his_own(reader: Reader) -> None:
    own, system = reader.log(reader.own, CI), reader.log(reader.system, SERVICE)
    other = reader.log(reader.folder / "docker hindsight/events.duckdb", CI)
    reader.be(CI)
    assert advice.on_log("pruner plan", own) == "pruner plan"
    assert advice.on_log("pruner plan", other) == f"pruner plan --log '{other}'"
    assert advice.on_log("pruner plan", system) == "sudo pruner plan"
    assert advice.on_log("analyzer recommend", system, reads=True) == f"analyzer recommend --log {system}"
    assert advice.as_root("systemctl") == "sudo systemctl"
    assert advice.join_group("docker") == "sudo usermod -aG docker ci"


def test_root_needs_none_and_is_a_user_again_after_sudo(reader: Reader) -> None:
    own, system = reader.log(reader.own, CI), reader.log(reader.system, SERVICE)
    reader.be(ROOT)
    assert advice.on_log("pruner plan", system) == "pruner plan"
    # Root does not find the engine of a user.
    assert advice.on_log("pruner plan", own) == f"sudo -u ci pruner plan --log {own}"
    reader.be(ROOT, sudo_user="ci")
    assert advice.on_log("pruner plan", system) == "sudo pruner plan"
    assert advice.on_log("pruner plan", own) == f"pruner plan --log {own}"
    assert advice.as_root("systemctl") == "sudo systemctl"


def test_the_services_that_keep_a_log_are_known_by_its_folder(reader: Reader) -> None:
    found = {
        name: advice.service_suffix(reader.folder / name / "events.duckdb")
        for name in ("docker-hindsight", "docker-hindsight-ci", "docker-hindsights", "other")
    }
    assert found == {
        "docker-hindsight": "",
        "docker-hindsight-ci": "-ci",
        "docker-hindsights": None,
        "other": None,
    }
    assert advice.service_suffix(reader.own) is None
