"""What describes a release or a roll-out to other programs is what these programs take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-workflows", ".github/workflows/release.yml"), ("vendor.gitlab-ci", ".gitlab-ci.yml")],
)
def test_hosted_ci_takes_the_description_of_a_release(schema: str, path: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", schema, ROOT / path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_both_hosts_test_build_sign_and_publish_alike() -> None:
    found = []
    for path in (".github/workflows/release.yml", ".gitlab-ci.yml"):
        text = " ".join((ROOT / path).read_text(encoding="utf-8").split())
        for command in ("bash .ci/run", "make dist", "tools/uv tool run sigstore sign ", "dist/SHA256SUMS"):
            assert f"{command}" in text, (path, command)
        assert "tools/uv publish --trusted-publishing always dist/*.whl dist/*.tar.gz" in text, path
        assert "See CHANGELOG.md." in text, path
        # What has to be installed, for the tests and for the release.
        names = re.findall(r"apt-get install --yes --no-install-recommends ((?:[a-z][a-z0-9-]*(?: |$))+)", text)
        found.append([set(one.split()) - {"gh"} for one in names])
    assert found[0] == found[1]
    assert len(found[0]) == 2


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ("docker_hindsight_prune=perhaps", "docker_hindsight_prune' is of type"),
        ("docker_hindsight_packages=/nowhere", " in /nowhere, not one: `make dist` builds those"),
    ],
)
def test_the_role_says_which_variable_is_wrong(tmp_path: Path, variables: str, says: str) -> None:
    folder = ROOT / "packaging" / "ansible"
    program = Path(sys.executable).with_name("ansible-playbook")
    settings = {"ANSIBLE_HOME": str(tmp_path), "ANSIBLE_ROLES_PATH": str(folder / "roles"), "LC_ALL": "C.UTF-8"}
    where = ("--check", "--inventory", "localhost,", "--connection", "local")
    here = ("--extra-vars", f"ansible_become=false ansible_python_interpreter={sys.executable}")
    done = subprocess.run(
        [program, *where, *here, "--extra-vars", variables, folder / "runners.yml"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in " ".join(done.stdout.split())
