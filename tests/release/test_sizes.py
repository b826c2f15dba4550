"""The sizes of an installation in the README are those that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.install import DEBIAN_WAY, MB, PIP_WAYS, PLAIN, PLAIN_WAY, by_dpkg, by_pip, wheel
from tests.engine import machine as machines
from tests.needs import cannot_run

pytestmark = pytest.mark.slow
# Dependencies change their sizes with each release.
TOLERANCE = 0.1
README = (Path(__file__).parents[2] / "README.md").read_text()
MOST_LEAN_MB, MOST_MB = 90, 200


def stated(way: str) -> int:
    (size,) = re.findall(rf"^\| {re.escape(way)}.*? \| (\d+) MB \|", README, re.MULTILINE)
    return int(size)


def test_pip_installs_what_the_readme_says(tmp_path: Path) -> None:
    if (reason := machines.unavailable()) is not None:
        cannot_run(reason)
    built = wheel(tmp_path)
    offline = ("--no-index", "--find-links", machines.ROOT / "srv/wheels")
    plain = by_pip(built, "", tmp_path / "plain", *offline, PLAIN, python="/usr/bin/python3").bytes
    assert stated(PLAIN_WAY) == pytest.approx(plain / MB, rel=TOLERANCE)
    assert plain <= MOST_LEAN_MB * MB
    added = 0
    for way, extra in PIP_WAYS.items():
        # The extra comes on top of what is there: together they are what one installation of both adds.
        added += by_pip(built, extra, tmp_path / "environment", *offline, python="/usr/bin/python3").bytes
        assert stated(way) == pytest.approx(added / MB, rel=TOLERANCE)
    assert added <= MOST_MB * MB


def test_the_debian_package_takes_what_the_readme_says(package: Path, tmp_path: Path) -> None:
    assert stated(DEBIAN_WAY) == pytest.approx(by_dpkg(package, tmp_path).bytes / MB, rel=TOLERANCE)
    (packed,) = re.findall(rf"{DEBIAN_WAY} of (\d+) MB", README)
    assert int(packed) == pytest.approx(package.stat().st_size / MB, rel=TOLERANCE)
