"""Settings of other tools become policies that mean the same; what cannot is reported."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest

from collector.model.errors import UsageError
from pruner.policy.docker_gc import bre_to_python, import_docker_gc
from pruner.policy.docuum import import_docuum
from pruner.policy.file import load_policy
from pruner.policy.policy import first_match
from tests.commands import run

EXCLUDES = r"""
registry.example.org/infra/base:latest
redis:.*
spotify/cassandra:latest
quay\.io/org/[a-z]\{1,\}:v[0-9]*
9681260c3ad5
ubuntu
[z-a]
"""
CRON = """#!/bin/sh
# GRACE_PERIOD_SECONDS=1
MINIMUM_IMAGES_TO_SAVE=3 GRACE_PERIOD_SECONDS=43200 FORCE_IMAGE_REMOVAL=1 \\
  EXCLUDE_FROM_GC={excludes} /usr/sbin/docker-gc >/dev/null
"""
UNIT = """[Unit]
Description=Docuum
[Service]
Environment='THRESHOLD=10 GB'
ExecStart=/usr/local/bin/docuum --threshold '70%' \\
  --keep '^registry\\.example\\.org/base:' --keep=(?i)Debian -k 'x$' --min-age '3 days' -d 10
Restart=on-failure
"""


@pytest.fixture
def docker_gc(tmp_path: Path) -> list[Path]:
    excludes = tmp_path / "docker-gc-exclude"
    excludes.write_text(EXCLUDES)
    cron = tmp_path / "cron.hourly-docker-gc"
    cron.write_text(CRON.replace("{excludes}", str(excludes)))
    return [cron]


def grep_says(lines: str, image: str) -> bool:
    """What docker-gc itself does: its lines between spaces, searched in the image's line."""
    patterns = "".join(f" {line} \n" for line in lines.splitlines() if line.strip())
    found = subprocess.run(
        ["grep", "-q", "-e", patterns.removesuffix("\n")], input=f" {image} 0123456789ab \n", text=True, check=False
    )
    return found.returncode == 0


@pytest.mark.parametrize(
    "image",
    [
        "registry.example.org/infra/base:latest",
        "registryXexample.org/infra/base:latest",
        "registry.example.org/infra/base:2",
        "redis:7",
        "redis:7-alpine",
        "notredis:7",
        "spotify/cassandra:latest",
        "quay.io/org/tool:v12",
        "quay.io/org/tool:v",
        "quay.io/org/tool2:v12",
        "quayXio/org/tool:v12",
        "ubuntu:22.04",
    ],
)
def test_excludes_spare_what_grep_spares(docker_gc: list[Path], image: str) -> None:
    without_faulty = "\n".join(line for line in EXCLUDES.splitlines() if line != "[z-a]")
    policy = import_docker_gc(docker_gc).policy()
    assert (policy.protects((image,)) is not None) == grep_says(without_faulty, image)


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (r"a\{2,3\}", "aaa"),
        (r"a{2}", "a{2}"),
        (r"\(ab\)*", "abab"),
        (r"(ab)", "(ab)"),
        (r"a\|b", "b"),
        (r"a|b", "a|b"),
        (r"*a", "*a"),
        (r"a*", "aaa"),
        (r"\(*a\)", "*a"),
        (r"a+", "a+"),
        (r"a\+", "aa"),
        (r"[[:digit:]]*", "123"),
        (r"[^a]", "b"),
        (r"[]a]", "]"),
        (r"a\.b", "a.b"),
        (r"a^b$c", "a^b$c"),
        (r"\(a\)\1", "aa"),
        (r"[a\]", "\\"),
    ],
)
def test_basic_regular_expressions_mean_the_same(pattern: str, subject: str) -> None:
    for text in (subject, "zz", "", "aab"):
        found = subprocess.run(["grep", "-qx", "-e", pattern], input=text + "\n", text=True, check=False)
        assert found.returncode in {0, 1}
        assert (re.fullmatch(bre_to_python(pattern), text) is not None) == (found.returncode == 0), text
    assert re.fullmatch(bre_to_python(pattern), subject)


def test_docker_gc_becomes_a_policy_and_the_rest_is_reported(docker_gc: list[Path]) -> None:
    made = import_docker_gc(docker_gc)
    policy = made.policy()
    assert policy.min_age == policy.containers.grace == policy.dangling.age == 43200
    assert (policy.volumes.enabled, policy.build_cache.enabled, policy.local_images) == (False, False, "evict")
    assert str(policy.emergency) == "never"
    output = "\n".join(made.notes)
    for word in (
        "MINIMUM_IMAGES_TO_SAVE=3",
        "FORCE_IMAGE_REMOVAL=1",
        "9681260c3ad5",
        "[z-a]",
        "while `threshold` is free",
        'local_images = "evict"',
    ):
        assert word in output


def test_docker_gc_volumes_and_containers(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("export REMOVE_VOLUMES=1\nGRACE_PERIOD_SECONDS='7200'\n")
    (tmp_path / "docker-gc-exclude-containers").write_text("mariadb-data\n")
    (tmp_path / "docker-gc-exclude-volumes").write_text("^pg_\n")
    policy = import_docker_gc(sorted(tmp_path.iterdir())).policy()
    assert first_match(policy.containers.keep, "my-mariadb-data-1")
    assert not first_match(policy.containers.keep, "other")
    assert policy.volumes.enabled
    assert first_match(policy.volumes.named, "anything")
    assert first_match(policy.volumes.keep, "pg_main")
    assert not first_match(policy.volumes.keep, "old_pg_main")


def test_docuum_becomes_a_policy(tmp_path: Path) -> None:
    unit = tmp_path / "docuum.service"
    unit.write_text(UNIT)
    made = import_docuum([str(unit)])
    policy = made.policy()
    assert str(policy.threshold) == "30%"
    assert policy.min_age == 3 * 86400
    assert not policy.containers.enabled
    assert policy.order == "lru"
    spared = {
        "registry.example.org/base:1": True,
        "other/registry.example.org/base:1": False,
        "registryXexample.org/base:1": False,
        "DEBIAN:12": True,
        "my/debian-slim:12": True,
        "app:linux": True,
        "linux:1": False,
    }
    assert {name: policy.protects((name,)) is not None for name in spared} == spared
    assert any("--deletion-chunk-size" in note for note in made.notes)
    assert any('local_images = "evict"' in note for note in made.notes)


@pytest.mark.parametrize(
    "line",
    [
        "docker run --name docuum -v /var/run/docker.sock:/var/run/docker.sock stephanmisc/docuum -t '15 GB'",
        "/usr/bin/docuum --threshold='15 GB'",
        "command: --threshold '15 GB'",
    ],
)
def test_docuums_command_line_is_found(tmp_path: Path, line: str) -> None:
    script = tmp_path / "start.sh"
    script.write_text(f"#!/bin/sh\n{line}\n")
    made = import_docuum([str(script)], disk_bytes=100 * 10**9)
    assert made.policy().threshold.of(10**11) == 85 * 10**9
    assert import_docuum([str(script)]).values.get("threshold") is None


@pytest.mark.parametrize(
    "arguments",
    [[], ["--treshold", "1"], ["--threshold"], ["--threshold", "lots"], ["--min-age", "soon"], ["/nowhere"], ["what"]],
)
def test_what_is_no_setting_is_a_fault(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        import_docuum(arguments)


def test_a_pattern_that_python_does_not_know_is_reported() -> None:
    made = import_docuum(["--keep", r"\p{Greek}", "--keep", "a.*b"])
    assert any("Greek" in note for note in made.notes)
    assert len(made.values["allowlist"]) == 1


def test_the_command_writes_a_policy_that_loads(tmp_path: Path, docker_gc: list[Path]) -> None:
    imported = partial(run, "pruner", "import-config")
    target = tmp_path / "policy.toml"
    done = imported("docker-gc", str(docker_gc[0]), "-o", str(target))
    assert done.returncode == 0
    assert "MINIMUM_IMAGES_TO_SAVE=3" in done.stderr
    assert load_policy(target) == import_docker_gc(docker_gc).policy()
    done = imported("docker-gc", str(docker_gc[0]), "-o", str(target))
    assert done.returncode == 2
    assert "already exists" in done.stderr

    done = imported("docuum", "--disk", "100GB", "--", "--threshold", "15 GB", "--keep", "^debian:")
    assert done.returncode == 0
    (tmp_path / "second.toml").write_text(done.stdout)
    assert load_policy(tmp_path / "second.toml").protects(("debian:12",))
    done = imported("docuum", "--", "--treshold", "1")
    assert (done.returncode, done.stderr) == (2, "pruner: '--treshold' is not an option of docuum\n")
    assert imported("fcron", "x").returncode == 2
