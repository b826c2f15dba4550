"""The cloud-init snippet, taken by cloud-init itself at the first boot of a machine with a real systemd."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.machine import Machine

pytestmark = [pytest.mark.engine, pytest.mark.slow]
USER_DATA = Path(__file__).parents[2] / "packaging" / "cloud-init" / "runner.yml"
MIRROR, SEED = "/srv/mirror", "/var/lib/cloud/seed/nocloud"
# There is no network, no locale but C, and nothing else to ask for data.
SETTINGS = "network: {config: disabled}\ndatasource_list: [NoCloud]\nlocale: false\n"


def test_a_machine_records_after_its_first_boot(bare: Machine, package: Path) -> None:
    suite = bare.run("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME").strip()
    place = bare.path(f"{MIRROR}/{suite}")
    place.mkdir(parents=True)
    shutil.copy(package, place / "docker-hindsight_amd64.deb")
    text = USER_DATA.read_text()
    assert text.count("https://mirror.example.org") == 1
    bare.write(f"{SEED}/user-data", text.replace("https://mirror.example.org", f"file://{MIRROR}"))
    bare.write(f"{SEED}/meta-data", "instance-id: first\n")
    bare.write("/etc/cloud/cloud.cfg.d/99-test.cfg", SETTINGS)
    assert "Valid cloud-config" in bare.run("cloud-init", "schema", "--config-file", f"{SEED}/user-data")
    bare.path("/etc/cloud/cloud-init.disabled").unlink()

    bare.run("systemctl", "start", "cloud-init.target")

    assert bare.run("cloud-init", "status").strip() == "status: done"
    assert bare.run("dpkg-query", "--show", "--showformat=${Status}", "docker-hindsight") == "install ok installed"
    bare.run("pruner", "check-policy", "/etc/docker-hindsight/policy.toml")
    assert "registry.example.org/ci/*" in bare.run("cat", "/etc/docker-hindsight/policy.toml")
    assert bare.run("systemctl", "is-enabled", "collector.service").strip() == "enabled"
    assert bare.run("systemctl", "is-enabled", "pruner.timer", status=1).strip() == "disabled"
    assert not bare.path("/var/cache/docker-hindsight.deb").exists()
